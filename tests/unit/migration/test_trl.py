"""TRL's settings: every key of the installed TRL is accounted for, and its defaults are written out."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mmpref.cli.main import main
from mmpref.errors import ConfigError
from mmpref.losses import build_objective
from mmpref.migration.contract import UNSET, Fate, Migration
from mmpref.migration.convert import TOOLS, migrate, migrated, recipe_text
from mmpref.migration.training_arguments import TRAINING_ARGUMENTS
from mmpref.migration.values import Kind
from mmpref.recipe.loading import build_recipe, load_recipe
from mmpref.training.trainer.extra_arguments import NOT_HERE, READ, UNDER

trl = pytest.importorskip("trl")

TRL = TOOLS["trl"]
SCRIPT = {"model_name_or_path": "some/model", "dataset_name": "pairs.jsonl"}


def fields() -> dict[str, Any]:
    """Every key that a config file of the installed TRL may have, with its default."""
    from trl.scripts.utils import DatasetMixtureConfig, ScriptArguments
    from trl.trainer.model_config import ModelConfig

    found = {}
    for kind in (ScriptArguments, trl.DPOConfig, ModelConfig, DatasetMixtureConfig):
        for field in dataclasses.fields(kind):
            missing = field.default_factory is not dataclasses.MISSING
            found[field.name] = field.default_factory() if missing else field.default
    return found


FIELDS = fields()


def converted(**values: Any) -> Migration:
    return migrated(values, TRL, "config.yaml")


def fates(found: Migration) -> dict[str, Fate]:
    return {one.key: one.fate for one in found.findings}


def test_every_key_of_the_installed_trl_is_known() -> None:
    assert set(FIELDS) - set(TRL.table) == set()


def test_defaults_that_are_written_out_are_those_of_the_installed_trl() -> None:
    written = {name: row.default for name, row in TRL.table.items() if row.default is not UNSET and name in FIELDS}
    theirs = {name: FIELDS[name] for name in written}
    theirs |= {"datasets": theirs["datasets"] or None, "lora_dropout": FIELDS["lora_dropout"]}
    assert written == theirs


def test_all_keys_at_their_defaults_make_the_recipe_of_none_and_every_key_has_its_finding() -> None:
    given = {**FIELDS, **SCRIPT, "output_dir": "out"}
    found = converted(**given)
    assert set(fates(found)) == set(given)
    assert Fate.UNKNOWN not in fates(found).values()
    bare = converted(**SCRIPT, output_dir="out")
    assert build_recipe(found.tree, where="all") == build_recipe(bare.tree, where="none")


VALUES: Mapping[Kind, list[Any]] = {
    Kind.FLAG: [True, False, None, "True"], Kind.WHOLE: [1, 7, "3", None], Kind.NUMBER: [0.25, 0.0, "1e-3", None],
    Kind.TEXT: ["steps", "no", None], Kind.TEXTS: ["a,b", ["a"], None], Kind.MAPPING: [None, {"a": 1}, '{"a": 1}'],
    Kind.NUMBERS: [None], Kind.ANY: [None, "x", 3],
}  # fmt: skip
OF_NAMES = {
    "loss_type": [["sigmoid"], "hinge", ["sigmoid", "sft"], ["sft"], ["apo_zero"], ["ipo", "bco_pair"], ["robust"]],
    "loss_weights": [None], "datasets": [None, [{"path": "json", "data_files": "a.jsonl"}]],
    "dtype": ["bfloat16", None], "torch_dtype": [None], "lr_scheduler_type": ["cosine", "constant"],
    "optim": ["adamw_torch", "sgd"],
    "label_smoothing": [0.0, 0.1], "model_init_kwargs": [None, {"dtype": "float16"}, {"a": 1}], "beta": [0.1, "0.3"],
    "report_to": ["none", "wandb", ["tensorboard"]], "test_split_size": [None, 0.1], "learning_rate": [1e-5, "2e-6"],
    "gradient_checkpointing_kwargs": [None, {"use_reentrant": False}], "lr_scheduler_kwargs": [None, {"num_cycles": 2}],
    "activation_checkpointing_kwargs": [None], "fsdp": [None, "full_shard"], "num_train_epochs": [1, 2.5],
    "deepspeed": [None, "ds_z2.json", {"zero_optimization": {"stage": 3}}], "bnb_4bit_quant_type": ["nf4", "fp4"],
    "lora_target_modules": [None, ["all-linear"], "all-linear", ["q_proj", "v_proj"]], "max_grad_norm": [1.0, 0.5],
    "adam_beta1": [0.8], "adam_beta2": [0.95], "max_length": [None, 512], "seed": [1], "max_steps": [-1, 5],
    "gradient_accumulation_steps": [1, 4], "per_device_train_batch_size": [2], "per_device_eval_batch_size": [2],
    "lora_r": [4, 8], "lora_alpha": [8, 16.0], "save_total_limit": [None, 2], "dataloader_num_workers": [0, 2],
    "bf16": [None, True, False], "fp16": [False], "router_aux_loss_coef": [None, 0.01], "lora_dropout": [0.05, 0.0],
    "dataloader_prefetch_factor": [None, 2], "logging_steps": [10, 0.1], "save_steps": [500, 0.2],
}  # fmt: skip
"""Values that a key's type alone does not tell."""


