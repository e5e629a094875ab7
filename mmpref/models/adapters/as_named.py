"""Adapters on exactly the layers that they name.

peft rewrites the settings of an adapter on mixture-of-experts models as if it had been made for the layers of earlier
releases of transformers: for many types ``gate_proj``, ``up_proj`` and ``down_proj`` are then taken for experts' own,
so that dense layers and shared experts lose their LoRA and the experts get one that nobody asked for, without a word.
Names in a file it takes for those of the published checkpoint, and renames what is right already
(``mlp.shared_experts`` of Mistral Large 4 becomes ``mlp.mlp.shared_experts``). What names layers that the model has is
meant as it is; adapters from before transformers 5 may need the rewriting.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from mmpref.models.adapters.weights import plain_name
from mmpref.models.unwrap import submodule

_REWRITES = "peft.utils.transformers_weight_conversion"


@contextmanager
def as_named() -> Iterator[None]:
    """Inside, peft takes settings and stored names of adapters as they are."""
    try:
        rewrites: Any = importlib.import_module(_REWRITES)
    except ImportError:  # a release of peft that rewrites nothing, or elsewhere
        rewrites = None
    stock = {name: getattr(rewrites, name) for name in _LEFT if hasattr(rewrites, name)}
    for name in stock:
        setattr(rewrites, name, _LEFT[name])
    try:
        yield
    finally:
        for name, function in stock.items():
            setattr(rewrites, name, function)


def names_own_layers(model: nn.Module, stored: Iterable[str]) -> bool:
    """Whether all LoRA weights of a file are for modules that the model has by these names."""
    modules = {plain_name(name).partition(".lora_")[0] for name in stored if ".lora_" in name}
    return bool(modules) and all(submodule(model, path) is not None for path in modules)


def _leave_settings(*_: Any, **__: Any) -> None:
    """In place of what changes the settings of an adapter."""


def _leave_names(*, adapter_state_dict: Any, **_: Any) -> Any:
    """In place of what renames the weights of an adapter."""
    return adapter_state_dict


_LEFT = {
    "convert_peft_config_for_transformers": _leave_settings,
    "convert_peft_adapter_state_dict_for_transformers": _leave_names,
}
