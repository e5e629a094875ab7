"""What the losses weighed and scaled the pairs with: over training, at its ends, and as curves over the margins.

Figures 3c and 4a of the Uni-DPO paper, and the coefficients of AdaDPO.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mmpref.report.figures.bands import Band, band_drawing
from mmpref.report.figures.density import Counts, Line, density_drawing
from mmpref.report.figures.drawing import Drawing
from mmpref.report.figures.frame import Frame
from mmpref.report.figures.tracks import Track, track_drawing
from mmpref.report.pairs.block import Block, Group, TextTable, difference_text, figures, percent
from mmpref.report.pairs.formulas import (
    gradient_of_margin,
    performance_weight,
    quality_weight,
    weighted_gradient,
)
from mmpref.report.pairs.log import PairLog, PairRun
from mmpref.report.pairs.measures import (
    Mask,
    axis_of,
    effective_number,
    heaviest_share,
    histogram,
    quantile_row,
    stretches,
)
from mmpref.report.pairs.scores import MARGINS, score_margins, total_weight
from mmpref.statistics import Array, mean_difference

Reader = Callable[[PairLog], Array]


@dataclass(frozen=True, slots=True)
class _Quantity:
    key: str
    title: str
    caption: str
    read: Reader
    rule_at: float | None = None
    y_range: tuple[float, float] | None = None


def _column(name: str) -> Reader:
    return lambda log: log.column(name)


_UNIT = (0.0, 1.03)
_QUANTITIES = (
    _Quantity("w-qual", "w_qual", "Uni-DPO's weight by scores: 1/2 on a tie.", _column("uni/w_qual"), 0.5, _UNIT),
    _Quantity(
        "w-perf", "w_perf", "Uni-DPO's weight by fit: near 0 for learnt pairs.", _column("uni/w_perf"), None, _UNIT
    ),
    _Quantity("w-total", "w_qual · w_perf", "What a pair's loss is multiplied with.", total_weight, None, _UNIT),
    _Quantity("coef-chosen", "AdaDPO: c_w", "Coefficient of the chosen answer.", _column("ada/coef_chosen"), 1.0),
    _Quantity("coef-rejected", "AdaDPO: c_l", "Coefficient of the rejected answer.", _column("ada/coef_rejected"), 1.0),
    _Quantity("log-ratio", "AdaDPO: log R", "The ratio before any bound.", _column("ada/log_ratio"), 0.0),
)
_SHADES = " Line: median; shade: middle half of the pairs; light shade, with one run: 5 to 95 %."


def bands_of(found: PairRun, read: Reader) -> Band | None:
    """A quantity's quantiles over the pairs of each tenth of training; None where it was not logged."""
    values = read(found.train)
    x, rows, counts = [], [], []
    for part in stretches(found.train.steps):
        row = quantile_row(values[part.rows])
        if row is not None:
            x.append(part.step)
            rows.append(row)
            counts.append(int(np.isfinite(values[part.rows]).sum()))
    return Band(found.label, found.style, tuple(x), tuple(rows), tuple(counts)) if rows else None


def weights_block(group: Group) -> Block:
    """Weights and coefficients of all runs that have some."""
    drawings: list[Drawing] = []
    for quantity in _QUANTITIES:
        bands = [band for found in group.runs if (band := bands_of(found, quantity.read)) is not None]
        if bands:
            frame = Frame(
                key=f"bands-{quantity.key}",
                title=f"{quantity.title} over training",
                caption=quantity.caption + _SHADES,
                y_label=quantity.title,
                rule_at=quantity.rule_at,
                y_range=quantity.y_range,
            )
            drawings.append(band_drawing(bands, frame))
    clipped = [track for found in group.runs if (track := _clipped(found)) is not None]
    if clipped:
        frame = Frame(
            key="clipped",
            title="AdaDPO: clipped pairs",
            caption="Share of pairs whose ratio a bound changed, by tenths of training.",
            y_label="share of pairs",
            y_range=_UNIT,
        )
        drawings.append(track_drawing(clipped, frame))
    lead, rows = [], []
    for found in group.runs:
        weights = total_weight(found.train.last_of_each())
        share, effective = heaviest_share(weights), effective_number(weights)
        pairs = int(np.isfinite(weights).sum())
        if share is not None and effective is not None:
            row = (figures(float(np.nanmean(weights))), percent(share), f"{effective:,.0f}", percent(effective / pairs))
            rows.append((found.label, f"{pairs:,}", *row, *_weight_difference(group, found)))
            lead.append(
                f"{found.label}: the heaviest tenth of {pairs:,} pairs has {percent(share)} of the total weight; they "
                f"weigh as {effective:,.0f} pairs of equal weight would."
            )
        elif pairs:
            lead.append(f"{found.label}: no pair has any weight at its last step.")
        for quantity in (_QUANTITIES[2], _QUANTITIES[3], _QUANTITIES[5]):
            drawings += _first_and_last(found, quantity)
        lead += _balance_words(found)
    notes = []
    for found in group.runs:
        curves, why_not = _curves(found)
        drawings += curves
        notes += why_not
    tables: tuple[TextTable, ...] = ()
    if rows:
        columns: tuple[str, ...] = (
            "run",
            "pairs",
            "mean",
            "weight of the heaviest 10 %",
            "effective number of pairs",
            "of all",
        )
        columns += (f"mean, difference from {group.runs[0].label}",) if group.several else ()
        tables = (TextTable("w_qual · w_perf at each pair's last step", columns, tuple(rows)),)
    return Block(
        key="weights", title="Weights and coefficients", lead=tuple(lead), tables=tables, drawings=tuple(drawings),
        notes=tuple(notes),
    )  # fmt: skip


