"""Updates whose loss or gradient is not finite: kept out of the weights, written down, counted.

The verdict on an update is made on the device. Where the optimizer can leave an update out by itself, it reads the
verdict there, and the host reads it later, when it costs nothing: before the next update is made, or as soon as
somebody looks at the run. Everywhere else the host waits for it before each update.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerState

from mmpref.errors import NonFiniteError
from mmpref.training.trainer.gradient_norms import GradientNorms, gradient_facts, norms_by_name
from mmpref.training.trainer.pair_log import PairLog
from mmpref.training.trainer.update_watch import UpdateNotes

logger = logging.getLogger(__name__)

_NAMED = 8  # pairs that a message names one by one
_DEVICES = ("cpu", "cuda")  # whose fused kernels read the verdict
_CAN_LEAVE_OUT = (torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad, torch.optim.SGD)


@dataclass(frozen=True, slots=True)
class Update:
    """An update whose gradients are there and that is not made yet. Holds no batch and no gradient."""

    step: int
    notes: UpdateNotes
    learning_rate: float
    norm: Tensor | float | None
    """Of the whole gradient, before clipping."""
    finite: Tensor
    """Whether loss and gradient are: a scalar on the device."""
    refused: str | None
    """Why the objective would not take its pairs."""
    gradients: GradientNorms | None
    """None where a norm of each weight's would be one of a part of it."""

    def why_not(self) -> str | None:
        """What is wrong with it; waits for the device."""
        if self.refused is not None or bool(self.finite):
            return self.refused
        return self.not_finite()

    def not_finite(self) -> str:
        """The reason given for an update whose loss or gradient is not finite."""
        return (
            f"step {self.step}, pairs {', '.join(self.notes.pair_ids[:_NAMED])}: the loss or the gradient is not finite"
        )


class BeforeStep:
    """What the Trainer counts and sets in a step, as it was before; for a step that turns out to stop the run."""

    def __init__(self, state: TrainerState, scheduler: Any, optimizer: torch.optim.Optimizer, pairs: PairLog) -> None:
        self._state, self._step, self._epoch = state, state.global_step, state.epoch
        self._scheduler, self._schedule = scheduler, scheduler.state_dict()
        self._groups, self._pairs = optimizer.param_groups, pairs
        self._settings = [{key: group[key] for key in group if key != "params"} for group in self._groups]

    def restore(self) -> None:
        """As if the step had not been counted; the per-pair log keeps its pairs, and none of a later step."""
        self._state.global_step, self._state.epoch = self._step, self._epoch
        self._scheduler.load_state_dict(self._schedule)
        for group, before in zip(self._groups, self._settings, strict=True):
            group.update(before)
        self._pairs.drop_pending(after=self._step + 1)


@dataclass(frozen=True, slots=True)
class _Pending:
    """An update that the optimizer made or left out; which of the two is not known on the host."""

    update: Update
    bad: Tensor  # on the host; on its way there until the event
    event: torch.cuda.Event | None
    optimizer: torch.optim.Optimizer
    states: int
    """Weights that had a state in the optimizer before."""
    before: BeforeStep

    def was_left_out(self) -> bool:
        """The verdict; waits until the device has passed the check of this update, not for what came behind it."""
        if self.event is not None:
            self.event.synchronize()
        return bool(self.bad)

    def forget_states(self) -> None:
        """An optimizer makes its state in a weight's first step, also in one that it leaves out."""
        for weight in list(self.optimizer.state)[self.states :]:
            del self.optimizer.state[weight]


