"""Which token of a packed row sees which: the model's own rule, asked about every token's own sequence.

A model of transformers says what its layers see by a function of a query's and a key's place: causal, through a window,
within a chunk, images in both directions, a prompt in both directions, and whatever its layers differ in. Nothing of
that is written again here. While a packed row runs, the function that makes masks is one of ours: it takes the model's
rule and asks it as if each answer stood alone behind its prompt.

That is exact, because rules see places in two ways only. Rules of distances and positions (``by_position``) are asked
with the positions that tokens have in their own sequence. Rules that look tokens up in a table of the row (the block
that an image's tokens form, the prompt of a prefix-LM) are asked with places in the row; for every answer but the first
the prompt's places are moved up to stand right before it, so that distances are right as well. What stands at those
places in the table does not matter: no token of an answer is in a block.

Shapes: T tokens of the row, Q queries, K keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, causal_mask_function

from mmpref.processing.batch import Segment, to_device

_DENSE = ("eager", "flex_attention")
"""Attention of transformers that takes one mask for the whole row; the model keeps the name."""


class PackedRow:
    """The segments of a row, and where every token of it stands."""

    def __init__(self, segments: Sequence[Segment], num_tokens: int) -> None:
        self.segments = tuple(segments)
        self.num_tokens = num_tokens
        if self.segments[-1].end != num_tokens:
            raise ValueError(f"segments end at {self.segments[-1].end}, and the row has {num_tokens} tokens")
        self.pieces = [branch.length for part in self.segments for branch in part.branches]
        """Lengths of all branches, in row order."""
        self._masks: dict[tuple[int, int, torch.device], Any] = {}
        self._positions: dict[torch.device, Tensor] = {}

    def positions(self, device: torch.device) -> Tensor:
        """Of every token in its own sequence: [T]."""
        if device not in self._positions:
            branches = [branch for part in self.segments for branch in part.branches]
            found = [torch.arange(branch.at, branch.at + branch.length) for branch in branches]
            self._positions[device] = to_device(torch.cat(found), device)
        return self._positions[device]

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


@dataclass(frozen=True, slots=True)
class Rule:
    """What a kind of layer sees, as the model says it to transformers."""

    function: Callable[..., Any] = causal_mask_function
    """(row of the batch, head, place of the query, place of the key) -> whether it is seen, over tensors."""
    by_position: bool = True
    """It knows distances and positions only; else it may look up what stands at a place of the row."""
    reach: int | None = None
    """Up to this length of a sequence it is causal and nothing more; None: for the causal rule itself, always."""

    def is_causal(self, length: int) -> bool:
        """Whether it says no more than causal to a sequence of this length."""
        if self.function is causal_mask_function:
            return True
        return self.by_position and self.reach is not None and length <= self.reach

    def __call__(self, query: Tensor, key: Tensor) -> Tensor:
        """Tensors of places that broadcast -> bool of the shape that they broadcast to."""
        zero = torch.zeros((), dtype=torch.long, device=query.device)
        seen: Tensor = self.function(zero, zero, query, key)
        return seen.expand(torch.broadcast_shapes(query.shape, key.shape))


class PackedMask:
    """What a model hands to its layers as their mask while a packed row runs: the row, and the rule of these layers.

    It says that it has the shape of the mask whose place it takes, for models that look at that.
    """

    ndim = 4

    def __init__(self, row: PackedRow, rule: Rule, device: torch.device | str) -> None:
        self.row = row
        self.rule = rule
        self.shape = (1, 1, row.num_tokens, row.num_tokens)
        self._device = device
        self._pieces: dict[tuple[int, int, int], Tensor] = {}

    def __getitem__(self, index: Any) -> PackedMask:
        """Only as a whole (Gemma 4 takes the rows whose output is read, which are all)."""
        if any(part not in (slice(None), slice(0, None)) for part in index):
            raise IndexError(f"a mask of a packed row has no part {index}")
        return self

    def of_branch(self, segment: int, number: int) -> Tensor | None:
        """What a branch sees of its sequence: [Q, K] bool, K all of the sequence; None where that is causal."""
        part = self.row.segments[segment]
        _, before, rows = part.branches[number]
        return self._piece(part.starts[number] - before, before, rows)

    def _piece(self, base: int, before: int, rows: int) -> Tensor | None:
        if self.rule.is_causal(before + rows):
            return None
        base = 0 if self.rule.by_position else base
        key = (base, before, rows)
        if key not in self._pieces:  # once for all layers of a kind, and for all pairs of one shape where it can be
            places = torch.arange(base, base + before + rows, device=self._device)
            self._pieces[key] = self.rule(places[before:, None], places[None, :])
        return self._pieces[key]


def sees(row: PackedRow, rule: Rule, device: torch.device | str) -> Callable[[Tensor, Tensor], Tensor]:
    """The rule over places of the row, for queries and keys anywhere in it: what is of the query's sequence.

    For attention that takes one mask; branches of a segment are as in :class:`PackedMask`.
    """
    lengths = torch.tensor(row.pieces)
    branch = torch.repeat_interleave(torch.arange(len(row.pieces)), lengths)
    base = torch.zeros(row.num_tokens, dtype=torch.long)
    if not rule.by_position:
        starts = torch.tensor([start for part in row.segments for start in part.starts])
        before = torch.tensor([branch.at for part in row.segments for branch in part.branches])
        base = torch.repeat_interleave(starts - before, lengths)
    limits = _limits(row)
    branch, base, limits = (plane.to(device) for plane in (branch, base, limits))
    position = row.positions(torch.device(device))

    def seen(query: Tensor, key: Tensor) -> Tensor:
        own = position[key] < limits[branch[query], branch[key]]
        # of another sequence's tokens the place is only kept inside the row: they are not seen
        at = (base[query] + position[key]).clamp(max=row.num_tokens - 1)
        return own & rule(base[query] + position[query], at)

    return seen


def _limits(row: PackedRow) -> Tensor:
    """How far each branch reads the others: up to this position of theirs, 0 where they are not of its sequence."""
    limits = torch.zeros(len(row.pieces), len(row.pieces), dtype=torch.long)
    first = 0
    for part in row.segments:
        for number, branch in enumerate(part.branches):
            mine, parent = limits[first + number], first + branch.parent
            if branch.parent >= 0:
                mine.copy_(limits[parent].clamp(max=branch.at))
            mine[first + number] = branch.at + branch.length
        first += len(part.branches)
    return limits


# ---- the functions that make masks -------------------------------------------------------------------------------

_running: ContextVar[tuple[PackedRow, PretrainedConfig] | None] = ContextVar("_running", default=None)


def row_of(config: Any) -> PackedRow | None:
    """The packed row that the model with this config for its language runs now; None for any other part of it."""
    running = _running.get()
    return running[0] if running is not None and running[1] is config else None


@contextmanager
def running(row: PackedRow, config: PretrainedConfig) -> Iterator[None]:
    """Inside, the language model with this config makes the masks of a packed row.

    What has another config (the vision tower) makes its own as before.
    """
    masks = ALL_MASK_ATTENTION_FUNCTIONS
    before = {name: masks[name] for name in _DENSE}
    local = {name for name in _DENSE if name in masks._local_mapping}
    token = _running.set((row, config))
    try:
        for name, stock in before.items():
            masks[name] = _dense_mask(name, stock)
        yield
    finally:
        for name, stock in before.items():
            if name in local:
                masks[name] = stock
            else:
                del masks[name]
        _running.reset(token)


def packed_mask(stock: Callable[..., Any]) -> Callable[..., Any]:
    """A mask function to register: a :class:`PackedMask` for a packed row, what ``stock`` gives for anything else."""

    def mask(*args: Any, **kwargs: Any) -> Any:
        row = row_of(kwargs.get("config"))
        if row is None:
            return stock(*args, **kwargs)
        if isinstance(made := kwargs.get("attention_mask"), PackedMask):
            return made  # by the model around the language model (PaliGemma)
        return PackedMask(row, _rule_of(kwargs), kwargs["device"])

    return mask


def _dense_mask(name: str, stock: Callable[..., Any]) -> Callable[..., Any]:
    def mask(*args: Any, **kwargs: Any) -> Any:
        row = row_of(kwargs.get("config"))
        if row is None:
            return stock(*args, **kwargs)
        device = kwargs["device"]
        seen = sees(row, _rule_of(kwargs), device)
        if name == "flex_attention":
            from torch.nn.attention.flex_attention import create_block_mask

            total = row.num_tokens
            return create_block_mask(lambda _b, _h, q, k: seen(q, k), None, None, total, total, device=device)
        where = torch.arange(row.num_tokens, device=device)
        added = torch.zeros(row.num_tokens, row.num_tokens, dtype=kwargs["dtype"], device=device)
        unseen = ~seen(where[:, None], where[None, :])
        return added.masked_fill_(unseen, torch.finfo(added.dtype).min)[None, None]

    return mask


def _rule_of(kwargs: dict[str, Any]) -> Rule:
    """From what transformers hands to every function that makes masks."""
    # it leaves the mask out where it is causal or a window or chunk of causal, and asks for one where a table is in it
    return Rule(
        function=kwargs.get("mask_function", causal_mask_function),
        by_position=bool(kwargs.get("allow_is_causal_skip", True)),
        reach=kwargs.get("local_size"),
    )
