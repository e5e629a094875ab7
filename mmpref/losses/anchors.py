"""Anchors: terms that hold the reward of one answer above or below a constant, whatever the other answer's is.

    A_chosen = -log s(b s_w - d),   A_rejected = -log s(-(b s_l - d)),   A_other = -log s(-(b s_o - d))

mDPO (Wang et al. 2024) has the first with d = 0; the BCO term of MPO (Wang et al. 2024) is the first two, with d the
mean of all rewards so far. Shapes: every tensor is [B]. Letters: see ``sides``; s is the base's score.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """The weighted sum of the three.

    Args:
        chosen: weight of A_chosen. >= 0.
        rejected: weight of A_rejected. >= 0.
        other: weight of A_other, of the chosen answer under another image. >= 0.
        beta: b > 0.
        delta: d; None takes it from the batch (``PairLogps.anchor_shift``).
    """

    chosen: float
    rejected: float
    other: float
    beta: float
    delta: float | None

    def shift(self, given: Tensor | None, like: Tensor) -> Tensor:
        """d as [B], a constant of the gradient."""
        if self.delta is not None:
            return torch.full_like(like, self.delta)
        assert given is not None
        return given.detach().to(like)

    def loss(self, shift: Tensor, chosen: Tensor, rejected: Tensor, other: Tensor | None, has: Tensor | None) -> Tensor:
        """The anchors of each pair.

        Args:
            shift: d.
            chosen: scores of the chosen answers.
            rejected: scores of the rejected ones.
            other: scores of the chosen answers under another image; None where no anchor reads them.
            has: which pairs have such an answer; None where all have.
        """
        total = torch.zeros_like(chosen)
        if self.chosen:
            total = total - self.chosen * logsigmoid(self.beta * chosen - shift)
        if self.rejected:
            total = total - self.rejected * logsigmoid(shift - self.beta * rejected)
        if other is not None:
            anchored = -self.other * logsigmoid(shift - self.beta * other)
            total = total + (anchored if has is None else torch.where(has, anchored, torch.zeros_like(anchored)))
        return total

    def below(self, shift: Tensor, chosen: Tensor) -> Tensor:
        """1 where the chosen answer's reward is below d, else 0."""
        return (self.beta * chosen < shift).to(chosen.dtype)
