"""What the scores say, and what Uni-DPO makes of them.

w_qual = sigmoid(eta (S_w - S_l)), and the NLL term is open for a chosen answer with S_w >= tau_good. Both are bound to
the scale of the scores, so the audit proposes values of its own:

* ``eta = 0.7 * 5 / (highest - lowest)``: the weight that the authors' 0.7 gives on a scale of five points, at the same
  share of the scale. The scale is the data card's; without one, what lies between the 1st and 99th percentile of all
  scores.
* ``tau_good`` = the median of the chosen answers' scores: the better half of them is worth imitating.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass

import numpy as np

from mmpref.data.audit.stats import Floats, Histogram, Quantiles, join_ids, rank_correlation, two_digits
from mmpref.records import PreferencePair

LEAST_SPREAD = 0.05
"""w_qual weighs hardly anything when its 95th and 5th percentile are closer than this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Judge scores of the pairs that have them. Spreads are empty where none has."""

    num_pairs: int
    num_scored: int
    chosen: Quantiles
    rejected: Quantiles
    margin: Quantiles
    """Chosen minus rejected."""
    histogram_chosen: Histogram
    histogram_rejected: Histogram
    histogram_margin: Histogram
    num_distinct: int
    num_tied: int
    num_inverted: int
    """Pairs whose rejected answer has the higher score."""
    inverted_examples: tuple[str, ...]
    scale: tuple[float, float] | None
    """Lowest and highest possible score, as given."""
    num_outside: int
    """Pairs with a score outside the scale."""
    eta: float
    w_qual: Quantiles
    tau_good: float | None
    gate_open: float | None
    """Share of the scored pairs with S_w >= tau_good."""
    margin_and_length: float | None
    """Spearman's rho between score margin and length difference in words: does the judge pay for length?"""
    proposed_eta: float | None
    proposed_tau_good: float | None
    proposed_w_qual: Quantiles
    proposed_gate_open: float | None
    rule_eta: str
    rule_tau_good: str

    def rows(self) -> list[tuple[str, str]]:
        """(question, answer) for the terminal."""
        if not self.num_scored:
            return [("scored pairs", f"0 of {self.num_pairs:,}")]
        rows = [
            ("scored pairs", f"{self.num_scored:,} of {self.num_pairs:,}"),
            ("score of chosen (min, median, max)", _three(self.chosen)),
            ("score of rejected (min, median, max)", _three(self.rejected)),
            ("scores of chosen, low to high", f"{self.histogram_chosen.bars()} {_ends(self.histogram_chosen)}"),
            ("margin (5 %, 25 %, 50 %, 75 %, 95 %)", _five(self.margin)),
            ("margins, low to high", f"{self.histogram_margin.bars()} {_ends(self.histogram_margin)}"),
            ("ties, inverted", f"{self.num_tied:,}, {self.num_inverted:,}"),
            (f"w_qual at eta {self.eta:g} (5 %, mean, 95 %)", _weight(self.w_qual)),
        ]
        if self.gate_open is not None:
            rows.append((f"chosen answers from tau_good {self.tau_good:g}", f"{self.gate_open:.1%}"))
        if self.margin_and_length is not None:
            rows.append(("margin and length, rank correlation", f"{self.margin_and_length:+.2f}"))
        if self.proposed_eta is not None:
            shown = f"{self.proposed_eta:g} (w_qual {_weight(self.proposed_w_qual)})"
            rows.append((f"proposed eta: {self.rule_eta}", shown))
        if self.proposed_tau_good is not None:
            shown = f"{self.proposed_tau_good:g} (open for {self.proposed_gate_open or 0:.1%})"
            rows.append((f"proposed tau_good: {self.rule_tau_good}", shown))
        return rows

    def warnings(self) -> list[str]:
        """What the user should look at, in sentences."""
        if not self.num_scored:
            return []
        found = []
        if self.num_scored < self.num_pairs:
            found.append(f"{self.num_pairs - self.num_scored:,} of {self.num_pairs:,} pairs have no scores")
        if self.num_inverted:
            share = self.num_inverted / self.num_scored
            found.append(
                f"{self.num_inverted:,} pairs ({share:.1%}) have the higher score on the rejected answer (such as "
                f"{join_ids(self.inverted_examples)}); w_qual is below 1/2 for them"
            )
        if self.num_outside and self.scale is not None:
            found.append(
                f"{self.num_outside:,} pairs have a score outside {self.scale[0]:g}..{self.scale[1]:g}: is the scale "
                "right, or do they mark a missing rating?"
            )
        if self.num_scored > 1 and (self.w_qual.p95 or 0) - (self.w_qual.p5 or 0) < LEAST_SPREAD:
            other = "" if self.proposed_eta is None else f"; the scale suggests eta {self.proposed_eta:g}"
            found.append(
                f"w_qual hardly differs between pairs at eta {self.eta:g} ({self.w_qual.p5:.3f} to "
                f"{self.w_qual.p95:.3f} from the 5th to the 95th percentile): it weighs nothing{other}"
            )
        if self.gate_open in (0.0, 1.0):
            state = "never" if self.gate_open == 0 else "always"
            found.append(f"no NLL gate: S_w >= tau_good {self.tau_good:g} is {state} true; is it on this scale?")
        return found


