"""What stands in a pair's row of the log beside the statistics of its loss."""

from __future__ import annotations

from torch import Tensor

from mmpref.losses import LossOutput
from mmpref.processing.batch import PairBatch


def pair_facts(batch: PairBatch, output: LossOutput) -> dict[str, Tensor]:
    """``loss``, and where a pair has them its scores (``score/chosen``, ``score/rejected``) and the weight of its row
    (``pair/weight``): [counted] each, detached. The scores are there whether the loss reads them or not; of single
    answers there is one.

    No mean of these is logged: they are the same at every step, and the loss has a line already.
    """
    found = {"loss": output.per_pair.detach()}
    given = {"score/chosen": batch.score_chosen, "score/rejected": batch.score_rejected, "pair/weight": batch.weight}
    return found | {name: value[: batch.counted] for name, value in given.items() if value is not None}
