"""Pairs of every odd shape in a shared row: each answer is what it would be alone, and each token counts once."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpref.errors import DataError
from mmpref.models import LoadedModel
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.processing import EncodeError, PairBatch, PairEncoder
from mmpref.processing.answer_tree import common_beginning
from mmpref.processing.encoded import EncodedPair, EncodedPrompt
from mmpref.processing.layout import plain_batch, shared_prefix_batch
from mmpref.processing.positions import in_sequence
from tests.plain_forward import SHARING, all_rows, answers_of, build_deep, by_hand, collator_for, stock_twin, worst
from tests.tiny_vlms import draw, pair, refs

VISION = tuple(name for name in SHARING if name != "text")
FEW = ("llava", "llava_onevision", "qwen3_vl", "idefics3")


@functools.cache
def deep(name: str) -> LoadedModel:
    """For reading only."""
    return build_deep(name)


def logps(model: Any, batch: PairBatch) -> list[torch.Tensor]:
    with torch.no_grad():
        return answers_of(batch, answer_logps(model, batch))


def hand(name: str, rows: Any) -> list[torch.Tensor]:
    with torch.no_grad():
        return by_hand(stock_twin(deep(name).model), deep(name), rows)


# ---- pairs whose answers begin alike -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FEW)
def test_edited_answers_read_their_common_beginning_once_and_count_it_twice(name: str) -> None:
    loaded = deep(name)
    rows = [
        pair("edited", chosen="the image shows a red square .", rejected="the image shows a dog and a red square ."),
        pair("begun", chosen="a cat", rejected="a cat and a dog ."),  # one goes on where the other ends
        pair("ends", chosen="there is a red square and it", rejected="there is a red square"),
        pair("apart", chosen="yes", rejected="no ."),
        pair("last", chosen="it is red", rejected="it is not"),  # only the word before the end differs
    ]
    batch = collator_for(loaded, "shared_prefix")(rows)
    assert worst(logps(loaded.model, batch), hand(name, rows)) < 1e-5
    single = collator_for(loaded, "shared_prefix")(rows[:1])
    encoded = PairEncoder(loaded.processor, loaded.family).encode(rows[0], draw)
    assert encoded.rejected_ids is not None
    common = common_beginning(encoded.chosen_ids, encoded.rejected_ids)
    assert common >= 3
    both = len(encoded.chosen_ids) + len(encoded.rejected_ids)
    assert single.num_tokens == len(encoded.prompt) + both - common
    assert single.answer_lens.tolist() == [len(encoded.chosen_ids), len(encoded.rejected_ids)]


ANSWER = st.lists(st.integers(20, 23), min_size=1, max_size=7)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(1, 5), ANSWER, ANSWER), min_size=1, max_size=4))
def test_any_two_answers_of_any_lengths_equal_their_plain_rows(rows: list[tuple[int, list[int], list[int]]]) -> None:
    """Few different tokens, so that most answers begin alike, or one is the beginning of the other."""
    model = deep("text").model
    pairs = [
        EncodedPair(
            prompt=EncodedPrompt(sample_id=str(i), input_ids=torch.arange(30, 30 + n), position_ids=in_sequence(n)),
            chosen_ids=torch.tensor(chosen),
            rejected_ids=torch.tensor(rejected),
        )
        for i, (n, chosen, rejected) in enumerate(rows)
    ]
    shared, plain = shared_prefix_batch(pairs), plain_batch(pairs, 0)
    assert torch.equal(shared.answer_lens, plain.answer_lens)
    for batch in (shared, plain):
        kept = answers_of(batch, batch.targets.float())
        assert [x.int().tolist() for x in kept] == [c for _, c, _ in rows] + [r for _, _, r in rows]
    assert worst(logps(model, shared), logps(model, plain)) < 1e-5
    alone = shared_prefix_batch(pairs, need_rejected=False)
    assert worst(logps(model, alone), logps(model, plain)[: len(rows)]) < 1e-5


# ---- images ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VISION)
def test_pairs_with_other_images_on_the_rejected_side(name: str) -> None:
    loaded = deep(name)
    rows = [
        pair("same", images=("60x60-2",)),
        pair("other", images=("28x28-1",), rejected_images=refs("90x60-5")),
        pair("two", images=("28x28-1", "60x28-2"), rejected_images=refs("60x28-2", "28x28-1")),
        pair("equal text", images=("60x60-3",), rejected_images=refs("60x60-6"), rejected="a red square ."),
    ]
    batch = collator_for(loaded, "shared_prefix")(rows)
    assert len(batch.segments) == 7  # two prompts for each pair but the first
    got = logps(loaded.model, batch)
    assert worst(got, hand(name, rows)) < 1e-5
    assert (got[3] - got[7]).abs().max() > 1e-3  # the same words after another image


@pytest.mark.parametrize("name", VISION)
def test_up_to_four_images_of_any_shape(name: str) -> None:
    loaded = deep(name)
    shapes = ("28x28-1", "120x40-2", "30x90-3", "100x100-4")
    rows = [pair(f"{n} images", images=shapes[:n]) for n in range(5)]
    assert worst(logps(loaded.model, collator_for(loaded, "shared_prefix")(rows)), hand(name, rows)) < 1e-5


@pytest.mark.parametrize("name", VISION)
def test_a_swapped_image_is_refused_although_the_totals_of_the_batch_agree(name: str) -> None:
    loaded = deep(name)
    if not loaded.family.repeats_image_token:
        pytest.skip("the processor writes image tokens and pixels of one row together")
    collate = collator_for(loaded, "shared_prefix")
    rows = [pair("small", images=("28x28-1",)), pair("large", images=("120x120-2",))]
    small, large = (collate.encoder.encode(row, draw) for row in rows)
    swapped = [
        dataclasses.replace(
            one, prompt=dataclasses.replace(one.prompt, vision=two.vision, image_tokens=two.prompt.image_tokens)
        )
        for one, two in ((small, large), (large, small))
    ]
    if sum(small.prompt.image_tokens) == sum(large.prompt.image_tokens):
        pytest.skip("every image has the same number of tokens in this family")
    with pytest.raises(EncodeError, match=r"'small' has \d+ image tokens, and its own images have \d+ features"):
        collate._batch(swapped)


# ---- lengths -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FEW)
def test_cut_answers_are_the_beginnings_of_the_whole_ones(name: str) -> None:
    loaded = deep(name)
    rows = [row for row in all_rows(name) if row.id in ("one", "edited")]
    whole = logps(loaded.model, collator_for(loaded, "shared_prefix")(rows))
    space = 6
    encoder = PairEncoder(loaded.processor, loaded.family)
    prompts = [len(encoder.encode(row, draw).prompt) for row in rows]
    for at, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        batch = collator_for(loaded, "shared_prefix", max_length=prompt + space)([row])
        assert batch.answer_lens.tolist() == [min(space, len(whole[at])), min(space, len(whole[at + len(rows)]))]
        want = [whole[at][:space], whole[at + len(rows)][:space]]
        assert worst(logps(loaded.model, batch), want) < 1e-5


def test_images_said_twice_are_the_same_images() -> None:
    loaded = deep("llava")
    twice = pair("twice", rejected_images=refs("28x28-1"))
    [segment] = collator_for(loaded, "shared_prefix")([twice]).segments
    assert len(segment.branches) == 2
    with pytest.raises(EncodeError, match="'twice' has two answers that are the same tokens"):
        collator_for(loaded, "shared_prefix")([dataclasses.replace(twice, rejected=twice.chosen)])


def test_answers_that_are_one_where_they_are_cut_never_reach_the_loss() -> None:
    loaded = deep("llava")
    row = pair("same start", chosen="the image shows a cat .", rejected="the image shows a dog .")
    prompt = len(PairEncoder(loaded.processor, loaded.family).encode(row, draw).prompt)
    with pytest.raises(EncodeError, match="two answers that are the same tokens up to token 3"):
        collator_for(loaded, "shared_prefix", max_length=prompt + 3)([row])


# ---- demonstrations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FEW)
def test_demonstrations_run_the_chosen_side_only(name: str) -> None:
    loaded = deep(name)
    rows = [pair("demo", rejected=None), pair("pair", images=("60x60-3",)), pair("plain", images=(), rejected=None)]
    collate = collator_for(loaded, "shared_prefix", need_rejected=False)
    batch = collate(rows)
    assert not batch.has_rejected
    assert all(len(segment.branches) == 1 for segment in batch.segments)
    chosen_only = [dataclasses.replace(row, rejected=None) for row in rows]
    assert worst(logps(loaded.model, batch), hand(name, chosen_only)) < 1e-5
    with pytest.raises(DataError, match=r"pair 'demo' has no rejected answer.*loss\.name: sft"):
        collator_for(loaded, "shared_prefix")(rows)


def test_rows_of_a_token_budget_are_the_batch_in_parts() -> None:
    loaded = deep("qwen2_5_vl")
    rows = all_rows("qwen2_5_vl")
    whole = logps(loaded.model, collator_for(loaded, "shared_prefix")(rows))
    for layout in ("shared_prefix", "plain"):
        parts = collator_for(loaded, layout, row_tokens=90).rows(rows)
        assert len(parts) > 2
        assert [i for part in parts for i in part.pair_ids] == [row.id for row in rows]
        assert all(part.num_tokens <= 90 or len(part) == 1 for part in parts)
        got = [logps(loaded.model, part) for part in parts]
        chosen = [x for part, found in zip(parts, got, strict=True) for x in found[: len(part)]]
        rejected = [x for part, found in zip(parts, got, strict=True) for x in found[len(part) :]]
        assert worst(chosen + rejected, whole) < 1e-5
