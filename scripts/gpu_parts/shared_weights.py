"""One set of weights under two trees of modules, so that two libraries fit on one card; and weights in NF4."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
import transformers as tf
from torch import Tensor, nn

from mmpref.models.quantize import QuantizationSettings, after_quantized_load, quantization_config
from mmpref.processing import Family


def twin(model: tf.PreTrainedModel) -> tf.PreTrainedModel:
    """A second tree of modules, with a config of its own, over the same parameters and buffers.

    What one library hangs on its tree (adapters, hooks, another forward, another attention by name in the config) is
    not on the other's.
    """
    tensors = itertools.chain(model.parameters(), model.buffers())
    memo: dict[int, Any] = {id(tensor): tensor for tensor in tensors}
    for parameter in model.parameters():  # the layer of a 4-bit weight holds its scales too, by the same name
        if (state := getattr(parameter, "quant_state", None)) is not None:
            memo[id(state)] = state
    return copy.deepcopy(model, memo)


def separate_bytes(first: nn.Module, second: nn.Module) -> int:
    """Bytes of the second tree's frozen weights, scales and buffers that are not the first one's as well."""
    there = {tensor.data_ptr() for tensor in _held(first)}
    return sum(tensor.nbytes for tensor in _held(second) if tensor.data_ptr() not in there)


def _held(model: nn.Module) -> list[Tensor]:
    found: list[Tensor] = list(model.buffers())
    for parameter in model.parameters():
        if not parameter.requires_grad:
            found.append(parameter)
            state = getattr(parameter, "quant_state", None)
            found += [] if state is None else _scales(state)
    return [tensor for tensor in found if tensor.numel()]


def _scales(state: Any) -> list[Tensor]:
    nested = getattr(state, "state2", None)
    tensors = [state.absmax, state.code, state.offset, *([] if nested is None else [nested.absmax, nested.code])]
    return [tensor for tensor in tensors if isinstance(tensor, Tensor)]


def in_nf4(model: tf.PreTrainedModel, family: Family, dtype: torch.dtype = torch.bfloat16) -> tf.PreTrainedModel:
    """The model with the linear layers of its language model in NF4, double quantisation, where they lie.

    transformers' own quantiser exchanges the layers, as it does while it reads a file (``from_pretrained``), those
    that mmpref's settings name; here the weights come from the model itself, one layer after another, so that no more
    than one of them is there twice. Both libraries see what they would see of a model that was read so.
    """
    import bitsandbytes as bnb
    from transformers.quantizers import AutoHfQuantizer

    device = next(model.parameters()).device
    settings = quantization_config(QuantizationSettings(kind="nf4"), family, dtype=dtype)
    quantizer = AutoHfQuantizer.from_config(settings, pre_quantized=False)
    plain = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    quantizer.preprocess_model(model=model, device_map={"": str(device)})
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, bnb.nn.Linear4bit):
                before = plain.pop(name)
                old: Any = module.weight  # on no device yet; says how it is to be packed
                module.weight = bnb.nn.Params4bit(before.weight.data, requires_grad=False, **old.__dict__).to(device)
                if before.bias is not None:
                    module.bias = nn.Parameter(before.bias.data, requires_grad=False)
                del before
    del plain
    model.hf_quantizer = quantizer
    quantizer.postprocess_model(model)
    after_quantized_load(model, family)
    return model
