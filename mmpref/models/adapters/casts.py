"""LoRA layers without a cast that autocast undoes.

peft brings the input of a LoRA layer into the dtype of its float32 weights. Under half-precision autocast the product
brings it straight back: two copies of every layer's input, forward, recomputed and backward, that change no bit.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_CAST = "_cast_input_dtype"  # peft's name for it


def leave_casts_to_autocast(model: nn.Module) -> None:
    """Where autocast is on, LoRA layers take their input as it is.

    Layers with dropout, which would draw other elements in another dtype, and those that are more than LoRA (DoRA) stay
    as they are, and so does everything outside autocast.
    """
    for layer in model.modules():
        if hasattr(layer, _CAST) and _is_plain(layer):
            setattr(layer, _CAST, partial(_cast_outside_autocast, layer))  # a bound method could not be pickled


def _is_plain(layer: Any) -> bool:
    dropouts = getattr(layer, "lora_dropout", None)
    is_linear = isinstance(getattr(layer, "base_layer", None), nn.Linear)
    return is_linear and dropouts is not None and all(isinstance(one, nn.Identity) for one in dropouts.values())


def _cast_outside_autocast(layer: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
    device = x.device.type
    is_on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    casts_itself = is_on and x.dtype != torch.float64  # which autocast would not change
    if casts_itself and not getattr(layer, "lora_variant", None):
        return x
    found: Tensor = getattr(type(layer), _CAST)(layer, x, dtype)
    return found
