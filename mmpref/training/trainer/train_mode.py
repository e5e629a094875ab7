"""What a model does while it trains and not when it is evaluated: dropout, and layers that compute in another way.

The reference is always evaluated. Whatever acts on the policy alone makes margins that nobody learnt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from mmpref.models.unwrap import base_model
from mmpref.training.trainer.learning import in_places

_USE_CACHE, _ABSENT = "use_cache", object()
_OF_OTHER_HEADS = ("classifier", "summary", "seq_")
"""Beginnings of config keys whose dropout belongs to heads that no preference is trained with."""


@dataclass(frozen=True, slots=True)
class Dropout:
    """Where a model drops something in training mode, and how much of it."""

    adapter: float
    """The largest of the adapter's layers; 0 without one."""
    places: Mapping[str, float]
    """Of the model itself: module or ``module.attribute`` -> share."""
    keys: Mapping[str, float]
    """Dotted keys of the model's config that say so."""


def dropout_of(model: nn.Module) -> Dropout:
    """Everything in a model that drops something in training mode."""
    inner: Any = base_model(model)
    adapter, places = 0.0, dict[str, float]()
    for name, module in inner.named_modules():
        if not isinstance(module, nn.modules.dropout._DropoutNd):
            found = {
                f"{name}.{key}": value
                for key, value in vars(module).items()
                if "drop" in key and isinstance(value, float) and value > 0
            }
            places |= found
        elif ".lora_dropout." in name:
            adapter = max(adapter, module.p)
        elif module.p > 0:
            places[name] = module.p
    shares = set(places.values())
    keys = {key: value for key, value in _keys(inner.config.to_dict()) if value in shares}
    return Dropout(adapter, places, keys)


def _keys(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _keys({str(name): below for name, below in value.items()}, f"{prefix}{key}.")
        elif "drop" in key and isinstance(value, float) and value > 0 and not key.startswith(_OF_OTHER_HEADS):
            yield f"{prefix}{key}", value


def why_it_differs(model: nn.Module) -> str:
    """Why a model in training mode is not the one that is evaluated, and what to do about it."""
    dropout = dropout_of(model)
    if dropout.keys:
        config = Path(str(getattr(base_model(model), "name_or_path", ""))) / "config.json"
        named = ", ".join(f"{key} {value:g}" for key, value in dropout.keys.items())
        where = f"{config}" if config.is_file() else "the config.json of a local copy of the model"
        return (
            f"the model's config has dropout ({named}), which acts on the policy while it trains and never on the "
            f"reference; to train without it set {', '.join(dropout.keys)} to 0 in {where}"
        )
    if dropout.places:
        where = f"{in_places(list(dropout.places))}, up to {max(dropout.places.values()):g}"
        return (
            f"the model has dropout in {where}, which acts on the policy while it trains and never on the reference; "
            "no key of its config switches it off"
        )
    if any(type(module).__name__ == "Linear8bitLt" for module in model.modules()):
        return (
            "layers in 8 bits are computed in another way while they train than when they are evaluated (on a CPU "
            "without rounding their inputs); adapter.kind=qlora and 16 bits are computed in one way"
        )
    return "something in the model computes in another way while it trains than when it is evaluated"


@contextmanager
def use_cache_kept(model: nn.Module) -> Iterator[None]:
    """The Trainer writes into the model's config that no cache is to be used, and it would be saved with the model.

    Every forward of training says so by itself (``models.logps``).
    """
    config: Any = getattr(model, "config", None)
    before = vars(config).get(_USE_CACHE, _ABSENT) if config is not None else _ABSENT
    try:
        yield
    finally:
        if before is not _ABSENT:
            setattr(config, _USE_CACHE, before)
        elif config is not None and _USE_CACHE in vars(config):
            delattr(config, _USE_CACHE)
