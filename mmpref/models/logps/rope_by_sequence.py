"""Rotary positions of a batch, each sequence turned as if it were alone.

Some models turn the tokens of long sequences at other speeds (``processing.rope_lengths``), and transformers takes the
longest sequence of a batch for all of them: what a pair's log-probs are would change with the pairs beside it, and with
the padding. With dynamic scaling its module also remembers the longest that it was given.

Here the module is asked for one sequence at a time. All answers of a packed prompt have one length to it: those that
have not are laid out behind prompts of their own (``EncodedPair.readings``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmpref.models.unwrap import base_model
from mmpref.processing.batch import PairBatch
from mmpref.processing.rope_lengths import RopeLengths, rope_lengths


class _Span(NamedTuple):
    """Tokens of a sequence, or of a segment of a packed row."""

    row: int
    start: int
    end: int


@contextmanager
def turning_by_sequence(model: nn.Module, batch: PairBatch) -> Iterator[None]:
    """Inside, rotary positions of the language model are those of each sequence alone."""
    base: Any = base_model(model)
    found = rope_lengths(base.config.get_text_config()) if hasattr(base, "config") else None
    if found is None or _all_alike(found, batch):
        yield
        return
    spans = _spans(batch)
    modules = [module for module in base.modules() if _changes(module)]
    try:
        for module in modules:
            module.forward = partial(_by_sequence, module, spans)
        yield
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)


def forget_lengths(model: nn.Module) -> None:
    """Let the next sequence be the first that the model is given: dynamic scaling remembers the longest."""
    for module in base_model(model).modules():
        if _changes(module):
            _forget_lengths(module)


def _all_alike(found: RopeLengths, batch: PairBatch) -> bool:
    """Whether the longest that the batch can hold is short; told without a look at the device."""
    planes = batch.position_ids
    if planes is not None and planes.dim() == 3:  # of a video, they may go further than there are tokens
        return False
    if not batch.segments:
        return found.all_alike(batch.input_ids.shape[1])
    return found.all_alike(max(part.longest for part in batch.segments))


def _spans(batch: PairBatch) -> list[_Span]:
    if batch.segments:
        return [_Span(0, part.start, part.end) for part in batch.segments]
    if batch.attention_mask is None:
        raise ValueError("a batch without segments has a mask")
    return [_Span(row, 0, length) for row, length in enumerate(batch.attention_mask.sum(dim=1).tolist())]


def _changes(module: nn.Module) -> bool:
    """Whether a module turns positions by frequencies that depend on a length."""
    kind: Any = getattr(module, "rope_type", None)
    kinds = kind.values() if isinstance(kind, Mapping) else [kind]
    return any(isinstance(one, str) and ("dynamic" in one or one == "longrope") for one in kinds)


def _by_sequence(
    module: Any, spans: list[_Span], x: Tensor, position_ids: Tensor, *args: Any, **kwargs: Any
) -> Tensor | tuple[Tensor, ...]:
    """In place of the module's forward: [N, T, ...], put together from the sequences' own."""
    width, rows = x.shape[1], x.shape[0]
    stock: Callable[..., Any] = partial(type(module).forward, module)
    parts = []
    for row, start, end in spans:
        of_row = slice(row, row + 1) if position_ids.shape[-2] == rows else slice(None)  # else one set for all rows
        _forget_lengths(module)
        found = stock(x[row : row + 1, start:end], position_ids[..., of_row, start:end], *args, **kwargs)
        parts.append(found if isinstance(found, tuple) else (found,))
    _forget_lengths(module)
    is_packed = rows == 1 and spans[-1].end == width
    whole = tuple(_joined(one, width, is_packed=is_packed) for one in zip(*parts, strict=True))
    return whole if len(whole) > 1 else whole[0]


def _joined(parts: tuple[Tensor, ...], width: int, *, is_packed: bool) -> Tensor:
    """Segments one behind the other, or rows padded to one width."""
    if is_packed:
        return torch.cat(parts, dim=-2)
    padded = [nn.functional.pad(part, (0, 0, 0, width - part.shape[-2])) for part in parts]
    return torch.cat(padded, dim=-3)


def _forget_lengths(module: Any) -> None:
    """Bring dynamic scaling back to where it starts."""
    kind = module.rope_type
    kinds = {f"{layer}_": one for layer, one in kind.items()} if isinstance(kind, Mapping) else {"": kind}
    for prefix, one in kinds.items():
        if "dynamic" in str(one):
            setattr(module, f"{prefix}inv_freq", getattr(module, f"{prefix}original_inv_freq"))
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
