"""Methods over the values of one setting: means with intervals, each method by colour, dashes, marker and its name.

The dots of one value stand beside each other, so that no interval hides another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmpref.report.figures.canvas import (
    GROUND,
    INK,
    MARKERS,
    MUTED,
    NUM_STYLES,
    RULE,
    Canvas,
    look,
    plain_axes,
    round_numbers,
    sample,
)

_BESIDE = 0.055  # of the distance between two values, from one method's dot to the next one's
_LINE_HEIGHT = 0.105  # of an axis' height, that a name takes


@dataclass(frozen=True, slots=True)
class Point:
    """One dot; ``interval`` None where there is none. Shown in the unit that it comes in."""

    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """One method. ``points`` has one for every value of its panel, None where nothing was measured.

    Attributes:
        style: the method's place among all methods: its colour, dashes and marker in every figure.
        short: what stands beside its last dot where ``label`` is too long.
    """

    label: str
    style: int
    points: tuple[Point | None, ...]
    short: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One metric over one setting.

    Attributes:
        ticks: the values of the setting as they are written, equally far apart.
        series: the methods.
        joined: whether a method's dots are joined by a line; not where the values have no order.
        level: a value with its name to compare with, drawn across.
        y_range: the least that the axis shows; None: what the dots and intervals need.
    """

    title: str
    x_label: str
    ticks: tuple[str, ...]
    series: tuple[Series, ...]
    joined: bool = True
    level: tuple[str, float] | None = None
    y_range: tuple[float, float] | None = None


def series_figure(panel: Panel, *, name: str, width: float = 4.6, height: float = 2.9) -> str:
    """A panel as an ``<svg>`` element for the page, with the methods' names beside their last dots."""
    with Canvas(width=width, height=height) as canvas:
        axes = canvas.figure.add_subplot()
        _draw(axes, panel)
        return canvas.inline(name)


def series_image(rows: Sequence[Sequence[Panel]], *, alt: str, width: float, height: float) -> str:
    """Panels in rows as a whole SVG file; the methods are named on top, and beside their last dots.

    Args:
        rows: as many panels in each.
        width, height: inches.
    """
    with Canvas(width=width, height=height) as canvas:
        canvas.figure.get_layout_engine().set(wspace=0.04, hspace=0.03, w_pad=0.09, h_pad=0.1)
        grid = canvas.figure.subplots(len(rows), len(rows[0]), squeeze=False)
        for axes_row, panels in zip(grid, rows, strict=True):
            for axes, panel in zip(axes_row, panels, strict=True):
                _draw(axes, panel)
        _legend(canvas.figure, [series for panel in rows[0] for series in panel.series])
        return canvas.alone(alt)


def _draw(axes: Any, panel: Panel) -> None:
    plain_axes(axes)
    axes.set_title(panel.title, loc="left", color=INK, fontsize=10)
    axes.grid(visible=True, axis="y", color=RULE, linewidth=0.7)
    axes.set_xticks(range(len(panel.ticks)), panel.ticks, color=INK)
    axes.set_xlabel(panel.x_label, color=MUTED)
    axes.set_xlim(-0.45, len(panel.ticks) - 0.55)
    axes.yaxis.set_major_locator(round_numbers())
    axes.set_ylim(*_range(panel))
    if panel.level is not None:
        label, value = panel.level
        axes.axhline(value, color=MUTED, linewidth=1.0, linestyle=(0, (1, 2)), zorder=1)
        axes.text(0.01, value, label, transform=axes.get_yaxis_transform(), va="bottom", color=MUTED, fontsize=8.5)
    for place, series in enumerate(panel.series):
        _dots(axes, series, (place - (len(panel.series) - 1) / 2) * _BESIDE * (1 if panel.joined else 2.4), panel)
    _names(axes, panel)


def _dots(axes: Any, series: Series, aside: float, panel: Panel) -> None:
    line, marker = look(series.style), MARKERS[series.style % NUM_STYLES]
    known = [(place + aside, point) for place, point in enumerate(series.points) if point is not None]
    for x, point in known:
        if point.interval is not None:
            axes.plot([x, x], point.interval, color=line["color"], linewidth=1.5, alpha=0.55, zorder=2)
    axes.plot(
        [x for x, _ in known],
        [point.value for _, point in known],
        **(line if panel.joined else line | {"linestyle": "none"}),
        linewidth=1.7,
        marker=marker,
        markersize=6.5,
        markeredgecolor=GROUND,
        markeredgewidth=0.8,
        zorder=3,
    )


def _range(panel: Panel) -> tuple[float, float]:
    """From the lowest to the highest that is drawn, with some room."""
    points = [point for series in panel.series for point in series.points if point is not None]
    ends = [end for point in points for end in (point.value, *(point.interval or ()))]
    ends += [*(panel.y_range or ()), *((panel.level[1],) if panel.level else ())]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    room = 0.06 * (high - low or 1.0)
    return low - room, high + room


def _names(axes: Any, panel: Panel) -> None:
    """Each method's name right of its last dot, moved up or down where names would lie on each other."""
    low, high = _range(panel)
    ends = [(series, _last(series)) for series in panel.series]
    known = sorted(((end, series) for series, end in ends if end is not None), key=lambda pair: pair[0])
    heights = apart([(end - low) / (high - low) for end, _ in known], _LINE_HEIGHT)
    for (_, series), at in zip(known, heights, strict=True):
        colour = {"color": look(series.style)["color"]}
        axes.text(1.02, at, series.short or series.label, transform=axes.transAxes, va="center", fontsize=8.5, **colour)


def _last(series: Series) -> float | None:
    return next((point.value for point in reversed(series.points) if point is not None), None)


def apart(heights: Sequence[float], least: float) -> list[float]:
    """Places for names: sorted ``heights``, moved as little as it takes for neighbours to be ``least`` apart.

    Names that would touch become one block around the middle of what they name, as often as blocks still touch.
    """
    blocks: list[list[float]] = []
    for height in heights:
        blocks.append([height])
        while len(blocks) > 1 and _top(blocks[-2], least) + least > _bottom(blocks[-1], least):
            blocks[-2:] = [[*blocks[-2], *blocks[-1]]]
    return [_bottom(block, least) + place * least for block in blocks for place in range(len(block))]


def _bottom(block: Sequence[float], least: float) -> float:
    return math.fsum(block) / len(block) - (len(block) - 1) * least / 2


def _top(block: Sequence[float], least: float) -> float:
    return _bottom(block, least) + (len(block) - 1) * least


def _legend(figure: Any, series: Sequence[Series]) -> None:
    """Every method once, above the panels, as it is drawn."""
    once = {one.label: one for one in series}
    handles = [sample(label, one.style) for label, one in once.items()]
    columns = min(4, len(handles))
    legend = figure.legend(handles=handles, loc="outside upper left", ncols=columns, frameon=False, handlelength=2.6)
    for text in legend.get_texts():
        text.set_color(INK)
