"""Does the reward follow length? Reward margin and accuracy over the difference in length of the two answers."""

from __future__ import annotations

import numpy as np

from mmpref.report.cells import MINUS
from mmpref.report.figures.frame import Frame
from mmpref.report.figures.tracks import Ends, Track, track_drawing
from mmpref.report.pairs.block import Block, Group, TextTable, percent, with_interval
from mmpref.report.pairs.log import PairLog, PairRun
from mmpref.report.pairs.measures import finite, length_bins
from mmpref.report.pairs.scores import MARGINS, Order, order_difference, order_of
from mmpref.statistics import Array, mean_with_interval


def _pairs(found: PairRun) -> tuple[PairLog, str]:
    """The held-out pairs at the last evaluation, else the training pairs at their last step."""
    if found.held_out.has(MARGINS) and found.held_out.has("len/chosen"):
        return found.held_out.at(found.held_out.evaluations()[-1]), "held-out pairs"
    return found.train.last_of_each(), "training pairs"


def length_difference(log: PairLog) -> Array:
    """Tokens of the chosen answer less those of the rejected one, [N]."""
    return log.column("len/chosen") - log.column("len/rejected")


def lengths_block(group: Group) -> Block:
    """Rank correlation of length difference and reward margin, and means by bin."""
    found = [(run, *_pairs(run)) for run in group.runs if run.compares]
    known = [(run, log, what) for run, log, what in found if finite(length_difference(log), log.column(MARGINS)).any()]
    if not known:
        return Block(key="lengths", title="Length")
    bins = length_bins(np.concatenate([length_difference(log) for _, log, _ in known]))
    names = [_range(low, high) for low, high in bins]
    lead, rows, by_bin = [], [], []
    margins: list[Track] = []
    accuracies: list[Track] = []
    for run, log, what in known:
        difference, margin = length_difference(log), log.column(MARGINS)
        order = order_of(difference, margin)
        order = Order(
            order.rho, order.interval, order.pairs, order.why_not.replace("score margins", "length differences")
        )
        lengths = difference[np.isfinite(difference)]
        shares = [float((lengths > 0).mean()), float((lengths == 0).mean()), float((lengths < 0).mean())]
        change = (order_difference(group, run, lambda _, log: length_difference(log)),) if group.several else ()
        rows.append((f"{run.label}: {len(lengths):,} {what}", order.text, *map(percent, shares), *change))
        lead.append(f"{run.label}: {_words(order)}")
        tracks: list[tuple[list[float], list[float], list[Ends]]] = [([], [], []), ([], [], [])]
        for place, (low, high) in enumerate(bins):
            inside = finite(difference, margin) & (difference >= low) & (difference <= high)
            values = margin[inside]
            if not len(values):
                continue
            means = [mean_with_interval(sample.tolist()) for sample in (values, (values > 0).astype(np.float64))]
            for (x, y, ends), (mean, interval) in zip(tracks, means, strict=True):
                x.append(float(place))
                y.append(mean)
                ends.append(interval or (None, None))
            texts = (with_interval(*means[0], 3), with_interval(*means[1]))
            by_bin.append((f"{run.label}: {names[place]}", f"{len(values):,}", *texts))
        for target, (x, y, ends) in zip((margins, accuracies), tracks, strict=True):
            target.append(Track(run.label, run.style, tuple(x), tuple(y), tuple(ends)))
    drawings = [
        track_drawing(
            tracks,
            Frame(
                key=key,
                title=title,
                caption="Bins of nearly as many pairs each; bars are 95 % intervals. " + tail,
                x_label="tokens, chosen − rejected",
                y_label=y_label,
                rule_at=rule_at,
                y_range=y_range,
            ),
            bins=names,
        )
        for tracks, key, title, y_label, rule_at, y_range, tail in (
            (margins, "length-margin", "Reward margin by length difference", "mean reward margin", 0.0, None,
             "A slope means that the reward follows length."),
            (accuracies, "length-accuracy", "Reward accuracy by length difference", "share of pairs", 0.5, (0.0, 1.03),
             "Without a length bias, accuracy is alike in all bins."),
        )
    ]  # fmt: skip
    columns: tuple[str, ...] = (
        "pairs",
        "Spearman's rho, length difference and reward margin",
        "chosen longer",
        "equal",
        "chosen shorter",
    )
    if group.several:
        columns = (*columns, f"rho, difference from {group.runs[0].label}")
    tables = (
        TextTable("Length difference (chosen − rejected, tokens) and reward margin", columns, tuple(rows)),
        TextTable("By length difference", ("bin", "pairs", "mean reward margin", "reward accuracy"), tuple(by_bin)),
    )
    return Block(key="lengths", title="Length", lead=tuple(lead), tables=tables, drawings=tuple(drawings))


def _range(low: float, high: float) -> str:
    ends = [f"{end:g}".replace("-", MINUS) for end in (low, high)]
    return ends[0] if low == high else f"{ends[0]} to {ends[1]}"


def _words(order: Order) -> str:
    if order.rho is None:
        return f"length difference and reward margin: {order.why_not}."
    said = f"Spearman rho {with_interval(order.rho, order.interval)} between length difference and reward margin: "
    if order.interval is not None and order.interval[0] <= 0 <= order.interval[1]:
        return said + "no clear sign that the reward follows length."
    return said + ("longer" if order.rho > 0 else "shorter") + " answers get larger rewards."