class ScoreTally:
    """Collects the scores of the pairs."""

    def __init__(self) -> None:
        self._num_pairs = 0
        self._chosen, self._rejected = array("d"), array("d")
        self._places = array("q")  # among the compared pairs
        self._num_inverted = 0
        self._inverted: list[str] = []

    def add(self, pair: PreferencePair) -> None:
        """Count the scores of one pair."""
        if pair.rejected is None:
            return
        place, self._num_pairs = self._num_pairs, self._num_pairs + 1
        if pair.score_chosen is None or pair.score_rejected is None:
            return
        self._chosen.append(pair.score_chosen)
        self._rejected.append(pair.score_rejected)
        self._places.append(place)
        if pair.score_rejected > pair.score_chosen:
            self._num_inverted += 1
            if len(self._inverted) < 5:
                self._inverted.append(pair.id)

    def finish(self, *, eta: float, tau_good: float | None, scale: tuple[float, float] | None, words: Floats) -> Scores:
        """The summary; ``words`` is the length difference of each compared pair."""
        # beyond any scale, differences and means would overflow
        chosen, rejected = (np.clip(values, -1e100, 1e100) for values in (self._chosen, self._rejected))
        margin = chosen - rejected
        both = np.concatenate([chosen, rejected])
        proposed_eta, rule_eta = _propose_eta(both, scale)
        proposed_tau = float(np.median(chosen)) if chosen.size else None
        low, high = (float(both.min()), float(both.max())) if both.size else (None, None)
        outside = (np.minimum(chosen, rejected) < scale[0]) | (np.maximum(chosen, rejected) > scale[1]) if scale else []
        return Scores(
            num_pairs=self._num_pairs,
            num_scored=chosen.size,
            chosen=Quantiles.of(chosen),
            rejected=Quantiles.of(rejected),
            margin=Quantiles.of(margin),
            histogram_chosen=Histogram.of(chosen, low=low, high=high),
            histogram_rejected=Histogram.of(rejected, low=low, high=high),
            histogram_margin=Histogram.of(margin),
            num_distinct=int(np.unique(both).size),
            num_tied=int((margin == 0).sum()),
            num_inverted=self._num_inverted,
            inverted_examples=tuple(self._inverted),
            scale=scale,
            num_outside=int(np.sum(outside)),
            eta=eta,
            w_qual=Quantiles.of(_w_qual(margin, eta)),
            tau_good=tau_good,
            gate_open=_open_share(chosen, tau_good),
            margin_and_length=rank_correlation(margin, words[np.asarray(self._places, dtype=np.int64)]),
            proposed_eta=proposed_eta,
            proposed_tau_good=proposed_tau,
            proposed_w_qual=Quantiles.of([] if proposed_eta is None else _w_qual(margin, proposed_eta)),
            proposed_gate_open=_open_share(chosen, proposed_tau),
            rule_eta=rule_eta,
            rule_tau_good="median score of chosen",
        )


def _propose_eta(scores: Floats, scale: tuple[float, float] | None) -> tuple[float | None, str]:
    if not scores.size:
        return None, ""
    if scale is not None:
        low, high, name = *scale, "scale"
    else:
        low, high = map(float, np.quantile(scores, (0.01, 0.99)))
        name = "1..99 % of scores"
    width = high - low
    if not (math.isfinite(width) and width > 0 and math.isfinite(3.5 / width)):
        return None, ""
    return two_digits(3.5 / width), f"0.7 x 5 / ({low:g}..{high:g}, {name})"


def _w_qual(margin: Floats, eta: float) -> Floats:
    with np.errstate(over="ignore"):
        weights: Floats = 1 / (1 + np.exp(-np.clip(eta * margin, -700, 700)))
    return weights


def _open_share(chosen: Floats, tau_good: float | None) -> float | None:
    return None if tau_good is None or not chosen.size else float((chosen >= tau_good).mean())


def _three(quantiles: Quantiles) -> str:
    return f"{quantiles.min:.4g}, {quantiles.median:.4g}, {quantiles.max:.4g}"


def _five(quantiles: Quantiles) -> str:
    return ", ".join(
        f"{value:.3g}" for value in (quantiles.p5, quantiles.p25, quantiles.median, quantiles.p75, quantiles.p95)
    )


def _weight(quantiles: Quantiles) -> str:
    return f"{quantiles.p5:.3f}, {quantiles.mean:.3f}, {quantiles.p95:.3f}"


def _ends(histogram: Histogram) -> str:
    return f"{histogram.edges[0]:.4g} to {histogram.edges[-1]:.4g}"
