"""A part of the section: what was found in words, tables, figures and notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from mmpref.report.cells import MINUS
from mmpref.report.figures.canvas import DASHES, NUM_STYLES
from mmpref.report.figures.drawing import Drawing
from mmpref.report.html import render
from mmpref.report.pairs.log import PairRun, why_not_paired
from mmpref.statistics import Difference, Interval, mean_difference


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table of texts; the first column names the row."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One analysis. ``lead`` are sentences that say what was found, ``notes`` what could not be done and how it is
    counted."""

    key: str
    title: str
    lead: tuple[str, ...] = ()
    tables: tuple[TextTable, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Nothing was found at all."""
        return not (self.lead or self.tables or self.drawings or self.notes)


@dataclass(frozen=True, slots=True)
class Group:
    """The runs of a page; the first that logged pairs is what the others are compared with.

    ``why_not`` says by label why a run is not compared with it pair by pair; a run without an entry is.
    """

    runs: tuple[PairRun, ...]
    why_not: Mapping[str, str] = field(default_factory=dict)

    @property
    def several(self) -> bool:
        """Whether there is anything to compare."""
        return len(self.runs) > 1

    def compared(self) -> list[tuple[PairRun, PairRun]]:
        """(first, other) for every run that is compared with the first."""
        return [(self.runs[0], other) for other in self.runs[1:] if other.label not in self.why_not]

    def difference(self, other: PairRun, log: str, name: str) -> Difference | None:
        """``other`` less the first run over the pairs that both have, of a column of ``train`` or ``held_out`` at each
        pair's last row; None where they are not compared."""
        if other is self.runs[0] or other.label in self.why_not:
            return None
        first, second = (getattr(run, log).last_of_each().by_id(name) for run in (self.runs[0], other))
        return mean_difference(first, second)


def group_of(runs: Sequence[PairRun]) -> Group:
    """The runs that have pair logs, and which of them are compared."""
    logged = tuple(run for run in runs if len(run.train) or len(run.held_out))
    reasons = {other.label: reason for other in logged[1:] if (reason := why_not_paired(logged[0], other)) is not None}
    return Group(logged, reasons)


def signed(value: float, digits: int = 2) -> str:
    """A number with a true minus sign, and none before zero."""
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def figures(value: float) -> str:
    """A number of any size with three figures."""
    return f"{value:.3g}".replace("-", MINUS)


def percent(share: float | None) -> str:
    """A share in percent; a dash where there is none."""
    return "–" if share is None else f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def with_interval(value: float, interval: Interval | None, digits: int = 2) -> str:
    """``0.12 [0.05, 0.19]``."""
    ends = f" [{signed(interval[0], digits)}, {signed(interval[1], digits)}]" if interval is not None else ""
    return signed(value, digits) + ends


def difference_text(found: Difference | None, digits: int = 3) -> str:
    """A paired difference with its interval and what it says; "not compared" where there is none."""
    if found is None or found.value is None:
        return "not compared"
    sign = "+" if found.value > 0 else ""
    verdict = "clear" if found.clear else found.caution or "unclear"
    return f"{sign}{with_interval(found.value, found.interval, digits)} over {found.num_units:,} pairs ({verdict})"


def legend(runs: Sequence[PairRun], drawings: Sequence[Drawing]) -> list[dict[str, object]]:
    """The line of every run that shares a figure with others, beside its name; empty where each has its own."""
    named = [{row[0] for row in drawing.rows} for drawing in drawings]
    together: set[str] = set()
    for names in named:
        drawn = {run.label for run in runs if names & {run.label, held_out_name(run), training_name(run)}}
        together |= drawn if len(drawn) > 1 else set()
    return [
        {
            "swatch": render(
                "swatch",
                place=run.style % NUM_STYLES,
                width=34,
                dashes=" ".join(str(2 * length) for length in DASHES[run.style % NUM_STYLES]),
            ),
            "label": run.label,
        }
        for run in runs
        if run.label in together
    ]


def held_out_name(run: PairRun) -> str:
    """Its held-out pairs, where a figure also has its training pairs."""
    return f"{run.label}, held-out"


def training_name(run: PairRun) -> str:
    """Its training pairs, where a figure also has its held-out pairs."""
    return f"{run.label}, training"


def section(key: str, title: str, lead: Sequence[str], blocks: Sequence[Markup]) -> Markup:
    """A section of the page from its parts."""
    return render("pairs", key=key, title=title, lead=lead, blocks=blocks)