def _weight_difference(group: Group, found: PairRun) -> tuple[str, ...]:
    """How a run's mean weight differs from the first run's, over the pairs of both; empty for one run alone."""
    if not group.several:
        return ()
    if found is group.runs[0]:
        return ("–",)
    if found.label in group.why_not:
        return ("not compared",)
    sides = []
    for log in (group.runs[0].train.last_of_each(), found.train.last_of_each()):
        pairs = zip(log.ids, total_weight(log), strict=True)
        sides.append({str(name): float(weight) for name, weight in pairs if np.isfinite(weight)})
    return (difference_text(mean_difference(*sides)),)


def _balance_words(found: PairRun) -> list[str]:
    last = found.train.last_of_each()
    coef, clipped = last.column("ada/coef_chosen"), last.column("ada/clipped")
    if not np.isfinite(coef).any():
        return []
    row = quantile_row(coef)
    assert row is not None
    bound = f"; a bound changed {percent(float(np.nanmean(clipped)))} of them" if np.isfinite(clipped).any() else ""
    return [
        f"{found.label}: the chosen answer's coefficient lies from {figures(row[0])} to {figures(row[4])} for 90 % of "
        f"pairs at their last step, median {figures(row[2])}{bound}."
    ]


def _clipped(found: PairRun) -> Track | None:
    values = found.train.column("ada/clipped")
    parts = [part for part in stretches(found.train.steps) if np.isfinite(values[part.rows]).any()]
    if not parts:
        return None
    shares = tuple(float(np.nanmean(values[part.rows])) for part in parts)
    return Track(found.label, found.style, tuple(part.step for part in parts), shares)


def _first_and_last(found: PairRun, quantity: _Quantity) -> list[Drawing]:
    values = quantity.read(found.train)
    parts = stretches(found.train.steps)
    if len(parts) < 2 or not np.isfinite(values).any():
        return []
    samples = [values[part.rows] for part in (parts[0], parts[-1])]
    edges = np.linspace(0, 1, 21) if quantity.y_range else axis_of(samples)
    if edges is None or any(not np.isfinite(sample).any() for sample in samples):
        return []
    names = (
        f"first tenth, to step {_last(found, parts[0].rows):g}",
        f"last tenth, from step {_first(found, parts[-1].rows):g}",
    )
    counts = [
        Counts(name, tuple(map(float, edges)), histogram(sample, edges))
        for name, sample in zip(names, samples, strict=True)
    ]
    frame = Frame(
        key=f"ends-{quantity.key}-{found.style}",
        title=f"{found.label}: {quantity.title}, first and last",
        caption="Dashed: the first tenth of training; filled: the last. Values beyond the axis count in its ends.",
        x_label=quantity.title,
        y_label="share of pairs",
    )
    return [density_drawing(counts, frame, style=found.style)]


def _first(found: PairRun, rows: Mask) -> float:
    return float(found.train.steps[rows].min())


def _last(found: PairRun, rows: Mask) -> float:
    return float(found.train.steps[rows].max())


def reduced_margin(found: PairRun, log: PairLog, prefix: str = "") -> Array:
    """beta (u_w - u_l) of each row [N], of the policy or, with prefix ``ref_``, of the reference: means over tokens
    where the loss is on means, else sums."""
    beta = found.number("beta")
    sides = [log.column(f"{prefix}logps/{side}") for side in ("chosen", "rejected")]
    if found.loss.get("length_normalize"):
        lengths = [log.column(f"len/{side}") for side in ("chosen", "rejected")]
        sides = [side / np.where(length > 0, length, np.nan) for side, length in zip(sides, lengths, strict=True)]
    return np.full(len(log), np.nan) if beta is None else beta * (sides[0] - sides[1])


def _ends(found: PairRun, values: Array, edges: Array) -> list[Counts]:
    """Where the pairs lie along an axis, in the first and the last tenth of training."""
    parts = stretches(found.train.steps)
    chosen = [("pairs, first tenth", parts[0].rows), ("pairs, last tenth", parts[-1].rows)][-min(2, len(parts)) :]
    return [Counts(name, tuple(map(float, edges)), histogram(values[rows], edges)) for name, rows in chosen]


