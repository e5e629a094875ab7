"""A frozen vision tower runs without recording a graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mmpref.models.unwrap import base_model, submodule
from mmpref.processing.family import Family


class NoGradientHere:
    """Hooks that run one module without recording a graph, whatever its inputs ask for.

    Gradient checkpointing makes the patch embedding of a frozen tower ask for gradients, and then the whole tower is
    recomputed and differentiated for nothing.
    """

    def __init__(self) -> None:
        self._before: list[bool] = []

    def install(self, module: nn.Module) -> None:
        module.register_forward_pre_hook(self.enter)
        module.register_forward_hook(self.leave, always_call=True)

    def enter(self, module: nn.Module, args: Any) -> None:
        self._before.append(torch.is_grad_enabled())
        torch.set_grad_enabled(False)

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        torch.set_grad_enabled(self._before.pop())


def keep_frozen_tower_out_of_graph(model: nn.Module, family: Family) -> None:
    """Run the frozen vision tower without gradients; a projector inside it (Qwen's merger) keeps its own."""
    base = base_model(model)
    for path in family.vision:
        tower = submodule(base, path)
        if tower is not None:
            for module in _frozen_modules(tower, path, family):
                NoGradientHere().install(module)


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
