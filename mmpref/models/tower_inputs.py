"""Images in the dtype of the tower that takes them.

Image processors give float32, some bfloat16 (Llama 4), whatever the model is loaded in. Most towers of transformers
cast what they are given, some do not, and fail.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmpref.models.unwrap import submodule
from mmpref.processing.family import Family


def take_any_dtype(model: nn.Module, family: Family) -> None:
    """Let the model's towers take images of any floating dtype; integers (grids, positions) stay as they are."""
    for path in family.paths_of("vision"):
        tower = submodule(model, path)
        if tower is not None and any(True for _ in tower.parameters()):
            tower.register_forward_pre_hook(_cast, with_kwargs=True)


def _cast(tower: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    dtype = next((weight.dtype for weight in tower.parameters() if weight.is_floating_point()), None)
    if dtype is None or torch.is_autocast_enabled(next(tower.parameters()).device.type):
        return args, kwargs

    def cast(value: Any) -> Any:
        is_image = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(dtype) if is_image and value.dtype != dtype else value

    return tuple(map(cast, args)), {name: cast(value) for name, value in kwargs.items()}
