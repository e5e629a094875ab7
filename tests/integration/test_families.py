"""Each model family through ``mmpref train``: the shipped recipes for real models, and the resume that others lose.

The models are real architectures with small random weights.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmpref.cli.main import main
from mmpref.rundir.folder import RunDir
from mmpref.training.trainer.checkpoint import in_order
from mmpref.training.trainer.pair_log import read_pair_log
from tests.integration.conftest import Place
from tests.tiny_vlms import build

VISION = ("llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SMALL = ("train.use_cpu=true", "train.per_device_train_batch_size=4", "train.logging_steps=1", "cpu_threads=1")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("families")
    for name in VISION:
        build(name, root / name)
    return root


@pytest.fixture(scope="module")
def pairs(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pairs of the drawn world, which lie beside the world's images."""
    file = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    file.write_text("\n".join(place.world.pairs.read_text().splitlines()[:12]) + "\n")
    return file


def arguments(recipe: str, place: Place, pairs: Path, model: Path, output: Path, *changes: str) -> list[str]:
    data = [f"data.train={pairs}", f"data.root={place.world.root}"]
    return ["train", recipe, f"output={output}", f"model.path={model}", *data, *SMALL, *changes]


@pytest.mark.parametrize(
    "family",
    [name if name == "qwen2_5_vl" else pytest.param(name, marks=pytest.mark.slow) for name in VISION],
)
def test_a_resumed_full_fine_tuning_ends_with_the_bits_of_an_uninterrupted_one(
    place: Place, pairs: Path, models: Path, tmp_path: Path, family: str
) -> None:
    """The stock Trainer goes on from the start weights here: its checkpoint's names match nothing in these models."""
    changes = ("data.eval=[]", "tune={vision: full, projector: full, language: full}", "train.save_steps=2")
    changes += ("train.per_device_train_batch_size=2", "train.learning_rate=1e-3", "train.save_total_limit=null")
    runs = {}
    for name in ("whole", "resumed"):
        command = arguments("demo_dpo", place, pairs, models / family, tmp_path / name, *changes)
        assert main(command) == 0
        runs[name] = command
    shutil.rmtree(tmp_path / "resumed" / "model")
    for folder in in_order(tmp_path / "resumed" / "checkpoints"):
        if folder.name != "step-2":
            shutil.rmtree(folder)
    RunDir(tmp_path / "resumed").set_state("running")
    assert main([*runs["resumed"], "--resume"]) == 0
    start, whole, resumed = (
        load_file(folder / "model.safetensors")
        for folder in (models / family, tmp_path / "whole" / "model", tmp_path / "resumed" / "model")
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert any(not torch.equal(whole[name], start[name]) for name in whole)


@pytest.mark.parametrize(
    ("recipe", "family"),
    [
        ("qwen2_5_vl_3b_uni_dpo_lora", "qwen2_5_vl"),
        ("llava_1_5_7b_adadpo_qlora", "llava_next"),
        *(
            pytest.param(recipe, family, marks=pytest.mark.slow)
            for recipe, family in (
                ("qwen2_5_vl_3b_uni_dpo_lora", "qwen3_vl"),
                ("qwen2_5_vl_3b_uni_dpo_lora", "llava_next"),
                ("llava_1_5_7b_adadpo_qlora", "qwen2_5_vl"),
                ("llava_1_5_7b_adadpo_qlora", "qwen3_vl"),
            )
        ),
    ],
)
def test_the_shipped_recipes_train_small_models_of_their_kind(
    place: Place, pairs: Path, models: Path, tmp_path: Path, family: str, recipe: str
) -> None:
    pytest.importorskip("bitsandbytes")
    changes = ["train.gradient_accumulation_steps=1", "train.dataloader_num_workers=0", "train.num_train_epochs=4"]
    changes += ["train.learning_rate=2e-3", "train.warmup_steps=0"]
    if family == "llava_next" and recipe.startswith("qwen"):
        changes.append("processing.max_pixels=null")  # only Qwen's processors have a pixel budget
    assert main(arguments(recipe, place, pairs, models / family, tmp_path / "run", *changes)) == 0
    run = RunDir(tmp_path / "run")
    log = read_pair_log(run.pairs_file)
    by_step = {step: [] for step in log["step"]}  # type: dict[int, list[float]]
    for step, margin in zip(log["step"], log["rewards/margins"], strict=True):
        by_step[step].append(margin)
    # policy and reference are the same model before the first update, to the bit: the adapter is merely switched off
    assert by_step[1] == [0.0] * 4
    assert sum(map(sum, (by_step[step] for step in (10, 11, 12)))) > 0
    assert (run.model / "adapter_model.safetensors").is_file()
    assert (run.model / "chat_template.jinja").is_file()
