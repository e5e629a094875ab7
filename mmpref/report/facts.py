"""Facts of several runs beside each other: one row a fact, one column a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FactRow:
    """One fact of every run. ``differs`` says that the runs do not agree in it."""

    name: str
    values: tuple[str, ...]
    differs: bool

    @property
    def shared(self) -> str | None:
        """The value of all runs; None where they differ."""
        return None if self.differs else self.values[0]


def fact_rows(facts: Sequence[Mapping[str, str]]) -> list[FactRow]:
    """One row for each name, in the order of the first run that has it.

    Args:
        facts: of each run, by name; one that a run does not have is ``–``.
    """
    names = dict.fromkeys(name for of_run in facts for name in of_run)
    rows = [(name, tuple(of_run.get(name, "–") for of_run in facts)) for name in names]
    return [FactRow(name, values, differs=len(set(values)) > 1) for name, values in rows]
