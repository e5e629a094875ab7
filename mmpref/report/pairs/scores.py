"""Do rewards order the pairs as the scores do? Rank correlation, quadrants and pairs of each (figure 3 of Uni-DPO)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mmpref.report.evaluation import Row, number
from mmpref.report.figures.drawing import Drawing
from mmpref.report.figures.frame import Frame
from mmpref.report.figures.scatter import Dots, scatter_drawing
from mmpref.report.pairs.block import Block, Group, TextTable, figures, percent, with_interval
from mmpref.report.pairs.formulas import score_margin_of
from mmpref.report.pairs.log import PairLog, PairRun
from mmpref.report.pairs.measures import QUADRANTS, by_hash, finite, quadrants, resamples_for
from mmpref.statistics import Array, Interval, spearman, spearman_difference

MARGINS = "rewards/margins"
MOST_DOTS, _DOTS_OF_ALL_RUNS = 1500, 5000


@dataclass(frozen=True, slots=True)
class Order:
    """Rank correlation of score margins and reward margins; ``why_not`` says why there is none."""

    rho: float | None
    interval: Interval | None
    pairs: int
    why_not: str = ""

    @property
    def text(self) -> str:
        """For a table."""
        return f"{self.why_not}" if self.rho is None else f"{with_interval(self.rho, self.interval)} ({self.pairs:,})"


def score_margins(found: PairRun, log: PairLog) -> tuple[Array, str]:
    """S_w - S_l of each row [N], NaN where a pair has no scores; and where they are from, "" for the log's own.

    A log without them has them in ``uni/w_qual``, whose slope ``loss.uni.eta`` is known; else some pairs have them in
    ``pair_texts.jsonl``.
    """
    margin = log.column("score/chosen") - log.column("score/rejected")
    if np.isfinite(margin).any():
        return margin, ""
    eta = found.number("eta", section="uni")
    if eta and log.has("uni/w_qual"):
        # 1 is also the weight of a pair without scores
        return score_margin_of(log.column("uni/w_qual"), eta), f"read back from uni/w_qual with loss.uni.eta={eta:g}"
    by_id = {str(row["id"]): _margin_in(row) for row in found.run.pair_texts}
    from_texts = np.array([by_id.get(str(name), np.nan) for name in log.ids], dtype=np.float64)
    known = len({str(name) for name, value in zip(log.ids, from_texts, strict=True) if np.isfinite(value)})
    return from_texts, f"those of the {known:,} pairs in pair_texts.jsonl" if known else ""


def _margin_in(row: Row) -> float:
    chosen, rejected = number(row.get("score_chosen")), number(row.get("score_rejected"))
    return np.nan if chosen is None or rejected is None else chosen - rejected


def order_of(score_margin: Array, reward_margin: Array) -> Order:
    """How far rewards order pairs as scores do, over the pairs that have both. [N], [N]."""
    known = finite(score_margin, reward_margin)
    scores, rewards = score_margin[known], reward_margin[known]
    pairs = len(scores)
    if not np.isfinite(score_margin).any():
        return Order(None, None, pairs, "no scores")
    if not np.isfinite(reward_margin).any():
        return Order(None, None, pairs, "no reward margins")
    if pairs < 3:
        return Order(None, None, pairs, f"undefined: pairs with both: {pairs}, 3 are needed")
    rho, interval = spearman(scores, rewards, resamples=resamples_for(pairs))
    if rho is None:
        alike = "score" if np.ptp(scores) == 0 else "reward"
        return Order(None, None, pairs, f"undefined: all {alike} margins are equal")
    return Order(rho, interval, pairs)


def in_words(order: Order) -> str:
    """What a rank correlation says of the reward."""
    if order.rho is None:
        return order.why_not
    if order.interval is not None and order.interval[0] <= 0 <= order.interval[1]:
        return "no clear relation: the reward does not order pairs as the scores do"
    size = abs(order.rho)
    how = "hardly" if size < 0.3 else "partly" if size < 0.6 else "mostly" if size < 0.9 else "closely"
    if order.rho < 0:
        return f"the reward {'partly ' if size < 0.6 else ''}orders pairs against the scores"
    return f"the reward {how} orders pairs as the scores do"


def scores_block(group: Group) -> Block:
    """Rank correlation of each run, a dot for each pair, and the quadrants."""
    lead, notes, rows, drawings, places = [], [], [], [], []
    at_most = min(MOST_DOTS, _DOTS_OF_ALL_RUNS // max(1, len(group.runs)))
    for found in group.runs:
        if not found.compares:
            notes.append(f"{found.label} trains on single answers ({found.loss.get('base')}): it has no reward margins")
            continue
        train = found.train.last_of_each()
        margin, source = score_margins(found, train)
        orders = [order_of(margin, train.column(MARGINS)), *_held_out_orders(found)]
        rows.append(
            (
                found.label,
                *(order.text for order in orders),
                order_difference(group, found, lambda run, log: score_margins(run, log)[0]),
            )
        )
        main = next((order for order in orders if order.rho is not None), orders[0])
        where = "training pairs at their last step" if main is orders[0] else "held-out pairs"
        if main.rho is None:
            notes.append(_without(found, main))
            continue
        lead.append(
            f"{found.label}: Spearman rho {with_interval(main.rho, main.interval)} between score margin and reward "
            f"margin of {main.pairs:,} {where}: {in_words(main)}."
        )
        if source:
            notes.append(f"{found.label}: the pair log has no scores; score margins are {source}.")
        notes += _missing(found, margin)
        if main is orders[0]:
            places += _quadrant_rows(found, train, margin)
            drawings.append(_dots(found, train, margin, at_most))
    tables = []
    if lead:
        columns = ("run", "training pairs, last step", "held-out, first evaluation", "held-out, last evaluation")
        last = "difference from " + group.runs[0].label
        tables.append(
            TextTable(
                "Spearman's rho of score margin and reward margin, 95 % interval over pairs (pairs)",
                (*columns, *([last] if group.several else [])),
                tuple(row if group.several else row[:-1] for row in rows),
            )
        )
    if places:
        tables.append(_quadrant_table(places))
    if any(len(found.train.last_of_each()) > at_most for found in group.runs) and drawings:
        notes.append(f"Figures show {at_most:,} pairs of a run, drawn by a hash of their ids; tables count all.")
    return Block(
        key="scores", title="Scores against rewards", lead=tuple(lead), tables=tuple(tables), drawings=tuple(drawings),
        notes=tuple(notes),
    )  # fmt: skip


def _without(found: PairRun, order: Order) -> str:
    if order.why_not == "no scores":
        return (
            f"{found.label}: no scores in its pair log, so none are compared with rewards; a run has them where its "
            "data has score_chosen and score_rejected"
        )
    return f"{found.label}: score margins are not compared with reward margins ({order.why_not})"


def _missing(found: PairRun, margin: Array) -> list[str]:
    absent = int((~np.isfinite(margin)).sum())
    if not absent:
        return []
    return [
        f"{found.label}: {absent:,} of {len(margin):,} training pairs have no score margin and are in no figure here."
    ]


def _held_out_orders(found: PairRun) -> list[Order]:
    steps = found.held_out.evaluations()
    if not steps:
        return [Order(None, None, 0, "none")] * 2
    orders = []
    for step in (steps[0], steps[-1]):
        log = found.held_out.at(step)
        orders.append(order_of(score_margins(found, log)[0], log.column(MARGINS)))
    return orders


def order_difference(group: Group, found: PairRun, read: Callable[[PairRun, PairLog], Array]) -> str:
    """How a run's rank correlation with the reward margin differs from the first run's, over held-out pairs that both
    have, else over training pairs.

    Args:
        read: gives the number [N] of each row that is compared with the reward margin.
    """
    first = group.runs[0]
    if found is first:
        return "–"
    if found.label in group.why_not:
        return "not compared"
    for name, what in (("held_out", "held-out"), ("train", "training")):
        sides = []
        for run in (first, found):
            log = getattr(run, name).last_of_each()
            margin = read(run, log)
            rewards = log.column(MARGINS)
            known = finite(margin, rewards)
            both = zip(log.ids[known], margin[known], rewards[known], strict=True)
            sides.append({str(key): (score, reward) for key, score, reward in both})
        shared = sorted(sides[0].keys() & sides[1].keys())
        if len(shared) < 3:
            continue
        columns = [tuple(zip(*(side[key] for key in shared), strict=True)) for side in sides]
        value, interval = spearman_difference(
            (columns[0][0], columns[0][1]), (columns[1][0], columns[1][1]), resamples=resamples_for(len(shared))
        )
        if value is not None:
            sign = "+" if value > 0 else ""
            return f"{sign}{with_interval(value, interval)} ({len(shared):,} {what} pairs)"
    return "not compared"


def _quadrant_rows(found: PairRun, log: PairLog, margin: Array) -> list[tuple[PairRun, str, int, int, PairLog]]:
    masks = quadrants(margin, log.column(MARGINS))
    total = sum(int(mask.sum()) for mask in masks.values())
    return [
        (found, name, int(mask.sum()), total, log.where(mask))
        for name, mask in masks.items()
        if mask.any() or not name.startswith("tied")
    ]


def _quadrant_table(places: Sequence[tuple[PairRun, str, int, int, PairLog]]) -> TextTable:
    weighted = any(log.has("uni/w_qual") for *_, log in places)
    balanced = any(log.has("ada/coef_chosen") for *_, log in places)
    extra: list[tuple[str, Callable[[PairLog], Array]]] = [("mean w_qual · w_perf", total_weight)] * weighted
    extra += [("mean coefficient, chosen", lambda log: log.column("ada/coef_chosen"))] * balanced
    extra += [(f"mean tokens, {side}", _reader(f"len/{side}")) for side in ("chosen", "rejected")]
    rows = tuple(
        (
            f"{found.label}: {QUADRANTS[name]}",
            f"{count:,}",
            percent(count / total if total else None),
            *(_mean(read(log)) for _, read in extra),
        )
        for found, name, count, total, log in places
    )
    caption = (
        "Training pairs by the sign of both margins, at each pair's last step. A reward margin of 0 counts as not "
        "learnt; equal scores have rows of their own"
    )
    return TextTable(caption, ("pairs", "number", "share", *(name for name, _ in extra)), rows)


def total_weight(log: PairLog) -> Array:
    """w_qual w_perf of each row, [N]."""
    return log.column("uni/w_qual") * log.column("uni/w_perf")


def _reader(name: str) -> Callable[[PairLog], Array]:
    return lambda log: log.column(name)


def _mean(values: Array) -> str:
    known = values[np.isfinite(values)]
    return figures(float(known.mean())) if len(known) else "–"


def _dots(found: PairRun, log: PairLog, margin: Array, at_most: int) -> Drawing:
    rewards = log.column(MARGINS)
    places = np.flatnonzero(finite(margin, rewards))
    masks = quadrants(margin, rewards)
    total = max(1, sum(int(mask.sum()) for mask in masks.values()))
    ends = {"top": "learnt", "bottom": "unlearnt"}
    sides = {"right": "agreed", "left": "contradicted"}
    corners = {
        f"{top}-{left}": percent(int(masks[f"{side}-{end}"].sum()) / total)
        for top, end in ends.items()
        for left, side in sides.items()
    }
    shown = places[by_hash(log.ids[places], at_most)]
    shown = shown[np.argsort(log.ids[shown].astype(str), kind="stable")]
    frame = Frame(
        key=f"scores-rewards-{found.style}",
        title=f"{found.label}: scores and rewards",
        caption="A dot is a training pair at its last step. In the corners: share of all pairs, equal scores aside.",
        x_label="score margin, chosen − rejected",
        y_label="reward margin",
    )
    words = ", ".join(f"{corner.replace('-', ' ')} {share}" for corner, share in corners.items())
    dots = Dots([*map(str, log.ids[shown])], margin[shown].tolist(), rewards[shown].tolist(), found.style, corners)
    return scatter_drawing(dots, frame, columns=("score margin", "reward margin"), words=words)
