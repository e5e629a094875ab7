"""Two numbers of each pair against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmpref.report.figures.canvas import INK, LIGHT, MUTED, NUM_STYLES
from mmpref.report.figures.drawing import Drawing
from mmpref.report.figures.frame import Frame, drawing_on, finished

_DOT = 0.009  # width of a dot as a share of the axis


@dataclass(frozen=True, slots=True)
class Dots:
    """The pairs of one run: ``x`` and ``y`` by pair, and a text for each corner (left or right, top or bottom)."""

    ids: Sequence[str]
    x: Sequence[float]
    y: Sequence[float]
    style: int
    corners: dict[str, str]


def scatter_drawing(dots: Dots, frame: Frame, *, columns: tuple[str, str], words: str) -> Drawing:
    """A dot for each pair, with lines at zero on both axes."""
    with drawing_on(frame) as drawn:
        axes = drawn.axes
        x_range, y_range = frame.x_range or _around(dots.x), frame.y_range or _around(dots.y)
        axes.set_xlim(*x_range)
        axes.set_ylim(*y_range)
        axes.axhline(0, color=MUTED, linewidth=0.8, zorder=2)
        axes.axvline(0, color=MUTED, linewidth=0.8, zorder=2)
        half = _DOT / 2 * (x_range[1] - x_range[0])
        # one path of short strokes: a third of the bytes of one element for each dot
        path_x = [place for x in dots.x for place in (x - half, x + half, float("nan"))]
        path_y = [y for y in dots.y for _ in range(3)]
        axes.plot(path_x, path_y, color=LIGHT[dots.style % NUM_STYLES], linewidth=2.2, alpha=0.5, zorder=3)
        for corner, text in dots.corners.items():
            top, left = corner.startswith("top"), corner.endswith("left")
            axes.text(
                0.02 if left else 0.98,
                0.97 if top else 0.03,
                text,
                transform=axes.transAxes,
                ha="left" if left else "right",
                va="top" if top else "bottom",
                color=INK,
                fontsize=8.5,
                zorder=4,
            )
    rows = tuple(zip(map(str, dots.ids), map(float, dots.x), map(float, dots.y), strict=True))
    return finished(frame, drawn, words, ("pair", *columns), rows)


def _around(values: Sequence[float]) -> tuple[float, float]:
    """The ends of the values and of zero, with room for the texts in the corners."""
    low, high = min(0.0, *values), max(0.0, *values)
    room = 0.12 * (high - low) or 1.0
    return low - room, high + room
