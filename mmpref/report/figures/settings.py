"""A metric over the settings of a sweep: lines over the values of one axis, and points of two metrics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmpref.report.figures.canvas import GROUND, INK, MARKERS, MUTED, NUM_STYLES, RULE, Canvas, look, plain_axes

_APART = 0.07  # of the distance of two values: intervals of several lines at one value do not hide each other


@dataclass(frozen=True, slots=True)
class SettingLine:
    """One line: ``y`` and ``intervals`` at each value of the axis, None where there is no number. ``style`` is the
    place of the arm among the arms."""

    label: str
    style: int
    y: tuple[float | None, ...]
    intervals: tuple[tuple[float, float] | None, ...]


@dataclass(frozen=True, slots=True)
class SettingPoint:
    """One setting of an arm: two metrics; ``note`` stands beside it, ``is_front`` where nothing is better in both."""

    label: str
    style: int
    x: float
    y: float
    note: str
    is_front: bool


def setting_figure(
    lines: Sequence[SettingLine],
    values: Sequence[str],
    *,
    name: str,
    labels: tuple[str, str],
    rule: tuple[float, str] | None = None,
) -> str:
    """Lines over the values of an axis, which stand equally far apart, as an ``<svg>`` element for the page.

    Args:
        labels: of the horizontal and the vertical axis.
        rule: a height at which a line is drawn, as that of the start model, and its label.
        name: keeps ids apart on one page.
    """
    with Canvas(width=3.9, height=2.7) as canvas:
        axes = canvas.figure.add_subplot()
        plain_axes(axes)
        if rule is not None:
            axes.axhline(rule[0], color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
            axes.annotate(rule[1], (0, rule[0]), (2, 2), textcoords="offset points", color=MUTED, fontsize=8,
                          xycoords=("axes fraction", "data"))  # fmt: skip
        for place, line in enumerate(lines):
            apart = _APART * (place - (len(lines) - 1) / 2)
            known = [
                (x + apart, y, ends)
                for x, (y, ends) in enumerate(zip(line.y, line.intervals, strict=True))
                if y is not None
            ]
            style = look(line.style)
            for x, _, ends in known:
                if ends is not None:
                    axes.plot([x, x], ends, color=style["color"], linewidth=1.2, zorder=2)
            axes.plot([x for x, *_ in known], [y for _, y, _ in known], marker=MARKERS[line.style % NUM_STYLES],
                      markersize=5, linewidth=1.6, zorder=3, label=line.label or "_", **style)  # fmt: skip
        _legend(canvas, axes)
        axes.set_xlim(-0.4, len(values) - 0.6)
        axes.set_xticks(range(len(values)), [value if len(value) <= 9 else f"{value[:8]}…" for value in values])
        axes.grid(visible=True, axis="y", color=RULE, linewidth=0.7)
        axes.set_xlabel(labels[0], color=MUTED)
        axes.set_ylabel(labels[1], color=MUTED)
        return canvas.inline(name)


def point_figure(points: Sequence[SettingPoint], *, name: str, labels: tuple[str, str]) -> str:
    """Settings as points of two metrics, as an ``<svg>`` element: all of them, those that nothing beats in both with a
    ring and their note."""
    with Canvas(width=5.4, height=3.6) as canvas:
        axes = canvas.figure.add_subplot()
        plain_axes(axes)
        front = sorted((point for point in points if point.is_front), key=lambda point: (point.x, point.y))
        axes.plot([point.x for point in front], [point.y for point in front], color=MUTED, linewidth=0.9,
                  linestyle=(0, (2, 2)), zorder=1)  # fmt: skip
        seen: set[str] = set()
        for point in points:
            label = "_" if point.label in seen or not point.label else point.label
            seen.add(point.label)
            axes.plot([point.x], [point.y], label=label, marker=MARKERS[point.style % NUM_STYLES], markersize=6.5,
                      color=look(point.style)["color"], markeredgecolor=INK if point.is_front else GROUND,
                      markeredgewidth=1.4 if point.is_front else 0.6, linestyle="none", zorder=3)  # fmt: skip
            if point.is_front:
                axes.annotate(
                    point.note, (point.x, point.y), (6, -10), textcoords="offset points", color=INK, fontsize=8
                )
        _legend(canvas, axes)
        axes.margins(x=0.12, y=0.12)
        axes.grid(visible=True, color=RULE, linewidth=0.7)
        axes.set_xlabel(labels[0], color=MUTED)
        axes.set_ylabel(labels[1], color=MUTED)
        return canvas.inline(name)


def dot_figure(lines: Sequence[SettingLine], *, name: str, label: str) -> str:
    """One row a line, with a dot at its only value and its interval, as an ``<svg>`` element for the page."""
    with Canvas(width=4.6, height=0.8 + 0.36 * len(lines)) as canvas:
        axes = canvas.figure.add_subplot()
        plain_axes(axes)
        for row, line in enumerate(lines):
            colour = look(line.style)["color"]
            value, ends = line.y[0], line.intervals[0]
            if value is None:
                axes.text(
                    0.02, row, "no number", transform=axes.get_yaxis_transform(), va="center", color=MUTED, fontsize=9
                )
                continue
            if ends is not None:
                axes.plot(ends, [row, row], color=colour, linewidth=2.2, zorder=2)
            axes.plot([value], [row], marker=MARKERS[line.style % NUM_STYLES], markersize=6.5, color=colour,
                      markeredgecolor=GROUND, zorder=3)  # fmt: skip
        axes.set_yticks(range(len(lines)), [_short(line.label or "the recipe") for line in lines], color=INK)
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.grid(visible=True, axis="x", color=RULE, linewidth=0.7)
        axes.set_xlabel(label, color=MUTED)
        return canvas.inline(name)


def _legend(canvas: Canvas, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        canvas.figure.legend(handles, [_short(label) for label in labels], loc="outside upper left", ncols=2,
                             frameon=False, fontsize=8.5, labelcolor=INK, handlelength=3.2)  # fmt: skip


def _short(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:25]}…"
