"""ms-swift's settings: a script as it is written, what each key becomes, and that none is left out of the account."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from mmpref.errors import ConfigError
from mmpref.losses import build_objective
from mmpref.migration.contract import Fate, Migration
from mmpref.migration.convert import TOOLS, migrate, migrated, recipe_text
from mmpref.recipe.loading import build_recipe, load_recipe

TOOL = TOOLS["ms_swift"]
BASE = {"model": "Qwen/Qwen2.5-VL-3B-Instruct", "rlhf_type": "dpo", "dataset": "pairs.jsonl"}


def converted(**values: Any) -> Migration:
    return migrated({**BASE, **values}, TOOL, "args.json")


SCRIPT = """
nproc_per_node=2
CUDA_VISIBLE_DEVICES=0,1 \\
NPROC_PER_NODE=$nproc_per_node \\
MAX_PIXELS=1003520 \\
swift rlhf \\
    --rlhf_type dpo \\
    --model Qwen/Qwen2.5-VL-3B-Instruct \\
    --dataset 'own/pairs.jsonl' 'other/pairs.jsonl#2000' \\
    --tuner_type lora --torch_dtype bfloat16 \\
    --freeze_vit true --lora_rank 8 --target_modules all-linear \\
    --rpo_alpha 0.1 --deepspeed zero2 --warmup_ratio 0.05 --lora_rnk 3
"""


def test_a_script_becomes_a_recipe_with_its_environment(tmp_path: Path) -> None:
    file = tmp_path / "dpo.sh"
    file.write_text(SCRIPT)
    found = migrate(file)
    recipe = build_recipe(found.tree, where="test")
    assert (found.tool, found.launch, found.processes) == ("ms-swift", "zero2", 2)
    assert recipe.loss.as_mapping() == {"name": "dpo", "beta": 0.1, "nll_weight": 0.1}
    assert recipe.processing.max_pixels == 1003520
    assert recipe.data.train_paths == ["own/pairs.jsonl", "other/pairs.jsonl"]
    assert (recipe.train.learning_rate, recipe.train.gradient_accumulation_steps) == (1e-4, 16)
    assert (recipe.train.weight_decay, recipe.train.adam_beta2, recipe.train.warmup_steps) == (0.1, 0.95, 0.05)
    said = {one.key: one for one in found.findings}
    assert said["lora_rnk"].fate is Fate.UNKNOWN
    assert "lora_rank" in said["lora_rnk"].note
    assert "sample of the rows is not taken" in said["dataset"].note


@pytest.mark.parametrize(
    ("given", "loss"),
    [
        ({"rlhf_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0},
         {"name": "simpo", "beta": 2.0, "gamma_beta_ratio": 0.5, "nll_weight": 0.0}),
        ({"rlhf_type": "orpo"}, {"name": "orpo", "beta": 0.1}),
        ({"rlhf_type": "kto", "desirable_weight": 1.5}, {"name": "kto", "beta": 0.1, "kto": {"desirable_weight": 1.5}}),
        ({"label_smoothing": 0.1}, {"name": "dpo", "beta": 0.1, "label_smoothing": 0.1}),
        ({"loss_type": "robust"}, {"name": "robust", "beta": 0.1, "label_smoothing": 0.0}),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [0.5, 1.0]},
         {"name": "dpo", "beta": 0.1, "pair_weight": 0.5, "nll_weight": 1.0}),
    ],
    ids=str,
)  # fmt: skip
def test_losses(given: dict[str, Any], loss: dict[str, Any]) -> None:
    assert build_recipe(converted(**given).tree, where="test").loss.as_mapping() == loss


def test_a_loss_or_a_tuner_without_a_counterpart_is_to_be_set() -> None:
    assert any("apo_zero" in text for text in converted(loss_type="apo_zero").to_set)
    assert any("bco_pair" in text for text in converted(loss_type=["sigmoid", "bco_pair"]).to_set)
    assert any("adalora" in text for text in converted(tuner_type="adalora").to_set)
    for wrong in ({"rlhf_type": "grpo"}, {"freeze_llm": True}, {"torch_dtype": "int8"}):
        more = {"freeze_aligner": True} if "freeze_llm" in wrong else {}
        with pytest.raises(ConfigError):
            converted(**wrong, **more)


@pytest.mark.parametrize("seed", range(25))
def test_whatever_keys_are_given_each_has_its_finding(seed: int, tmp_path: Path) -> None:
    generator = random.Random(seed)
    flags = [name for name, row in TOOL.table.items() if row.kind == "true or false" and name != "freeze_llm"]
    plain = [name for name, row in TOOL.table.items() if row.why and row.kind == "anything"]
    given = {
        **{name: generator.choice([True, "false", None]) for name in generator.sample(flags, 15)},
        **{name: generator.choice([None, "something", 3]) for name in generator.sample(plain, 25)},
        **generator.choice([{}, {"quant_bits": 4}, {"tuner_type": "full", "freeze_vit": False}, {"quant_bits": 8}]),
        **generator.choice([{}, {"adapters": "a"}, {"adapters": ["a", "b"]}, {"init_weights": "pissa"}]),
        **generator.choice([{}, {"val_dataset": "v.jsonl", "eval_strategy": "steps"}, {"split_dataset_ratio": 0.1}]),
        **generator.choice([{}, {"rpo_alpha": 0.1, "loss_type": "hinge"}, {"rlhf_type": "cpo"}]),
        "beeta": 1,
    }  # fmt: skip
    if given.get("fp16") is True and given.get("bf16") is True:
        given["fp16"] = False
    found = converted(**given)
    assert [one.key for one in found.findings] == list({**BASE, **given})
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe_text(found))
    build_objective(load_recipe(file).loss.as_mapping())
