"""From a batch and a model to the log-probs a loss looks at: the plain path, one row for each answer.

Shapes: B pairs, N rows, T tokens, K counted answer tokens of all rows together, V vocabulary.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import modeling_utils

from mmpref.losses.contract import PairLogps
from mmpref.losses.logps import selected_logps
from mmpref.models.unwrap import base_model
from mmpref.processing.batch import PairBatch

if TYPE_CHECKING:
    from mmpref.models.reference import ReferencePolicy

# older releases take positions, the same for all rows, but no mask
_TAKES_MASK = hasattr(modeling_utils, "slice_logits_to_keep")


def pair_logps(model: nn.Module, batch: PairBatch, *, reference: ReferencePolicy | None = None) -> PairLogps:
    """What the objective needs to know about a batch, in float32.

    Args:
        model: the policy, as the trainer wraps it (its forward is the one that is called).
        batch: pairs; without a rejected side the rejected fields are None.
        reference: where the reference log-probs come from; None leaves them out.

    The result carries the gradient of the policy and none of the reference.
    """
    chosen, rejected = batch.halves(row_logps(model, batch))
    chosen_len, rejected_len = batch.halves(batch.answer_mask.sum(dim=1))
    ref_chosen, ref_rejected = reference.logps(batch) if reference is not None else (None, None)
    score_chosen, score_rejected = batch.scores if batch.scores is not None and batch.has_rejected else (None, None)
    return PairLogps(
        chosen=chosen,
        rejected=rejected,
        chosen_len=chosen_len,
        rejected_len=rejected_len,
        ref_chosen=ref_chosen,
        ref_rejected=ref_rejected,
        chosen_score=score_chosen,
        rejected_score=score_rejected,
    )


def row_logps(model: nn.Module, batch: PairBatch) -> Tensor:
    """Sum of the answer's token log-probs for every row: [N] float32."""
    return token_logps(model, batch).sum(dim=1)


def token_logps(model: nn.Module, batch: PairBatch) -> Tensor:
    """log p(token | everything before it) at every counted token, 0 elsewhere: [N, T] float32.

    The output head runs only where an answer token is predicted, so no [N, T, V] tensor exists.
    """
    # the token at t is predicted at t - 1; a prompt is never empty, so position 0 is never an answer
    predicts = torch.zeros_like(batch.answer_mask)
    predicts[:, :-1] = batch.answer_mask[:, 1:]
    targets = batch.input_ids[batch.answer_mask]  # [K]
    logits = _logits_at(model, batch, predicts)  # [K, V]
    found = selected_logps(logits, targets)
    return found.new_zeros(batch.answer_mask.shape).masked_scatter(batch.answer_mask, found)


def _logits_at(model: nn.Module, batch: PairBatch, where: Tensor) -> Tensor:
    """Logits [K, V] at the True positions of ``where`` [N, T], row by row."""
    inputs: dict[str, Any] = {**batch.model_inputs(), "use_cache": False}
    if not _takes_logits_to_keep(model):
        full: Tensor = model(**inputs).logits
        return full[where]
    logits: Tensor
    if _TAKES_MASK:
        logits = model(**inputs, logits_to_keep=where).logits
        return logits.reshape(-1, logits.shape[-1])
    columns = where.any(dim=0).nonzero().squeeze(1)
    logits = model(**inputs, logits_to_keep=columns).logits  # [N, columns, V]
    return logits[where[:, columns]]


def _takes_logits_to_keep(model: nn.Module) -> bool:
    return "logits_to_keep" in inspect.signature(base_model(model).forward).parameters
