"""The model inside the wrappers of distributed training, compilation and adapters."""

from __future__ import annotations

from torch import nn

_ENGINE = "deepspeed.runtime.engine.DeepSpeedEngine"


def unwrap(model: nn.Module) -> nn.Module:
    """The model that DistributedDataParallel or DeepSpeed (``module``), or ``torch.compile`` (``_orig_mod``), wraps."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and (isinstance(model, nn.parallel.DistributedDataParallel) or is_engine(model)):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def is_engine(model: nn.Module) -> bool:
    """Whether this is what DeepSpeed makes of a model; known without loading DeepSpeed."""
    return any(f"{kind.__module__}.{kind.__name__}" == _ENGINE for kind in type(model).__mro__)


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
