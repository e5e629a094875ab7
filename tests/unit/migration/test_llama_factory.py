"""LLaMA-Factory's settings: what becomes of each key, its losses, and data through its own dataset_info.json."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from mmpref.losses import PairLogps, build_objective
from mmpref.migration.contract import Fate, Migration
from mmpref.migration.convert import TOOLS, migrate, migrated, recipe_text
from mmpref.recipe.loading import build_recipe, load_recipe

TOOL = TOOLS["llama_factory"]
BASE = {"model_name_or_path": "some/model", "stage": "dpo", "dataset": "rows"}


def converted(**values: Any) -> Migration:
    return migrated({**BASE, **values}, TOOL, "config.yaml")


def finding(found: Migration, key: str) -> Any:
    return next(one for one in found.findings if one.key == key)


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        ({"lora_rank": 8}, {"adapter.rank": 8, "adapter.alpha": 16, "adapter.kind": "lora", "tune.language": "lora"}),
        ({"finetuning_type": "full"}, {"adapter.kind": "none", "tune.vision": "freeze", "tune.language": "full",
                                       "tune.projector": "freeze", "model.dtype": "float32"}),
        ({"finetuning_type": "full", "freeze_vision_tower": False}, {"tune.vision": "full"}),
        ({"freeze_vision_tower": False}, {"tune.vision": "lora", "tune.projector": "freeze"}),
        ({"quantization_bit": 4}, {"adapter.kind": "qlora", "adapter.double_quant": True}),
        ({"quantization_bit": 8}, {"adapter.kind": "lora", "adapter.quantization": "int8"}),
        ({"bf16": True}, {"model.dtype": "bfloat16", "train.bf16": True}),
        ({"pure_bf16": True, "finetuning_type": "full"}, {"model.dtype": "bfloat16"}),
        ({"cutoff_len": 4096, "image_max_pixels": 262144}, {"processing.max_length": 4096,
                                                            "processing.max_pixels": 262144}),
        ({}, {"processing.max_length": 2048, "processing.max_pixels": 589824, "train.learning_rate": 5e-5,
              "train.num_train_epochs": 3.0, "train.per_device_train_batch_size": 8,
              "train.lr_scheduler_type": "linear", "train.gradient_checkpointing": True, "seed": 42}),
        ({"warmup_ratio": 0.1}, {"train.warmup_steps": 0.1}),
        ({"warmup_ratio": 0.1, "warmup_steps": 20}, {"train.warmup_steps": 20}),
        ({"val_size": 0.1, "eval_strategy": "steps", "eval_steps": 50}, {"data.held_out": 0.1,
                                                                         "train.eval_steps": 50}),
        ({"pref_loss": "simpo", "pref_beta": 2.0, "simpo_gamma": 1.0}, {"loss.gamma_beta_ratio": 0.5}),
        ({"pissa_init": True}, {"adapter.init": "pissa_niter_16"}),
        ({"pissa_init": True, "pissa_iter": -1}, {"adapter.init": "pissa"}),
        ({"adapter_name_or_path": "saves/sft"}, {"adapter.path": "saves/sft", "reference.kind": "adapter_off"}),
        ({"stage": "kto", "kto_chosen_weight": 1.5}, {"loss.name": "kto", "loss.kto.desirable_weight": 1.5}),
        ({"enable_thinking": False}, {"processing.template_kwargs": {"enable_thinking": False}}),
        ({"deepspeed": "examples/deepspeed/ds_z3_config.json"}, {}),
    ],
    ids=str,
)  # fmt: skip
def test_what_a_key_becomes(given: dict[str, Any], ours: dict[str, Any]) -> None:
    found = converted(**given)
    recipe = build_recipe(found.tree, where="test")
    for key, value in ours.items():
        at: Any = recipe
        for part in key.split("."):
            at = getattr(at, part)
        assert (str(at) if key == "adapter.path" else at) == value, key
    assert {one.key for one in found.findings} == {*BASE, *given}


@pytest.mark.parametrize("seed", range(40))
def test_whatever_keys_are_given_each_has_its_finding(seed: int, tmp_path: Path) -> None:
    generator = random.Random(seed)
    flags = [
        name for name, row in TOOL.table.items() if row.kind == "true or false" and name != "freeze_language_model"
    ]
    plain = [name for name, row in TOOL.table.items() if row.why and name not in flags]
    given = {
        **{name: generator.choice([True, "false", None]) for name in generator.sample(flags, 15)},
        **{name: generator.choice([None, "something", 3]) for name in generator.sample(plain, 25) if
           TOOL.table[name].kind == "anything"},
        **generator.choice([{}, {"quantization_bit": 4}, {"finetuning_type": "full"}, {"finetuning_type": "freeze"}]),
        **generator.choice([{}, {"pref_loss": "orpo", "pref_ftx": 1.0}, {"pref_loss": "ipo", "pref_bco_weight": 0.5}]),
        **generator.choice([{}, {"adapter_name_or_path": "a"}, {"adapter_name_or_path": "a,b"}]),
        **generator.choice([{}, {"eval_strategy": "steps", "eval_steps": 10}, {"save_strategy": "epoch"}]),
        **generator.choice([{}, {"lr_scheduler_type": "constant", "warmup_ratio": 0.1}, {"optim": "sgd"}]),
        "pref_bata": 1,
    }  # fmt: skip
    if given.get("fp16") is True and given.get("bf16") is True:
        given["fp16"] = False
    found = converted(**given)
    assert [one.key for one in found.findings] == list({**BASE, **given})
    assert finding(found, "pref_bata").fate is Fate.UNKNOWN
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe_text(found))
    build_objective(load_recipe(file).loss.as_mapping())


def test_losses_are_the_formulas_of_llama_factory_s_trainer() -> None:
    """Its trainer's sums, written out by hand: the comparison, BCO with weight w over 1 + w, and the likelihood."""
    beta, weight, share = 0.3, 0.25, 0.5
    chosen, rejected, ref_chosen, ref_rejected, length, other = -6.0, -9.0, -5.0, -7.0, 4.0, 5.0
    pair = PairLogps(**{
        name: torch.tensor([value], dtype=torch.float64)
        for name, value in {"chosen": chosen, "rejected": rejected, "chosen_len": length, "rejected_len": other,
                            "ref_chosen": ref_chosen, "ref_rejected": ref_rejected, "anchor_shift": 0.2}.items()
    })  # fmt: skip

    def loss(**keys: Any) -> float:
        tree = converted(pref_beta=beta, **keys).tree
        return build_objective(build_recipe(tree, where="test").loss.as_mapping())(pair).per_pair.item()

    def log_sigmoid(x: float) -> float:
        return -math.log1p(math.exp(-x))

    margin = (chosen - ref_chosen) - (rejected - ref_rejected)
    likelihood = -chosen / length
    sigmoid = -log_sigmoid(beta * margin)
    assert loss() == pytest.approx(sigmoid)
    assert loss(pref_ftx=share) == pytest.approx(sigmoid + share * likelihood)
    rewards = beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)
    anchored = -log_sigmoid(rewards[0] - 0.2) - log_sigmoid(0.2 - rewards[1])
    assert loss(pref_bco_weight=weight) == pytest.approx((sigmoid + weight * anchored) / (1 + weight))
    smoothed = (1 - 0.1) * sigmoid - 0.1 * log_sigmoid(-beta * margin)
    assert loss(dpo_label_smoothing=0.1) == pytest.approx(smoothed)
    assert loss(pref_loss="hinge") == pytest.approx(max(0.0, 1 - beta * margin))
    mean = (chosen - ref_chosen) / length - (rejected - ref_rejected) / other
    assert loss(pref_loss="ipo") == pytest.approx((mean - 1 / (2 * beta)) ** 2)
    a, b = chosen / length, rejected / other
    assert loss(pref_loss="simpo", simpo_gamma=0.6) == pytest.approx(-log_sigmoid(beta * (a - b - 0.6 / beta)))
    odds = a - b - (math.log1p(-math.exp(a)) - math.log1p(-math.exp(b)))
    assert loss(pref_loss="orpo") == pytest.approx(-a - beta * log_sigmoid(odds))


