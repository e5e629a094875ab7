"""Attention over a packed row in which both answers of a pair read one copy of their prompt.

A row holds segments ``[prefix | first | second]``; the second answer must not see the first. Each attention library has
its own way to say that:

==================  ===================================================================================================
sdpa                two calls for each segment: causal over prefix + first, and second over prefix + second. No mask of
                    all tokens by all tokens exists, and no product is computed to be thrown away.
flash_attention_2   the same two calls through flash-attn, whose causal mask is aligned to the last key.
flex_attention      one call with a block mask.
eager               one call with an additive mask [1, 1, T, T].
==================  ===================================================================================================

The first two replace the language model's attention under a name of our own, and behave as the original does for any
input that is not a packed row (plain batches, generation).

Shapes: T tokens of the row, h heads, d head size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PretrainedConfig
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface

from mmpref.errors import ConfigError
from mmpref.models.logps.right_padding import without_right_padding
from mmpref.models.unwrap import base_model
from mmpref.processing.batch import PairBatch, Segment

_SPLIT = {"sdpa": "pair_sdpa", "flash_attention_2": "pair_flash_attention_2"}
IMPLEMENTATIONS = (*_SPLIT, "flex_attention", "eager")
"""What a model may be loaded with (``attn_implementation``) to share prefixes."""


class PackedRow:
    """The segments of a row on their way to every attention layer, with what is made once for all of them."""

    def __init__(self, segments: Sequence[Segment], num_tokens: int) -> None:
        self.segments = tuple(segments)
        if self.segments[-1].end != num_tokens:
            raise ValueError(f"segments end at {self.segments[-1].end}, and the row has {num_tokens} tokens")
        self.pieces = [n for part in self.segments for n in (part.prefix + part.first, part.second) if n]
        """Lengths of what attends together, in row order: prefix + first, then second where there is one."""
        self._masks: dict[tuple[int, int, torch.device], Any] = {}

    def lower_right(self, rows: int, columns: int, device: torch.device) -> Any:
        """Causal attention of the last ``rows`` of ``columns`` tokens, as ``scaled_dot_product_attention`` takes it."""
        key = (rows, columns, device)
        if key not in self._masks:
            self._masks[key] = _lower_right(rows, columns, device)
        return self._masks[key]


def _lower_right(rows: int, columns: int, device: torch.device) -> Any:
    if device.type == "cuda":
        from torch.nn.attention.bias import causal_lower_right

        return causal_lower_right(rows, columns)  # a marker: the flash kernel needs no mask in memory
    return torch.ones(rows, columns, dtype=torch.bool, device=device).tril(columns - rows)


def packed_inputs(model: nn.Module, batch: PairBatch) -> dict[str, Any]:
    """What the model needs besides ``batch.model_inputs()`` to attend within segments; {} for a plain batch.

    Raises:
        ConfigError: the model's attention cannot run a packed row.
    """
    if not batch.shares_prefix:
        return {}
    name = implementation(model)
    row = PackedRow(batch.segments, batch.num_tokens)
    device = batch.input_ids.device
    if name in _SPLIT:
        register_pair_attention()
        use_attention(model, _SPLIT[name])
        # a mask of no elements: transformers hands any 4D mask on untouched, and a layer that missed the row would
        # fail on this one instead of attending to everything
        return {"pair_row": row, "attention_mask": torch.zeros(1, 1, 0, 0, dtype=torch.bool, device=device)}
    if name == "flex_attention":
        return {"attention_mask": _block_mask(row, batch.num_tokens, device)}
    if name == "eager":
        seen = visible(row, batch.num_tokens, device)
        mask = torch.zeros(seen.shape, dtype=_dtype(model), device=device)
        return {"attention_mask": mask.masked_fill_(~seen, torch.finfo(mask.dtype).min)[None, None]}
    raise ConfigError(f"attention '{name}' cannot run pairs that share their prompt; set model.attention: plain")


def visible(row: PackedRow, num_tokens: int, device: torch.device | str = "cpu") -> Tensor:
    """Which token sees which: [T, T] bool."""
    where = torch.arange(num_tokens, device=device)
    return _sees(row, num_tokens, device)(where[:, None], where[None, :])


def _sees(row: PackedRow, num_tokens: int, device: torch.device | str) -> Callable[[Tensor, Tensor], Tensor]:
    """The rule itself, for places of queries and keys: same segment, not later, and not the other answer."""
    segment = torch.empty(num_tokens, dtype=torch.long)
    branch = torch.zeros(num_tokens, dtype=torch.long)
    for number, part in enumerate(row.segments):
        segment[part.start : part.end] = number
        middle = part.start + part.prefix
        branch[middle : middle + part.first] = 1
        branch[middle + part.first : part.end] = 2
    segment, branch = segment.to(device), branch.to(device)

    def rule(query: Tensor, key: Tensor) -> Tensor:
        same = (segment[query] == segment[key]) & (key <= query)
        return same & ((branch[key] == 0) | (branch[key] == branch[query]))

    return rule


def _block_mask(row: PackedRow, num_tokens: int, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    rule = _sees(row, num_tokens, device)
    return create_block_mask(lambda _b, _h, q, k: rule(q, k), None, None, num_tokens, num_tokens, device=device)


# ---- the attention functions -------------------------------------------------------------------------------------

Attend = Callable[[Tensor, Tensor, Tensor, bool], Tensor]
"""(query, key, value [1, h, t, d], whether rows are the last of the keys) -> [1, h, t, d], causal."""


def _by_segment(row: PackedRow, query: Tensor, key: Tensor, value: Tensor, attend: Attend) -> Tensor:
    """[1, T, h, d]. The row is split once: the gradient of a split is one copy, that of each slice a row of zeros."""
    pieces = zip(*(x.split(row.pieces, dim=2) for x in (query, key, value)), strict=True)
    parts: list[Tensor] = []
    for _, prefix, _, second in row.segments:
        q, k, v = next(pieces)
        parts.append(attend(q, k, v, False).transpose(1, 2))
        if second:
            q, *own = next(pieces)
            keys, values = (torch.cat([x[:, :, :prefix], rest], dim=2) for x, rest in zip((k, v), own, strict=True))
            parts.append(attend(q, keys, values, True).transpose(1, 2))
    return torch.cat(parts, dim=1)


def _refuse_window(row: PackedRow, window: int | None) -> None:
    if window is None:
        return
    longest = max(part.prefix + max(part.first, part.second) for part in row.segments)
    if longest > window:
        raise ConfigError(
            f"a pair of {longest} tokens is longer than the attention window of {window} tokens; set "
            f"processing.max_length to {window} or model.attention to plain"
        )


def _sdpa(row: PackedRow, dropout: float, scaling: float | None) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor, is_tail: bool) -> Tensor:
        mask = row.lower_right(q.shape[2], k.shape[2], q.device) if is_tail else None
        is_grouped = q.shape[1] != k.shape[1]
        return F.scaled_dot_product_attention(
            q, k, v, mask, dropout_p=dropout, is_causal=not is_tail, scale=scaling, enable_gqa=is_grouped
        )

    return attend


def _flash(row: PackedRow, dropout: float, scaling: float | None) -> Attend:
    from flash_attn import flash_attn_func  # comes with the implementation's name, checked at load

    def attend(q: Tensor, k: Tensor, v: Tensor, _is_tail: bool) -> Tensor:
        out: Tensor = flash_attn_func(
            *(x.transpose(1, 2) for x in (q, k, v)), dropout_p=dropout, softmax_scale=scaling, causal=True
        )
        return out.transpose(1, 2)

    return attend


def _pair_attention(stock: Callable[..., Any], make: Callable[[PackedRow, float, float | None], Attend]) -> Any:
    """The attention function to register: segment by segment for a packed row, the stock one for anything else."""

    def attention(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        pair_row: PackedRow | None = None,
        **kwargs: Any,
    ) -> Any:
        if pair_row is None:
            _refuse_lost_row(attention_mask)
            return stock(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs)
        _refuse_window(pair_row, kwargs.get("sliding_window"))
        _refuse_extras(kwargs)
        attend = make(pair_row, dropout, scaling)
        query, key, value = _in_autocast(query, key, value)
        return _by_segment(pair_row, query, key, value, attend), None

    return attention


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


def _refuse_lost_row(attention_mask: Tensor | None) -> None:
    if attention_mask is not None and attention_mask.numel() == 0:
        raise ConfigError(
            "this model does not hand keyword arguments on to its attention layers, so its pairs cannot share a "
            "prompt; set model.attention: plain"
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
        AttentionMaskInterface.register(_SPLIT[name], without_right_padding(stock_masks[name]))


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
    inner.set_attn_implementation({"text_config": name} if is_nested else name)


def _dtype(model: nn.Module) -> torch.dtype:
    """Of the language model; the tower may be kept in another."""
    inner: Any = base_model(model)
    dtype: torch.dtype = inner.get_input_embeddings().weight.dtype
    return dtype
