"""The results table as plain data, with its texts: what the page, the terminal and the README image all show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mmpref.report.flags import Flag
from mmpref.statistics import Interval

Unit = Literal["percent", "words", "nats", "number"]
NOT_MEASURED = "not measured"
MINUS = "−"


@dataclass(frozen=True, slots=True)
class Column:
    """One metric. ``better`` says which direction is good; None where neither is."""

    key: str
    group: str
    label: str
    unit: Unit
    better: Literal["lower", "higher"] | None
    explanation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One metric of one run: fractions in [0, 1], words or nats, as ``unit`` says; the texts are for people.

    ``caution`` says why the difference is not clear where its interval does not show it; ``notes`` are sentences that
    a reader must know beside the number, as why there is no difference.
    """

    unit: Unit
    value: float | None
    interval: Interval | None = None
    difference: float | None = None
    difference_interval: Interval | None = None
    verdict: Literal["better", "worse", "changed", "unclear"] | None = None
    flags: tuple[Flag, ...] = ()
    note: str = ""
    caution: str = ""
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The value as it is shown, or why there is none."""
        return (
            (self.note or NOT_MEASURED)
            if self.value is None
            else _show(self.value, self.unit, signed=self.unit == "nats")
        )

    @property
    def interval_text(self) -> str:
        """The interval as it is shown; empty where there is none."""
        return "" if self.interval is None else _show_interval(self.interval, self.unit, signed=self.unit == "nats")

    @property
    def difference_text(self) -> str:
        """The difference from the baseline with its sign; empty where there is none."""
        return "" if self.difference is None else _show(self.difference, self.unit, signed=True)

    @property
    def difference_interval_text(self) -> str:
        """The interval of the difference; empty where there is none."""
        pair = self.difference_interval
        return "" if pair is None else _show_interval(pair, self.unit, signed=True)


@dataclass(frozen=True, slots=True)
class Line:
    """One run's row."""

    label: str
    is_baseline: bool
    cells: Mapping[str, Cell]
    drift_source: str

    @property
    def flags(self) -> tuple[Flag, ...]:
        """Every flag of the row once."""
        return tuple(dict.fromkeys(flag for cell in self.cells.values() for flag in cell.flags))


@dataclass(frozen=True, slots=True)
class Table:
    """Rows are runs, the baseline first. ``notes`` say what stands in the way of the comparison, ``remarks`` what a
    reader must know of the results themselves, as how many answers could not be read."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    @property
    def sentences(self) -> tuple[str, ...]:
        """All of both."""
        return tuple(dict.fromkeys((*self.notes, *self.remarks)))

    def header(self) -> list[str]:
        """Names of the columns, the run's first."""
        return ["run", *(f"{column.group} {column.label}" for column in self.columns)]

    def text_rows(self) -> list[list[str]]:
        """One row of strings per run: value [interval], then the difference, then the flags; lines end in newline."""
        return [[line.label, *(_cell_text(line.cells[column.key]) for column in self.columns)] for line in self.lines]


def as_json(table: Table) -> dict[str, Any]:
    """The table as JSON data: raw numbers, texts and flags."""
    texts = ("text", "interval_text", "difference_text", "difference_interval_text")
    return {
        "columns": [asdict(column) for column in table.columns],
        "runs": [
            {
                "label": line.label,
                "is_baseline": line.is_baseline,
                "drift_source": line.drift_source,
                "cells": {
                    key: asdict(cell) | {name: getattr(cell, name) for name in texts}
                    for key, cell in line.cells.items()
                },
            }
            for line in table.lines
        ],
        "notes": list(table.sentences),
    }


def _show(value: float, unit: Unit, *, signed: bool = False) -> str:
    scaled, digits = (100 * value, 1) if unit == "percent" else (value, 1 if unit == "words" else 2)
    text = f"{abs(scaled):.{digits}f}"
    zero = not text.strip("0.")
    sign = MINUS if scaled < 0 and not zero else "+" if signed and not zero else ""
    return sign + text


def _show_interval(pair: Interval, unit: Unit, *, signed: bool = False) -> str:
    return f"[{_show(pair[0], unit, signed=signed)}, {_show(pair[1], unit, signed=signed)}]"


def _cell_text(cell: Cell) -> str:
    lines = [f"{cell.text} {cell.interval_text}".strip()]
    if cell.difference is not None:
        lines.append(f"{cell.difference_text} {cell.difference_interval_text}".strip())
    lines += [f"{flag.sign} {flag.words}" for flag in cell.flags]
    return "\n".join(lines)