def _curves(found: PairRun) -> tuple[list[Drawing], list[str]]:
    """The weight curves of the run's loss with its own pairs along the axis, and why some are not drawn."""
    uni, drawings = found.uni, []
    if not found.compares or not len(found.train):
        return [], []
    if uni is not None:
        margin, _ = score_margins(found, found.train)
        eta = found.number("eta", section="uni")
        if eta and np.isfinite(margin).any():
            drawings.append(_quality_curve(found, margin, eta))
        drawings += _performance_curve(found)
    curves, why_not = _gradient_curves(found)
    return drawings + curves, why_not


def _quality_curve(found: PairRun, margin: Array, eta: float) -> Drawing:
    edges = axis_of([margin, np.zeros(1)])
    assert edges is not None
    x = np.linspace(edges[0], edges[-1], 61)
    line = Line("w_qual", tuple(map(float, x)), tuple(map(float, quality_weight(x, eta))))
    frame = Frame(
        key=f"curve-w-qual-{found.style}",
        title=f"{found.label}: w_qual over the score margin",
        caption=f"eta {eta:g}. At the foot, not to scale: where this run's pairs lie.",
        x_label="score margin",
        y_label="w_qual",
        y_range=_UNIT,
    )
    counts = [Counts("pairs", tuple(map(float, edges)), histogram(margin, edges))]
    return density_drawing(counts, frame, style=found.style, lines=[line])


def _performance_curve(found: PairRun) -> list[Drawing]:
    gamma, tau = found.number("gamma", section="uni"), found.number("tau_ref", section="uni")
    mode = found.uni.get("perf_mode", "stabilized") if found.uni else "none"
    focal = mode == "focal"
    values = found.train.column(MARGINS) if focal else reduced_margin(found, found.train)
    if gamma is None or tau is None or mode == "none" or not np.isfinite(values).any():
        return []
    edges = axis_of([values, np.zeros(1)])
    assert edges is not None
    x = np.linspace(edges[0], edges[-1], 61)
    weight = performance_weight(x if focal else x - tau, gamma)
    frame = Frame(
        key=f"curve-w-perf-{found.style}",
        title=f"{found.label}: w_perf over the margin",
        caption=f"gamma {gamma:g}{'' if focal else f', tau_ref {tau:g}'}. At the foot, not to scale: where this run's "
        "pairs lie.",
        x_label="reward margin" if focal else "beta · (log-prob of chosen − rejected)",
        y_label="w_perf",
        y_range=_UNIT,
    )
    line = Line("w_perf", tuple(map(float, x)), tuple(map(float, weight)))
    return [density_drawing(_ends(found, values, edges), frame, style=found.style, lines=[line])]


def _gradient_curves(found: PairRun) -> tuple[list[Drawing], list[str]]:
    """Figure 4a: gradient over the reward margin, with this run's numbers."""
    delta = found.train.column(MARGINS)
    if not np.isfinite(delta).any():
        return [], []
    if found.loss.get("base") != "dpo":
        base = found.loss.get("base", "not recorded")
        return [], [f"{found.label}: the gradient over the margin is drawn for the base dpo, not for {base}."]
    edges = axis_of([delta, np.zeros(1)])
    assert edges is not None
    x = np.linspace(edges[0], edges[-1], 81)
    smoothing = found.number("label_smoothing") or 0.0
    lines = [Line("DPO", tuple(map(float, x)), tuple(map(float, gradient_of_margin(x, smoothing))))]
    gamma, tau = found.number("gamma", section="uni"), found.number("tau_ref", section="uni")
    caption = f"beta {found.number('beta') or 0:g}"
    if gamma is not None and tau is not None and found.uni is not None:
        detach = bool(found.uni.get("perf_detach"))
        reference = reduced_margin(found, found.train, "ref_")
        middle = float(np.nanmedian(reference)) if np.isfinite(reference).any() else 0.0
        for name, z in (("focal", x), ("stabilised", x + middle - tau)):
            curve = weighted_gradient(x, z, gamma, smoothing=smoothing, detach=detach)
            lines.append(Line(name, tuple(map(float, x)), tuple(map(float, curve))))
        caption += (
            f", gamma {gamma:g}, tau_ref {tau:g}; the stabilised weight also depends on the reference's margin, drawn "
            f"at this run's median, {figures(middle)}"
        )
    frame = Frame(
        key=f"curve-gradient-{found.style}",
        title=f"{found.label}: gradient over the reward margin",
        caption=f"{caption}. Before w_qual. At the foot, not to scale: where this run's pairs lie.",
        x_label="reward margin",
        y_label="size of the gradient",
        y_range=(0.0, 1.08 * max(max(line.y) for line in lines)),
    )
    return [density_drawing(_ends(found, delta, edges), frame, style=found.style, lines=lines)], []
