"""What their images are worth to both answers of held-out pairs, whatever the loss looks at.

Shapes: every tensor is [B].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmpref.losses import PairLogps
from mmpref.models.logps.pair_logps import pair_logps
from mmpref.processing.batch import PairBatch

CHOSEN, REJECTED, HELPS = "lift/chosen", "lift/rejected", "lift/helps"


def image_lift(own: PairLogps, other: PairLogps, batch: PairBatch) -> dict[str, Tensor]:
    """``lift/chosen``, ``lift/rejected``: mean log-prob of an answer's tokens under its own image minus that under the
    other one, in nats a token, NaN for an answer without another image; and ``lift/helps``: 1 where the chosen answer
    is likelier under its own image, 0 where not. Tokens are weighted as the loss weighs them.

    Of single answers the undesirable ones are the rejected ones.

    Args:
        own: the log-probs of a batch.
        other: the same of ``batch.lifted``.
        batch: says which answers have another image.
    """
    assert batch.lift_sides is not None
    has_chosen, has_rejected = batch.lift_sides.to(own.chosen.device)
    chosen = _lift(own.chosen, own.chosen_len, other.chosen, other.chosen_len, has_chosen)
    found = {CHOSEN: chosen}
    if own.rejected is not None and own.rejected_len is not None:
        assert other.rejected is not None
        assert other.rejected_len is not None
        found[REJECTED] = _lift(own.rejected, own.rejected_len, other.rejected, other.rejected_len, has_rejected)
    elif own.desirable is not None:
        is_chosen = own.desirable > 0.5
        found = {CHOSEN: chosen.where(is_chosen, math.nan), REJECTED: chosen.where(~is_chosen, math.nan)}
    found[HELPS] = torch.where(found[CHOSEN].isnan(), math.nan, (found[CHOSEN] > 0).float())
    return found


def _lift(own: Tensor, length: Tensor, other: Tensor, other_length: Tensor, has: Tensor) -> Tensor:
    return (own / length - other / other_length).detach().float().where(has, math.nan)


def logps_under_other(model: nn.Module, batch: PairBatch, *, always: bool) -> PairLogps | None:
    """Log-probs of a batch's answers under other images; None where no pair has one.

    Args:
        batch: on the model's device; its ``lifted`` batch is run.
        always: run the batch itself once more where there is none, because other ranks run theirs meanwhile and the
            weights are divided among them.
    """
    if batch.lifted is not None:
        return pair_logps(model, batch.lifted)
    if always:
        pair_logps(model, batch)
    return None
