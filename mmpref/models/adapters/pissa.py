"""Adapters that take their first weights out of the base (PiSSA), saved as plain LoRA for the published base.

How they started must be known when they are saved, by whatever code has the model by then (a trainer, a callback, a
user), so the first weights stay with the model itself. Only this module reads or writes them.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mmpref.models.adapters.saved import CONFIG, WEIGHTS
from mmpref.models.unwrap import unwrap

_START = "_mmpref_adapter_start"
"""Name of the attribute of a peft model: the names of its weights in a saved adapter -> their first values, on the
CPU."""


def keep_start(model: nn.Module) -> None:
    """Keep the weights that an adapter has now as those it started from.

    Args:
        model: with an adapter that has just been split off its base.
    """
    first = {
        name.replace(".default.", "."): parameter.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    }
    setattr(model, _START, first)


def changed_its_base(model: nn.Module) -> bool:
    """Whether the adapter started by taking its weights out of the base (PiSSA)."""
    return getattr(unwrap(model), _START, None) is not None


def as_plain_lora(model: nn.Module, folder: Path) -> None:
    """Make a saved adapter that started from the base's own weights one for the base as it was published.

    What was learned is ``B A - B0 A0``, which is one adapter of twice the rank: ``[B | -B0] [A ; A0]``. An adapter that
    started from zero is left as it is.
    """
    start: dict[str, torch.Tensor] | None = getattr(unwrap(model), _START, None)
    if start is None:
        return
    file, config_file = folder / WEIGHTS, folder / CONFIG
    weights = load_file(file)
    for name, first in start.items():
        of_a = ".lora_A." in name
        weights[name] = torch.cat([weights[name], first if of_a else -first], dim=0 if of_a else 1).contiguous()
    save_file(weights, file, metadata={"format": "pt"})
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["r"] *= 2
    config["lora_alpha"] *= 2**0.5 if config["use_rslora"] else 2
    config["init_lora_weights"] = True
    config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