class UpdateGuard:
    """Decides on every update, and stops the run when more were left out than may be.

    Args:
        folder: where dumps go.
        may_skip: so many updates are left out before one stops the run.
        rank: of this process where there are several; it is in the names of its dumps.
    """

    def __init__(self, folder: Path, may_skip: int, rank: int | None = None) -> None:
        self.skipped: list[int] = []
        """Steps whose update was left out, as far as it is known; :meth:`settle` makes it known."""
        self.last: int | None = None
        """Of these, the one that no later update has followed yet."""
        self._folder, self._may_skip, self._rank = folder, may_skip, rank
        self._refused: str | None = None
        self._loss: Tensor | None = None
        self._gradients: GradientNorms | None = None
        self._pending: _Pending | None = None

    # ---- the update under way ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """A new update."""
        self._refused = self._loss = self._gradients = self.last = None

    def refuse(self, reason: str) -> None:
        """The objective would not take the pairs of a micro-batch: this update must not be made."""
        self._refused = reason

    def add_loss(self, loss: Tensor) -> None:
        """The loss of a micro-batch, a scalar."""
        self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()

    def clip(self, model: nn.Module, max_norm: float) -> Tensor:
        """Clip the gradients of one process as ``torch.nn.utils.clip_grad_norm_`` does, and keep each one's norm.

        Args:
            max_norm: of all gradients together; infinite to measure only.

        Returns:
            The norm before, a scalar on the device.
        """
        self._gradients = GradientNorms.of(model)
        if math.isfinite(max_norm):
            torch.nn.utils.clip_grads_with_norm_(self._gradients.parameters, max_norm, self._gradients.total)
        return self._gradients.total

    def update(
        self, notes: UpdateNotes, *, step: int, learning_rate: float, norm: Tensor | float | None, norm_counts: bool
    ) -> Update:
        """What the update under way has come to.

        Args:
            norm_counts: a norm that is not finite makes the update a bad one; not so where a gradient scaler looks.
        """
        finite = torch.isfinite(torch.as_tensor(0.0 if self._loss is None else self._loss))
        if norm is not None and norm_counts:
            finite = finite & torch.isfinite(torch.as_tensor(norm, device=finite.device))
        return Update(step, notes, learning_rate, norm, finite, self._refused, self._gradients)

    # ---- what becomes of it -----------------------------------------------------------------------------------

    def leave_to(self, optimizer: torch.optim.Optimizer, update: Update, running: Tensor, before: BeforeStep) -> None:
        """Let the optimizer decide in its next step, by the verdict on the device; the host does not wait for it.

        Args:
            optimizer: one that :func:`can_leave_out` accepts.
            running: the Trainer's sum of losses since the last line; one that a bad update spoiled becomes 0.
            before: restored where this update stops the run.
        """
        running.copy_(torch.where(update.finite.to(running.device), running, running.nan_to_num(0.0, 0.0, 0.0)))
        bad = (~update.finite).to(torch.float32)
        optimizer.found_inf = bad  # type: ignore[attr-defined]  # as torch's GradScaler gives it: 1 leaves out
        on_host, event = _to_host(bad)
        self._pending = _Pending(update, on_host, event, optimizer, len(optimizer.state), before)

    def settle(self) -> None:
        """Read the verdict that is pending, if there is one.

        Raises:
            NonFiniteError: that update was left out, and as many as may be were left out before.
        """
        if (pending := self._pending) is None:
            return
        self._pending = None
        del pending.optimizer.found_inf  # type: ignore[attr-defined]  # no attribute that torch declares
        if not pending.was_left_out():
            return
        pending.forget_states()
        try:
            self.leave_out(pending.update, pending.update.not_finite())
        except NonFiniteError:
            pending.before.restore()
            raise

    @contextmanager
    def settling(self) -> Iterator[None]:
        """However the block ends, what was pending is settled: a bad update comes before what went wrong behind it."""
        try:
            yield
        finally:
            self.settle()

    def leave_out(self, update: Update, reason: str, model: nn.Module | None = None) -> None:
        """Write the dump of an update that is not made, then stop, or count it.

        Args:
            model: its gradients are looked at where the update does not know their norms.

        Raises:
            NonFiniteError: as many updates as may be were left out before.
        """
        name = f"nonfinite-step-{update.step}" + ("" if self._rank is None else f"-rank-{self._rank}")
        dump = self._folder / f"{name}.json"
        if update.gradients is not None:
            norms = update.gradients.by_name()
        else:
            norms = [] if model is None else norms_by_name(model)
        facts: dict[str, Any] = {"learning_rate": update.learning_rate, "gradient_norm": update.norm}
        update.notes.dump(dump, step=update.step, reason=reason, gradients=gradient_facts(norms), **facts)
        if len(self.skipped) >= self._may_skip:
            before = f" ({self._may_skip} updates were left out before)" if self._may_skip else ""
            raise NonFiniteError(
                f"{reason}; nothing was updated{before}. Statistics of the update are in {dump}: look at its pairs, or "
                "lower train.learning_rate; train.skip_nonfinite_steps=N goes on without up to N such updates"
            )
        self.skipped.append(update.step)
        self.last = update.step
        logger.warning("%s; this update was left out (%s)", reason, dump)


def _to_host(flag: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """A scalar on its way to the host, and the event that says when it is there; None where it is there already."""
    if not flag.is_cuda:
        return flag, None
    on_host = torch.empty_like(flag, device="cpu", pin_memory=True).copy_(flag, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(flag.device))
    return on_host, event


def can_leave_out(optimizer: torch.optim.Optimizer, update: Update) -> bool:
    """Whether an optimizer leaves this update out by itself, as if it had not been asked for.

    torch's fused kernels do, on the CPU and on CUDA: they read ``found_inf`` there, and change neither weights nor
    state. Not SGD with momentum, which puts memory as it finds it into its state when it leaves its first step out;
    and no subclass, whose step may do more.
    """
    return (
        update.gradients is not None
        and update.finite.device.type in _DEVICES
        and update.gradients.devices == {update.finite.device.type}
        and type(optimizer) in _CAN_LEAVE_OUT
        and all(
            group.get("fused") is True
            and not group.get("momentum")
            and not isinstance(group["lr"], Tensor)  # a schedule changes it in place: it could not be put back
            for group in optimizer.param_groups
        )
    )
