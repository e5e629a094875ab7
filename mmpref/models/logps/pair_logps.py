"""From a batch and a model to the log-probs a loss looks at.

Shapes: B pairs, A answers, N rows, T tokens, K places that predict an answer token, L tokens of the longest answer,
V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from mmpref.losses.contract import PairLogps
from mmpref.models.frozen_tower import FrozenFeatures
from mmpref.models.logps.answer_logps import answer_sums
from mmpref.models.logps.router_balance import Routers, balance_of_pairs
from mmpref.processing.batch import BySide, PairBatch

if TYPE_CHECKING:
    from mmpref.models.logps.reference import Reference


def pair_logps(
    model: nn.Module, batch: PairBatch, *, reference: Reference | None = None, routers: Routers | None = None
) -> PairLogps:
    """What the objective needs to know about a batch, in float32.

    Args:
        model: the policy, as the trainer wraps it (its forward is the one that is called).
        batch: pairs in either layout; without a rejected side the rejected fields are None.
        reference: where the reference log-probs come from; None leaves them out.
        routers: of a mixture-of-experts policy (``find_routers``) whose balance is wanted; the reference has none.

    The result carries the gradient of the policy and none of the reference. What is frozen of the vision tower runs
    once for both.
    """
    ref: BySide | None = None
    if reference is None:
        sums, balance = _policy(model, batch, routers)
    else:  # the reference first, so that image features are freed as the policy takes them
        features = FrozenFeatures(model)
        with features.recording():
            ref = reference.logps(batch)
        with features.replaying():
            sums, balance = _policy(model, batch, routers)
    policy, lengths = batch.by_side(sums), batch.by_side(batch.effective_lens)
    score_chosen, score_rejected = batch.scores if batch.scores is not None and batch.has_rejected else (None, None)
    tokens = None if batch.answer_weights is None else batch.by_side(batch.answer_lens)
    return PairLogps(
        chosen=policy.chosen,
        rejected=policy.rejected,
        chosen_len=lengths.chosen,
        rejected_len=lengths.rejected,
        ref_chosen=None if ref is None else ref.chosen,
        ref_rejected=None if ref is None else ref.rejected,
        chosen_score=score_chosen,
        rejected_score=score_rejected,
        router_balance=balance,
        other=policy.other,
        ref_other=None if ref is None else ref.other,
        has_other=batch.has_other,
        weight=batch.weight,
        desirable=batch.desirable,
        chosen_tokens=None if tokens is None else tokens.chosen,
        rejected_tokens=None if tokens is None else tokens.rejected,
    )


def _policy(model: nn.Module, batch: PairBatch, routers: Routers | None) -> tuple[Tensor, Tensor | None]:
    """Sums of answer log-probs [A], and the balance of the routers [B] where it is wanted."""
    if routers is None:
        return answer_sums(model, batch), None
    with routers.recording() as logits:
        sums = answer_sums(model, batch)
    return sums, balance_of_pairs(logits, batch, used=routers.used)
