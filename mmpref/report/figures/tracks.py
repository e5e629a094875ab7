"""Means with their intervals: over the steps of training, and by bin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmpref.report.figures.canvas import LIGHT, MARKERS, NUM_STYLES, look
from mmpref.report.figures.drawing import Drawing
from mmpref.report.figures.frame import Frame, drawing_on, finished

Ends = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True)
class Track:
    """One run's means: over steps ``x``, or over bins where ``x`` counts them. ``ends`` are intervals, where known.

    ``thin`` draws a lighter line without marks, for what stands beside the run's own.
    """

    label: str
    style: int
    x: tuple[float, ...]
    y: tuple[float, ...]
    ends: tuple[Ends, ...] = ()
    thin: bool = False


def track_drawing(tracks: Sequence[Track], frame: Frame, *, bins: Sequence[str] = ()) -> Drawing:
    """Lines with intervals. ``bins`` names the places of the axis; without it, they are steps."""
    with drawing_on(frame) as drawn:
        marked = [track for track in tracks if not track.thin]
        for place, track in enumerate(tracks):
            colour, line = LIGHT[track.style % NUM_STYLES], look(track.style)
            shift = 0.12 * (place - (len(tracks) - 1) / 2) if bins else 0.0
            x = [value + shift for value in track.x]
            if track.thin:
                drawn.axes.plot(x, track.y, linewidth=1.0, alpha=0.65, zorder=2, **line)
                continue
            marker = MARKERS[track.style % NUM_STYLES]
            if bins:
                line["linestyle"] = "none"
            drawn.axes.plot(x, track.y, marker=marker, markersize=4.5 if bins else 3.6, linewidth=1.6, zorder=3, **line)
            for at, (low, high) in zip(x, track.ends, strict=False):
                if low is not None and high is not None:
                    drawn.axes.plot([at, at], [low, high], color=colour, linewidth=1.2, zorder=2)
        if bins:
            drawn.axes.set_xticks(range(len(bins)), bins)
            drawn.axes.set_xlim(-0.6, len(bins) - 0.4)
    rows = tuple(
        (track.label, bins[int(x)] if bins else x, y, *(track.ends[place] if track.ends else (None, None)))
        for track in tracks
        for place, (x, y) in enumerate(zip(track.x, track.y, strict=True))
    )
    where = (lambda x: f"bin {bins[int(x)]}") if bins else (lambda x: f"step {x:g}")
    words = "; ".join(
        f"{track.label} from {track.y[0]:.3g} at {where(track.x[0])} to {track.y[-1]:.3g} at {where(track.x[-1])}"
        for track in (marked or tracks)
    )
    return finished(frame, drawn, words, ("run", "bin" if bins else "step", "mean", "low", "high"), rows)
