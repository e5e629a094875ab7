"""A frozen vision tower runs without recording a graph, and once for a batch."""

from __future__ import annotations

import copy
import functools
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from mmpref.models.unwrap import base_model, submodule
from mmpref.processing.family import Family


class FrozenForward:
    """The forward of a frozen module, in place of its own.

    It records no graph, whatever its inputs ask for: gradient checkpointing makes the patch embedding of a frozen tower
    ask for gradients, and then the whole tower is recomputed and differentiated for nothing.

    Where its output is known beforehand (``models.tower_features``), it does not run; and whoever keeps outputs sees
    what it computes and what becomes of it.

    What it computes for the reference is handed to the policy (:class:`FrozenFeatures`). The outputs wait in a queue
    that copies of the module share, because a frozen copy of the policy has the same frozen tower.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.queue = _Queue()
        functools.update_wrapper(self, type(module).forward)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        queue = self.queue
        if queue.given:
            return queue.given.popleft()
        if queue.is_replaying:
            return queue.take()
        observer = queue.observer
        if observer is not None:
            args, kwargs = observer.inputs(args, kwargs)
        with torch.no_grad():
            output = type(self.module).forward(self.module, *args, **kwargs)
        queue.offer(output)
        return output if observer is None else observer.output(output)


class Observer(Protocol):
    """Sees what a frozen module is called with and what it computes, in one forward."""

    def inputs(self, args: Any, kwargs: Any) -> Any:
        """(args, kwargs) for the module, from those of its caller."""
        ...

    def output(self, output: Any) -> Any:
        """What the caller gets of an output."""
        ...


class _Queue:
    """Outputs of one frozen module for one batch, in the order of its calls."""

    def __init__(self) -> None:
        self.is_recording = False
        self.given: deque[Any] = deque()  # known beforehand, one for each call of one forward
        self.observer: Observer | None = None
        self.features: Any = None  # where its outputs are kept (``models.tower_features``)
        self._outputs: deque[Any] = deque()

    def __deepcopy__(self, memo: dict[int, Any]) -> _Queue:
        return self  # on purpose: the copy of a frozen tower is the same tower

    @property
    def is_replaying(self) -> bool:
        return not self.is_recording and bool(self._outputs)

    def offer(self, output: Any) -> None:
        """Keep an output, where outputs are recorded."""
        if self.is_recording:
            self._outputs.append(copy.copy(output))  # models write into the object that they are given

    def take(self) -> Any:
        """The oldest recorded output, once."""
        return self._outputs.popleft()

    def clear(self) -> None:
        """Forget what was recorded, and record no more."""
        self.is_recording = False
        self._outputs.clear()


def keep_frozen_tower_out_of_graph(model: nn.Module, family: Family) -> None:
    """Run what is frozen of the vision tower without gradients; a projector inside it (Qwen's merger) keeps its own."""
    base = base_model(model)
    for path in family.vision:
        tower = submodule(base, path)
        if tower is not None:
            for module in _frozen_modules(tower, path, family):
                if "forward" not in module.__dict__:
                    module.forward = FrozenForward(module)


class FrozenFeatures:
    """The frozen towers of a model, found once for a batch that both reference and policy run."""

    def __init__(self, model: nn.Module) -> None:
        forwards = (module.__dict__.get("forward") for module in base_model(model).modules())
        self._queues = [forward.queue for forward in forwards if isinstance(forward, FrozenForward)]

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Inside, frozen towers keep what they compute, for one :meth:`replaying` over the same batch."""
        for queue in self._queues:
            queue.is_recording = True
        try:
            yield
        except BaseException:
            for queue in self._queues:
                queue.clear()
            raise
        finally:
            for queue in self._queues:
                queue.is_recording = False

    @contextmanager
    def replaying(self) -> Iterator[None]:
        """Inside, frozen towers return what was recorded, each output once, and do not run."""
        try:
            yield
        finally:
            for queue in self._queues:
                queue.clear()


def _frozen_modules(module: nn.Module, path: str, family: Family) -> Iterator[nn.Module]:
    """The largest modules at or below ``path`` that have nothing to train and can be called."""
    if family.part_of(path) == "projector":
        return
    trains = any(parameter.requires_grad for parameter in module.parameters())
    if not trains and not isinstance(module, nn.ModuleList):
        yield module
        return
    for name, child in module.named_children():
        yield from _frozen_modules(child, f"{path}.{name}", family)
