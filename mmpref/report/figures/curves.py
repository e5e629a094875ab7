"""Lines over training steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmpref.report.figures.canvas import MARKERS, MUTED, NUM_STYLES, RULE, Canvas, look, plain_axes


@dataclass(frozen=True, slots=True)
class Curve:
    """One line. ``style`` is the run's place among the runs: its colour, dashes and marker in every figure."""

    label: str
    style: int
    x: tuple[float, ...]
    y: tuple[float, ...]


def curve_figure(
    curves: Sequence[Curve],
    *,
    name: str,
    y_label: str,
    x_range: tuple[float, float],
    y_range: tuple[float, float] | None = None,
    rule_at: float | None = None,
) -> str:
    """Lines over training steps, as an ``<svg>`` element for the page. ``name`` keeps ids apart on one page."""
    with Canvas(width=3.7, height=2.5) as canvas:
        axes = canvas.figure.add_subplot()
        plain_axes(axes)
        if rule_at is not None:
            axes.axhline(rule_at, color=MUTED, linewidth=0.8, zorder=1)
        for curve in curves:
            line = look(curve.style)
            marker = MARKERS[curve.style % NUM_STYLES] if len(curve.x) <= 40 else None
            axes.plot(curve.x, curve.y, marker=marker, markersize=3.2, linewidth=1.6, zorder=3, **line)
        axes.set_xlim(*x_range)
        if y_range is not None:
            axes.set_ylim(*y_range)
        axes.grid(visible=True, axis="y", color=RULE, linewidth=0.7)
        axes.set_xlabel("step", color=MUTED)
        axes.set_ylabel(y_label, color=MUTED)
        return canvas.inline(name)
