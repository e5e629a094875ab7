"""A model without weights: its own code, run on the meta device, tells what it has and what a training step keeps.

Nothing is downloaded and no memory is used; what autograd would keep is counted tensor by tensor, so that no formula
has to know the architecture.
"""

from __future__ import annotations

import functools
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
_TOKENS = 61  # a number that no size of a model is: a tensor with such a side grows with the tokens
_HALF = torch.bfloat16  # as large as float16
_LAYERS = (2, 3)  # the first layer may keep less: nothing before it needs a gradient


@dataclass(frozen=True, slots=True)
class ActivationBytes:
    """Bytes per token that autograd keeps from a forward pass of the decoder."""

    per_layer: float
    outside_layers: float
    """Outside the layers."""
    layers: int
    hidden: int
    """Bytes of one hidden state: what is kept of a layer under checkpointing."""
    fixed: float = 0.0
    """Bytes that a layer keeps whatever the number of tokens; only DoRA has such."""
    keys_and_values: int = 0
    """Bytes of one token's keys and values in a layer: the second answer's attention reads a copy of its prefix's."""


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


def decoder_activations(loaded: LoadedModel, *, autocast: bool) -> ActivationBytes:
    """What a prepared skeleton's decoder keeps. The skeleton is cut short by it and of no further use.

    Args:
        loaded: a skeleton, prepared for training.
        autocast: linear layers and attention run in half precision whatever their weights are.

    Raises:
        ConfigError: a model whose decoder cannot be run alone.
    """
    decoder = _decoder(loaded)
    layers: Any = decoder.layers
    whole = len(layers)
    weight = decoder.get_input_embeddings().weight  # type: ignore[operator]
    found = []
    for count in _LAYERS:
        decoder.layers = layers[:count]
        found.append(_kept(loaded.model, decoder, weight, autocast=autocast))
    decoder.layers = layers
    (few, few_fixed), (more, more_fixed) = found
    per_layer = (more - few) / _TOKENS
    outside_layers = few / _TOKENS - _LAYERS[0] * per_layer
    base: Any = base_model(loaded.model)
    text = base.config.get_text_config()
    queries = getattr(text, "num_attention_heads", None) or 1  # no attention: one state of the width
    heads = getattr(text, "num_key_value_heads", None) or queries
    width = heads * (getattr(text, "head_dim", None) or text.hidden_size // queries)
    size = weight.element_size()
    return ActivationBytes(
        per_layer=per_layer,
        outside_layers=outside_layers,
        layers=whole,
        hidden=weight.shape[1] * size,
        fixed=more_fixed - few_fixed,
        keys_and_values=2 * width * size,
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


def _kept(model: nn.Module, decoder: nn.Module, weight: Tensor, *, autocast: bool) -> tuple[int, int]:
    """Bytes that grow with the tokens, and bytes that do not."""
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    seen: dict[int, tuple[int, int]] = {}
    alive: list[Tensor] = []  # a freed storage's address would be given to the next one

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights and storage._cdata not in seen:
            grows = _TOKENS in tensor.shape
            seen[storage._cdata] = (storage.nbytes(), 0) if grows else (0, storage.nbytes())
            alive.append(tensor)
        return tensor

    states = torch.empty(1, _TOKENS, weight.shape[1], device="meta", dtype=weight.dtype)
    # under an adapter, or a trained embedding or tower, the embeddings of a real run may need a gradient or not; a
    # decoder that is cut off from its input keeps the same from its second layer on
    with ExitStack() as stack:
        if autocast:
            copies = stack.enter_context(as_under_autocast(decoder))
            weights |= {copy.untyped_storage()._cdata for copy in copies}
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor))
        base: Any = base_model(model)
        what = f"the memory of a step of '{base.config.model_type}' cannot be counted without its weights"
        with library_errors(ConfigError, what, NOT_COUNTED):
            decoder(inputs_embeds=states, use_cache=False)
    return sum(size for size, _ in seen.values()), sum(size for _, size in seen.values())


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


class _Attention(torch.autograd.Function):
    """The shapes of a fused attention kernel: it keeps query, key, value, output and one number a row."""

    halves = False
    """Autocast gives it half precision."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
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
    return _Attention.apply(query, key, value).transpose(1, 2).contiguous(), None


def _attend_repeated(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **_: Any
) -> tuple[Tensor, None]:
    """With a mask for padding, keys and values are repeated for the kernel."""
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
    return _attend(module, query, key, value, attention_mask)
