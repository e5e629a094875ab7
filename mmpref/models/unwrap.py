"""The model inside the wrappers of distributed training, compilation and adapters."""

from __future__ import annotations

from torch import nn


def unwrap(model: nn.Module) -> nn.Module:
    """The model that DistributedDataParallel (``module``) or ``torch.compile`` (``_orig_mod``) was put around."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def base_model(model: nn.Module) -> nn.Module:
    """The model of transformers inside wrappers and adapter."""
    inner = unwrap(model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner  # type: ignore[operator]


def submodule(model: nn.Module, path: str) -> nn.Module | None:
    """The module at a dotted path, or None."""
    try:
        return model.get_submodule(path)
    except AttributeError:  # no such path, or it is a single tensor
        return None
