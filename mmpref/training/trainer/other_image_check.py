"""The start-up check of losses that look at the chosen answer under another image: does that image change anything?

Where it does not, the image term is log 2 of every pair with gradients that cancel, and the loss falls all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmpref.models.logps.answer_logps import answer_logps
from mmpref.processing.collate import PairCollator
from mmpref.processing.encoded import EncodedPair
from mmpref.records import PreferencePair
from mmpref.training.trainer.start_check import Check

OTHER_IMAGE = "the other image changes the chosen answer's log-probs"
"""Name of the check."""
FIRST = 4
"""Pairs with another image that are looked at."""
ROUNDING = 1e-6
"""Nats by which a token moves where something else is shown; two runs of the same tokens are equal to the last bit."""
_LOOKED_THROUGH = 100


@dataclass(frozen=True, slots=True)
class Lift:
    """What the image of one pair is worth to its chosen answer."""

    pair_id: str
    moved: float
    """Nats by which the token moves most under the other image."""
    per_token: float
    """Mean log-prob of the answer's tokens under its own image minus that under the other one."""


def other_image_matters(
    model: nn.Module, collator: PairCollator, pairs: Sequence[PreferencePair], device: torch.device
) -> Check:
    """Whether the first pairs with another image have other log-probs under it, and what their own is worth.

    Both answers are run alone, with as many tokens, so that equal images give equal numbers in any precision.

    Args:
        model: in evaluation mode.
        collator: as it is used in training, with ``need_other``.
        pairs: the training pairs.
    """
    shown = [pair for pair in pairs[:_LOOKED_THROUGH] if pair.images][:FIRST]
    encoded = [one for pair in shown for one in collator.encoded([pair]) if one.other_prompt is not None]
    if not encoded:
        return Check(OTHER_IMAGE, None, "no pair with another image among the first")
    found = [_lift(model, collator, pair, device) for pair in encoded]
    same = [lift.pair_id for lift in found if lift.moved <= ROUNDING]
    mean = sum(lift.per_token for lift in found) / len(found)
    if same:
        return Check(
            OTHER_IMAGE, False, f"under the other image of {_named(same)} no token of the chosen answer moves",
            "The image term would teach nothing there: that image differs too little, or only where the processor "
            "cuts it off. Look at the other_images of these rows, or write `data.other_image=made "
            "processing.other_image.kind=crop`, which takes a small part of the image in its place.",
        )  # fmt: skip
    return Check(
        OTHER_IMAGE, True,
        f"a token by up to {max(lift.moved for lift in found):.3g} nats; before training the image is worth "
        f"{mean:+.3g} nats a token of the first {len(found)} chosen answers with another image",
    )  # fmt: skip


def _lift(model: nn.Module, collator: PairCollator, pair: EncodedPair, device: torch.device) -> Lift:
    alone = collator.of_chosen()

    def logps(answer: EncodedPair) -> Tensor:
        [batch] = (one.to(device) for one in alone.rows_of([answer]))
        return batch.by_answer(answer_logps(model, batch))[0]

    own, other = (logps(answer) for answer in pair.answers_alone(rejected=False, other=True))
    return Lift(pair.pair_id, float((own - other).abs().max()), float((own - other).mean()))


def _named(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))
