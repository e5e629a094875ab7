"""Images that are read in both directions within windows (Gemma 4), with keys that layers share: packed is as alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from mmpref.models import LoadedModel, choose_layout, load
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.processing import LayoutName
from tests.model_types.gemma import write_gemma4
from tests.model_types.rows import IMAGE_ROWS
from tests.plain_forward import answers_of, by_hand, collator_for, gradient, relative, stock_twin, worst
from tests.recomputing import recompute

pytestmark = pytest.mark.model_types

LAYOUTS: tuple[LayoutName, ...] = ("shared_prefix", "plain")
LAYERS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
EMBEDDINGS = {"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 2048}
VARIANTS: dict[str, dict[str, Any]] = {
    "embeddings a layer": EMBEDDINGS,
    "shared keys": {**EMBEDDINGS, "num_kv_shared_layers": 2},
    "keys that are values": {**EMBEDDINGS, "attention_k_eq_v": True, "num_global_key_value_heads": 1},
}


@pytest.fixture(scope="module", params=list(VARIANTS))
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """With windows that every image fills, and images that fill several."""
    folder: Path = tmp_path_factory.mktemp("gemma4") / "model"
    text = {"num_hidden_layers": 4, "layer_types": LAYERS, "sliding_window": 8, **VARIANTS[request.param]}
    write_gemma4(folder, text=text)
    return load(folder)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_both_layouts_are_the_stock_model_alone(loaded: LoadedModel, attention: str) -> None:
    rows = list(IMAGE_ROWS)
    model: Any = copy.deepcopy(loaded.model)
    with torch.no_grad():
        want = by_hand(stock_twin(model), loaded, rows)
        model.set_attn_implementation({"text_config": attention})
        assert choose_layout(model, loaded.family).name == "shared_prefix"
        for layout in LAYOUTS:
            batch = collator_for(loaded, layout)(rows)
            assert worst(answers_of(batch, answer_logps(model, batch)), want) < 1e-5


def test_blocks_and_windows_matter(loaded: LoadedModel) -> None:
    batch = collator_for(loaded, "shared_prefix")(list(IMAGE_ROWS))
    types = batch.token_types["mm_token_type_ids"]
    assert int(types.sum()) == int((batch.input_ids == loaded.model.config.image_token_id).sum()) > 8
    with torch.no_grad():
        blocks = answer_logps(loaded.model, batch)
        types.zero_()
        causal = answer_logps(loaded.model, batch)
        types[:] = batch.input_ids == loaded.model.config.image_token_id
    assert float((blocks - causal).abs().max()) > 1e-3


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_of_both_layouts_are_the_same(loaded: LoadedModel, checkpointing: bool) -> None:
    found = []
    for layout in LAYOUTS:
        model = copy.deepcopy(loaded.model).requires_grad_(True).train()
        if checkpointing:
            recompute(model)
        batch = collator_for(loaded, layout)(list(IMAGE_ROWS))
        torch.stack([one.square().mean() for one in answers_of(batch, answer_logps(model, batch))]).sum().backward()
        found.append(gradient(model))
    assert relative(*found) < 2e-5
