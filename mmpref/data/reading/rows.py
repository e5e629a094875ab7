"""What every reader gives: rows with their places, from a source that can be read again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mmpref.data.quarantine import RowError

FileFormat = Literal["jsonl", "json", "parquet", "arrow"]


OnFault = Callable[[str, int, RowError], None]


class SourceRow(NamedTuple):
    """One row and its place: the file (or hub id) and the row's number in it, from 1 (a ``LineNumber`` in JSONL)."""

    file: str
    number: int
    row: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RowSource:
    """Rows that can be read again and again; each ``rows()`` starts anew.

    ``name`` is what generated ids and messages begin with, ``files`` are the local files in order (none for a hub id),
    ``folder`` is what relative image paths start from when nothing else is said.
    """

    spec: str
    name: str
    split: str | None
    files: tuple[Path, ...]
    folder: Path | None
    _open: Callable[[OnFault | None], Iterator[SourceRow]]
    format: str | None = None
    """The row format, where an index beside the files says it."""
    reading: str = ""
    """What that index says of its columns, so that a check can be held to it."""

    def rows(self, on_fault: OnFault | None = None) -> Iterator[SourceRow]:
        """All rows in order. A row that cannot be decoded goes to ``on_fault(file, number, fault)``; without it, the
        first one is raised."""
        return self._open(on_fault)

    def __iter__(self) -> Iterator[SourceRow]:
        return self.rows()
