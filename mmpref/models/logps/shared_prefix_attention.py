"""Attention over a packed row in which all answers of a prompt read one copy of it.

A row holds segments ``[prompt | answer | answer | ...]``; no answer must see another, but for the beginning that they
have in common (``Branch``). Each attention library has its own way to say that:

==================  ===================================================================================================
sdpa                a call for each branch of a segment: prompt + first answer, and each further answer over what stands
                    before it and itself. No mask of all tokens by all tokens exists, and no product is computed to be
                    thrown away; what is not just causal (a window that a sequence fills, images that are read in both
                    directions) has a mask a call.
flash_attention_2   the same calls through flash-attn, whose causal mask and windows are aligned to the last key; what
                    flash-attn does not know goes through sdpa.
flex_attention      one call with a block mask.
eager               one call with an additive mask [1, 1, T, T]; caps and sinks are the model's own.
==================  ===================================================================================================

The first two replace the language model's attention under a name of our own, and behave as the original does for any
input that is not a packed row (plain batches, generation). What a layer sees is the model's own rule in all four
(``packed_masks``).

Shapes: T tokens of the row, h heads, d head size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface

from mmpref.errors import ConfigError
from mmpref.models.logps.cross_attention import CrossMask, attend_across
from mmpref.models.logps.packed_masks import PackedMask, PackedRow, packed_mask, row_of, running
from mmpref.models.logps.right_padding import without_right_padding
from mmpref.models.unwrap import base_model
from mmpref.processing.batch import PairBatch

_SPLIT = {"sdpa": "pair_sdpa", "flash_attention_2": "pair_flash_attention_2"}
BY_SEGMENT = tuple(_SPLIT)
IMPLEMENTATIONS = (*BY_SEGMENT, "flex_attention", "eager")
"""What a model may be loaded with (``attn_implementation``) to share prefixes."""
_WIDEST_GROUPED = 256  # heads up to this width have a kernel for groups of heads on a GPU


@contextmanager
def attending_packed(model: nn.Module, batch: PairBatch) -> Iterator[None]:
    """Inside, the model attends within the segments of the batch; other plain batches than those of models that see
    images by cross-attention change nothing.

    Raises:
        ConfigError: the model's attention cannot run a packed row.
    """
    if not batch.shares_prefix and not batch.crossings:
        yield
        return
    name = implementation(model)
    if batch.crossings and name not in _SPLIT:
        raise ConfigError(
            f"attention '{name}' cannot run images in cross-attention; set model.attn_implementation: sdpa"
        )
    if name not in IMPLEMENTATIONS:
        raise ConfigError(f"attention '{name}' cannot run pairs that share their prompt; set model.attention: plain")
    if name in _SPLIT:
        register_pair_attention()
        use_attention(model, _SPLIT[name])
    if not batch.shares_prefix:
        yield
        return
    with running(PackedRow(batch.segments, batch.num_tokens), text_config(model)):
        yield


# ---- the attention functions -------------------------------------------------------------------------------------

Seen = Callable[[], Tensor | None]
"""Makes the mask of a call, [q, k] bool, or None where it is causal."""
Attend = Callable[[Tensor, Tensor, Tensor, Seen, bool], Tensor]
"""(query, key, value [1, h, t, d], what is seen, whether queries are the last of the keys) -> [1, h, t, d]."""


def _by_segment(mask: PackedMask, query: Tensor, key: Tensor, value: Tensor, attend: Attend) -> Tensor:
    """[1, T, h, d]. The row is split once: the gradient of a split is one copy, that of each slice a row of zeros."""
    pieces = zip(*(x.split(mask.row.pieces, dim=2) for x in (query, key, value)), strict=True)
    parts: list[Tensor] = []
    for number, segment in enumerate(mask.row.segments):
        sequences: list[tuple[Tensor, Tensor]] = []  # keys and values of each branch's sequence
        for which, (parent, at, _) in enumerate(segment.branches):
            q, k, v = next(pieces)
            if at:
                k, v = (torch.cat([x[:, :, :at], own], dim=2) for x, own in zip(sequences[parent], (k, v), strict=True))
            sequences.append((k, v))
            parts.append(attend(q, k, v, partial(mask.of_branch, number, which), at > 0).transpose(1, 2))
    return torch.cat(parts, dim=1)


def _sdpa(row: PackedRow, dropout: float, scaling: float | None, _window: int | None = None) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor, seen: Seen, is_tail: bool) -> Tensor:
        mask = seen()
        groups = q.shape[1] // k.shape[1]
        # kernels that take a mask, or heads this wide, know no groups of heads
        if groups > 1 and (mask is not None or max(k.shape[-1], v.shape[-1]) > _WIDEST_GROUPED):
            k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
            groups = 1
        if mask is None and is_tail:
            mask = row.lower_right(q.shape[2], k.shape[2], q.device)
        return F.scaled_dot_product_attention(
            q, k, v, mask, dropout_p=dropout, is_causal=mask is None, scale=scaling, enable_gqa=groups > 1
        )

    return attend


def _flash(row: PackedRow, dropout: float, scaling: float | None, window: int | None = None) -> Attend:
    from flash_attn import flash_attn_func  # comes with the implementation's name, checked at load

    masked = _sdpa(row, dropout, scaling)

    def attend(q: Tensor, k: Tensor, v: Tensor, seen: Seen, is_tail: bool) -> Tensor:
        if window is None and seen() is not None:  # flash-attn knows windows, and neither chunks nor blocks
            return masked(q, k, v, seen, is_tail)
        # both masks are counted back from the last key, as all answers but the first need it
        sides = (-1, -1) if window is None else (window - 1, 0)
        out: Tensor = flash_attn_func(
            *(x.transpose(1, 2) for x in (q, k, v)),
            dropout_p=dropout,
            softmax_scale=scaling,
            causal=True,
            window_size=sides,
        )
        return out.transpose(1, 2)

    return attend


def _pair_attention(
    stock: Callable[..., Any], make: Callable[[PackedRow, float, float | None, int | None], Attend]
) -> Any:
    """The attention function to register: segment by segment for a packed row, the stock one for anything else."""

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | PackedMask | CrossMask | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> Any:
        if isinstance(attention_mask, CrossMask):
            query, key, value = _in_autocast(query, key, value)
            return attend_across(attention_mask, query, key, value, dropout=dropout, scaling=scaling), None
        if not isinstance(attention_mask, PackedMask):
            _refuse_lost_row(module, query, key)
            return stock(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
        _refuse_extras(kwargs)
        rule = attention_mask.rule
        is_window = rule.by_position and rule.reach is not None and rule.reach == kwargs.get("sliding_window")
        window = rule.reach if is_window else None
        attend = make(attention_mask.row, dropout, scaling, window)
        query = _scaled_in_its_sequence(module, attention_mask.row, query)
        query, key, value = _in_autocast(query, key, value)
        return _by_segment(attention_mask, query, key, value, attend), None

    return attention


def _scaled_in_its_sequence(module: Any, row: PackedRow, query: Tensor) -> Tensor:
    """Llama 4 scales queries of layers without rotary positions by their place in the row (its temperature, which grows
    at every ``floor_scale`` tokens); this makes it the place in their own sequence.
    """
    if not scales_by_place(module) or getattr(module, "use_rope", True):
        return query

    def scale(places: Tensor) -> Tensor:
        found: Tensor = torch.log1p(torch.floor((places.float() + 1) / module.floor_scale)) * module.attn_scale + 1
        return found

    right = scale(row.positions(query.device)) / scale(torch.arange(row.num_tokens, device=query.device))
    return (query * right[None, None, :, None]).to(query.dtype)


def scales_by_place(of: Any) -> bool:
    """Whether a layer, or the layers of a config, scale queries by their place in the row (Llama 4)."""
    return bool(getattr(of, "attn_temperature_tuning", False))


def _in_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """In the precision that autocast gives attention, where it is on.

    Rotated queries and keys of float32 weights are float32 beside half-precision values, and neither the marker of a
    causal mask nor flash-attn's function has them cast.
    """
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    return tuple(x.to(torch.get_autocast_dtype(device)) for x in tensors)


def _refuse_extras(given: Mapping[str, Any]) -> None:
    """What some models add to attention (caps, sinks, biases) would be lost here without a word."""
    if extra := [name for name in ("softcap", "s_aux", "position_bias") if given.get(name) is not None]:
        raise ConfigError(
            f"this model's attention takes '{extra[0]}', which pairs that share a prompt do not have; set "
            "model.attention: plain"
        )


def _refuse_lost_row(module: nn.Module, query: Tensor, key: Tensor) -> None:
    """A layer that reads the whole packed row without its mask would attend to everything."""
    row = row_of(getattr(module, "config", None))
    if row is None or not query.shape[2] == key.shape[2] == row.num_tokens or not getattr(module, "is_causal", True):
        return
    raise ConfigError(
        "this model does not make the masks of its attention layers as transformers' models do, so its pairs cannot "
        "share a prompt; set model.attention: plain"
    )


@cache
def register_pair_attention() -> None:
    """Make both attentions known to transformers, once in a process; a model is given them by their names."""
    stock_masks = AttentionMaskInterface()  # not those that ``padded_on_the_right`` may have put before them
    for name, stock, make in (
        ("sdpa", sdpa_attention_forward, _sdpa),
        ("flash_attention_2", flash_attention_forward, _flash),
    ):
        AttentionInterface.register(_SPLIT[name], _pair_attention(stock, make))
        AttentionMaskInterface.register(_SPLIT[name], packed_mask(without_right_padding(stock_masks[name])))


# ---- the model ---------------------------------------------------------------------------------------------------


def text_config(model: nn.Module) -> PretrainedConfig:
    """The config of the language model."""
    inner: Any = base_model(model)
    config: PretrainedConfig = inner.config.get_text_config()
    return config


def implementation(model: nn.Module) -> str:
    """The attention that the language model was loaded with, by transformers' name."""
    return str(text_config(model)._attn_implementation).removeprefix("pair_")


def use_attention(model: nn.Module, name: str) -> None:
    """Give the language model this attention; the vision tower keeps its own."""
    if text_config(model)._attn_implementation == name:
        return
    inner: Any = base_model(model)
    is_nested = inner.config.get_text_config() is not inner.config
    inner.set_attn_implementation({"text_config" if is_nested else "": name})
