"""LoRA on experts, which are no linear layers: by choice only, saved and loaded under its names, merged exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from mmpref.errors import ConfigError
from mmpref.models import AdapterSettings, Tuning
from mmpref.models.adapters.lora import attach, merged
from mmpref.models.adapters.saved import read_adapter
from mmpref.models.adapters.switch import COPY, copy_adapter, switched
from mmpref.models.adapters.targets import lora_layers
from mmpref.models.adapters.weights import plain_name
from mmpref.models.experts import describe_experts, fused_experts, num_expert_weights
from mmpref.models.load import load_model
from mmpref.planning.architecture import describe
from mmpref.recipe.loading import build_recipe
from tests.tiny_experts import EXPERTS, HOLDS_TWO, build_experts, loaded_experts, write_experts

pytestmark = pytest.mark.model_types

IDS = torch.arange(2, 20)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits  # type: ignore[no-any-return]


def stirred(model: Any) -> Any:
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.3)
    return model


@pytest.mark.parametrize("name", EXPERTS)
def test_an_adapter_on_experts_is_saved_loaded_switched_and_merged(name: str, tmp_path: Path) -> None:
    base = write_experts(name, tmp_path / "base")
    loaded = loaded_experts(base, AdapterSettings(rank=4, alpha=8, experts=True))
    start = logits(load_model(base))
    model = stirred(loaded.model)
    trained = logits(model)
    without = {weight: value for weight, value in model.named_parameters() if "lora_" in weight}
    of_experts = [weight for weight in without if "experts" in weight and "shared_expert" not in weight]
    assert len(of_experts) == 2 * 2 * 2  # two layers, two tensors of experts, two factors
    assert float((trained - start).abs().max()) > 0.1
    with switched(model, None):
        assert torch.equal(logits(model), start)

    model.save_pretrained(tmp_path / "adapter")
    assert read_adapter(tmp_path / "adapter", loaded.family).lora == {
        "language": sum(value.numel() for value in without.values())
    }
    again = attach(load_model(base), tmp_path / "adapter", trainable=True)
    assert torch.equal(logits(again), trained)
    if HOLDS_TWO:
        copy_adapter(again)
        with switched(again, COPY):
            assert torch.equal(logits(again), trained)
    else:
        with pytest.raises(ConfigError, match=r"write `reference.kind=cache`, or update peft"):
            copy_adapter(again)

    whole = merged(attach(load_model(base), tmp_path / "adapter", trainable=False))
    whole.save_pretrained(tmp_path / "merged")
    assert torch.allclose(logits(load_model(tmp_path / "merged")), trained, atol=1e-4)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_vl_moe", "qwen3_5_moe", "llama4_text"])
def test_experts_learn_only_where_they_are_asked_to(name: str, tmp_path: Path) -> None:
    base = write_experts(name, tmp_path)
    for experts in (False, True):
        model = stirred(loaded_experts(base, AdapterSettings(rank=2, experts=experts)).model)
        model(input_ids=IDS).logits.float().pow(2).mean().backward()
        learnt = {
            weight for weight, value in model.named_parameters() if value.grad is not None and bool(value.grad.any())
        }
        on_experts = {weight for weight in learnt if ".experts." in weight}
        assert bool(on_experts) is experts
        assert not any(".router." in weight or ".gate.weight" in weight for weight in learnt)


@pytest.mark.parametrize("name", EXPERTS)
@pytest.mark.parametrize("experts", [False, True])
def test_lora_is_on_the_layers_that_are_named_and_on_no_other(name: str, experts: bool, tmp_path: Path) -> None:
    """peft would take projections of dense layers and shared experts for the experts' of earlier releases."""
    base = write_experts(name, tmp_path)
    bare = loaded_experts(base)
    tuning = Tuning(language="lora")
    wanted = set(lora_layers(bare.model, bare.family, tuning))
    if experts:
        wanted |= {layer.path for layer in fused_experts(bare.model)}
    model = loaded_experts(base, AdapterSettings(rank=3, experts=experts)).model
    factors = {weight: value for weight, value in model.named_parameters() if ".lora_A." in weight}
    assert {plain_name(weight).partition(".lora_A")[0] for weight in factors} == wanted
    assert {value.shape[0] for value in factors.values()} == ({3, 12} if experts else {3})


def test_dense_layers_between_those_with_experts_get_lora_and_experts_none(tmp_path: Path) -> None:
    config = EXPERTS["qwen3_moe"]()
    config.mlp_only_layers = [0]
    torch.manual_seed(0)
    tf.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    model = stirred(loaded_experts(tmp_path / "base", AdapterSettings(rank=2)).model)
    trained = logits(model)
    names = [weight for weight, _ in model.named_parameters() if "lora_A" in weight]
    assert any("layers.0.mlp.gate_proj" in weight for weight in names)
    assert not any(".experts." in weight for weight in names)
    model.save_pretrained(tmp_path / "adapter")
    again = attach(load_model(tmp_path / "base"), tmp_path / "adapter", trainable=False)
    assert torch.equal(logits(again), trained)
    assert torch.allclose(logits(merged(again)), trained, atol=1e-4)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_5_moe", "gemma4_text", "deepseek_v3"])
def test_the_plan_counts_the_adapter_and_the_experts_as_they_are(name: str, tmp_path: Path) -> None:
    base = write_experts(name, tmp_path)
    for experts in (False, True):
        recipe = build_recipe(
            {"output": "x", "model": {"path": str(base)}, "data": {"train": "x.jsonl"}, "loss": {"name": "dpo"},
             "tune": {"language": "lora"}, "adapter": {"kind": "lora", "rank": 4, "experts": experts},
             "train": {"learning_rate": 1e-5}},
            where="test",
        )  # fmt: skip
        found = describe(load_model(base).config, recipe)
        loaded = loaded_experts(base, AdapterSettings(rank=4, experts=experts))
        trained = [weight for weight in loaded.model.parameters() if weight.requires_grad]
        assert found.lora == sum(weight.numel() for weight in trained)
        assert found.experts == num_expert_weights(loaded.model) == 2 * 4 * (3 * 32 * (48 if name == "mixtral" else 24))
        assert sum(found.parameters.values()) == build_experts(name).num_parameters()


def test_what_cannot_go_together_is_refused_with_what_to_write(tmp_path: Path) -> None:
    base = write_experts("mixtral", tmp_path)
    for settings, key in (
        (AdapterSettings(rank=2, experts=True, dropout=0.1), "adapter.dropout=0"),
        (AdapterSettings(rank=2, experts=True, use_dora=True), "adapter.use_dora=false"),
        (AdapterSettings(rank=2, experts=True, init="pissa"), "adapter.init=zero"),
    ):
        with pytest.raises(ConfigError, match=f"write `{key}`"):
            loaded_experts(base, settings)
    loaded_experts(base, AdapterSettings(rank=2, experts=True, dropout=0.0, use_dora=False, init="zero"))


def test_what_becomes_of_experts_is_said() -> None:
    model = build_experts("mixtral")
    assert len(fused_experts(model)) == 2
    assert fused_experts(model)[0].path == "model.layers.0.mlp.experts"
    assert "they get no LoRA and stay as they are" in describe_experts(model, adapter=True, adapted=False, packed=False)
    assert "only linear layers are quantised" in describe_experts(model, adapter=True, adapted=True, packed=True)
    assert describe_experts(model, adapter=True, adapted=True, packed=False) == ""
    assert describe_experts(model.model.layers[0].self_attn, adapter=True, adapted=False, packed=True) == ""
