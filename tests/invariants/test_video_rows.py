"""Pairs with videos: log-probs are those of the stock model on whole conversations, in every batch and layout."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from mmpref.models import LoadedModel, LoadSettings, load
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.processing import LayoutName, PairBatch
from tests.model_types.qwen import WRITERS
from tests.plain_forward import (
    SEE_VIDEOS,
    answers_of,
    build_deep,
    by_hand,
    collator_for,
    rows_for,
    stock_twin,
    video_rows,
    worst,
)
from tests.tiny_vlms import pair, video_config

CLOSE = 1e-4
"""Nats a token."""
LAYOUTS: tuple[LayoutName, ...] = ("shared_prefix", "plain")


@pytest.fixture(scope="module", params=SEE_VIDEOS)
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return build_deep(request.param)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_row_is_what_the_stock_model_makes_of_the_whole_conversation(
    loaded: LoadedModel, layout: LayoutName
) -> None:
    for row in video_rows():
        batch = collator_for(loaded, layout)([row])
        with torch.no_grad():
            ours = answers_of(batch, answer_logps(loaded.model, batch))
            assert worst(ours, by_hand(loaded.model, loaded, [row])) < CLOSE, row.id


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_of_text_images_and_videos_in_one_batch_do_not_change_each_other(
    loaded: LoadedModel, layout: LayoutName
) -> None:
    videos = video_rows()
    rows = [videos[0], *rows_for(loaded.path)[:3], *videos[1:]]
    batch = collator_for(loaded, layout)(rows)
    with torch.no_grad():
        ours = answers_of(batch, answer_logps(loaded.model, batch))
        assert worst(ours, by_hand(loaded.model, loaded, rows)) < CLOSE


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_image_that_only_one_side_has_stands_beside_the_video_of_both(
    loaded: LoadedModel, layout: LayoutName
) -> None:
    row = pair("edited", images=("60x60-1",), videos=("60x60x4-1",), rejected_images=None)
    other = pair("other", images=("60x60-9",), videos=("60x60x4-1",))
    edited = pair("edited", images=("60x60-1",), videos=("60x60x4-1",), rejected_images=other.images)
    batch = collator_for(loaded, layout)([edited])
    with torch.no_grad():
        chosen, rejected = answers_of(batch, answer_logps(loaded.model, batch))
        want_chosen, _ = by_hand(loaded.model, loaded, [row])
        _, want_rejected = by_hand(loaded.model, loaded, [other])
    assert worst([chosen, rejected], [want_chosen, want_rejected]) < CLOSE


def test_every_frame_matters(loaded: LoadedModel) -> None:
    """Otherwise the tests above would say nothing of frames."""
    batch = collator_for(loaded)([pair("film", images=(), videos=("60x60x4-1",))])
    with torch.no_grad():
        before = answer_logps(loaded.model, batch)
        pixels = batch.vision["pixel_values_videos"]
        for frame in range(4):
            changed = pixels.clone()
            if pixels.dim() == 5:
                changed[:, frame] = 0
            else:
                of_patches = changed.view(2, len(pixels) // 2, 3, 2, -1)  # patches in time, places, colours, frames
                of_patches[frame // 2, :, :, frame % 2] = 0
            moved = answer_logps(loaded.model, _with_pixels(batch, changed))
            assert float((moved - before).abs().max()) > 1e-3, frame


def _with_pixels(batch: PairBatch, pixels: torch.Tensor) -> PairBatch:
    return dataclasses.replace(batch, vision={**batch.vision, "pixel_values_videos": pixels})


def test_gradients_are_those_of_separate_rows(loaded: LoadedModel) -> None:
    """Of the tower too, which images and videos of a batch run through one after the other."""
    rows = [*video_rows()[:2], pair("image", images=("60x60-1",)), *video_rows()[2:]]
    found = []
    for layout in LAYOUTS:
        model = loaded.model.requires_grad_(True)
        model.zero_grad()
        batch = collator_for(loaded, layout)(rows)
        chosen, rejected, _ = batch.by_side(batch.by_answer(answer_logps(model, batch)).sum(dim=1))
        assert rejected is not None
        torch.nn.functional.logsigmoid(0.1 * (chosen - rejected)).sum().backward()
        found.append({name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None})
        model.zero_grad()
        model.requires_grad_(False)
    shared, plain = found
    assert shared.keys() == plain.keys()
    assert any(loaded.family.part_of(name) == "vision" for name in shared)
    for name, gradient in shared.items():
        torch.testing.assert_close(gradient, plain[name], atol=2e-5, rtol=2e-3)


@pytest.mark.parametrize("name", ["qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"])
def test_types_that_share_the_row_of_qwen3_vl(name: str, tmp_path: Path) -> None:
    """From their folders, with the templates that Qwen publishes."""
    folder = WRITERS[name](tmp_path)
    written = json.dumps(video_config("qwen3_vl"))
    (folder / "video_preprocessor_config.json").write_text(written, encoding="utf-8")
    found = load(folder, LoadSettings(dtype="float32"))
    rows = [pair("image"), *video_rows()]
    for layout in ("shared_prefix", "plain") if found.family.shared_prefix else ("plain",):
        batch = collator_for(found, layout)(rows)
        with torch.no_grad():
            ours = answers_of(batch, answer_logps(found.model, batch))
            want = by_hand(stock_twin(found.model), found, rows)
        assert worst(ours, want) < CLOSE
