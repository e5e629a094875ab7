"""AdaDPO: two stop-gradient coefficients per pair that make its two gradients equally large.

With s the base's score, M = k (c_w s_w - c_l s_l) + const and any link f, the gradients with respect to a variable q of
each answer are equally large exactly when  c_w / c_l = R = (ds_l/dq_l) / (ds_w/dq_w):  the common factor k f'(M)
cancels. The paper's stable form (arXiv 2605.28440) is c_w = min(R, 2), c_l = 1 with R of per-token means of h, as two
secondary sources that agree have it; its own text and code could not be read. The theorem is ours, and explains it.
Shapes: every tensor is [B]. Letters: see ``sides``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmpref.losses.sides import MAX_ODDS_MEAN, ScoreKind, Side, log1mexp

Granularity = Literal["token", "sequence", "geomean", "power"]
Form = Literal["power", "sum"]
ClipMode = Literal["ceiling", "both"]


@dataclass(frozen=True, slots=True, eq=False)
class Coefficients:
    """What the balance multiplies the two scores with, all [B], all without gradient."""

    chosen: Tensor  # c_w
    rejected: Tensor  # c_l
    log_ratio: Tensor  # log R, before the target ratio and any bound
    clipped: Tensor  # 1 where a bound changed a coefficient, else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaDPO:
    """Balance of the two gradients of a pair.

    log R = alpha_w v_w - alpha_l v_l, where v is the log of dq/ds up to a constant:
        token      u  (log-odds scores: u + log(1-p)); q is the geometric mean over tokens for sums, pbar for means
        geomean    u for means, u - log n for sums;    q = pbar = e^u
        sequence   l for sums, l + log n for means;    q = the probability of the whole answer
        power      l / n^a for sums, that + (1-a) log n for means;   a = 1 is token, a = 0 is sequence;
                   q = n^a e^(l / n^a) for sums, e^(l / n^a) for means
    With a reference the same with p / p_ref in place of p: the reference's log-prob is subtracted, the lengths stay.

    c_w = (kR)^share,    c_l = (kR)^-(1-share)     form power
    c_w = 2kR / (1+kR),  c_l = 2 / (1+kR)          form sum
    Where both alphas are 1 and no bound acts, the gradient on the chosen answer is k times that on the rejected one.

    Args:
        share: how much of R the chosen side carries, in [0, 1]; 1 is the paper's.
        length_power: a of granularity power, in [0, 1].
        alpha_w: exponent of the chosen answer's probability; exact balance only with both at 1.
        alpha_l: the same of the rejected answer.
        target_ratio: k > 0.
        clip: C >= 1, a bound on log(kR) before the shares. None = no bound.
        clip_mode: ``ceiling`` bounds log(kR) from above by log C, ``both`` its size.
        value_preserving: True keeps the value of the base's margin and scales only its gradient (straight-through);
            False multiplies the score itself.
        balance_perf: let Uni-DPO's w_perf pass its gradient through the same coefficients.
    """

    share: float
    form: Form
    granularity: Granularity
    length_power: float
    alpha_w: float
    alpha_l: float
    target_ratio: float
    use_reference: bool
    clip: float | None
    clip_mode: ClipMode
    value_preserving: bool
    balance_perf: bool

    @torch.no_grad()  # the coefficients are constants of the gradient: this is what balances it
    def coefficients(self, kind: ScoreKind, chosen: Side, rejected: Side, max_log_coef: float) -> Coefficients:
        """c_w and c_l for scores of this kind. Bounds are applied to logarithms: exp first would overflow."""
        log_ratio = self.alpha_w * self.log_weight(kind, chosen) - self.alpha_l * self.log_weight(kind, rejected)
        wanted = log_ratio + math.log(self.target_ratio)
        top = math.inf if self.clip is None else math.log(self.clip)
        bounded = wanted.clamp(-top if self.clip_mode == "both" else -math.inf, top)
        if self.form == "power":
            log_chosen, log_rejected = self.share * bounded, -(1.0 - self.share) * bounded
        else:  # sum
            log_chosen = math.log(2.0) + torch.nn.functional.logsigmoid(bounded)
            log_rejected = math.log(2.0) + torch.nn.functional.logsigmoid(-bounded)
        safe_chosen = log_chosen.clamp(-max_log_coef, max_log_coef)
        safe_rejected = log_rejected.clamp(-max_log_coef, max_log_coef)
        clipped = (bounded != wanted) | (safe_chosen != log_chosen) | (safe_rejected != log_rejected)
        return Coefficients(
            chosen=safe_chosen.exp(),
            rejected=safe_rejected.exp(),
            log_ratio=log_ratio,
            clipped=clipped.to(log_ratio.dtype),
        )

    def log_weight(self, kind: ScoreKind, side: Side) -> Tensor:
        """v: the log of dq/ds for one answer."""
        power = {"sequence": 0.0, "power": self.length_power}.get(self.granularity, 1.0)
        # p/p_ref in place of p: a constant factor of q, so dq/ds loses p_ref and nothing else changes
        total = side.ratio(per_token=False) if self.use_reference else side.total
        weight = total / side.length**power
        if kind == "odds":
            weight = weight.clamp(max=MAX_ODDS_MEAN)
            return weight + log1mexp(weight)
        if kind == "mean":
            return weight + (1.0 - power) * side.length.log()
        return weight - side.length.log() if self.granularity == "geomean" else weight

    def scale(self, score: Tensor, coef: Tensor) -> Tensor:
        """The balanced score: c s, or s with the gradient of c s."""
        return straight_through(score, coef) if self.value_preserving else coef * score


def straight_through(value: Tensor, coef: Tensor) -> Tensor:
    """``value`` unchanged, with its gradient multiplied by ``coef``."""
    constant = value.detach()  # only the difference below carries a gradient, and its value is exactly 0
    return constant + coef * (value - constant)
