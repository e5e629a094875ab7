"""What a loss takes as a constant from all pairs of an update: the KL estimate of KTO, the running shift of anchors.

Both are of the whole update (all micro-batches, parts and ranks), so that eight micro-batches of one pair and one of
eight are the same update, and two processes are as good as one. They are known before its first backward: what they are
made of is run before without gradient, in eval mode.

- ``kl``: z = max(0, mean of the scores of mismatched answers), KTO's estimate of the distance to the reference. The
  mismatched answers of a batch (``PairBatch.mismatched``) are run by policy and reference.
- ``anchor_shift``: d = the mean over the updates made so far, the one under way included, of the mean of all beta * s
  of the update, chosen and rejected (MPO's ``delta``, after the running baseline of BCO). Where an update is one batch
  on each rank its scores are taken from the forward that is differentiated, in train mode; else the pairs of the update
  are run twice. An update that is left out does not count.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from mmpref.errors import CheckpointError, one_line
from mmpref.files.writing import write_json
from mmpref.losses import PairLogps
from mmpref.losses.objective import Objective
from mmpref.models.logps.reference import Reference
from mmpref.processing.batch import BySide, PairBatch
from mmpref.training.parallel.world import World
from mmpref.training.trainer.metrics import InCheckpoint

FILE = "anchor_shift.json"
"""In a checkpoint: the sum over the updates so far, and their number."""
Look = Callable[[PairBatch, str], PairLogps]
"""Log-probs of a batch of the host by policy and reference, without gradient and dropout; with what they are for."""


@dataclass(frozen=True, slots=True)
class _Known:
    """Reference log-probs that were computed before, for the pairs that they are of; a ``Reference``."""

    pair_ids: tuple[str, ...]
    sums: BySide
    is_start: bool
    explanation: str = "log-probs computed before in this update"

    def logps(self, batch: PairBatch) -> BySide:
        if batch.pair_ids != self.pair_ids:
            raise RuntimeError(f"log-probs of pairs {self.pair_ids} were kept, and those of {batch.pair_ids} are next")
        return self.sums


class UpdateConstants(InCheckpoint):
    """The constants of the update under way, and of evaluations between updates.

    Args:
        objective: says which it needs, and what the scores are.
        world: the ranks that make an update together; all must make the same calls.
    """

    def __init__(self, objective: Objective, world: World) -> None:
        self._objective, self._world = objective, world
        self.needs_kl, self.needs_shift = objective.needs_kl, objective.needs_shift
        self._kl: Tensor | None = None  # z of the update under way
        self._kl_of_evaluation: Tensor | None = None
        self._sum, self._updates = 0.0, 0  # of the shift, over the updates that were made
        self._pending: tuple[int, Tensor] | None = None  # of the update under way: its step, and its mean
        self._pairs = 0
        self._step = 0
        self._references: deque[_Known] = deque()  # of the batches of the update under way, in their order

    # ---- an update --------------------------------------------------------------------------------------------

    def begin(
        self, batches: Sequence[Sequence[PairBatch]], pairs: int, step: int, look: Look
    ) -> list[Sequence[PairBatch]]:
        """Compute what must be known before the first backward of an update.

        Args:
            batches: all of this rank, in as many parts as those of the other ranks.
            pairs: that count, over all ranks.
            step: number of the update.
            look: runs one batch.

        Returns:
            The batches without what is not needed any more.
        """
        self._pairs, self._step, self._pending = pairs, step, None
        self._references.clear()
        parts = [part for of_batch in batches for part in of_batch]
        if self.needs_kl:
            self._kl = self._estimate(parts, look)
            batches = [tuple(replace(part, mismatched=None) for part in of_batch) for of_batch in batches]
        if self.needs_shift and len(parts) != 1:  # the number is the same on every rank
            total = _zero(self._world.device)
            for part in parts:
                logps = look(part, "measuring the shift of the anchors")
                total += self._anchored(logps, part.counted)
                self._keep_reference(part, logps)
            self._take_mean(total)
        return list(batches)

    def reference(self, reference: Reference | None) -> Reference | None:
        """Where the reference log-probs of the next batch come from: it may have been run already."""
        return self._references.popleft() if self._references else reference

    def added(self, logps: PairLogps, counted: int) -> PairLogps:
        """The log-probs of a batch of the update under way with its constants.

        Args:
            counted: pairs of the batch that have weight; they come first.
        """
        if self.needs_kl and self._kl is not None:
            logps = _with(logps, kl=self._kl)
        if self.needs_shift:
            if self._pending is None:
                self._take_mean(self._anchored(logps, counted))
            assert self._pending is not None
            logps = _with(logps, anchor_shift=(self._sum + self._pending[1]) / (self._updates + 1))
        return logps

    def settle(self, step: int, *, left_out: bool) -> None:
        """The update under way is over, or none is: what is known of it counts from now on, where it was made.

        Args:
            step: the last that was made or left out.
            left_out: whether it was left out.
        """
        pending, self._pending = self._pending, None
        if pending is None or left_out or step < pending[0]:
            return
        if math.isfinite(mean := float(pending[1])):
            self._sum, self._updates = self._sum + mean, self._updates + 1

    # ---- evaluations ------------------------------------------------------------------------------------------

    def begin_evaluation(self, parts: Callable[[], Iterable[PairBatch]], look: Look) -> None:
        """Compute what must be known before the first pair of an evaluation: z of all its pairs.

        Args:
            parts: gives all batches; called only where they are needed, and once more by the evaluation itself.
            look: runs one batch.
        """
        if self.needs_kl:
            self._kl_of_evaluation = self._estimate(parts(), look)

    def added_in_evaluation(self, logps: PairLogps) -> PairLogps:
        """The log-probs of a batch of held-out pairs with the constants: the shift as it is, 0 before any update."""
        if self.needs_kl and self._kl_of_evaluation is not None:
            logps = _with(logps, kl=self._kl_of_evaluation)
        if self.needs_shift:
            shift = self._sum / self._updates if self._updates else 0.0
            logps = _with(logps, anchor_shift=torch.tensor(shift, dtype=torch.float64))
        return logps

    # ---- checkpoints ------------------------------------------------------------------------------------------

    def copy_to(self, checkpoint: Path) -> None:
        """Put the running shift into a checkpoint that is being written; there is nothing else to keep."""
        if self.needs_shift:
            write_json(checkpoint / FILE, {"sum": self._sum, "updates": self._updates})

    def restore(self, checkpoint: Path) -> None:
        """Go on from the running shift of a checkpoint.

        Raises:
            CheckpointError: it has none, or one that cannot be read.
        """
        if not self.needs_shift:
            return
        file = checkpoint / FILE
        if not file.is_file():
            raise CheckpointError(
                f"{checkpoint} has no {FILE}: it was trained without a running shift of its anchors, and one that "
                "begins anew in mid-run would be another loss; go on with the loss it was trained with, or start a new "
                "training from its model"
            )
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
            self._sum, self._updates = float(found["sum"]), int(found["updates"])
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise CheckpointError(f"{file} cannot be read: {one_line(err)}; put it back from a copy") from err
        self._pending = None

    # ---- what they are made of --------------------------------------------------------------------------------

    def _estimate(self, parts: Iterable[PairBatch], look: Look) -> Tensor:
        total, pairs = _zero(self._world.device), 0
        for part in parts:
            if part.mismatched is None:
                raise RuntimeError("a batch has no mismatched answers: make the collator with need_mismatched=True")
            logps = look(part.mismatched, "measuring the KL estimate")
            total += self._objective.answer_scores(logps)[: part.counted].sum(dtype=total.dtype)
            pairs += part.counted
        [pairs] = self._world.sum_over_ranks([pairs])
        return (self._world.sum_tensor(total) / max(pairs, 1)).clamp(min=0.0)

    def _anchored(self, logps: PairLogps, counted: int) -> Tensor:
        """Sum of the rewards that the anchors see, over the pairs that count."""
        rewards = self._objective.anchor_rewards(logps)[:counted]
        return rewards.sum(dtype=_zero(rewards.device).dtype)

    def _take_mean(self, total: Tensor) -> None:
        self._pending = self._step, self._world.sum_tensor(total) / max(self._pairs, 1)

    def _keep_reference(self, part: PairBatch, logps: PairLogps) -> None:
        if logps.ref_chosen is not None:
            sums = BySide(logps.ref_chosen, logps.ref_rejected, logps.ref_other)
            self._references.append(_Known(part.pair_ids, sums, is_start=False))


def _with(logps: PairLogps, **constants: Tensor) -> PairLogps:
    """The same with a number for all pairs, [B] each, in the dtype of the log-probs."""
    return replace(logps, **{name: value.to(logps.chosen).expand_as(logps.chosen) for name, value in constants.items()})


def _zero(device: torch.device) -> Tensor:
    """A sum that does not depend on the order of what is added, as far as a device goes."""
    return torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
