"""One answer's numbers, in the precision the loss is computed in.

Letters of the papers, used in the formulas of this package: l = sum of log-probs, n = token count, u = l / n,
rl and ru the same under the reference, h = l - rl, hbar = h / n; _w the chosen side, _l the rejected one, _o the chosen
answer under another image. With token weights a_t, l is the sum of a_t log p_t and n that of a_t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmpref.errors import DataError
from mmpref.losses.contract import PairLogps

ScoreKind = Literal["sum", "mean", "odds"]
"""How a base's score depends on the tokens: through their sum, their mean, or the log-odds of their mean."""

MAX_ODDS_MEAN = -1e-6
"""Log-odds are taken at min(u, this): at u = 0 the odds are infinite, and beyond it their slope passes 1e6."""

_LN2 = math.log(2.0)


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """The answers of one side of a batch, all [B]."""

    total: Tensor  # l
    length: Tensor  # n > 0: the number of tokens, or the sum of their weights
    mean: Tensor  # u
    ref_total: Tensor | None  # rl

    def ratio(self, *, per_token: bool) -> Tensor:
        """h, or hbar per token."""
        if self.ref_total is None:
            raise DataError("this loss compares with a reference: ref_chosen and ref_rejected are needed")
        ratio = self.total - self.ref_total
        return ratio / self.length if per_token else ratio


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The chosen or the rejected answers of a batch with a number for each of them, [B]."""

    side: Side
    score: Tensor  # s of the base, or u (l on sums) where w_perf reads it


def loss_dtype(x: PairLogps) -> torch.dtype:
    """float64 stays float64; everything else is computed in float32, because sums of log-probs do not fit less."""
    tensors = (x.chosen, x.rejected, x.other)
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32


def _side(total: Tensor, length: Tensor, ref: Tensor | None, dtype: torch.dtype) -> Side:
    total = total.to(dtype)
    length = length.detach().to(dtype)
    # an unchecked empty answer must not turn into 0/0; checked batches never get here with one
    length = torch.where(length > 0, length, torch.ones_like(length))
    # the reference is a constant of the loss, whoever computed it
    ref_total = None if ref is None else ref.detach().to(dtype)
    return Side(total=total, length=length, mean=total / length, ref_total=ref_total)


def chosen_side(x: PairLogps) -> Side:
    """The chosen answers in the dtype of the loss."""
    return _side(x.chosen, x.chosen_len, x.ref_chosen, loss_dtype(x))


def rejected_side(x: PairLogps) -> Side:
    """The rejected answers in the dtype of the loss.

    Raises:
        DataError: the batch has none.
    """
    if x.rejected is None or x.rejected_len is None:
        raise DataError("this loss compares two answers: rejected and rejected_len are needed (only sft does without)")
    return _side(x.rejected, x.rejected_len, x.ref_rejected, loss_dtype(x))


def other_side(x: PairLogps) -> Side:
    """The chosen answers under another image; where a pair has none its chosen answer stands there, without gradient.

    Raises:
        DataError: the batch has none.
    """
    if x.other is None:
        raise DataError("this loss looks at the chosen answer under another image: other is needed")
    total, ref = x.other, x.ref_other
    if x.has_other is not None:
        # whatever an absent answer's numbers are, NaN included, must not reach a gradient
        has = x.has_other.to(torch.bool)
        total = torch.where(has, total, x.chosen.detach())
        ref = ref if ref is None or x.ref_chosen is None else torch.where(has, ref, x.ref_chosen)
    return _side(total, x.chosen_len, ref, loss_dtype(x))


def log1mexp(u: Tensor) -> Tensor:
    """log(1 - e^u) for u < 0, accurate at both ends (Maechler 2012: the branches meet at -log 2).

    The second branch sees an argument clamped to its own range: near 0 it would leak a NaN gradient where the first is
    taken. The first is finite everywhere.
    """
    small = torch.log(-torch.expm1(u))
    large = torch.log1p(-torch.exp(u.clamp(max=-_LN2)))
    return torch.where(u > -_LN2, small, large)


def log_odds(u: Tensor) -> Tensor:
    """log(p / (1 - p)) of the per-token probability p = e^u."""
    u = u.clamp(max=MAX_ODDS_MEAN)
    return u - log1mexp(u)
