"""Every attention library says the same about a packed row, and none of them can lose it in silence."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmpref.errors import ConfigError
from mmpref.models import LoadedModel, choose_layout, prepare
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.models.logps.shared_prefix_attention import implementation, text_config
from mmpref.processing import PairBatch
from tests.plain_forward import SHARING, all_rows, answers_of, build_deep, by_hand, collator_for, stock_twin, worst
from tests.recomputing import recompute
from tests.tiers import checkerboard
from tests.tiny_vlms import pair


@functools.cache
def deep(name: str) -> LoadedModel:
    """For reading only."""
    return build_deep(name)


def logps(model: Any, batch: PairBatch) -> list[torch.Tensor]:
    with torch.no_grad():
        return answers_of(batch, answer_logps(model, batch))


def with_attention(name: str, attention: str) -> LoadedModel:
    loaded = build_deep(name)
    nested = loaded.family.has_vision
    loaded.model.set_attn_implementation({"text_config": attention} if nested else attention)
    return loaded


@pytest.mark.parametrize("name", checkerboard(SHARING))
def test_eager_attention_takes_a_mask_and_gives_the_same(name: str) -> None:
    loaded = with_attention(name, "eager")
    assert choose_layout(loaded.model, loaded.family).name == "shared_prefix"
    batch = collator_for(loaded, "shared_prefix")(all_rows(name))
    got = logps(loaded.model, batch)
    assert implementation(loaded.model) == "eager"
    with torch.no_grad():
        assert worst(got, by_hand(stock_twin(deep(name).model), deep(name), all_rows(name))) < 1e-5


@pytest.mark.parametrize("name", ["llava", "llava_onevision", "gemma3", "text"])
def test_flex_attention_takes_a_block_mask_and_gives_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.attention import flex_attention as library
    from transformers.integrations import flex_attention as bridge

    # uncompiled: the same mathematics without minutes of compilation (and on a CPU forward only)
    monkeypatch.setattr(bridge, "compile_friendly_flex_attention", plain_flex(library.flex_attention))
    loaded = with_attention(name, "flex_attention")
    rows = all_rows(name)[:2]
    batch = collator_for(loaded, "shared_prefix")(rows)
    got = logps(loaded.model, batch)
    with torch.no_grad():
        assert worst(got, by_hand(stock_twin(deep(name).model), deep(name), rows)) < 1e-5


def plain_flex(function: Any) -> Any:
    def call(query: Any, key: Any, value: Any, training: bool = False, **options: Any) -> Any:
        options.pop("kernel_options", None)
        return function(query, key, value, **options)

    return call


def test_the_pair_attention_is_the_stock_one_for_anything_else() -> None:
    """Plain batches, padding and generation go through unchanged, to the bit."""
    for name in ("llava", "qwen3_vl", "text"):
        loaded = build_deep(name)
        rows = all_rows(name)
        logps(loaded.model, collator_for(loaded, "shared_prefix")(rows[:1]))
        assert text_config(loaded.model)._attn_implementation == "pair_sdpa"
        plain = collator_for(loaded, "plain")(rows)
        stock = stock_twin(deep(name).model)
        for got, want in zip(logps(loaded.model, plain), logps(stock, plain), strict=True):
            assert torch.equal(got, want)
        inputs = {"input_ids": plain.input_ids[:1], "attention_mask": plain.attention_mask[:1]}
        written = [model.generate(**inputs, max_new_tokens=8, do_sample=False) for model in (loaded.model, stock)]
        assert torch.equal(*written)


def test_only_the_language_model_gets_another_attention() -> None:
    for name in SHARING:
        loaded = build_deep(name)
        logps(loaded.model, collator_for(loaded, "shared_prefix")(all_rows(name)[:1]))
        assert text_config(loaded.model)._attn_implementation == "pair_sdpa"
        if loaded.family.has_vision:
            assert loaded.model.config.vision_config._attn_implementation == "sdpa"


def test_a_layer_that_misses_the_row_fails_and_does_not_attend_to_everything() -> None:
    loaded = build_deep("llava")
    batch = collator_for(loaded, "shared_prefix")(all_rows("llava")[:2])
    layer: Any = loaded.model.model.language_model.layers[1].self_attn
    forward = layer.forward
    layer.forward = lambda *args, attention_mask=None, **kwargs: forward(*args, attention_mask=None, **kwargs)
    with pytest.raises(ConfigError, match="does not make the masks of its attention layers"):
        logps(loaded.model, batch)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_dropout_trains_and_leaves_the_expected_log_probs(attention: str) -> None:
    """Dropout is drawn for the shared prompt once; switched off, nothing is left of it."""
    loaded = with_attention("text", attention)
    for layer in loaded.model.model.layers:
        layer.self_attn.attention_dropout = 0.3
    batch = collator_for(loaded, "shared_prefix")(all_rows("text")[:2])
    still = logps(loaded.model.eval(), batch)
    assert worst(still, logps(deep("text").model, batch)) < 1e-5
    loaded.model.train()
    torch.manual_seed(0)
    one, other = logps(loaded.model, batch), logps(loaded.model, batch)
    assert worst(one, other) > 1e-3
    loaded.model.requires_grad_(True)
    recompute(loaded.model)
    sums = answer_logps(loaded.model, batch).sum()
    sums.backward()
    assert all(bool(p.grad.isfinite().all()) for p in loaded.model.parameters() if p.grad is not None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["qwen2_vl", "llava_next", "idefics3"])
def test_a_half_precision_model_takes_pixels_as_the_processor_gives_them(name: str, dtype: torch.dtype) -> None:
    loaded = build_deep(name, scale=2.0)
    exact = collator_for(loaded, "shared_prefix")(all_rows(name)[:4])
    want = logps(loaded.model, exact)
    half = dataclasses.replace(loaded, model=loaded.model.to(dtype))
    for layout in ("shared_prefix", "plain"):
        got = logps(half.model, collator_for(half, layout)(all_rows(name)[:4]))
        assert all(x.dtype == torch.float32 for x in got)
        assert float((torch.cat(got) - torch.cat(want)).abs().mean()) < 0.1


@pytest.mark.parametrize("name", SHARING)
def test_no_trace_of_the_pair_attention_is_saved(name: str, tmp_path: Path) -> None:
    loaded = build_deep(name)
    stock_twin(deep(name).model).save_pretrained(tmp_path / "before")
    logps(loaded.model, collator_for(loaded, "shared_prefix")([pair(images=())]))
    assert text_config(loaded.model)._attn_implementation == "pair_sdpa"
    loaded.model.save_pretrained(tmp_path / "after")
    for file in (tmp_path / "after").glob("*.json"):
        assert json.loads(file.read_text()) == json.loads((tmp_path / "before" / file.name).read_text())
        assert "pair_" not in file.read_text()


def test_an_adapter_says_nothing_about_it_either(tmp_path: Path) -> None:
    from mmpref.models import AdapterSettings, Tuning

    loaded = prepare(build_deep("qwen2_vl"), Tuning(language="lora"), AdapterSettings(rank=4))
    logps(loaded.model, collator_for(loaded, "shared_prefix")([pair(images=())]))
    loaded.model.save_pretrained(str(tmp_path))
    assert "pair_sdpa" not in (tmp_path / "adapter_config.json").read_text()
