"""``mmpref plan``: every shipped recipe without a weight being read, and a plain answer to "does it fit"."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from mmpref.cli.main import main
from mmpref.planning.gpus import GIB
from mmpref.planning.plan import make_plan
from mmpref.planning.plan_input import PlanInput
from mmpref.recipe.loading import load_recipe
from mmpref.recipe.sections import Recipe
from mmpref.recipe.shipped import read_recipe_text, shipped_recipes
from tests.tiers import corners
from tests.tiny_vlms import build_model

FOR_REAL_MODELS = [name for name in shipped_recipes() if not name.startswith("demo_")]


@pytest.fixture(scope="module")
def config_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders that hold a config.json and nothing else."""
    root = tmp_path_factory.mktemp("configs")
    for name in ("llava", "qwen2_5_vl", "text"):
        build_model(name).config.save_pretrained(root / name)
        assert [entry.name for entry in (root / name).iterdir()] == ["config.json"]
    return root


def recipe(name: str = "qwen2_5_vl_7b_uni_dpo_qlora", *changes: str) -> Recipe:
    return load_recipe(name, list(changes))


FIRST_OF_EACH_MODEL = {load_recipe(name).model.path: name for name in reversed(FOR_REAL_MODELS)}.values()
QUICK = [name for name in FIRST_OF_EACH_MODEL if not name.startswith(("gemma_4_", "qwen3_5_"))]
"""But for those whose many layers take seconds to describe."""


@pytest.mark.parametrize("name", corners(FOR_REAL_MODELS, *QUICK))
def test_every_recipe_is_planned_and_needs_what_its_header_says(name: str) -> None:
    plan = make_plan(recipe(name), PlanInput())
    stated = re.search(r"# Memory: ([0-9.]+) GiB estimated by mmpref plan", read_recipe_text(name)[0])
    if stated is not None:
        assert plan.needed / GIB == pytest.approx(float(stated[1]), abs=0.06)


def test_a_folder_with_nothing_but_a_config_is_planned(config_alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, loss in (("llava", "adadpo"), ("text", "dpo")):
        changes = [f"model.path={config_alone / name}", f"loss={{name: {loss}}}", "processing.max_pixels=null"]
        assert main(["plan", "qwen2_5_vl_3b_uni_dpo_lora", *changes, "--gpu", "RTX 4090"]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "peak: what is always there" in said
        assert "pairs an hour on one RTX 4090" in said
        assert "its config.json" in said


def test_a_plan_of_a_float16_run_is_made_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    changes = ("train.fp16=true", "train.bf16=false")
    assert main(["plan", "llava_1_5_7b_uni_dpo_qlora", *changes, "--gpu", "RTX 4090"]) == 0
    assert "float16" in capsys.readouterr().out


def test_what_does_not_fit_is_told_with_what_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "qwen2_vl_2b_uni_dpo_full", "--gpu-memory", "12GiB"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "fits │ no" in said
    assert "adapter.kind=lora with tune.language=lora: then" in said
    plan = make_plan(recipe("qwen2_vl_2b_uni_dpo_full"), PlanInput(gpu_memory=12 * GIB))
    assert plan.on_card is not None
    needs = [needed for _, needed in plan.on_card.changes]
    assert needs == sorted(needs, reverse=True)
    assert needs[-1] <= 12 < plan.needed / GIB
    assert plan.on_card.longest == 0


@pytest.mark.parametrize(("arguments", "message"), [
    (["--gpu", "Voodoo 2"], "no card 'Voodoo 2' in the table; known: RTX 3060"),
    (["--gpu-memory", "lots"], "'lots' is not a size of memory"),
    (["--image-size", "big"], "'big' is not the size of an image"),
    (["model.path=/nowhere/at/all"], "/nowhere/at/all does not exist"),
    (["tune={language: full}"], "no part is tuned by it"),
])  # fmt: skip
def test_what_cannot_be_planned_is_one_clear_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "llava_1_5_7b_uni_dpo_qlora", *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", [
    "small lora", "small lora ckpt", "small full", "small qlora ckpt",
    "mini full float32, autocast ckpt",
])  # fmt: skip
def test_the_estimate_is_within_15_percent_of_a_measured_run(case: str, tmp_path: Path) -> None:
    import subprocess
    import sys

    script = Path(__file__).resolve().parents[2] / "scripts" / "bench_memory.py"
    out = tmp_path / "figures.json"
    subprocess.run([sys.executable, str(script), "--case-named", case, "--out", str(out)], check=True)
    (row,) = json.loads(out.read_text())
    assert abs(row["error"]) <= 0.15, row
