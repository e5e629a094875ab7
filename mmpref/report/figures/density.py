"""How values lie along an axis, alone or under curves over the same axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmpref.report.figures.canvas import LIGHT, NUM_STYLES
from mmpref.report.figures.drawing import Drawing, Value
from mmpref.report.figures.frame import Frame, drawing_on, finished

_LINES = ((), (5, 1.6), (1.4, 1.4), (7, 1.6, 1.4, 1.6))
_GROUND = 0.3  # share of the height that the values take under curves


@dataclass(frozen=True, slots=True)
class Counts:
    """A histogram: ``shares[i]`` of all values lie from ``edges[i]`` to ``edges[i + 1]``; the first is hatched."""

    label: str
    edges: tuple[float, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A curve over the axis."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]


def density_drawing(counts: Sequence[Counts], frame: Frame, *, style: int, lines: Sequence[Line] = ()) -> Drawing:
    """Histograms, each with an outline of its own; under ``lines`` they take the foot of the figure, not to scale.

    Args:
        style: the run's place, for its colour.
    """
    colour = LIGHT[style % NUM_STYLES]
    with drawing_on(frame) as drawn:
        axes = drawn.axes
        ground = axes
        if lines:
            ground = axes.twinx()
            for spine in ground.spines.values():
                spine.set_visible(False)
            ground.set_yticks([])
            ground.set_facecolor("none")
            ground.set_ylim(0, max((max(one.shares, default=0) for one in counts), default=0) / _GROUND or 1)
        for place, one in enumerate(counts):
            first = place == 0 and len(counts) > 1
            ground.stairs(
                one.shares,
                one.edges,
                color=colour,
                fill=not first,
                alpha=None if first else 0.25,
                linewidth=0,
            )
            ground.stairs(
                one.shares,
                one.edges,
                color=colour,
                linewidth=1.4,
                linestyle=(0, (2, 1.5)) if first else "-",
                alpha=0.6 if lines else 1,
                label=None if lines else one.label,
            )
        for place, line in enumerate(lines):
            dashes = _LINES[place % len(_LINES)]
            axes.plot(
                line.x, line.y, color=colour, linewidth=1.8, linestyle=(0, dashes) if dashes else "-", label=line.label
            )
        if lines:
            axes.set_zorder(ground.get_zorder() + 1)
        drawn.legend()
    rows: list[tuple[Value, ...]] = [
        ("pairs: " + one.label, low, high, share)
        for one in counts
        for low, high, share in zip(one.edges, one.edges[1:], one.shares, strict=False)
    ]
    rows += [("line: " + line.label, x, x, y) for line in lines for x, y in zip(line.x, line.y, strict=True)]
    said = [
        f"{line.label} from {line.y[0]:.3g} at {line.x[0]:.3g} to {line.y[-1]:.3g} at {line.x[-1]:.3g}"
        for line in lines
    ]
    said += [f"most {one.label} lie {_fullest(one)}" for one in counts if any(one.shares)]
    return finished(frame, drawn, "; ".join(said), ("what", "from", "to", "value"), tuple(rows))


def _fullest(one: Counts) -> str:
    """The shortest stretch of neighbouring columns with half of the values."""
    best = (len(one.shares), 0)
    for start in range(len(one.shares)):
        total = 0.0
        for width in range(1, len(one.shares) - start + 1):
            total += one.shares[start + width - 1]
            if total >= sum(one.shares) / 2:
                best = min(best, (width, start))
                break
    width, start = best
    return f"from {one.edges[start]:.3g} to {one.edges[start + width]:.3g}"
