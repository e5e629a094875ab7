"""Lines over training steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmpref.report.figures.canvas import MARKERS, MUTED, NUM_STYLES, RULE, Canvas, look, plain_axes
from mmpref.report.figures.drawing import Drawing


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


def curve_drawing(curves: Sequence[Curve], svg: str, *, key: str, title: str, caption: str) -> Drawing:
    """Lines with their numbers: one row for each point."""
    words = "; ".join(
        f"{curve.label} from {curve.y[0]:.3g} at step {curve.x[0]:g} to {curve.y[-1]:.3g} at step {curve.x[-1]:g}"
        for curve in curves
    )
    rows = tuple((curve.label, x, y) for curve in curves for x, y in zip(curve.x, curve.y, strict=True))
    return Drawing(key, title, caption, words, svg, ("run", "step", "value"), rows)


def styles_of(drawings: Sequence[Drawing], labels: Sequence[str]) -> list[int]:
    """The places of the runs that at least one of these drawings shows."""
    shown = {row[0] for drawing in drawings for row in drawing.rows}
    return [place for place, label in enumerate(labels) if label in shown]
