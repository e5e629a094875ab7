"""KTO (Ethayarajh et al. 2024, as TRL computes it): single answers, each desirable or not, against a common estimate.

Shapes: every tensor is [B]. Letters: see ``sides``; z is the mean score of answers that stand under other prompts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from mmpref.losses.sides import Scored, Side


@dataclass(frozen=True, slots=True, kw_only=True)
class KTO:
    """loss = w_D (1 - s(beta (h - z))) of a desirable answer,  w_U (1 - s(beta (z - h))) of any other.

    Not a pairwise base: the rejected answer is not read.

    Args:
        beta: > 0.
        length_normalize: hbar in place of h; z is then a mean of hbar.
        desirable_weight: w_D >= 0.
        undesirable_weight: w_U >= 0.
    """

    beta: float
    length_normalize: bool
    desirable_weight: float
    undesirable_weight: float
    needs_reference: ClassVar[bool] = True

    def score(self, side: Side) -> Tensor:
        """h, or hbar per token."""
        return side.ratio(per_token=self.length_normalize)

    def loss(self, score: Tensor, kl: Tensor, desirable: Tensor) -> Tensor:
        """The loss of each answer.

        Args:
            score: of the answers.
            kl: z, a constant.
            desirable: 1 or 0.
        """
        above = self.beta * (score - kl)  # 1 - s(x) is s(-x), which does not cancel
        good, bad = torch.sigmoid(-above), torch.sigmoid(above)
        return torch.where(desirable > 0.5, self.desirable_weight * good, self.undesirable_weight * bad)


@torch.no_grad()
def answer_stats(beta: float, answer: Scored, kl: Tensor, desirable: Tensor) -> dict[str, Tensor]:
    """Log-probs, lengths, and rewards by label: NaN for answers of the other label, which means leave out."""
    side, reward = answer.side, beta * answer.score
    leave_out = torch.full_like(reward, math.nan)
    stats = {
        "logps/chosen": side.total,
        "len/chosen": side.length,
        "rewards/desirable": torch.where(desirable > 0.5, reward, leave_out),
        "rewards/undesirable": torch.where(desirable > 0.5, leave_out, reward),
        "kto/kl": kl,
        "kto/share_desirable": desirable,
    }
    if side.ref_total is not None:
        stats["ref_logps/chosen"] = side.ref_total
    return stats
