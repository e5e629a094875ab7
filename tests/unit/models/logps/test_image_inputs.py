"""What the host tells a model of its images is what the model would have found out by waiting for the device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

from mmpref.errors import DataError
from mmpref.models import LoadedModel, Tuning, prepare
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.models.logps.image_inputs import _of_grids, as_lists, image_inputs
from mmpref.models.logps.right_padding import padded_on_the_right, without_right_padding
from mmpref.processing import PairBatch, PairCollator, PairEncoder
from tests.plain_forward import SEE_VIDEOS, build_deep, collator_for, gradient, relative, video_rows
from tests.tiers import checkerboard
from tests.tiny_vlms import build_model, draw, pair

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
PLACED = ("llava", "llava_next", "llava_onevision", "internvl", *QWEN)
ALL = Tuning(vision="full", projector="full", language="full")


def loaded_and_batch(name: str, layout: Any = "shared_prefix") -> tuple[LoadedModel, PairBatch]:
    loaded = prepare(build_deep(name), ALL)
    rows = [pair("one"), pair("two", images=("90x60-2", "28x28-3")), pair("none", images=(), chosen="yes")]
    return loaded, PairCollator(PairEncoder(loaded.processor, loaded.family), draw, layout=layout)(rows)


def run(loaded: LoadedModel, batch: PairBatch) -> tuple[Tensor, Tensor]:
    loaded.model.zero_grad(set_to_none=True)
    found = answer_logps(loaded.model, batch)
    (found * torch.linspace(-1, 1, len(found))).sum().backward()
    return found.detach(), gradient(loaded.model)


@pytest.mark.parametrize("layout", ["shared_prefix", "plain"])
@pytest.mark.parametrize("name", PLACED)
def test_log_probs_and_gradients_are_those_of_the_models_own_ways(name: str, layout: Any) -> None:
    loaded, batch = loaded_and_batch(name, layout)
    own, of_own = run(loaded, replace(batch, image_places=None, image_grids=()))
    for _ in range(2):  # the first time the model's own way is looked at
        with_inputs, of_with = run(loaded, batch)
        assert float((with_inputs - own).abs().max()) < 1e-6
        assert relative(of_with, of_own) < 1e-6
    assert batch.image_places is not None
    assert len(batch.image_places) > 0


@pytest.mark.parametrize("name", QWEN)
def test_a_tower_is_given_what_it_makes_of_its_grids(name: str) -> None:
    loaded, batch = loaded_and_batch(name)
    given_inputs = image_inputs(loaded.model, batch)
    assert given_inputs.pop("image_grid_thw").tolist() == batch.vision["image_grid_thw"].tolist()
    patches = len(batch.vision["pixel_values"])
    assert len(given_inputs["image_position_ids"]) == patches
    assert int(given_inputs["image_cu_seqlens"][-1]) == patches
    assert ("image_window_index" in given_inputs) == (name == "qwen2_5_vl")
    assert ("image_interp_weights" in given_inputs) == (name == "qwen3_vl")
    assert image_inputs(loaded.model, replace(batch, image_grids=())) == {}


@pytest.mark.parametrize(("name", "layout"), checkerboard(SEE_VIDEOS, ("shared_prefix", "plain")))
def test_videos_and_images_of_one_batch_are_each_given_their_own(name: str, layout: Any) -> None:
    loaded = prepare(build_deep(name), ALL)
    batch = collator_for(loaded, layout)([pair("image", images=("90x60-2",)), *video_rows()])
    alone = collator_for(loaded, layout)(video_rows()[:2])
    for one in (batch, alone):
        own, of_own = run(loaded, replace(one, image_grids=(), video_grids=(), image_places=None, video_places=None))
        for _ in range(2):  # the first time the model's own way is looked at
            with_inputs, of_with = run(loaded, one)
            assert float((with_inputs - own).abs().max()) < 1e-6
            assert relative(of_with, of_own) < 1e-6
    assert batch.image_places is not None
    assert batch.video_places is not None
    assert alone.image_places is None
    assert alone.video_places is not None
    given_inputs = image_inputs(loaded.model, batch)
    if name in QWEN:
        assert int(given_inputs["image_cu_seqlens"][-1]) == len(batch.vision["pixel_values"])
        assert int(given_inputs["video_cu_seqlens"][-1]) == len(batch.vision["pixel_values_videos"])
        assert given_inputs["video_grid_thw"].tolist() == batch.vision["video_grid_thw"].tolist()


@pytest.mark.parametrize("name", QWEN)
def test_a_step_after_scoring_the_same_images_has_gradients(name: str) -> None:
    """What is kept for a grid is not what inference mode made."""
    loaded, batch = loaded_and_batch(name)
    _of_grids.cache_clear()
    with torch.inference_mode():
        scored = answer_logps(loaded.model, batch).clone()
    found, of_found = run(loaded, batch)
    assert float((found - scored).abs().max()) < 1e-5
    assert float(of_found.norm()) > 0


def test_a_model_that_puts_features_elsewhere_keeps_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, batch = loaded_and_batch("llava")
    inner: Any = loaded.model.model
    stock, calls = inner.get_placeholder_mask, []

    def elsewhere(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return stock(*args, **kwargs).roll(1, dims=1)

    want, _ = run(loaded, replace(batch, image_places=None))
    monkeypatch.setattr(inner, "get_placeholder_mask", elsewhere)
    moved = [run(loaded, batch)[0] for _ in range(3)]
    assert len(calls) == 3
    assert all(float((one - want).abs().max()) > 1e-3 for one in moved)


def test_features_that_are_not_as_many_as_image_tokens_are_refused() -> None:
    loaded, batch = loaded_and_batch("llava")
    assert batch.image_places is not None
    with pytest.raises(DataError, match=r"pairs one, two, none have 11 image tokens and the model makes 12 features"):
        answer_logps(loaded.model, replace(batch, image_places=batch.image_places[:-1]))


def test_features_that_are_not_as_many_as_video_tokens_are_refused() -> None:
    loaded = prepare(build_deep("qwen2_vl"), ALL)
    batch = collator_for(loaded)(video_rows()[:1])
    assert batch.video_places is not None
    with pytest.raises(DataError, match=r"pairs film have \d+ video tokens and the model makes \d+ features"):
        answer_logps(loaded.model, replace(batch, video_places=batch.video_places[:-1]))


def test_only_what_is_known_to_be_padded_on_the_right_loses_its_mask() -> None:
    given: list[Any] = []
    mask = without_right_padding(
        lambda *args, attention_mask=None, mask_function=None, **rest: given.append(attention_mask)
    )
    padded = torch.tensor([[0, 1, 1]])
    mask(attention_mask=padded)
    with padded_on_the_right():
        mask(attention_mask=padded)
        mask(attention_mask=padded, mask_function=lambda *where: True)  # windows, prompts read in both directions
    mask(attention_mask=padded)
    assert [one is None for one in given] == [False, True, False, False]


def test_a_model_without_a_row_keeps_its_own_way() -> None:
    """Gemma 4 asks for the places of its images without their features, and wants three masks."""
    text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = tf.Gemma4Config(
        text_config={
            **text,
            "head_dim": 16,
            "global_head_dim": 16,
            "num_key_value_heads": 2,
            "pad_token_id": 0,
            "vocab_size": 200,
            "vocab_size_per_layer_input": 200,
            "hidden_size_per_layer_input": 8,
            "num_kv_shared_layers": 0,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        vision_config={
            **text,
            "head_dim": 16,
            "num_key_value_heads": 4,
            "patch_size": 4,
            "position_embedding_size": 64,
            "pooling_kernel_size": 2,
        },
        audio_config=None,
        image_token_id=199,
        video_token_id=198,
        audio_token_id=197,
    )
    model = tf.Gemma4ForConditionalGeneration(config).eval()
    ids = torch.tensor([[199] * 4 + [5, 6, 7, 8], [199] * 4 + [5, 6, 9, 10]])
    patches = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="xy"), dim=-1).view(1, 16, 2)
    batch = PairBatch(
        input_ids=ids,
        predicts=torch.tensor([5, 6, 13, 14]),
        targets=torch.tensor([7, 8, 9, 10]),
        answers=torch.tensor([[0, 1], [2, 3]]),
        answer_lens=torch.tensor([2, 2]),
        pair_ids=("one",),
        attention_mask=torch.ones_like(ids),
        vision={"pixel_values": torch.rand(2, 16, 48), "image_position_ids": patches.expand(2, -1, -1)},
        token_types={"mm_token_type_ids": ids.eq(199).long()},
        image_token_id=199,
        image_places=ids.flatten().eq(199).nonzero().flatten(),
    )
    with torch.no_grad():
        logits = model(**batch.model_inputs(), use_cache=False).logits.flatten(0, 1)[batch.predicts]
        want = logits.log_softmax(-1).gather(1, batch.targets[:, None])[:, 0]
        assert float((answer_logps(model, batch) - want).abs().max()) < 1e-5


def test_a_model_that_takes_lists_of_numbers_is_given_lists() -> None:
    """Unlimited-OCR's numbers of patches and grids; a tensor of the same name elsewhere stays one."""

    class Lists(tf.LlamaForCausalLM):
        def forward(  # type: ignore[override]
            self, input_ids: Tensor, grids: list[list[int]] | None = None, sizes: Tensor | None = None
        ) -> None: ...

    model = Lists(build_model("text").config)
    numbers = torch.tensor([[1, 2], [3, 4]])
    found = as_lists(model, {"input_ids": numbers, "grids": numbers, "sizes": numbers, "use_cache": False})
    assert found["grids"] == [[1, 2], [3, 4]]
    assert found["sizes"] is numbers
    assert found["input_ids"] is numbers
    assert found["use_cache"] is False


def test_a_model_that_counts_other_features_by_itself_is_told_with_the_pairs() -> None:
    loaded = build_deep("idefics3")
    batch = collator_for(loaded)([pair("one")])
    word = loaded.tokenizer("what is", add_special_tokens=False)["input_ids"][0]
    loaded.model.model.image_token_id = loaded.model.config.image_token_id = word
    with pytest.raises(DataError, match=r"pairs one: .*do not match.* use the config\.json, the processor and the tok"):
        answer_logps(loaded.model, batch)
