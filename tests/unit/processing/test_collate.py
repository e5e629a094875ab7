"""Batches: chosen rows first, padding masked, images in row order, every row checked against its own images."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from mmpref.errors import DataError
from mmpref.processing import (
    EncodeError,
    PairBatch,
    PairCollator,
    PairEncoder,
    collate_pairs,
    collate_prompts,
    family_of,
)
from mmpref.processing.batch import join_vision
from tests.tiny_vlms import TINY, draw, pair


def encoder_for(name: str) -> PairEncoder:
    return PairEncoder(TINY[name].processor(), family_of(name, has_vision=True))


def test_rows_masks_and_padding() -> None:
    encoder = encoder_for("llava")
    batch = PairCollator(encoder, draw)([pair("a", chosen="yes"), pair("b", images=())])
    assert len(batch) == 2
    assert batch.pair_ids == ("a", "b")
    decode = encoder.chat.tokenizer.decode
    answers = [decode(ids[mask]) for ids, mask in zip(batch.input_ids, batch.answer_mask, strict=True)]
    rejected = "two yellow boxes and a dog .<|im_end|>"
    assert answers == ["yes<|im_end|>", "a red square .<|im_end|>", rejected, rejected]
    chosen_half, rejected_half = batch.halves(torch.arange(4))
    assert chosen_half.tolist() == [0, 1]
    assert rejected_half is not None
    assert rejected_half.tolist() == [2, 3]
    pad = encoder.chat.pad_token_id
    assert bool((batch.input_ids[batch.attention_mask == 0] == pad).all())
    assert not bool((batch.answer_mask & (batch.attention_mask == 0)).any())
    assert bool((batch.attention_mask.diff(dim=1) <= 0).all()), "padding is on the right"


def test_images_are_in_row_order_once_for_each_side() -> None:
    encoder = encoder_for("llava")
    batch = PairCollator(encoder, draw)([pair("a"), pair("b", images=("28x28-5", "28x28-6")), pair("c", images=())])
    single = [
        encoder.encode(pair(images=(name,)), draw).vision["pixel_values"] for name in ("28x28-1", "28x28-5", "28x28-6")
    ]
    torch.testing.assert_close(batch.vision["pixel_values"], torch.cat(single + single))


def test_the_model_sees_tokens_and_images_only() -> None:
    batch = PairCollator(encoder_for("qwen2_vl"), draw)([pair(score_chosen=1.0, score_rejected=0.0)])
    names = {"input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw"}
    assert set(batch.model_inputs()) == names


def test_a_swap_that_totals_would_hide_is_caught() -> None:
    encoder = encoder_for("qwen2_vl")
    one, two = (
        encoder.encode(pair(name, images=(f"{size}-1",)), draw) for name, size in (("a", "28x28"), ("b", "90x90"))
    )
    swapped = [
        dataclasses.replace(
            one, prompt=dataclasses.replace(one.prompt, vision=two.vision, image_tokens=two.prompt.image_tokens)
        ),
        dataclasses.replace(
            two, prompt=dataclasses.replace(two.prompt, vision=one.vision, image_tokens=one.prompt.image_tokens)
        ),
    ]
    collate_pairs([one, two], 0, image_token_id=encoder.chat.image_token_id)
    with pytest.raises(EncodeError, match="'a' has 1 image tokens, and its own images have 4 features"):
        collate_pairs(swapped, 0, image_token_id=encoder.chat.image_token_id)


def test_demonstrations_where_two_answers_are_needed() -> None:
    encoder = encoder_for("llava")
    with pytest.raises(DataError, match=r"'solo' has no rejected answer.*sft"):
        PairCollator(encoder, draw)([pair("solo", rejected=None)])
    batch = PairCollator(encoder, draw, need_rejected=False)([pair("solo", rejected=None), pair("both")])
    assert not batch.has_rejected
    assert batch.halves(torch.arange(2))[1] is None


def test_an_answer_without_tokens_cannot_be_built() -> None:
    encoded = encoder_for("llava").encode(pair("gone"), draw)
    empty = dataclasses.replace(encoded, chosen_ids=encoded.chosen_ids[:0])
    with pytest.raises(EncodeError, match="'gone' has an answer without a token"):
        collate_pairs([empty], 0)


def test_scores_are_nan_where_missing_and_none_where_all_are() -> None:
    collate = PairCollator(encoder_for("llava"), draw)
    batch = collate([pair(score_chosen=4.0, score_rejected=1.0), pair()])
    assert batch.scores is not None
    assert batch.scores[0][0].item() == 4.0
    assert bool(batch.scores[1].isnan().tolist() == [False, True])
    assert collate([pair()]).scores is None


def test_tiles_of_different_numbers_are_padded_and_sizes_refused() -> None:
    rows = [{"pixel_values": torch.ones(1, n, 3, 4, 4), "image_sizes": torch.ones(1, 2)} for n in (2, 5)]
    joined = join_vision([{}, *rows])
    assert joined["pixel_values"].shape == (2, 5, 3, 4, 4)
    assert joined["pixel_values"][0, 2:].abs().sum().item() == 0
    with pytest.raises(DataError, match="different sizes"):
        join_vision([{"pixel_values": torch.ones(1, 3, 4, 4)}, {"pixel_values": torch.ones(1, 3, 8, 4)}])
    with pytest.raises(DataError, match="different vision inputs"):
        join_vision([{"pixel_values": torch.ones(1, 3)}, {"patches": torch.ones(1, 3)}])


def test_prompts_are_padded_on_the_left() -> None:
    encoder = encoder_for("qwen2_vl")
    rows = [pair("a", images=("90x90-1",)), pair("b", images=(), question="what ?")]
    prompts = [encoder.encode_prompt(row.id, row.prompt, row.images, draw) for row in rows]
    inputs = collate_prompts(prompts, encoder.chat.pad_token_id, image_token_id=encoder.chat.image_token_id)
    assert inputs["attention_mask"][:, -1].tolist() == [1, 1]
    width = inputs["input_ids"].shape[1]
    for i, prompt in enumerate(prompts):
        assert inputs["input_ids"][i, width - len(prompt) :].tolist() == prompt.input_ids.tolist()
        assert inputs["attention_mask"][i].sum().item() == len(prompt)
    assert inputs["mm_token_type_ids"].sum().item() == 4


def test_loader_workers_make_the_same_batches() -> None:
    collate = PairCollator(encoder_for("qwen2_vl"), draw)
    rows = [pair(str(i), images=(f"60x30-{i}",)) for i in range(4)]
    here = [collate(rows[:2]), collate(rows[2:])]
    there = list(DataLoader(rows, batch_size=2, collate_fn=pickle.loads(pickle.dumps(collate)), num_workers=1))  # type: ignore[arg-type]
    for a, b in zip(here, there, strict=True):
        assert a.pair_ids == b.pair_ids
        torch.testing.assert_close(a.model_inputs(), b.model_inputs())


def test_to_moves_every_tensor() -> None:
    batch = PairCollator(encoder_for("qwen2_vl"), draw)([pair(score_chosen=1.0, score_rejected=0.0)])
    moved = batch.to("meta")
    tensors = [*moved.model_inputs().values(), moved.answer_mask, *(moved.scores or ())]
    assert len(tensors) == 8
    assert all(tensor.device.type == "meta" for tensor in tensors)


def test_shapes_are_checked_without_reading_values() -> None:
    ids = torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="answer_mask is"):
        PairBatch(input_ids=ids, attention_mask=ids, answer_mask=ids[:, :2].bool(), pair_ids=("a",))
    with pytest.raises(ValueError, match="2 rows for 3 pairs"):
        PairBatch(input_ids=ids, attention_mask=ids, answer_mask=ids.bool(), pair_ids=("a", "b", "c"))
    with pytest.raises(ValueError, match="score_chosen"):
        PairBatch(
            input_ids=ids, attention_mask=ids, answer_mask=ids.bool(), pair_ids=("a",), score_chosen=torch.zeros(2)
        )
