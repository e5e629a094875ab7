"""How many updates rounding swallows where weights that train are stored in half precision: measured, not guessed.

The optimizer itself says what the update is: for some steps it is given one more weight, a float32 vector of elements
drawn from all that it trains in half precision, with their gradients. Where that vector moves and the stored weight
does not, the update was swallowed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mmpref.models.precision import HALF

logger = logging.getLogger(__name__)

SWALLOWED = "updates_swallowed"
"""Name of the share in the log."""
STEPS = 10
"""Optimizer steps that are looked at: the first ones with a learning rate above 0."""
SAMPLES = 512
"""Elements of one tensor, evenly spaced."""


class SwallowedUpdates(TrainerCallback):
    """Measures the share over the first steps of a run, and logs it once.

    Nothing else about the run changes, and nothing is read back from the device before the last of these steps. There
    is nothing to measure with DeepSpeed, whose optimizer updates a float32 copy, and where all that trains is float32.

    Args:
        log: ``Trainer.log``.

    Attributes:
        share: of the updates that are not 0 in float32; None where nothing was measured (yet).
    """

    def __init__(self, log: Callable[[dict[str, float]], None]) -> None:
        self._log = log
        self._probes: list[_Probe] = []
        self._hooks: list[Any] = []
        self.share: float | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        optimizer: Any = None,
        **_: Any,
    ) -> None:
        self._stop()
        before = [line[SWALLOWED] for line in state.log_history if SWALLOWED in line]
        if before:  # a resumed run
            self.share = before[-1]
            return
        raw = getattr(optimizer, "optimizer", optimizer)
        if not isinstance(raw, torch.optim.Optimizer):
            return
        for number, group in enumerate(raw.param_groups):
            if probe := _Probe.of(number, group["params"]):
                self._probes.append(probe)
        if self._probes:
            self._hooks = [raw.register_step_pre_hook(self._before), raw.register_step_post_hook(self._after)]

    def _before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for probe in self._probes:
            probe.enter(optimizer)

    def _after(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for probe in self._probes:
            probe.leave(optimizer)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._probes and all(probe.steps >= STEPS for probe in self._probes):
            self._finish()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if any(probe.steps for probe in self._probes):
            self._finish()
        self._stop()

    def _finish(self) -> None:
        lost, moved = torch.stack([torch.stack([probe.lost, probe.moved]) for probe in self._probes]).sum(0).tolist()
        self._stop()
        if moved:
            self.share = lost / moved
            self._log({SWALLOWED: self.share})

    def _stop(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._probes = [], []


@dataclass(slots=True)
class _Probe:
    """The sampled elements of one group of an optimizer."""

    group: int
    parameters: list[Tensor]
    places: list[Tensor]
    vector: Tensor
    counted: Tensor
    """Elements that each sampled one stands for."""
    lost: Tensor
    moved: Tensor
    steps: int = 0
    state: Any = None
    before: Tensor | None = field(default=None)

    @classmethod
    def of(cls, group: int, parameters: list[Tensor]) -> _Probe | None:
        """Of a group's parameters in half precision; None where it has none."""
        half = [parameter for parameter in parameters if parameter.dtype in HALF]
        if not half:
            return None
        device = _local(half[0]).device
        places = [_spaced(_local(parameter).numel(), device) for parameter in half]
        start = torch.zeros(sum(len(of) for of in places), device=device)
        vector = torch.nn.Parameter(_like(start, half[0]))
        counted = torch.cat([
            torch.full((len(at),), _local(parameter).numel() / max(1, len(at)), device=device)
            for parameter, at in zip(half, places, strict=True)
        ])  # fmt: skip
        zero = torch.zeros((), device=device)
        return cls(group, half, places, vector, counted, zero, zero.clone())

    def enter(self, optimizer: torch.optim.Optimizer) -> None:
        """Join the group for one step, with the weights and gradients of the moment."""
        group = optimizer.param_groups[self.group]
        if self.steps >= STEPS or not float(group["lr"]):
            return
        if all(parameter.grad is None for parameter in self.parameters):  # an update that is left out
            self.steps += 1
            return
        self.before = self._stored()
        gradients = [
            torch.zeros(len(at), device=at.device) if parameter.grad is None else _local(parameter.grad).flatten()[at]
            for parameter, at in zip(self.parameters, self.places, strict=True)
        ]
        with torch.no_grad():
            _local(self.vector).copy_(self.before)
        self.vector.grad = _like(torch.cat([gradient.float() for gradient in gradients]), self.parameters[0])
        group["params"].append(self.vector)
        if self.state is not None:
            optimizer.state[self.vector] = self.state

    def leave(self, optimizer: torch.optim.Optimizer) -> None:
        """Leave the group as it was, and count."""
        if self.before is None:
            return
        group = optimizer.param_groups[self.group]
        group["params"] = [parameter for parameter in group["params"] if parameter is not self.vector]
        self.state = optimizer.state.pop(self.vector, None)
        moved = _local(self.vector).detach() != self.before
        self.moved += (moved * self.counted).sum()
        self.lost += (moved * self.counted)[self._stored() == self.before].sum()
        self.before, self.vector.grad = None, None
        self.steps += 1

    def _stored(self) -> Tensor:
        pairs = zip(self.parameters, self.places, strict=True)
        return torch.cat([_local(parameter).detach().flatten()[at].float() for parameter, at in pairs])


def _spaced(count: int, device: torch.device) -> Tensor:
    """Up to :data:`SAMPLES` places among ``count``."""
    step = max(1, count // SAMPLES)
    return torch.arange(0, count, step, device=device)[:SAMPLES]


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _like(local: Tensor, parameter: Tensor) -> Tensor:
    """A vector that an optimizer takes beside a parameter: this rank's part of one, where that is sharded."""
    if not isinstance(parameter, DTensor):
        return local
    return DTensor.from_local(local, parameter.device_mesh, parameter.placements, run_check=False)
