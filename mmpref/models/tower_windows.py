"""Attention inside the images and windows of a vision tower: those of one length in one call.

The towers of Qwen-VL split their tokens in every layer and call attention once for each image, in windowed layers once
for each window: 64 calls a layer for an image of 896 x 896, after lengths that are read from the device three times a
layer. Here they are read once for all layers that share them, and windows of one length are the batch of one call.

Shapes: N tokens of all images, W windows, h heads, d head size.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface

from mmpref.errors import ConfigError
from mmpref.models.unwrap import base_model, submodule
from mmpref.processing.batch import to_device
from mmpref.processing.family import Family

BY_LENGTH = "sdpa_by_length"
"""The name of this attention among those of transformers."""
_STOCK = "sdpa"
_CONFIG = "vision_config"
_BOUNDS = "cu_seqlens"  # [W + 1], where windows begin: transformers' name for it
_KEPT = "_mmpref_windows"


class Windows:
    """Lengths of the windows that lie one behind the other, and the order that brings equal ones together."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        by_length = sorted(range(len(lengths)), key=lambda at: -lengths[at])  # stable: equal ones stay in order
        runs = [(length, len(list(run))) for length, run in groupby(lengths[at] for at in by_length)]
        self.sizes = [length * count for length, count in runs]
        self.counts = [count for _, count in runs]
        self.device = device
        self.order: Tensor | None = None
        self.back: Tensor | None = None
        self.waits = False
        """Between a layer's call and its attention."""
        if by_length != list(range(len(lengths))):
            tokens = torch.arange(sum(lengths)).split(list(lengths))
            order = torch.cat([tokens[at] for at in by_length])
            self.order, self.back = to_device(torch.stack([order, order.argsort()]), device)

    @classmethod
    @torch.inference_mode(False)  # kept with bounds that steps with gradients are given too
    def of(cls, bounds: Tensor, device: torch.device) -> Windows:
        """Made once for all layers that are given the same bounds."""
        found: Windows | None = getattr(bounds, _KEPT, None)
        if found is None or found.device != device:
            found = cls(bounds.diff().tolist(), device)
            setattr(bounds, _KEPT, found)
        return found

    def batches(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Tensors [1, h, N, d] as [count, h, length, d], one set for each length."""
        if self.order is not None:
            order = self.order
            tensors = tuple(x.index_select(2, order) for x in tensors)
        for count, *parts in zip(self.counts, *(x.split(self.sizes, dim=2) for x in tensors), strict=True):
            yield tuple(part[0].unflatten(1, (count, -1)).transpose(0, 1) for part in parts)

    def joined(self, outputs: Sequence[Tensor]) -> Tensor:
        """Outputs [count, length, h, d] of each length as [1, N, h, d], in the order that tokens came in."""
        rows = [out.flatten(0, 1) for out in outputs]
        whole = rows[0] if len(rows) == 1 else torch.cat(rows)
        return (whole if self.back is None else whole.index_select(0, self.back))[None]


def attend_by_length(model: nn.Module, family: Family) -> None:
    """Let the vision tower attend to all windows of one length at once, where it runs on ``sdpa`` window by window."""
    base: Any = base_model(model)
    vision: Any = getattr(base.config, _CONFIG, None)
    if vision is None or vision._attn_implementation != _STOCK:
        return
    found = [layer for path in family.vision for layer in _windowed(submodule(base, path))]
    if not found or any(getattr(layer, "config", None) is not vision for layer in found):
        return
    _register()
    base.set_attn_implementation({_CONFIG: BY_LENGTH})
    for layer in found:
        layer.register_forward_pre_hook(_hand_windows, with_kwargs=True)
        layer.register_forward_hook(_refuse_lost_windows, with_kwargs=True)


def _windowed(tower: nn.Module | None) -> list[nn.Module]:
    """The innermost modules that take where windows begin and hand what they do not know on to the attention."""
    takers = []
    for module in tower.modules() if tower is not None else ():
        parameters = inspect.signature(type(module).forward).parameters
        hands_on = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
        if _BOUNDS in parameters and hands_on:
            takers.append(module)
    return [one for one in takers if not any(other in takers for other in one.modules() if other is not one)]


def _hand_windows(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """In place of the bounds of all windows, the layer is given one window, and the attention the lengths."""
    bounds = kwargs.get(_BOUNDS)
    if bounds is None or module.config._attn_implementation != BY_LENGTH:
        return None
    hidden: Tensor = args[0] if args else kwargs["hidden_states"]
    windows = Windows.of(bounds, hidden.device)  # the bounds may lie on the host (``image_inputs``)
    windows.waits = True
    whole = torch.tensor([0, sum(windows.sizes)])  # on the host, where reading it waits for nothing
    return args, {**kwargs, _BOUNDS: whole, "windows": windows}


def _refuse_lost_windows(module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
    windows: Windows | None = kwargs.get("windows")
    if windows is not None and windows.waits:
        raise ConfigError(
            f"{type(module).__name__} does not hand keyword arguments on to its attention, so its windows would be "
            "lost; load the model with another attention than sdpa"
        )


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    windows: Windows | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    if windows is None:
        found: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return found
    if attention_mask is not None:
        raise ConfigError(
            f"{type(module).__name__} gives its windows a mask, which would be lost; load the model with another "
            "attention than sdpa"
        )
    windows.waits = False
    batches = windows.batches(query, key, value)
    return windows.joined([sdpa_attention_forward(module, *one, None, **kwargs)[0] for one in batches]), None


def _register() -> None:
    """Make the attention known to transformers, under its name; the second time changes nothing."""
    AttentionInterface.register(BY_LENGTH, _attention)
    # without one of this name transformers makes no mask at all, for layers of the tower that want one
    AttentionMaskInterface.register(BY_LENGTH, AttentionMaskInterface()[_STOCK])
