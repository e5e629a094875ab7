"""Every advice of the errors before training is carried out: what it says to write is taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from mmpref.errors import ConfigError, DistributedError, MMPrefError
from mmpref.losses import resolve_tau_good
from mmpref.recipe.loading import load_recipe
from mmpref.recipe.sections import Recipe
from mmpref.training.loss_settings import objective_of
from mmpref.training.parallel.strategy import refuse_launch_contradictions, refuse_what_cannot_shard
from mmpref.training.run import setup
from mmpref.training.run.start_adapter import with_start_adapter
from mmpref.training.trainer.arguments import training_arguments
from tests.advice import alternatives, followed
from tests.tiny_vlms import build

QLORA = ("adapter.kind=qlora", "tune={language: lora}")


def recipe(overrides: list[str]) -> Recipe:
    return load_recipe("demo_dpo", overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.lr_scheduler_kwargs={nonsense: 1}"],
        ["train.lr_scheduler_type=warmup_stable_decay"],
        ["train.lr_scheduler_type=warmup_stable_decay", "train.lr_scheduler_kwargs={nonsense: 1}"],
        ["train.extra.label_smoothing_factor=0.1"],
        ["train.extra={label_smoothing_factor: 0.1, eval_strategy: steps}"],
        ["train.extra.resume_from_checkpoint=there"],
        ["train.extra.learning_rate=1e-6"],
        ["train.extra.lr_scheduler_type=linear"],
        ["train.extra.seed=3"],
        ["train.extra.output_dir=somewhere"],
        ["train.extra.save_strategy=epoch"],
        ["train.extra.no_such_name=1"],
    ],
    ids=" ".join,
)
def test_advice_about_the_train_section(overrides: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        training_arguments(recipe(overrides))
    for words in alternatives(str(caught.value)):
        training_arguments(recipe(followed(overrides, words)))


SHARDED = {"ACCELERATE_USE_FSDP": "true"}


@pytest.mark.parametrize(
    ("overrides", "environ"),
    [
        ([], {"ACCELERATE_MIXED_PRECISION": "bf16"}),
        (["train.fp16=true"], {"ACCELERATE_MIXED_PRECISION": "bf16"}),
        (["train.bf16=true"], {"ACCELERATE_MIXED_PRECISION": "fp16"}),
        ([], {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "7"}),
        ([], {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_GRADIENT_CLIPPING": "0.5"}),
        ([*QLORA, "adapter.kind=lora", "adapter.quantization=int8"], SHARDED),
        (["train.optim=adamw_8bit"], SHARDED),
        (["train.optim=paged_adamw_8bit"], SHARDED),
        (["train.torch_compile=true"], SHARDED),
    ],
    ids=str,
)
def test_advice_about_several_processes(overrides: list[str], environ: dict[str, str]) -> None:
    with pytest.raises(DistributedError) as caught:
        refuse_launch_contradictions(recipe(overrides), environ)
    for words in alternatives(str(caught.value)):
        refuse_launch_contradictions(recipe(followed(overrides, words)), environ)


def test_advice_about_a_copied_reference_under_zero3() -> None:
    with pytest.raises(DistributedError) as caught:
        refuse_what_cannot_shard(recipe([]), "zero3")
    assert "use reference.kind=cache, which keeps no second model" in str(caught.value)
    refuse_what_cannot_shard(recipe(["reference.kind=cache"]), "zero3")


@pytest.mark.parametrize(
    "overrides", [["reference.kind=cache", "loss.name=simpo"], ["reference.kind=frozen_copy", "loss.name=orpo"]]
)
def test_advice_about_a_reference_that_nothing_reads(overrides: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        objective_of(recipe(overrides))
    for words in alternatives(str(caught.value)):
        objective_of(recipe(followed(overrides, words)))


def test_advice_about_a_quantile_of_scores_that_are_not_there() -> None:
    overrides = ["loss={name: uni_dpo, uni: {tau_good: median}}"]
    with pytest.raises(MMPrefError) as caught:
        resolve_tau_good(recipe(overrides).loss.as_mapping(), [None, None])
    for words in alternatives(str(caught.value)):
        resolve_tau_good(recipe(followed(overrides, words)).loss.as_mapping(), [None, None])


@pytest.mark.parametrize("overrides", [[], ["tune.projector=freeze"]], ids=str)
def test_keys_that_save_memory_are_ones(overrides: list[str]) -> None:
    for text in setup.smaller_weights(recipe(overrides)):
        words = text.partition(" (")[0].replace(" with ", " ").split()
        recipe([*overrides, *words])


@pytest.mark.parametrize("name", ["llava", "llava_next", "text", "qwen2_vl", "qwen3_vl"])
def test_images_shrink_only_where_a_model_resizes_to_a_number_of_pixels(name: str, tmp_path: Path) -> None:
    build(name, tmp_path)
    overrides = [f"model.path={tmp_path}", "processing.max_length=64"]
    setup.refuse_shrinking(recipe(overrides))
    overrides.append("processing.shrink_images=true")
    if name.startswith("qwen"):
        setup.refuse_shrinking(recipe(overrides))
        return
    with pytest.raises(ConfigError, match=f"the family '{name}' does not") as caught:
        setup.refuse_shrinking(recipe(overrides))
    for words in alternatives(str(caught.value)):
        setup.refuse_shrinking(recipe(followed(overrides, words)))


# ---- training that goes on from an adapter -------------------------------------------------------------------------


@pytest.fixture
def adapter(tmp_path: Path) -> dict[str, Any]:
    """A saved adapter on the language model, and the folder of a model that it is for."""
    import torch

    from mmpref.demo.tiny_models import build_tiny_llava

    model, folder = tmp_path / "model", tmp_path / "adapter"
    build_tiny_llava(model, seed=0)
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "use_rslora": True, "use_dora": False,
              "target_modules": ["q_proj"], "base_model_name_or_path": str(model), "task_type": None}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    name = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_{}.weight"
    save_file(
        {name.format("A"): torch.zeros(4, 8), name.format("B"): torch.zeros(8, 4)}, folder / "adapter_model.safetensors"
    )
    return {"model": model, "folder": folder}


@pytest.mark.parametrize(
    "more",
    [
        ["adapter={path: PATH, rank: 8}", "tune={}"],
        ["adapter={path: PATH, use_rslora: false}", "tune={}"],
        ["adapter={path: PATH, alpha: 3}", "tune={}"],
        ["adapter={path: PATH}", "tune={language: full}"],
        ["adapter={path: PATH}", "tune={vision: lora}"],
        ["adapter={path: MODEL}", "tune={}"],
    ],
    ids=" ".join,
)
def test_advice_about_an_adapter_that_training_starts_from(adapter: dict[str, Any], more: list[str]) -> None:
    places = {"PATH": str(adapter["folder"]), "MODEL": str(adapter["model"])}
    overrides = [f"model.path={adapter['model']}"]
    for text in more:
        for name, place in places.items():
            text = text.replace(name, place)
        overrides.append(text)
    with pytest.raises(ConfigError) as caught:
        with_start_adapter(recipe(overrides))
    for words in alternatives(str(caught.value)):
        with_start_adapter(recipe(followed(overrides, words)))
