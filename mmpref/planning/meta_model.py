"""A model without weights: its own code, run on the meta device, tells what it has and what a training step keeps.

Nothing is downloaded and no memory is used; what autograd would keep is counted tensor by tensor, so that no formula
has to know the architecture.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig

from mmpref.errors import ConfigError, library_errors
from mmpref.models.load import empty_model, family_of_config
from mmpref.models.loaded import LoadedModel
from mmpref.models.parts import with_parts
from mmpref.models.unwrap import base_model, submodule
from mmpref.processing.family import PartName
from mmpref.processing.layout import LayoutName

ATTENTION = {"shared_prefix": "mmpref_counted", "plain": "mmpref_counted_repeated"}
NOT_COUNTED = "mmpref doctor tells whether it can train here, and training itself what it takes"
_TOKENS = (128, 256)
"""Numbers of tokens that the decoder is run on: what differs grows with the tokens. Whole chunks, for layers that work
through the tokens in chunks (linear attention)."""
_HALF = torch.bfloat16  # as large as float16
ALIKE = 3
"""Layers that are run where all are alike: the first may keep less, because nothing before it needs a gradient."""


@dataclass(frozen=True, slots=True)
class ActivationBytes:
    """Bytes per token that autograd keeps from a forward pass of the decoder."""

    per_layer: float
    """The mean over all layers."""
    outside_layers: float
    """Outside the layers."""
    layers: int
    hidden: int
    """Bytes of one hidden state: what is kept of a layer under checkpointing."""
    fixed: float = 0.0
    """Bytes that a layer keeps whatever the number of tokens (DoRA, states of linear attention); the mean as well."""
    largest: float = 0.0
    """Bytes per token of the layer that keeps most, where they are not alike; 0 where they are."""
    keys_and_values: int = 0
    """Bytes of one token's keys and values in a layer: the second answer's attention reads a copy of its prefix's. The
    mean over all layers, of which those with linear attention have none."""


def skeleton(
    config: PretrainedConfig,
    path: str,
    dtype: torch.dtype,
    layout: LayoutName = "shared_prefix",
    parts: Mapping[str, PartName] | None = None,
) -> LoadedModel:
    """The model on the meta device, with attention that never builds a matrix of scores."""
    AttentionInterface.register(ATTENTION["shared_prefix"], _attend)
    AttentionInterface.register(ATTENTION["plain"], _attend_repeated)
    model = empty_model(config, dtype=dtype, attn_implementation=ATTENTION[layout])
    family = with_parts(family_of_config(config), model, parts)
    return LoadedModel(model=model, processor=None, family=family, path=path)


def are_alike(loaded: LoadedModel) -> bool:
    """Whether all layers of a skeleton's decoder are of one kind and size.

    Raises:
        ConfigError: a model whose decoder cannot be run alone.
    """
    decoder: Any = _decoder(loaded)
    kinds = getattr(decoder.config, "layer_types", None)
    sizes = {tuple((name, weight.shape) for name, weight in layer.named_parameters()) for layer in decoder.layers}
    windows = {
        kind for kind in kinds or () if kind != "sliding_attention"
    }  # which changes what is seen, not what is kept
    return len(sizes) == 1 and len(windows) < 2


def decoder_activations(loaded: LoadedModel, *, autocast: bool, alike: bool = True) -> ActivationBytes:
    """What a prepared skeleton's decoder keeps, layer by layer.

    Args:
        loaded: a skeleton, prepared for training; with three layers or more, or all that there are.
        autocast: linear layers and attention run in half precision whatever their weights are.
        alike: the layers are alike, so that the last speaks for all.

    Raises:
        ConfigError: a model whose decoder cannot be run alone.
    """
    decoder = _decoder(loaded)
    layers: Any = decoder.layers
    weight = decoder.get_input_embeddings().weight  # type: ignore[operator]
    few, more = (_kept(loaded.model, decoder, weight, tokens, autocast=autocast) for tokens in _TOKENS)
    step = _TOKENS[1] - _TOKENS[0]
    grows = [(after - before) / step for before, after in zip(few.layers, more.layers, strict=True)]
    stays = [before - _TOKENS[0] * one for before, one in zip(few.layers, grows, strict=True)]
    count = len(layers)
    if alike:
        outside = (more.outside - few.outside) / step + sum(grows) - count * grows[-1]
        grows, stays = [grows[-1]] * count, [stays[-1]] * count
    else:
        outside = (more.outside - few.outside) / step
    size = weight.element_size()
    return ActivationBytes(
        per_layer=sum(grows) / count,
        outside_layers=outside,
        layers=count,
        hidden=weight.shape[1] * size,
        fixed=max(0.0, sum(stays) / count),
        largest=0.0 if alike else max(grows),
        keys_and_values=round(few.keys_and_values / count * size),
    )


def with_plain_positions(text: PretrainedConfig) -> None:
    """Rotary positions of the plain kind: the others look at the numbers of a forward pass, which a model without
    weights has not, and keep the same of it. A config may have one setting, or one for each kind of layer."""
    rope = getattr(text, "rope_parameters", None)
    if not isinstance(rope, dict):
        return
    for one in (rope, *rope.values()):
        if isinstance(one, dict) and one.get("rope_type", "default") != "default":
            one["rope_type"] = "default"


def _decoder(loaded: LoadedModel) -> nn.Module:
    base = base_model(loaded.model)
    for path in loaded.family.language:
        module: Any = submodule(base, path)
        if not hasattr(module, "layers") and hasattr(module, "get_decoder"):  # a language model with its head
            module = module.get_decoder()
        if isinstance(module, nn.Module) and hasattr(module, "layers"):
            return module
    raise ConfigError(f"the decoder of a '{loaded.family.name}' model cannot be run alone, so its memory is not known")


@dataclass(slots=True)
class _Kept:
    """Bytes that a forward pass keeps, by the layer that keeps them first, and numbers in one token's keys and values
    over all layers."""

    layers: list[int]
    outside: int = 0
    keys_and_values: int = 0


def _kept(model: nn.Module, decoder: nn.Module, weight: Tensor, tokens: int, *, autocast: bool) -> _Kept:
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    layers: Any = decoder.layers
    found = _Kept(layers=[0] * len(layers))
    seen: set[int] = set()
    alive: list[Tensor] = []  # a freed storage's address would be given to the next one
    running: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights and storage._cdata not in seen:
            seen.add(storage._cdata)
            alive.append(tensor)
            if running:
                found.layers[running[-1]] += storage.nbytes()
            else:
                found.outside += storage.nbytes()
        return tensor

    states = torch.empty(1, tokens, weight.shape[1], device="meta", dtype=weight.dtype)
    given: dict[str, Any] = {"inputs_embeds": states}
    if "per_layer_inputs" in inspect.signature(decoder.forward).parameters:  # found by the tokens themselves
        given = {"input_ids": torch.empty(1, tokens, device="meta", dtype=torch.long)}
    # under an adapter, or a trained embedding or tower, the embeddings of a real run may need a gradient or not; a
    # decoder that is cut off from its input keeps the same from its second layer on
    with ExitStack() as stack:
        for number, layer in enumerate(layers):
            before = layer.register_forward_pre_hook(lambda *_, number=number: running.append(number))
            after = layer.register_forward_hook(lambda *_: running.clear())
            stack.callback(before.remove)
            stack.callback(after.remove)
        if autocast:
            copies = stack.enter_context(as_under_autocast(decoder))
            weights |= {copy.untyped_storage()._cdata for copy in copies}
        stack.enter_context(_products_by_group())
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor))
        base: Any = base_model(model)
        what = f"the memory of a step of '{base.config.model_type}' cannot be counted without its weights"
        _Attention.keys_and_values = 0
        with library_errors(ConfigError, what, NOT_COUNTED):
            decoder(**given, use_cache=False)
        found.keys_and_values = _Attention.keys_and_values
    return found


@contextmanager
def as_under_autocast(decoder: nn.Module) -> Iterator[list[Tensor]]:
    """Linear layers and attention in half precision, whatever their weights and inputs are; autocast itself does
    nothing on the meta device. Gives the copies of the weights.
    """
    copies: list[Tensor] = []
    layers = [layer for layer in decoder.modules() if isinstance(layer, nn.Linear)]
    for layer in layers:
        own: list[Tensor] = [layer.weight, *([] if layer.bias is None else [layer.bias])]
        kept = [torch.empty_like(of, dtype=_HALF, requires_grad=of.requires_grad) for of in own]
        copies += kept
        layer.forward = functools.partial(_in_half, kept)  # type: ignore[method-assign]
    _Attention.halves = True
    try:
        yield copies
    finally:
        _Attention.halves = False
        for layer in layers:
            del layer.__dict__["forward"]


def _in_half(weight_and_bias: list[Tensor], given: Tensor) -> Tensor:
    return nn.functional.linear(given.to(_HALF), *weight_and_bias)


@contextmanager
def _products_by_group() -> Iterator[None]:
    """The products of experts in every dtype: on the meta device torch refuses those that some kernels do not have."""
    functions: Any = torch.nn.functional
    stock = functions.grouped_mm
    functions.grouped_mm = _grouped_mm
    try:
        yield
    finally:
        functions.grouped_mm = stock


def _grouped_mm(given: Tensor, weight: Tensor, *, offs: Tensor) -> Tensor:
    found: Tensor = _GroupedProduct.apply(given, weight)
    return found


class _GroupedProduct(torch.autograd.Function):
    """The shapes of [rows, in] x [experts, in, out], by expert: [rows, out]."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, weight: Tensor) -> Tensor:
        of_given, of_weight = ctx.needs_input_grad
        ctx.save_for_backward(given if of_weight else None, weight if of_given else None)
        return given.new_empty(given.shape[0], weight.shape[2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError  # only what a forward pass keeps is counted


class _Attention(torch.autograd.Function):
    """The shapes of a fused attention kernel: it keeps query, key, value, output and one number a row."""

    halves = False
    """Autocast gives it half precision."""
    keys_and_values = 0
    """Numbers in one token's keys and values, over all layers since it was set."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:3], value.shape[3])
        sums = torch.empty(query.shape[:3], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: Any
) -> tuple[Tensor, None]:
    if _Attention.halves:
        query, key, value = (tensor.to(_HALF) for tensor in (query, key, value))
    _Attention.keys_and_values += sum(tensor.shape[1] * tensor.shape[3] for tensor in (key, value))
    return _Attention.apply(query, key, value).transpose(1, 2).contiguous(), None


def _attend_repeated(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: Any
) -> tuple[Tensor, None]:
    """With a mask for padding, keys and values are repeated for the kernel."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    return _attend(module, query, key, value, attention_mask)
