"""The outcome of every run: a dot and its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmpref.report.cells import Cell, Table
from mmpref.report.figures.canvas import (
    GROUND,
    INK,
    LIGHT,
    MARKERS,
    MUTED,
    NUM_STYLES,
    RULE,
    Canvas,
    plain_axes,
    round_numbers,
)
from mmpref.report.figures.drawing import Drawing

_MAX_NAME = 26  # characters of a run's name beside its row
OUTCOME_TITLES = {
    "chair_s": "CHAIR_s, % of captions (lower is better)",
    "recall": "recall, % of objects (higher is better)",
}


def result_figure(table: Table) -> str:
    """The outcome in one compact image that stands alone: CHAIR_s and recall of every run, with intervals."""
    with Canvas(width=7.8, height=1.2 + 0.42 * len(table.lines)) as canvas:
        canvas.figure.get_layout_engine().set(wspace=0.06, w_pad=0.14, h_pad=0.14)
        left, right = canvas.figure.subplots(1, 2, sharey=True)
        _draw_outcome(left, table, "chair_s")
        _draw_outcome(right, table, "recall")
        return canvas.alone(_alt(table))


def outcome_drawings(table: Table) -> list[Drawing]:
    """The same, as one drawing per metric in the page's colours."""
    drawn = []
    for key, title in OUTCOME_TITLES.items():
        name = f"outcome-{key.replace('_', '-')}"
        with Canvas(width=4.6, height=0.8 + 0.4 * len(table.lines)) as canvas:
            _draw_outcome(canvas.figure.add_subplot(), table, key, with_title=False)
            svg = canvas.inline(name)
        shown = [(line.label, line.cells[key]) for line in table.lines]
        rows = tuple(
            (label, _percent(cell.value), *(_percent(end) for end in cell.interval or (None, None)))
            for label, cell in shown
        )
        words = "; ".join(f"{label}: {cell.text} {cell.interval_text}" for label, cell in shown)
        columns = ("run", "percent", "low", "high")
        caption = "A dot for each run, and its 95 % interval."
        drawn.append(Drawing(name, title, caption, words, svg, columns, rows))
    return drawn


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _draw_outcome(axes: Any, table: Table, key: str, *, with_title: bool = True) -> None:
    plain_axes(axes)
    if with_title:
        axes.set_title(OUTCOME_TITLES[key], loc="left", color=INK, fontsize=10)
    axes.grid(visible=True, axis="x", color=RULE, linewidth=0.7)
    _dots(axes, [line.cells[key] for line in table.lines])
    rows = range(len(table.lines))
    axes.set_yticks(rows, [_name(table, place) for place in rows], color=INK)
    axes.set_ylim(len(table.lines) - 0.4, -0.6)


def _name(table: Table, place: int) -> str:
    line = table.lines[place]
    signs = "".join(dict.fromkeys(flag.sign for flag in line.flags))
    words = list(dict.fromkeys(flag.words for flag in line.flags))
    short = line.label if len(line.label) <= _MAX_NAME else line.label[: _MAX_NAME - 1] + "…"
    return f"{short}\n{signs} {', '.join(words)}" if words else short


def _dots(axes: Any, cells: Sequence[Cell]) -> None:
    known = [cell for cell in cells if cell.value is not None]
    ends = [end for cell in known for end in (cell.interval or (cell.value, cell.value)) if end is not None]
    low, high = (100 * min(ends), 100 * max(ends)) if ends else (0.0, 100.0)
    span = max(high - low, 4.0)
    axes.set_xlim(max(-0.1 * span, low - 0.12 * span), min(100 + 0.1 * span, high + 0.12 * span))
    axes.xaxis.set_major_locator(round_numbers())
    for row, cell in enumerate(cells):
        if cell.value is None:
            axes.text(0.02, row, cell.text, transform=axes.get_yaxis_transform(), va="center", color=MUTED, fontsize=9)
            continue
        colour = LIGHT[row % NUM_STYLES]
        if cell.interval is not None:
            axes.plot([100 * end for end in cell.interval], [row, row], color=colour, linewidth=2.4, zorder=2)
        axes.plot(
            [100 * cell.value],
            [row],
            marker=MARKERS[row % NUM_STYLES],
            markersize=7,
            color=colour,
            markeredgecolor=GROUND,
            zorder=3,
        )
        axes.annotate(
            cell.text, (100 * cell.value, row), (0, 7), textcoords="offset points", ha="center", color=INK, fontsize=9
        )


def _alt(table: Table) -> str:
    parts = []
    for line in table.lines:
        chair, recall = line.cells["chair_s"], line.cells["recall"]
        parts.append(
            f"{line.label}: CHAIR_s {chair.text} {chair.interval_text}, recall {recall.text} {recall.interval_text}"
        )
    return "; ".join(parts)
