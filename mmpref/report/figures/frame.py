"""What surrounds a figure: its name, its words and its axes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mmpref.report.figures.canvas import MUTED, RULE, Canvas, plain_axes, plain_powers
from mmpref.report.figures.drawing import Drawing, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Of a figure, all but its numbers.

    Attributes:
        key: names it on the page: small letters, digits and hyphens.
        title: above it.
        caption: below it.
        x_label: what runs to the right, with its unit.
        y_label: what runs upwards, with its unit.
        x_range: ends of that axis; None for those of the numbers.
        y_range: the same.
        rule_at: a height at which a line helps the eye.
        log_y: the upward axis is logarithmic.
        width: inches; a panel of the page has 3.7.
    """

    key: str
    title: str
    caption: str
    x_label: str = "step"
    y_label: str
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    rule_at: float | None = None
    log_y: bool = False
    width: float = 3.7


class Drawn:
    """The axes of a figure under way; ``svg`` is its image when the block has ended."""

    def __init__(self, axes: Any) -> None:
        self.axes = axes
        self.svg = ""

    def legend(self) -> None:
        """Names of what was drawn with a label, where there is room."""
        self.axes.legend(frameon=False, fontsize=8, labelcolor=MUTED, handlelength=2.6, loc="best")


@contextmanager
def drawing_on(frame: Frame) -> Iterator[Drawn]:
    """Axes as the frame asks for them, for the figure to draw on."""
    with Canvas(width=frame.width, height=2.6) as canvas:
        axes = canvas.figure.add_subplot()
        plain_axes(axes)
        if frame.log_y:
            axes.set_yscale("log")
        if frame.rule_at is not None:
            axes.axhline(frame.rule_at, color=MUTED, linewidth=0.8, zorder=1)
        axes.grid(visible=True, axis="y", color=RULE, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.set_xlabel(frame.x_label, color=MUTED)
        axes.set_ylabel(frame.y_label, color=MUTED)
        if frame.x_range is not None:
            axes.set_xlim(*frame.x_range)
        if frame.y_range is not None:
            axes.set_ylim(*frame.y_range)
        drawn = Drawn(axes)
        yield drawn
        if frame.log_y:
            plain_powers(axes)
        drawn.svg = canvas.inline(frame.key)


def finished(
    frame: Frame, drawn: Drawn, words: str, columns: tuple[str, ...], rows: tuple[tuple[Value, ...], ...]
) -> Drawing:
    """The figure with its numbers, which are written with six digits."""
    short = tuple(tuple(_short(value) for value in row) for row in rows)
    return Drawing(frame.key, frame.title, frame.caption, words, drawn.svg, columns, short)


def _short(value: Value) -> Value:
    return float(f"{value:.6g}") if isinstance(value, float) else value