def test_data_sets_are_read_through_their_own_description(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"}
    described = {name: {"file_name": f"{name}.json", "formatting": "sharegpt", "ranking": True, "columns": columns}
                 for name in ("first", "second")}  # fmt: skip
    (folder / "dataset_info.json").write_text(json.dumps({**described, "talk": {"file_name": "talk.json"}}))
    config = tmp_path / "examples" / "dpo.yaml"
    config.parent.mkdir()
    config.write_text("stage: dpo\nmodel_name_or_path: m/m\ndataset: first,second\n")
    found = migrate(config)
    info = folder / "dataset_info.json"
    assert found.tree["data"] == {"train": [f"{info}:first", f"{info}:second"], "root": str(folder)}
    assert found.to_set == ()
    config.write_text("stage: dpo\nmodel_name_or_path: m/m\ndataset: talk\n")
    (said,) = migrate(config).to_set
    assert "data.train: talk" in said
    assert "ranking: true" in said


def test_a_method_that_is_not_here_is_said_and_to_be_set() -> None:
    found = converted(finetuning_type="oft")
    assert finding(found, "finetuning_type").fate is Fate.NOT_CARRIED
    assert any("oft has no counterpart" in text for text in found.to_set)
    lost = {one.key for one in converted(use_galore=True, lora_target="q_proj", ref_model="b").findings
            if one.fate is Fate.NOT_CARRIED and one.matters}  # fmt: skip
    assert {"use_galore", "lora_target", "ref_model"} <= lost
