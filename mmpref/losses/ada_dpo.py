"""AdaDPO: two stop-gradient coefficients per pair that make its two gradients equally large.

With s the base's score, M = k (c_w s_w - c_l s_l) + const and any link f, the gradients with respect to a variable q of
each answer are equally large exactly when  c_w / c_l = R = (ds_l/dq_l) / (ds_w/dq_w):  the common factor k f'(M)
cancels. The formulas are derived from the paper's stated constraints; no official code was published to compare with.
Shapes: every tensor is [B]. Letters: see ``sides``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmpref.losses.sides import MAX_ODDS_MEAN, ScoreKind, Side, log1mexp

Granularity = Literal["token", "sequence", "geomean"]
Form = Literal["split", "sum", "own"]


@dataclass(frozen=True, slots=True, eq=False)
class Coefficients:
    """What the balance multiplies the two scores with, all [B], all without gradient."""

    chosen: Tensor  # c_w
    rejected: Tensor  # c_l
    log_ratio: Tensor  # log R before any bound
    clipped: Tensor  # 1 where a bound changed a coefficient, else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaDPO:
    """Balance of the two gradients of a pair.

    log R = v_w - v_l, where v is the log of dq/ds up to a constant:
        token      u  (log-odds scores: u + log(1-p)); q is the geometric mean over tokens for sums, pbar for means
        geomean    u for means, u - log n for sums;    q = pbar = e^u
        sequence   l for sums, l + log n for means;    q = the probability of the whole answer
    With a reference the same with p / p_ref in place of p: the reference's log-prob is subtracted, the lengths stay.

    c_w = R^alpha_w, c_l = R^(-alpha_l)      form split; exact balance when alpha_w + alpha_l = 1
    c_w = 2R/(1+R),  c_l = 2/(1+R)           form sum
    c_w = e^(alpha_w v_w), c_l = e^(alpha_l v_l)   form own; exact balance when both exponents are 1

    Args:
        clip: C >= 1; log R is clamped to [-log C, log C] before the exponents. None = no clip.
        value_preserving: True keeps the value of the base's margin and scales only its gradient (straight-through);
            False multiplies the score itself.
        balance_perf: let Uni-DPO's w_perf pass its gradient through the same coefficients.
    """

    granularity: Granularity
    form: Form
    use_reference: bool
    alpha_w: float
    alpha_l: float
    clip: float | None
    value_preserving: bool
    balance_perf: bool

    @torch.no_grad()  # the coefficients are constants of the gradient: this is what balances it
    def coefficients(self, kind: ScoreKind, w: Side, r: Side, max_log_coef: float) -> Coefficients:
        """c_w and c_l for scores of this kind. Bounds are applied to logarithms: exp first would overflow."""
        log_w, log_r = self.log_weight(kind, w), self.log_weight(kind, r)
        log_ratio = log_w - log_r
        bound = math.inf if self.clip is None else math.log(self.clip)
        bounded = log_ratio.clamp(-bound, bound)
        if self.form == "split":
            log_c, log_c_r = self.alpha_w * bounded, -self.alpha_l * bounded
        elif self.form == "sum":
            log_c = math.log(2.0) + torch.nn.functional.logsigmoid(bounded)
            log_c_r = math.log(2.0) + torch.nn.functional.logsigmoid(-bounded)
        else:  # own: the clip moves both towards their geometric mean
            middle = (log_w + log_r) / 2.0
            log_c = self.alpha_w * (middle + bounded / 2.0)
            log_c_r = self.alpha_l * (middle - bounded / 2.0)
        safe_c, safe_c_r = log_c.clamp(-max_log_coef, max_log_coef), log_c_r.clamp(-max_log_coef, max_log_coef)
        clipped = (bounded != log_ratio) | (safe_c != log_c) | (safe_c_r != log_c_r)
        return Coefficients(
            chosen=safe_c.exp(), rejected=safe_c_r.exp(), log_ratio=log_ratio, clipped=clipped.to(log_ratio.dtype)
        )

    def log_weight(self, kind: ScoreKind, side: Side) -> Tensor:
        """v: the log of dq/ds for one answer."""
        whole_answer = self.granularity == "sequence"
        weight = side.total if whole_answer else side.mean
        if kind == "odds":
            weight = weight.clamp(max=MAX_ODDS_MEAN)
            weight = weight + log1mexp(weight)
        if self.use_reference:
            # p/p_ref in place of p: a constant factor of q, so ds/dq gains p_ref and nothing else changes
            weight = side.ratio(per_token=not whole_answer)
        if whole_answer and kind == "mean":
            return weight + side.length.log()
        if self.granularity == "geomean" and kind == "sum":
            return weight - side.length.log()
        return weight

    def scale(self, score: Tensor, coef: Tensor) -> Tensor:
        """The balanced score: c s, or s with the gradient of c s."""
        return straight_through(score, coef) if self.value_preserving else coef * score


def straight_through(value: Tensor, coef: Tensor) -> Tensor:
    """``value`` unchanged, with its gradient multiplied by ``coef``."""
    constant = value.detach()  # only the difference below carries a gradient, and its value is exactly 0
    return constant + coef * (value - constant)
