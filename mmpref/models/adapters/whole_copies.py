"""Modules that train whole beside an adapter, called in the way in which the model calls them.

peft stands its own module in their place, and before 0.20 that took the first argument by its place alone; models that
give it by name (Gemma 4's projector) would fail in the first step.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

_FIRST = "x"  # the name under which such a stand-in takes its first argument


def take_arguments_by_name(model: nn.Module) -> None:
    """Let what stands in the place of whole copies take its first argument by the name that the module gives it."""
    for module in model.modules():
        inner = getattr(module, "original_module", None)
        if isinstance(inner, nn.Module) and _FIRST in inspect.signature(module.forward).parameters:
            module.register_forward_pre_hook(_by_place, with_kwargs=True)


def _by_place(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
    inner: Any = module.original_module
    first = next(iter(inspect.signature(inner.forward).parameters), "")
    if args or first not in kwargs:
        return args, kwargs
    return (kwargs[first],), {name: value for name, value in kwargs.items() if name != first}
