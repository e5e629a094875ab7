"""A model saved after training with shared prompts is the same model when anyone loads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from mmpref.models import AdapterSettings, Tuning, load, pair_logps, prepare, save_model
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.models.logps.shared_prefix_attention import text_config
from tests.plain_forward import SHARING, all_rows, answers_of, build_deep, collator_for, stir, worst
from tests.tiers import checkerboard
from tests.tiny_vlms import TINY


@pytest.mark.parametrize("name", checkerboard(TINY))
def test_log_probs_are_the_same_to_the_bit_after_saving_and_loading(name: str, tmp_path: Path) -> None:
    start = build_deep(name)
    start.processor.save_pretrained(tmp_path / "base")
    loaded = prepare(start, Tuning(language="full"))
    layout = "shared_prefix" if name in SHARING else "plain"
    rows = all_rows(name)[:4]
    batch = collator_for(loaded, layout)(rows)
    pair_logps(loaded.model, batch).chosen.sum().backward()
    stir(loaded.model)
    loaded.model.eval()
    with torch.no_grad():
        want = answers_of(batch, answer_logps(loaded.model, batch))
    assert (text_config(loaded.model)._attn_implementation == "pair_sdpa") == (name in SHARING)
    save_model(loaded.model, tmp_path / "base", tmp_path / "out")

    again = load(tmp_path / "out")
    same = collator_for(again, layout)(rows)  # by the saved processor
    assert torch.equal(same.input_ids, batch.input_ids)
    assert all(torch.equal(same.vision[key], value) for key, value in batch.vision.items())
    with torch.no_grad():
        got = answers_of(same, answer_logps(again.model, same))
    assert worst(got, want) == 0.0
    # anyone else's program, which has never heard of pairs
    kind = AutoModelForImageTextToText if loaded.family.has_vision else AutoModelForCausalLM
    stock = kind.from_pretrained(tmp_path / "out")
    assert stock.config.get_text_config()._attn_implementation == "sdpa"
    assert "pair_" not in (tmp_path / "out" / "config.json").read_text()


@pytest.mark.parametrize("name", ["llava_next", "qwen3_vl", "idefics3"])
def test_a_saved_adapter_on_its_base_gives_the_same_log_probs(name: str, tmp_path: Path) -> None:
    start = build_deep(name)
    start.model.save_pretrained(tmp_path / "base")
    start.processor.save_pretrained(tmp_path / "base")
    loaded = prepare(load(tmp_path / "base"), Tuning(language="lora"), AdapterSettings(rank=4))
    stir(loaded.model)
    loaded.model.eval()
    rows = all_rows(name)[:4]
    batch = collator_for(loaded, "shared_prefix")(rows)
    with torch.no_grad():
        want = answers_of(batch, answer_logps(loaded.model, batch))
    save_model(loaded.model, tmp_path / "base", tmp_path / "out")
    again = load(tmp_path / "base", adapter=tmp_path / "out")
    with torch.no_grad():
        got = answers_of(batch, answer_logps(again.model, batch))
    assert worst(got, want) < 1e-6
    assert "pair_" not in (tmp_path / "out" / "adapter_config.json").read_text()
