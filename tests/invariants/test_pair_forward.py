"""The pair forward is the plain way to float32 rounding, and nothing of one answer reaches the other.

The plain way is ``tests.plain_forward``: each sequence alone, written by the stock processor, run by the stock model,
with all its logits.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch
from torch.nn.attention.bias import causal_lower_right

from mmpref.models import LoadedModel
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.models.logps.packed_masks import PackedRow
from mmpref.processing import LayoutName, PairBatch
from mmpref.processing.batch import Segment
from tests.plain_forward import (
    SHARING,
    all_rows,
    answers_of,
    build_deep,
    by_hand,
    collator_for,
    stock_twin,
    worst,
)
from tests.tiers import checkerboard
from tests.tiny_vlms import refs

VISION = tuple(name for name in SHARING if name != "text")


@functools.cache
def deep(name: str) -> LoadedModel:
    """For reading only."""
    return build_deep(name)


@functools.cache
def wanted(name: str) -> list[torch.Tensor]:
    with torch.no_grad():
        return by_hand(stock_twin(deep(name).model), deep(name), all_rows(name))


def logps(model: Any, batch: PairBatch) -> list[torch.Tensor]:
    with torch.no_grad():
        return answers_of(batch, answer_logps(model, batch))


# ---- log-probs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "layout"), checkerboard(SHARING, ("shared_prefix", "plain")))
def test_every_token_equals_the_stock_model_over_each_sequence_alone(name: str, layout: LayoutName) -> None:
    loaded = deep(name)
    batch = collator_for(loaded, layout)(all_rows(name))
    assert batch.shares_prefix == (layout == "shared_prefix")
    assert worst(logps(loaded.model, batch), wanted(name)) < 1e-5


@pytest.mark.parametrize("name", SHARING)
def test_packed_padded_and_alone_are_the_same(name: str) -> None:
    loaded, rows = deep(name), all_rows(name)
    for layout in ("shared_prefix", "plain"):
        collate = collator_for(loaded, layout)
        singles = [logps(loaded.model, collate([row])) for row in rows]
        alone = [one[side] for side in (0, 1) for one in singles]
        backwards = logps(loaded.model, collate(rows[::-1]))  # a text row stands last now, and images first
        count = len(rows)
        assert worst(alone, wanted(name)) < 1e-5
        assert worst([*backwards[count - 1 :: -1], *backwards[: count - 1 : -1]], wanted(name)) < 1e-5


@pytest.mark.parametrize("name", SHARING)
def test_this_would_see_a_wrong_mask_or_position(name: str) -> None:
    """The proof's own proof: weights are large enough that attention and positions move log-probs."""
    loaded = deep(name)
    batch = collator_for(loaded, "shared_prefix")(all_rows(name)[1:2])
    right, (segment,) = logps(loaded.model, batch), batch.segments
    (_, _, whole), (_, prefix, _) = segment.branches
    reads_chosen = Segment.of(segment.start, segment.num_tokens)
    assert worst(logps(loaded.model, dataclasses.replace(batch, segments=(reads_chosen,))), right) > 0.02
    assert batch.position_ids is not None
    moved = batch.position_ids.clone()
    moved[..., whole:] += whole - prefix
    assert worst(logps(loaded.model, dataclasses.replace(batch, position_ids=moved)), right) > 1e-3


@pytest.mark.parametrize("name", SHARING)
def test_no_bit_of_one_answer_reaches_the_other(name: str) -> None:
    loaded, moved = deep(name), [0.0, 0.0]
    for row in all_rows(name):
        batch = collator_for(loaded, "shared_prefix")([row])
        before, (segment,) = logps(loaded.model, batch), batch.segments
        whole, second = segment.branches
        for side, part in enumerate((slice(second.at, whole.length), slice(whole.length, segment.end))):
            ids = batch.input_ids.clone()
            ids[0, part] = (ids[0, part] + 7) % 250
            after = logps(loaded.model, dataclasses.replace(batch, input_ids=ids))
            assert torch.equal(after[1 - side], before[1 - side])
            moved[side] = max(moved[side], worst([after[side]], [before[side]]))
    assert min(moved) > 1e-3


def test_no_bit_of_one_pair_reaches_another() -> None:
    loaded = deep("qwen3_vl")
    rows = all_rows("qwen3_vl")
    collate = collator_for(loaded, "shared_prefix")
    other = dataclasses.replace(rows[2], images=refs("60x90-7", "28x60-1"), chosen="green , green", rejected="blue")
    before = logps(loaded.model, collate([rows[1], rows[2], rows[3]]))
    after = logps(loaded.model, collate([rows[1], other, rows[3]]))
    for at in (0, 2, 3, 5):
        assert torch.equal(before[at], after[at])


def test_a_text_row_through_a_vision_model_is_its_language_model_alone() -> None:
    for name in VISION:
        loaded = deep(name)
        row = all_rows(name)[0]
        assert not row.images
        batch = collator_for(loaded, "plain")([row])
        base = stock_twin(loaded.model)
        language = base.get_submodule(loaded.family.language[0])
        with torch.no_grad():
            hidden = language(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
            every = base.lm_head(hidden).log_softmax(-1).flatten(0, 1)
        mixed = logps(loaded.model, collator_for(loaded, "shared_prefix")([row, all_rows(name)[1]]))
        assert worst([mixed[0], mixed[2]], answers_of(batch, every[batch.predicts, batch.targets])) < 1e-5


@pytest.mark.parametrize("name", SHARING)
def test_float32_weights_under_autocast_take_the_mask_of_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the second answer's mask is a marker, and autocast casts nothing beside it: rotated queries are float32."""
    loaded = deep(name)
    batch = collator_for(loaded, "shared_prefix")(all_rows(name))
    with torch.autocast("cpu", torch.bfloat16):
        with_mask = logps(loaded.model, batch)
        monkeypatch.setattr(
            PackedRow, "lower_right", lambda self, rows, columns, device: causal_lower_right(rows, columns)
        )
        with_marker = logps(loaded.model, batch)
    assert worst(with_marker, with_mask) < 0.1
    assert worst(with_marker, wanted(name)) < 0.5
