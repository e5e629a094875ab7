"""Uni-DPO: two weights per pair and a calibrated NLL on the chosen answer.

loss = w_qual w_perf link(M) + lambda cNLL. Shapes: every tensor is [B]. Letters: see ``sides``; S is an answer's score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from mmpref.errors import DataError
from mmpref.losses.contract import MissingScores, PairLogps
from mmpref.losses.sides import Side

PerfMode = Literal["stabilized", "focal", "none"]


@dataclass(frozen=True, slots=True, eq=False)
class PairScores:
    """The scores of the pairs in the loss's precision, all [B], all without gradient; 0 where a pair has none."""

    chosen: Tensor
    rejected: Tensor
    missing: Tensor  # bool


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """What Uni-DPO gives each pair, all [B]."""

    quality: Tensor  # w_qual, without gradient
    performance: Tensor  # w_perf
    nll_active: Tensor  # 1 where cNLL counts, else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UniDPO:
    """Uni-DPO's weights (figure 1 of the paper; the same in the authors' code).

    w_qual = s( eta (S_w - S_l) )                          1/2 on a tie, below it where the scores contradict the label
    w_perf = [ 1 - s(z) ]^gamma,  z = beta (u_w - u_l) - tau_ref      policy only; small for pairs already learnt
    cNLL   = -u_w  where  ru_w > u_w + nll_margin  and  S_w >= tau_good,  else 0
    On a base whose scores are sums (``length_normalize: false``, an ablation) u is l in w_perf and in cNLL's value, as
    in the authors' code, where one reduction serves all terms; the gate's nll_margin stays per token.

    Args:
        eta: slope of w_qual; None leaves it out (weight 1).
        tau_ref: margin at which w_perf is (1/2)^gamma; not multiplied by beta.
        gamma: focal exponent. >= 0. Unrelated to SimPO's gamma.
        nll_lambda: weight of cNLL. >= 0.
        tau_good: least score of an answer worth imitating, on the data's own scale.
        perf_mode: ``stabilized`` as above, ``focal`` with z the pair's own margin, ``none`` for weight 1.
        perf_detach: stop the gradient through w_perf. The official code lets it flow; so does the default.
        nll_margin: how far the policy must have fallen below the reference, per token. 0 in the official code.
        on_missing_score: ``error``, or ``neutral`` = w_qual 1 and no cNLL for that pair.
    """

    eta: float | None
    tau_ref: float
    gamma: float
    nll_lambda: float
    tau_good: float
    perf_mode: PerfMode
    perf_detach: bool
    nll_margin: float
    on_missing_score: MissingScores

    @property
    def reads_scores(self) -> bool:
        """eta = 0 makes w_qual 1/2 whatever the scores are, so nothing is read then."""
        return bool(self.eta) or self.nll_lambda > 0

    @property
    def perf_has_gradient(self) -> bool:
        """Whether the loss also moves the policy through w_perf."""
        return self.perf_mode != "none" and not self.perf_detach

    def weights(self, x: PairLogps, chosen: Side, z: Tensor, like: Tensor) -> Weights:
        """Both weights and the gate of cNLL.

        Args:
            chosen: the chosen answers of ``x``.
            z: the argument of w_perf.
            like: a tensor of the dtype and device of the loss.
        """
        scores = self.scores(x, like)
        performance = self.weight_at(z)
        active = self.gates(chosen, scores) if self.nll_lambda > 0 else torch.zeros_like(like)
        return Weights(quality=self.quality(scores, like), performance=performance, nll_active=active)

    def scores(self, x: PairLogps, like: Tensor) -> PairScores | None:
        """The scores as this loss reads them; None where it reads none or the batch has none."""
        if not self.reads_scores:
            return None
        if x.chosen_score is None or x.rejected_score is None:
            if self.on_missing_score == "error":
                raise DataError(
                    "PairLogps.chosen_score and rejected_score are needed by Uni-DPO and were not given; add scores to "
                    "the data, or set loss.uni.on_missing_score: neutral"
                )
            return None
        # scores are data, never a path for the gradient
        chosen, rejected = x.chosen_score.detach().to(like), x.rejected_score.detach().to(like)
        if self.on_missing_score != "neutral":
            return PairScores(chosen=chosen, rejected=rejected, missing=torch.zeros_like(chosen, dtype=torch.bool))
        missing = torch.isnan(chosen) | torch.isnan(rejected)
        zero = torch.zeros_like(chosen)
        return PairScores(
            chosen=torch.where(missing, zero, chosen), rejected=torch.where(missing, zero, rejected), missing=missing
        )

    def quality(self, scores: PairScores | None, like: Tensor) -> Tensor:
        """w_qual."""
        if self.eta is None:
            return torch.ones_like(like)
        if self.eta == 0.0:
            return torch.full_like(like, 0.5)
        if scores is None:
            return torch.ones_like(like)  # neutral: no opinion is weight 1, not the 1/2 of a tie
        weight = torch.sigmoid(self.eta * (scores.chosen - scores.rejected))
        return torch.where(scores.missing, torch.ones_like(weight), weight)

    def weight_at(self, z: Tensor) -> Tensor:
        """w_perf as it weighs, with the gradient that it has."""
        if self.perf_mode == "none":
            return torch.ones_like(z)
        # the ablation: the weight still weighs, but the loss no longer steers it
        return self.performance(z).detach() if self.perf_detach else self.performance(z)

    def performance(self, z: Tensor) -> Tensor:
        """w_perf. In log space: (1 - s(z))^gamma is 0 from z = 17 in float32, with a NaN gradient for gamma < 1."""
        return torch.exp(self.gamma * logsigmoid(-z))

    def performance_slope(self, z: Tensor) -> Tensor:
        """d w_perf / dz."""
        return -self.gamma * torch.sigmoid(z) * self.performance(z)

    def gates(self, chosen: Side, scores: PairScores | None) -> Tensor:
        """1 where cNLL counts, else 0. Strict against the reference: a policy equal to it is not below it."""
        if scores is None:
            return torch.zeros_like(chosen.mean)
        below = -chosen.ratio(per_token=True) > self.nll_margin
        good = (scores.chosen >= self.tau_good) & ~scores.missing
        return (below & good).to(chosen.mean.dtype)
