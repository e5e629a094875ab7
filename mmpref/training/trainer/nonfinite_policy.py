"""What a trainer does about an update whose loss or gradient is not finite: a dump, then skip it or stop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import Trainer

from mmpref.losses import PairLogps
from mmpref.training.parallel.world import World
from mmpref.training.trainer.checkpointer import raw_optimizer
from mmpref.training.trainer.nonfinite import BeforeStep, Update, UpdateGuard, can_leave_out
from mmpref.training.trainer.pair_log import PairLog
from mmpref.training.trainer.signals import StopAtStepEnd
from mmpref.training.trainer.update_watch import UpdateWatch


class NonFinitePolicy:
    """Keeps such updates out of the weights of one trainer.

    One process lets the optimizer decide on the device where it can. Everywhere else the host waits for the verdict,
    and all ranks leave an update out that one of them found bad.

    Args:
        trainer: whose updates they are.
        world: the ranks that make an update together.
        guard: decides, writes the dumps and counts.
        watch: knows the micro-batches of the update under way.
        pair_log: rows of an update that stops the run stay in it, and none of a later one.
        signals: what any rank received is agreed upon in the same exchange as the verdict.
    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        world: World,
        guard: UpdateGuard,
        watch: UpdateWatch,
        pair_log: PairLog,
        signals: StopAtStepEnd,
    ) -> None:
        self._trainer, self._world, self._signals = trainer, world, signals
        self._guard, self._watch, self._pair_log = guard, watch, pair_log

    @property
    def is_plain(self) -> bool:
        """One process, whose gradients are whole and as they were computed."""
        scaler: object = self._trainer.accelerator.scaler
        return self._world.strategy == "single" and scaler is None

    @property
    def skipped(self) -> list[int]:
        """Steps whose update was left out."""
        self._guard.settle()
        return self._guard.skipped

    @property
    def last_was_skipped(self) -> bool:
        """Whether the step that was reached last is one of them."""
        return self._guard.last == int(self._trainer.state.global_step)

    def begin(self) -> None:
        """A new update."""
        self._guard.begin()

    def add_loss(self, loss: Tensor) -> None:
        """The loss of a micro-batch, a scalar."""
        self._guard.add_loss(loss)

    def refuse(self, reason: str, logps: PairLogps) -> Tensor:
        """The objective would not take the pairs of a micro-batch: this update must not be made.

        Returns:
            What to run backward from in place of the loss: every rank must, for an update that none of them makes.
        """
        self._guard.refuse(reason)
        # DeepSpeed updates before anybody is asked, and leaves an update out by itself where gradients are NaN
        return _zero_of(logps) * (math.nan if self._world.is_deepspeed else 1.0)

    def settle(self) -> None:
        """Wait for the verdict that is pending, if there is one.

        Raises:
            NonFiniteError: that update was left out, and as many as may be were left out before.
        """
        self._guard.settle()

    def settling(self) -> AbstractContextManager[None]:
        """However the block ends, what was pending is settled."""
        return self._guard.settling()

    def clip(self, model: nn.Module, max_norm: float = math.inf) -> Tensor:
        """Clip the gradients, or only measure them; where :attr:`is_plain`."""
        return self._guard.clip(model, max_norm)

    def decide(self, model: nn.Module, norm: Tensor | float | None) -> Tensor | float | None:
        """Whether the update under way is made.

        Args:
            norm: of the whole gradient, before clipping.

        Returns:
            The norm; None where the update is left out.

        Raises:
            NonFiniteError: it is left out, and as many as may be were left out before.
        """
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        trainer = self._trainer
        update = self._update(norm)
        running = getattr(trainer, "_tr_loss", torch.zeros(()))  # the Trainer's own sum since the last line
        optimizer = raw_optimizer(trainer)
        if update.refused is None and self.is_plain and can_leave_out(optimizer, update):
            before = BeforeStep(trainer.state, trainer.lr_scheduler, optimizer, self._pair_log)
            self._guard.leave_to(optimizer, update, running, before)
            return norm
        reason = update.why_not()
        bad, self._signals.agreed = self._world.max_over_ranks([reason is not None, self._signals.received or 0])
        if not bad:
            return norm
        reason = next(found for found in self._world.gather(reason) if found is not None)
        self._guard.leave_out(update, reason, model)
        if not self._world.is_deepspeed:  # which has left the update out already
            model.zero_grad(set_to_none=True)  # an optimizer leaves weights without a gradient as they are
        running.nan_to_num_(0.0, 0.0, 0.0)
        return None

    def _update(self, norm: Tensor | float | None) -> Update:
        trainer = self._trainer
        # fp16's scaler skips by itself
        scaled = trainer.args.fp16 if self._world.is_deepspeed else trainer.accelerator.scaler is not None
        return self._guard.update(
            self._watch.notes,
            step=trainer.state.global_step + 1,
            learning_rate=trainer._get_learning_rate(),
            norm=norm,
            norm_counts=not scaled,
        )


def _zero_of(logps: PairLogps) -> Tensor:
    sides: Sequence[Tensor] = [
        side for side in (logps.chosen, logps.rejected) if side is not None and side.requires_grad
    ]
    return torch.stack([torch.nan_to_num(side, 0.0, 0.0, 0.0).sum() * 0.0 for side in sides]).sum()
