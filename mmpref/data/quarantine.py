"""What happens to a row that cannot be used: it is named, counted and written down, never half-used.

The rule of the room: rows used + rows quarantined = rows read.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from mmpref.errors import DataError
from mmpref.files.writing import replacing

NO_PAIR = "no_pair"
"""The reason of a row that is in order and contains no preference (a tie, say); it does not count as bad."""
Skip = Mapping[tuple[str, int, str | None], str]
"""(file, row, id) -> reason of what an earlier check put aside; the id is None where the row had none to read."""


class LineNumber(int):
    """The number of a row that counts the lines of its file from 1, blank ones too; a plain int counts rows."""

    __slots__ = ()


def where_is(file: str, number: int) -> str:
    """Where a row stands, in words: ``pairs.jsonl, line 12``, or ``pairs.parquet, row 12``."""
    return f"{file}, {unit(number)} {number}"


def unit(number: int) -> str:
    """What a row's number counts: ``line`` or ``row``."""
    return "line" if isinstance(number, LineNumber) else "row"


class RowError(DataError):
    """One row or image that cannot be used.

    ``reason`` is a short code that can be counted, ``detail`` says what is wrong without the place, and the message
    says both what and where. It can be rebuilt from the message alone, so it survives the way back from a worker
    process.
    """

    def __init__(
        self, message: str, *, reason: str = "unknown", detail: str | None = None, row_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.detail = message if detail is None else detail
        self.row_id = row_id


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantinedRow:
    """A row that is not used. ``row`` counts from 1: lines where the file has one row per line, else rows."""

    source: str
    file: str
    row: int
    id: str | None
    reason: str
    detail: str

    def describe(self) -> str:
        """One line for a message: where, which id, why."""
        name = "" if self.id is None else f" (id {self.id!r})"
        return f"{where_is(self.file, self.row)}{name}: {self.reason}: {self.detail}"

    def as_json(self) -> dict[str, Any]:
        """One line of ``quarantine.jsonl``: the number under ``line`` or ``row``, whichever it is."""
        return {unit(self.row) if key == "row" else key: value for key, value in asdict(self).items()}


class Quarantine:
    """Collects the rows that are not used, and how many were read in all.

    Args:
        path: where ``write`` puts ``quarantine.jsonl``; None keeps the rows in memory only.
        expected: what a check of the same data put aside; such rows are listed, and count as bad no more.
    """

    def __init__(self, path: Path | None = None, *, expected: Skip | None = None) -> None:
        self.path = path
        self.expected: Skip = expected or {}
        self.num_bad = 0
        """Rows put aside that count against the allowed share: neither without a preference nor expected."""
        self.rows: list[QuarantinedRow] = []
        self.counts: Counter[str] = Counter()
        self.left_over: Counter[str] = Counter()
        """Columns that no part of a pair was read from -> rows that have them; they stand in ``meta``."""
        self.num_read = 0
        self.num_used = 0

    @classmethod
    def beside(cls, out: Path) -> Self:
        """A quarantine that is written as ``<name>.quarantine.jsonl`` beside a file."""
        return cls(out.with_name(f"{out.stem}.quarantine.jsonl"))

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, *, source: str, file: str, row: int, row_id: str | None, reason: str, detail: str) -> None:
        """Put one row aside."""
        self.rows.append(
            QuarantinedRow(source=source, file=file, row=row, id=row_id, reason=reason, detail=_shorten(detail))
        )
        self.counts[reason] += 1
        self.num_bad += reason != NO_PAIR and (file, row, row_id) not in self.expected

    def summary(self) -> str:
        """One line: how many rows were read, used and put aside, and why."""
        line = f"{self.num_read} rows read, {self.num_used} used, {len(self.rows)} quarantined"
        if self.counts:
            line += f" ({self.reasons()})"
        if self.counts and self.path is not None:
            line += f", listed in {self.path}"
        return line

    def reasons(self) -> str:
        """The reasons with their counts, the most frequent first."""
        return ", ".join(f"{reason} {count}" for reason, count in self.counts.most_common())

    def write(self) -> None:
        """Write all rows to ``path``, written atomically; an empty file says that every row was used.

        Raises:
            CheckpointError: the file cannot be written.
        """
        if self.path is None:
            return
        with replacing(self.path) as stream:
            for row in self.rows:
                stream.write(json.dumps(row.as_json()).encode("ascii") + b"\n")


def _shorten(text: str, limit: int = 500) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
