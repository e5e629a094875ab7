"""What ``mmpref plan`` says of ``processing.feature_cache`` is what a run writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmpref.errors import ConfigError
from mmpref.models import load
from mmpref.models.adapters.lora import prepare
from mmpref.models.logps.pair_logps import pair_logps
from mmpref.models.tower_features import attach
from mmpref.models.tuning import Tuning
from mmpref.planning.plan import make_plan
from mmpref.planning.plan_input import PlanInput
from mmpref.planning.text import facts
from mmpref.processing import PairCollator, PairEncoder
from mmpref.recipe.loading import build_recipe
from mmpref.recipe.sections import Recipe
from mmpref.training.run.feature_cache import FeatureCache
from tests.tiny_vlms import build, draw, pair


def recipe_of(folder: Path, projector: str, **processing: Any) -> Recipe:
    tree = {
        "output": "out", "model": {"path": str(folder)}, "data": {"train": "pairs.jsonl"}, "loss": {"name": "dpo"},
        "tune": {"language": "full", "projector": projector}, "train": {"learning_rate": 1e-5, "bf16": False},
        "processing": {"feature_cache": "features", **processing},
    }  # fmt: skip
    return build_recipe(tree, where="test")


@pytest.mark.parametrize(
    ("name", "projector"),
    [
        ("llava", "full"),
        ("qwen2_vl", "freeze"),
        pytest.param("qwen2_vl", "full", marks=pytest.mark.slow),
        pytest.param("qwen2_5_vl", "full", marks=pytest.mark.slow),
        pytest.param("qwen3_vl", "freeze", marks=pytest.mark.slow),
        pytest.param("qwen3_vl", "full", marks=pytest.mark.slow),
    ],
)
def test_the_bytes_of_an_image_are_those_that_are_written(name: str, projector: Any, tmp_path: Path) -> None:
    folder = build(name, tmp_path / "m")
    least = {"min_pixels": 32 * 32} if name == "qwen3_vl" else {}  # less than the usual, as the tiny processor has it
    plan = make_plan(recipe_of(folder, projector, **least), PlanInput(image_size=(56, 56), pairs=3000))
    assert plan.features is not None
    loaded = prepare(load(folder, trainable=True), Tuning(language="full", projector=projector))
    cache = FeatureCache.open(tmp_path / "cache", {"m": 1}, print)
    attach(loaded.model, cache)
    batch = PairCollator(PairEncoder(loaded.processor, loaded.family), draw).with_features(cache.files)(
        [pair(images=("56x56-1",))]
    )
    with torch.no_grad():
        pair_logps(loaded.model, batch)
    [tensors] = [cache.files.read(file.stem) for file in (tmp_path / "cache").rglob("*.safetensors")]
    assert isinstance(tensors, dict)
    written = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    assert plan.features.image_bytes == written
    said = dict(facts(plan, gpu=None)[0])["feature cache"]
    assert f"{3000 * written / 2**30:,.1f} GiB for 3,000 of them" in said


def test_the_share_is_that_of_the_tower_alone(tmp_path: Path) -> None:
    folder = build("qwen2_vl", tmp_path / "m")
    plan = make_plan(recipe_of(folder, "freeze"), PlanInput(image_size=(56, 56)))
    assert plan.features is not None
    assert plan.features.share == pytest.approx(2 * plan.model.parameters["vision"] * 16 / plan.flops_per_pair)
    assert 0 < plan.features.share < 1
    small = replace(plan, features=replace(plan.features, share=0.003))
    assert "has less than 1% fewer operations" in dict(facts(small, gpu=None)[0])["feature cache"]
    assert make_plan(recipe_of(folder, "freeze", feature_cache=None), PlanInput()).features is None
    assert make_plan(recipe_of(folder, "freeze"), PlanInput(image_size=None)).features is None


def test_a_model_that_training_refuses_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"processing\.feature_cache is known to be right for gemma3"):
        make_plan(recipe_of(build("idefics3", tmp_path / "m"), "freeze"), PlanInput(image_size=(56, 56)))
