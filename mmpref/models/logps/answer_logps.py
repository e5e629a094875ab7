"""From a batch and a model to the log-probs of its answers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import modeling_utils

from mmpref.losses.logps import selected_logps
from mmpref.models.logps.answer_head import logps_in_place_of_logits, plain_head
from mmpref.models.logps.cross_attention import crossing_images
from mmpref.models.logps.image_inputs import as_lists, image_inputs, placing_images, telling_misfits
from mmpref.models.logps.right_padding import padded_on_the_right
from mmpref.models.logps.rope_by_sequence import turning_by_sequence
from mmpref.models.logps.shared_prefix_attention import attending_packed
from mmpref.models.logps.video_inputs import cutting_videos
from mmpref.models.tower_features import tower_features
from mmpref.models.unwrap import base_model
from mmpref.processing.batch import PairBatch

# older releases take positions, the same for all rows, but no mask
_TAKES_MASK = hasattr(modeling_utils, "slice_logits_to_keep")


def answer_sums(model: nn.Module, batch: PairBatch) -> Tensor:
    """Sum of the token log-probs of every answer, each weighted as the batch says: [A] float32."""
    return batch.sums(answer_logps(model, batch))


def answer_logps(model: nn.Module, batch: PairBatch, *, through_logits: bool = False) -> Tensor:
    """log p(target | everything before it) at every predicting place: [K] float32.

    The output head runs only where an answer token is predicted, and where it is a plain linear layer it walks the
    vocabulary in tiles, so that no [K, V] tensor exists.

    Args:
        through_logits: compute the [K, V] logits as the model writes them: the check of the above.
    """
    inputs = inputs_of(model, batch)
    head = None if through_logits else plain_head(model)
    with running(model, batch):
        if head is None:
            return selected_logps(_logits_at(model, inputs, batch.predicts), batch.targets)
        with logps_in_place_of_logits(head, batch.predicts, batch.targets):
            found: Tensor = model(**inputs).logits
    return found.reshape(-1).float()


def inputs_of(model: nn.Module, batch: PairBatch) -> dict[str, Any]:
    """Keyword arguments of the model's forward for a batch."""
    inputs: dict[str, Any] = {**batch.model_inputs(), **image_inputs(model, batch), "use_cache": False}
    return as_lists(model, inputs)


@contextmanager
def running(model: nn.Module, batch: PairBatch) -> Iterator[None]:
    """Inside, the model's forward reads the batch as its layout means it."""
    is_padded = not batch.shares_prefix and getattr(base_model(model), "_supports_attention_backend", False)
    with (
        attending_packed(model, batch),
        placing_images(model, batch),
        crossing_images(model, batch),
        cutting_videos(model, batch),
        padded_on_the_right(is_padded),
        turning_by_sequence(model, batch),
        telling_misfits(batch),
        tower_features(model, batch),
    ):
        yield


def _logits_at(model: nn.Module, inputs: dict[str, Any], predicts: Tensor) -> Tensor:
    """Logits [K, V] at the predicting places, which may repeat (one place predicts the first token of both answers)."""
    rows, columns = inputs["input_ids"].shape
    where = torch.zeros(rows * columns, dtype=torch.bool, device=predicts.device)
    where[predicts] = True
    kept = where.cumsum(0)[predicts] - 1  # the number of each place among those that are kept
    grid = where.view(rows, columns)
    logits: Tensor
    if not _takes_logits_to_keep(model):
        logits = model(**inputs).logits[grid]
    elif _TAKES_MASK:
        logits = model(**inputs, logits_to_keep=grid).logits
        logits = logits.reshape(-1, logits.shape[-1])
    else:
        used = grid.any(dim=0).nonzero().squeeze(1)
        logits = model(**inputs, logits_to_keep=used).logits[grid[:, used]]
    return logits[kept]


def _takes_logits_to_keep(model: nn.Module) -> bool:
    return "logits_to_keep" in inspect.signature(base_model(model).forward).parameters
