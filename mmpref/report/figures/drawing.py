"""A figure with the numbers that it shows."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Value = str | int | float | None


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure for the page: its image, what it shows in words, and its numbers to download.

    Attributes:
        key: names it on the page and names the file of its numbers: small letters, digits and hyphens.
        title: above it.
        caption: below it: what is drawn, in which unit, and what to look for.
        words: what it shows, for those who do not see it.
        svg: an ``<svg>`` element in the page's colours.
        columns: names of the numbers.
        rows: the numbers as drawn; None where there is none.
    """

    key: str
    title: str
    caption: str
    words: str
    svg: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    @property
    def file(self) -> str:
        """Name of the file of its numbers."""
        return f"{self.key}.csv"

    @property
    def data(self) -> str:
        """Its numbers as a CSV file in a ``data:`` address."""
        return (
            f"data:text/csv;charset=utf-8;base64,{base64.b64encode(csv_of(self.columns, self.rows).encode()).decode()}"
        )


def csv_of(columns: Sequence[str], rows: Iterable[Sequence[Value]]) -> str:
    """A table as CSV; numbers are written so that they read back the same, and None is empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if value is None else value for value in row] for row in rows])
    return stream.getvalue()
