"""Images that are seen by cross-attention (Llama 3.2 Vision): every sequence sees its own, in both layouts."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from mmpref.errors import ConfigError
from mmpref.models import AdapterSettings, Tuning, choose_layout, choose_reference, prepare
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.processing import LayoutName, PairBatch, PairEncoder, collate_prompts
from mmpref.processing.cross_attention import SEEN
from mmpref.records import PreferencePair
from mmpref.training.trainer.preflight import preflight
from tests.plain_forward import (
    answers_of,
    by_hand,
    collator_for,
    gradient,
    relative,
    rows_for,
    stir,
    stock_sequences,
    stock_twin,
    worst,
)
from tests.recomputing import recompute
from tests.tiny_others import mllama
from tests.tiny_vlms import draw, pair, refs, turn

LAYOUTS: tuple[LayoutName, ...] = ("shared_prefix", "plain")
AFTER_OTHERS = (turn("user", "is it red ?"), turn("assistant", "yes ."), turn("user", None, None, "what of these ?"))
ROWS: list[PreferencePair] = [
    *rows_for("mllama"),  # without an image, with one and with two, begun alike, in later turns, with a begun answer
    pair(
        "after text", images=("60x40-3", "28x60-4"), prompt=AFTER_OTHERS, chosen="a cat", rejected="a cat and a dog ."
    ),
    pair("other image", images=("60x40-5",), rejected_images=refs("40x60-6"), chosen="yes", rejected="no ."),
]


def logps(model: Any, batch: PairBatch) -> list[torch.Tensor]:
    with torch.no_grad():
        return answers_of(batch, answer_logps(model, batch))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_token_equals_the_stock_model_over_each_sequence_alone(layout: LayoutName) -> None:
    loaded = mllama()
    with torch.no_grad():
        want = by_hand(stock_twin(loaded.model), loaded, ROWS)
    collate = collator_for(loaded, layout)
    assert worst(logps(loaded.model, collate(ROWS)), want) < 1e-5
    singles = [logps(loaded.model, collate([row])) for row in ROWS]
    assert worst([one[side] for side in (0, 1) for one in singles], want) < 1e-5
    count, backwards = len(ROWS), logps(loaded.model, collate(ROWS[::-1]))
    assert worst([*backwards[count - 1 :: -1], *backwards[: count - 1 : -1]], want) < 1e-5


def test_what_tokens_see_is_what_the_processor_says_of_the_whole_conversation() -> None:
    loaded = mllama()
    rows = [row for row in ROWS if row.rejected_images is None]
    batch = collator_for(loaded, "plain")(rows)
    whole = [sides[side].inputs for side in (0, 1) for sides in (stock_sequences(loaded, row) for row in rows)]
    assert batch.cross_seen is not None
    for seen, inputs, crossing in zip(batch.cross_seen, whole, batch.crossings, strict=True):
        length = inputs["input_ids"].shape[1]
        assert (crossing.start, crossing.end) == (0, length)
        assert not seen[length:].any()
        if SEEN not in inputs:
            assert crossing.first == crossing.last
            continue
        assert torch.equal(seen[:length, : crossing.last], inputs[SEEN][0].bool())
        assert not seen[:, crossing.last :].any()


def test_a_packed_row_has_each_image_once() -> None:
    loaded = mllama()
    shared, plain = (collator_for(loaded, layout)(ROWS[:4]) for layout in LAYOUTS)
    images = sum(len(row.images) for row in ROWS[:4])
    assert shared.vision["pixel_values"].shape[:2] == (1, images)
    assert plain.vision["pixel_values"].shape[:2] == (8, 2)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_both_layouts_are_those_of_the_stock_model(checkpointing: bool) -> None:
    loaded = mllama()
    twin = stock_twin(loaded.model).requires_grad_(True)
    torch.stack([one.square().mean() for one in by_hand(twin, loaded, ROWS)]).sum().backward()
    want = gradient(twin)
    for layout in LAYOUTS:
        loaded = mllama()
        model = loaded.model.requires_grad_(True).train()
        if checkpointing:
            recompute(model)
        batch = collator_for(loaded, layout)(ROWS)
        torch.stack([one.square().mean() for one in answers_of(batch, answer_logps(model, batch))]).sum().backward()
        assert relative(gradient(model), want) < 2e-5


def test_images_and_the_layers_that_see_them_matter() -> None:
    loaded = mllama()
    batch = collator_for(loaded, "shared_prefix")(ROWS)
    before = logps(loaded.model, batch)
    blank = {**batch.vision, "pixel_values": torch.full_like(batch.vision["pixel_values"], 0.1)}
    after = logps(loaded.model, dataclasses.replace(batch, vision=blank))
    count = len(ROWS)
    for at, row in enumerate([*ROWS, *ROWS]):
        moved = float((before[at] - after[at]).abs().max())
        assert moved > 1e-3 if row.images else moved == 0.0
    turned = batch.crossings[1]._replace(first=batch.crossings[2].first, last=batch.crossings[2].first + 1)
    other = dataclasses.replace(batch, crossings=(batch.crossings[0], turned, *batch.crossings[2:]))
    moved_by_other = logps(loaded.model, other)
    assert float((moved_by_other[1] - before[1]).abs().max()) > 1e-3
    assert all(torch.equal(moved_by_other[at], before[at]) for at in (0, 2, count, count + 2))


def test_it_shares_prompts_passes_every_start_up_check_and_trains() -> None:
    loaded = prepare(mllama(), Tuning(projector="full", language="lora"), AdapterSettings(rank=4))
    assert choose_layout(loaded.model, loaded.family).name == "shared_prefix"
    for layout in LAYOUTS:
        checks = preflight(loaded.model, collator_for(loaded, layout), ROWS, choose_reference(loaded.model))
        assert "projector 2 of 2" in checks[-1].detail


def test_a_policy_and_its_reference_see_the_same() -> None:
    loaded = prepare(mllama(), Tuning(language="lora"), AdapterSettings(rank=4))
    batch = collator_for(loaded, "shared_prefix")(ROWS)
    reference = choose_reference(loaded.model)
    want, _, _ = reference.logps(batch)
    stir(loaded.model)
    again, _, _ = reference.logps(batch)
    assert torch.allclose(want, again, atol=1e-5)


def test_generation_of_a_batch_is_that_of_each_alone() -> None:
    loaded = mllama()
    encoder = PairEncoder(loaded.processor, loaded.family)
    rows = [row for row in ROWS if len(row.images) == 2]
    prompts = [encoder.encode(row, draw).prompt for row in rows]
    pad = encoder.chat.pad_token_id
    together = loaded.model.generate(**collate_prompts(prompts, pad), max_new_tokens=6, do_sample=False)[:, -6:]
    for prompt, found in zip(prompts, together, strict=True):
        alone = loaded.model.generate(**collate_prompts([prompt], pad), max_new_tokens=6, do_sample=False)[0, -6:]
        assert torch.equal(alone, found)


def test_an_attention_that_cannot_do_it_is_refused() -> None:
    loaded = mllama()
    loaded.model.set_attn_implementation({"text_config": "eager"})
    batch = collator_for(loaded, "plain")(ROWS[:2])
    with pytest.raises(ConfigError, match=r"set model\.attn_implementation: sdpa"):
        logps(loaded.model, batch)