def drawn(generator: random.Random) -> dict[str, Any]:
    names = generator.sample(sorted(FIELDS), generator.randint(0, len(FIELDS)))
    own = {name: generator.choice(OF_NAMES[name]) for name in names if name in OF_NAMES}
    rest = {name: generator.choice(VALUES[TRL.table[name].kind]) for name in names if name not in own}
    return {**SCRIPT, **rest, **own, **({"learning_rat": 1} if generator.random() < 0.2 else {})}


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.filterwarnings("ignore::mmpref.losses.settings.SuspiciousLossWarning")
def test_whatever_is_given_is_accounted_for_key_by_key_and_the_recipe_loads(seed: int, tmp_path: Path) -> None:
    given = drawn(random.Random(seed))
    given["model_name_or_path"] = given.get("model_name_or_path") or "some/model"
    found = converted(**given)
    assert [one.key for one in found.findings] == list(given)
    assert fates(found).get("learning_rat", Fate.UNKNOWN) is Fate.UNKNOWN
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe_text(found))
    recipe = load_recipe(file)
    build_objective(recipe.loss.as_mapping())
    for one in found.findings:
        assert one.fate is Fate.CARRIED or one.fate is Fate.SAME or one.note, one
        for key, value in one.ours.items():
            at: Any = recipe
            for part in key.split("."):
                at = at.get(part) if isinstance(at, dict) else getattr(at, part)
            if key not in ("data.train", "data.eval", "output"):
                assert at == value, (one, at)


def test_the_train_section_s_other_names_are_carried_as_the_trainer_reads_them() -> None:
    to = {name: row.to for name, row in TRAINING_ARGUMENTS.items()}
    for name in {*READ, *UNDER} - {"fsdp", "deepspeed", "fsdp_config"}:
        is_extra = to[name] == f"train.extra.{name}"
        assert is_extra or TRAINING_ARGUMENTS[name].why, name
    for name in NOT_HERE:
        assert not to[name].startswith("train.extra"), name


def test_an_unknown_key_is_reported_with_the_nearest_name() -> None:
    found = converted(**SCRIPT, lora_rank=8)
    (one,) = [one for one in found.findings if one.fate is Fate.UNKNOWN]
    assert one.key == "lora_rank"
    assert "did you mean" in one.note


def test_dropout_of_the_adapter_is_off_as_it_is_in_trl_unless_the_file_keeps_it() -> None:
    assert converted(**SCRIPT, use_peft=True, lora_dropout=0.1).tree["adapter"]["dropout"] == 0.0
    kept = converted(**SCRIPT, use_peft=True, lora_dropout=0.1, disable_dropout=False)
    assert kept.tree["adapter"]["dropout"] == 0.1


def test_a_loss_that_is_not_here_is_to_be_set_and_never_replaced_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "dpo.yaml"
    file.write_text("model_name_or_path: m/m\ndataset_name: d/d\nloss_type: apo_zero\nuse_peft: true\n")
    assert main(["config", "--from", str(file)]) == 0
    shown = capsys.readouterr()
    assert "To set before it trains:\n- loss: apo_zero has no counterpart" in shown.err
    assert "# - loss: apo_zero has no counterpart" in shown.out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"learning_rate": "fast"}, "config.yaml: learning_rate must be a number, got \"fast\""),
        ({"beta": float("nan")}, "beta must be a number"),
        ({"lora_r": 2.5, "use_peft": True}, "lora_r must be a whole number, got 2.5"),
        ({"use_peft": "maybe"}, "use_peft must be true or false"),
        ({"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]}, "loss_weights has 1 numbers for 2 of loss_type"),
        ({"datasets": "x"}, "datasets must be a list of mappings"),
        ({"dtype": "int3"}, "dtype int3 is not known"),
    ],
)  # fmt: skip
def test_values_of_the_wrong_kind_are_refused_by_their_own_name(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        converted(**SCRIPT, **change)
    assert says in str(caught.value)


COMMAND = """#!/bin/bash
# one node
export WANDB_MODE=offline
MODEL=Qwen/Qwen2.5-VL-3B-Instruct
accelerate launch --config_file zero2.yaml --num_processes 4 \\
    examples/dpo_vlm.py \\
    --model_name_or_path $MODEL --dataset_name some/pairs --output_dir out \\
    --per-device-train-batch-size=2 --use_peft --lora_target_modules all-linear \\
    --loss_type sigmoid bco_pair sft --loss_weights 0.8 0.2 1.0 2>&1 | tee log.txt
"""


def test_a_command_line_is_read_with_its_variables_and_its_launcher(tmp_path: Path) -> None:
    file = tmp_path / "train.sh"
    file.write_text(COMMAND)
    found = migrate(file)
    assert found.tool == "TRL"
    assert (found.launch, found.processes) == ("zero2", 4)
    assert found.tree["model"]["path"] == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert found.tree["train"]["per_device_train_batch_size"] == 2
    assert found.tree["tune"] == {"vision": "lora", "projector": "lora", "language": "lora"}
    assert found.tree["loss"] == {
        "name": "dpo", "pair_weight": 0.8, "anchor": {"chosen": 0.2, "rejected": 0.2}, "nll_weight": 1.0, "beta": 0.1,
    }  # fmt: skip
    assert "mmpref train recipe.yaml --launch zero2 --processes 4" in recipe_text(found)
