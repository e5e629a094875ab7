"""What a packed row sees is what each answer alone behind its prompt sees, under every rule that models have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import masking_utils as stock

from mmpref.models.logps.packed_masks import PackedMask, PackedRow, Rule, sees
from mmpref.processing.batch import Branch, Segment

# (block of every token, -1 for none) -> the rule as transformers' models write it, and what they say of it
RULES: dict[str, Callable[[Tensor, int], Rule]] = {
    "causal": lambda _blocks, _size: Rule(),
    "window (Mistral)": lambda _blocks, size: Rule(stock.sliding_window_causal_mask_function(size), True, size),
    "chunks (Llama 4)": lambda _blocks, size: Rule(
        stock.chunked_causal_mask_function(size, torch.zeros(1, dtype=torch.long)), True, size
    ),
    "blocks (Gemma 3, full; PaliGemma)": lambda blocks, _size: Rule(
        stock.or_masks(stock.causal_mask_function, stock.blockwise_overlay(blocks)), False
    ),
    "blocks within a window (Gemma 3, sliding)": lambda blocks, size: Rule(
        stock.and_masks(
            stock.or_masks(stock.causal_mask_function, stock.blockwise_overlay(blocks)),
            stock.sliding_window_overlay(size),
        ),
        False,
    ),
    "blocks beside a window (PaliGemma 2, sliding)": lambda blocks, size: Rule(
        stock.or_masks(stock.sliding_window_causal_mask_function(size), stock.blockwise_overlay(blocks)), False, size
    ),
}

# blocks of the prompt, and of each branch: which it goes on from, how far back from that one's end, and its tokens
BRANCH = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 6))
SEGMENT = st.tuples(
    st.lists(st.integers(-1, 2), min_size=1, max_size=9), st.integers(0, 6), st.lists(BRANCH, max_size=5)
)
Tree = tuple[list[int], int, list[tuple[int, int, int]]]


def row_of_trees(segments: list[Tree]) -> PackedRow:
    found, at = [], 0
    for kinds, first, others in segments:
        branches = [Branch(-1, 0, len(kinds) + first)]
        for parent, back, length in others:
            parent %= len(branches)
            _, before, own = branches[parent]
            whole = before + own - len(kinds)  # of the parent's sequence, the prompt left out
            branches.append(Branch(parent, before + own - back % (whole + 1), length))
        found.append(Segment(at, tuple(branches)))
        at = found[-1].end
    return PackedRow(found, at)


def sequence_of(segment: Segment, number: int) -> Tensor:
    """Places in the row of the whole sequence of a branch."""
    parent, at, length = segment.branches[number]
    own = torch.arange(length) + segment.starts[number]
    return torch.cat([sequence_of(segment, parent)[:at], own]) if at else own


def row_of(lengths: list[tuple[int, int, int]]) -> PackedRow:
    segments, at = [], 0
    for prefix, first, second in lengths:
        segments.append(Segment.of(at, prefix, first, second))
        at = segments[-1].end
    return PackedRow(segments, at)


def alone(rule: Rule, length: int) -> Tensor:
    """The rule over one sequence, as transformers makes a mask of it: [length, length]."""
    mask: Any = stock.sdpa_mask(
        batch_size=1, q_length=length, kv_length=length, mask_function=rule.function, allow_is_causal_skip=False
    )
    return mask[0, 0]


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=60, deadline=None)
@given(segments=st.lists(SEGMENT, min_size=1, max_size=4), size=st.integers(1, 7))
def test_every_way_of_making_a_mask_is_the_rule_of_each_sequence_alone(
    name: str, segments: list[Tree], size: int
) -> None:
    row = row_of_trees(segments)
    lengths = [segment.num_tokens - len(kinds) for (kinds, _, _), segment in zip(segments, row.segments, strict=True)]
    blocks = torch.tensor([[b for (kinds, *_), n in zip(segments, lengths, strict=True) for b in [*kinds, *[-1] * n]]])
    rule = RULES[name](blocks, size)
    pieces = PackedMask(row, rule, "cpu")
    where = torch.arange(row.num_tokens)
    whole = sees(row, rule, "cpu")(where[:, None], where[None, :])
    want = torch.zeros_like(whole)
    for number, ((kinds, _, _), segment) in enumerate(zip(segments, row.segments, strict=True)):
        for which, branch in enumerate(segment.branches):
            sequence = sequence_of(segment, which)
            own_blocks = torch.tensor([[*kinds, *[-1] * (len(sequence) - len(kinds))]])
            seen = alone(RULES[name](own_blocks, size), len(sequence))
            mine = seen[branch.at :]
            want[sequence[branch.at :, None], sequence[None, :]] = mine
            piece = pieces.of_branch(number, which)
            assert torch.equal(causal(mine) if piece is None else piece, mine)
            assert row.positions(torch.device("cpu"))[sequence].tolist() == list(range(len(sequence)))
    assert torch.equal(whole, want)


def causal(like: Tensor) -> Tensor:
    rows, columns = like.shape
    return torch.ones(rows, columns, dtype=torch.bool).tril(columns - rows)


def test_a_rule_that_is_causal_for_a_length_makes_no_mask_and_a_longer_one_does() -> None:
    row = row_of([(5, 3, 4)])
    fits = PackedMask(row, Rule(stock.sliding_window_causal_mask_function(9), True, 9), "cpu")
    assert fits.of_branch(0, 0) is None
    assert fits.of_branch(0, 1) is None
    filled = PackedMask(row, Rule(stock.sliding_window_causal_mask_function(8), True, 8), "cpu")
    assert filled.of_branch(0, 0) is None
    assert filled.of_branch(0, 1) is not None


def test_masks_grow_with_the_pairs_and_not_with_the_row() -> None:
    """Pairs of one shape share theirs under a window; under blocks each has its own; none has that of the row."""
    row = row_of([(30, 10, 8)] * 20)
    window = PackedMask(row, Rule(stock.sliding_window_causal_mask_function(8), True, 8), "cpu")
    blocks = PackedMask(row, RULES["blocks (Gemma 3, full; PaliGemma)"](torch.full((1, row.num_tokens), -1), 0), "cpu")
    for number in range(20):
        for mask in (window, blocks):
            mask.of_branch(number, 0)
            mask.of_branch(number, 1)
    one = 40 * 40 + 8 * 38
    assert sum(piece.numel() for piece in window._pieces.values()) == one
    assert sum(piece.numel() for piece in blocks._pieces.values()) == 20 * one < row.num_tokens**2 / 10


def test_a_mask_has_no_parts() -> None:
    """Gemma 4 takes all rows of it, for layers that share their keys; a part would be lost without a word."""
    mask = PackedMask(row_of([(5, 3, 4)]), Rule(), "cpu")
    assert mask[:, :, slice(0, None), :] is mask
    with pytest.raises(IndexError):
        mask[:, :, -1:, :]
