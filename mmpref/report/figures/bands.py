"""How the pairs of a run lie over training: median, middle half and nine tenths of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmpref.report.figures.canvas import LIGHT, MARKERS, NUM_STYLES, look
from mmpref.report.figures.drawing import Drawing, Value
from mmpref.report.figures.frame import Frame, drawing_on, finished

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True)
class Band:
    """One run: ``values[i]`` are the five :data:`QUANTILES` at step ``x[i]``, over ``counts[i]`` pairs."""

    label: str
    style: int
    x: tuple[float, ...]
    values: tuple[tuple[float, ...], ...]
    counts: tuple[int, ...]


def band_drawing(bands: Sequence[Band], frame: Frame) -> Drawing:
    """A line at the median and a shade over the middle half of the pairs; with one run also over 5 to 95 %."""
    with drawing_on(frame) as drawn:
        for band in bands:
            colour = LIGHT[band.style % NUM_STYLES]
            columns = list(zip(*band.values, strict=True))
            if len(bands) == 1:
                drawn.axes.fill_between(band.x, columns[0], columns[4], color=colour, alpha=0.13, linewidth=0)
            drawn.axes.fill_between(band.x, columns[1], columns[3], color=colour, alpha=0.2, linewidth=0)
            marker = MARKERS[band.style % NUM_STYLES]
            drawn.axes.plot(
                band.x, columns[2], marker=marker, markersize=3.2, linewidth=1.6, zorder=3, **look(band.style)
            )
    rows: tuple[tuple[Value, ...], ...] = tuple(
        (band.label, x, count, *values)
        for band in bands
        for x, count, values in zip(band.x, band.counts, band.values, strict=True)
    )
    words = "; ".join(
        f"{band.label}: median from {band.values[0][2]:.3g} at step {band.x[0]:g} to {band.values[-1][2]:.3g} at step "
        f"{band.x[-1]:g}, 5 to 95 % of pairs then from {band.values[-1][0]:.3g} to {band.values[-1][4]:.3g}"
        for band in bands
    )
    names = ("run", "step", "pairs", *(f"q{round(100 * share):02d}" for share in QUANTILES))
    return finished(frame, drawn, words, names, rows)
