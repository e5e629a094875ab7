"""Another adapter in place of the one that trains, or none, for as long as the reference is asked."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mmpref.errors import ConfigError
from mmpref.models.adapters.as_named import as_named

TRAINED = "default"
"""The name that peft gives to the first adapter of a model."""
COPY = "reference"


def copy_adapter(model: Any) -> None:
    """Give a peft model a second, frozen adapter with the weights that the one it trains has now.

    Nothing else changes: the trained adapter stays the active one, and no random number is drawn.

    Raises:
        ConfigError: this release of peft cannot hold two adapters on experts.
    """
    wants = _what_trains(model)
    config = copy.deepcopy(model.peft_config[TRAINED])
    config.init_lora_weights = True  # not the start that changes the base (PiSSA): the weights are copied
    config.inference_mode = True
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=cuda), as_named(), _two_on_experts():
        model.add_adapter(COPY, config)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in weights.items():
            source = weights.get(_of_trained(name))
            if source is not None and source is not parameter:
                parameter.data = parameter.data.to(source.device, source.dtype)
                parameter.copy_(source)
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in wants)


@contextmanager
def _two_on_experts() -> Iterator[None]:
    """What older releases of peft say of a second adapter with ``target_parameters``, in one line with what to do."""
    try:
        yield
    except ValueError as err:
        if "target_parameters" not in str(err):
            raise
        raise ConfigError(
            "the adapter that training goes on from is on experts, and this release of peft cannot hold a copy of it "
            "for the reference; write `reference.kind=cache`, or update peft"
        ) from err


def has_copy(model: Any) -> bool:
    """Whether :func:`copy_adapter` was here."""
    return COPY in getattr(model, "peft_config", {})


@contextmanager
def switched(model: Any, to: str | None) -> Iterator[None]:
    """Inside, a peft model runs with another of its adapters, or with none; what trains stays what it was.

    peft's own switches also say which weights require gradients: all of an adapter that is switched on, which would let
    frozen parts of it train, and of weights that FSDP has put together for the moment, which are others afterwards. So
    each layer is switched by itself.

    Args:
        model: the peft model, unwrapped.
        to: name of the adapter; None switches all off.
    """
    before = [(layer, layer._active_adapter, layer._disable_adapters) for layer in _adapted_layers(model)]
    try:
        for layer, _, _ in before:
            layer._disable_adapters = to is None
            if to is not None:
                layer._active_adapter = [to]
        yield
    finally:
        for layer, active, is_off in before:
            layer._active_adapter, layer._disable_adapters = active, is_off


def _adapted_layers(model: nn.Module) -> list[Any]:
    """peft's layers: those with LoRA weights, and those that keep a copy of a whole module."""
    # asked in this way because a module looks long for what it does not have, and every step asks thousands of them
    name = "_disable_adapters"
    return [module for module in model.modules() if name in vars(module) or hasattr(type(module), name)]


def _what_trains(model: nn.Module) -> set[int]:
    return {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def _of_trained(name: str) -> str:
    """The trained adapter's name for a weight of the copy; any other name as it is."""
    steps = name.split(".")
    for place, step in enumerate(steps[1:], start=1):
        if step == COPY and (steps[place - 1].startswith("lora_") or steps[place - 1] == "modules_to_save"):
            steps[place] = TRAINED
    return ".".join(steps)
