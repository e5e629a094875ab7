"""The image pair: the chosen answer under its own image against the same answer under another image.

    own     image.weight w_img f( base.margin(s_w, s_o) )                                        beside the text pair
    joint   f( gain [ (s_w - s_l) + image.weight (s_w - s_o) ] - target )                        in its place

The first is the term of mDPO (Wang et al. 2024) on any base, the second that of CHiP's code (Fu et al. 2025) without
its divergence of tokens. One answer under two images leaves the partition functions of the two in the margin
(docs/losses.md). Shapes: every tensor is [B]. Letters: see ``sides``; _o the chosen answer under the other image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmpref.losses.ada_dpo import AdaDPO
from mmpref.losses.bases import Base
from mmpref.losses.contract import PairLogps
from mmpref.losses.pair_term import Compared
from mmpref.losses.sides import Side, other_side
from mmpref.losses.uni_dpo import UniDPO


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """The chosen answers under both images."""

    pair: Compared
    has: Tensor | None  # bool: which pairs have another image; None where all have


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTerm:
    """How the image pair enters the loss.

    Args:
        weight: of the term, or inside of the joint margin. >= 0; at 0 the term is measured only.
        base: the loss's base, with ``image.beta`` where that is given.
        joint: one link for both pairs.
        detach: no gradient reaches the answer under the other image.
        own_weight: weighted by Uni-DPO's w_perf of this pair.
    """

    weight: float
    base: Base
    joint: bool
    detach: bool
    own_weight: bool

    def shown(self, x: PairLogps, chosen: Side, *, ada: AdaDPO | None, most: float) -> Shown:
        """The image pair; the balance gives it an R of its own.

        Args:
            chosen: the chosen answers of ``x``.
            most: bound of |log c|.
        """
        other = other_side(x)
        if self.detach:
            other = replace(other, total=other.total.detach(), mean=other.mean.detach())
        has = None if x.has_other is None else x.has_other.to(torch.bool)
        return Shown(Compared.of(self.base, chosen, other, ada=ada, most=most), has)

    def loss(self, shown: Shown, uni: UniDPO | None) -> Tensor:
        """The term of its own, 0 where a pair has no other image."""
        linked = self.base.link.loss(shown.pair.margin())
        if self.own_weight and uni is not None:
            linked = uni.weight_at(shown.pair.perf(uni).z.value) * linked
        return only(shown.has, self.weight * linked, 0.0)


def only(has: Tensor | None, value: Tensor, otherwise: float) -> Tensor:
    """``value`` where a pair has another image, and a constant elsewhere, without a gradient."""
    return value if has is None else torch.where(has, value, torch.full_like(value, otherwise))


@torch.no_grad()
def other_stats(beta: float, shown: Shown) -> dict[str, Tensor]:
    """The answer under the other image, and what the image is worth for it; NaN where a pair has no other image, which
    means leave out.
    """
    chosen, other = shown.pair.better, shown.pair.worse
    stats = {
        "image/helps": (chosen.side.total > other.side.total).to(other.score.dtype),
        "image/lift": chosen.side.mean - other.side.mean,
        "rewards/other": beta * other.score,
        "logps/other": other.side.total,
    }
    if chosen.side.ref_total is not None and other.side.ref_total is not None:
        stats |= {
            "ref_image/helps": (chosen.side.ref_total > other.side.ref_total).to(other.score.dtype),
            "ref_image/lift": (chosen.side.ref_total - other.side.ref_total) / chosen.side.length,
            "ref_logps/other": other.side.ref_total,
        }
    return {name: only(shown.has, value, math.nan) for name, value in stats.items()}


@torch.no_grad()
def image_stats(beta: float, shown: Shown) -> dict[str, Tensor]:
    """The image pair's margin and balance beside :func:`other_stats`; NaN in the same places."""
    pair = shown.pair
    margin = beta * (pair.better.score - pair.worse.score)
    stats = {"image/margin": margin, "image/accuracies": (margin > 0).to(margin.dtype)}
    if pair.coefs is not None:
        stats |= {
            "ada/image_coef_chosen": pair.coefs.chosen,
            "ada/image_coef_other": pair.coefs.rejected,
            "ada/image_log_ratio": pair.coefs.log_ratio,
            "ada/image_clipped": pair.coefs.clipped,
        }
    own = {name: only(shown.has, value, math.nan) for name, value in stats.items()}
    return own | other_stats(beta, shown)
