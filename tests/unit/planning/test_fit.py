"""A recipe's settings for a card: no slower than before, and no more changed than needed."""

from __future__ import annotations

import re
from typing import Any

import pytest

from mmpref.errors import ConfigError
from mmpref.planning.changes import micro_batch
from mmpref.planning.fit import LONGER_ANSWERS, Fitted, fit
from mmpref.planning.gpus import GIB, on_card
from mmpref.planning.memory import with_changes
from mmpref.planning.plan import make_plan
from mmpref.planning.plan_input import PlanInput
from mmpref.recipe.loading import load_recipe
from mmpref.recipe.sections import Recipe
from mmpref.recipe.shipped import shipped_recipes

# pairs in a micro-batch that the former recipes for cards of 12, 16 and 24 GB had, all with gradient checkpointing
FORMER = {
    "qwen2_vl_2b": (2, 4, 8), "qwen2_vl_7b": (1, 1, 2), "qwen2_5_vl_3b": (2, 4, 8), "qwen2_5_vl_7b": (1, 1, 2),
    "qwen3_vl_4b": (2, 4, 8), "qwen3_vl_8b": (1, 1, 2), "llava_1_5_7b": (1, 2, 4), "llava_next_7b": (1, 1, 2),
    "llava_onevision_0_5b": (1, 2, 4), "llava_onevision_7b": (1, 1, 2),
}  # fmt: skip


FOR_REAL_MODELS = [name for name in shipped_recipes() if not name.startswith("demo_")]
# layers of Gemma 4 and Qwen3.5 are counted one by one; smaller models of these two, and experts of Qwen3-VL, stay
LARGE = {"gemma_4_31b_uni_dpo_qlora", "qwen3_5_35b_a3b_uni_dpo_lora"}

FULL, QLORA = "qwen2_vl_2b_uni_dpo_full", "qwen2_5_vl_7b_uni_dpo_qlora"


def fitted(name: str, gib: float, *changes: str, **asked: Any) -> Fitted:
    return fit(load_recipe(name, list(changes)), PlanInput(gpu_memory=int(gib * GIB), **asked))


def update(recipe: Recipe) -> int:
    return recipe.train.per_device_train_batch_size * recipe.train.gradient_accumulation_steps


@pytest.mark.parametrize("model", FORMER)
def test_a_card_gets_settings_no_slower_than_its_former_recipe(model: str) -> None:
    name = f"{model}_uni_dpo_qlora"
    start = load_recipe(name)
    for gib, pairs in zip((12, 16, 24), FORMER[model], strict=True):
        former = with_changes(start, train=micro_batch(start, pairs))
        was, found = make_plan(former, PlanInput(gpu_memory=gib * GIB)), fitted(name, gib)
        plan = found.plan
        assert plan.fits
        assert found.other_result == ()
        assert update(plan.recipe) == update(start) == 128
        faster = plan.flops_per_pair < was.flops_per_pair
        same = plan.flops_per_pair == was.flops_per_pair
        assert faster or (same and plan.recipe.train.per_device_train_batch_size >= pairs), (gib, found.overrides)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in FOR_REAL_MODELS]
)
def test_every_recipe_is_fitted_or_told_the_least_that_would_do(name: str) -> None:
    start = load_recipe(name)
    for gib in (6, 24, 80):
        refused = ""
        try:
            found = fitted(name, gib)
        except ConfigError as err:
            refused = str(err)
        if refused:
            least = re.search(r"the least that would do is ([0-9.]+) GiB, .*--fit ([0-9]+)GiB", refused)
            assert least is not None, refused
            assert gib < float(least[1]) <= int(least[2])
            assert fitted(name, int(least[2])).plan.fits
            continue
        assert found.plan.fits
        assert update(found.plan.recipe) == update(start)
        # what is printed is what was planned, and the recipe takes it
        again = make_plan(load_recipe(name, list(found.overrides)), PlanInput(gpu_memory=gib * GIB))
        assert again.needed == found.plan.needed


def test_what_gives_the_same_model_is_changed_first_and_only_as_far_as_needed() -> None:
    as_it_is = make_plan(load_recipe(FULL)).needed / GIB
    fits = fitted(FULL, as_it_is + 0.1)
    assert all(change.startswith(("train.per_device", "train.gradient_acc")) for change in fits.overrides)
    cached = fitted(FULL, as_it_is - 1)
    assert "reference.kind=cache" in cached.overrides
    assert cached.other_result == ()
    small = fitted(FULL, 24)
    assert "train.optim=adamw_8bit" in small.overrides
    assert small.plan.recipe.adapter.kind == "none"
    (why,) = small.other_result
    assert "8 bits" in why
    assert fitted(FULL, 12).plan.recipe.adapter.kind == "lora"


def test_a_larger_card_gets_faster_settings_that_leave_space_for_longer_answers() -> None:
    found = fitted(QLORA, 80)
    train = found.plan.recipe.train
    assert not train.gradient_checkpointing
    assert found.plan.flops_per_pair < make_plan(load_recipe(QLORA)).flops_per_pair
    assert found.plan.on_card is not None
    assert found.plan.on_card.longest >= LONGER_ANSWERS * 250
    # without checkpointing the allocator was seen to lose more than the plan counts
    assert on_card(found.plan.memory.peak) * 1.25 / 1.05 <= 80 * GIB
    more = fitted(QLORA, 24).plan.recipe.train
    assert more.gradient_checkpointing
    assert more.per_device_train_batch_size > 1
    assert (more.learning_rate, more.optim) == (train.learning_rate, train.optim)


def test_images_and_answers_are_cut_only_at_last_and_it_is_said() -> None:
    pair = {"image_size": (1280, 960)}
    whole = make_plan(load_recipe(QLORA), PlanInput(**pair))
    smaller = fitted(QLORA, whole.needed / GIB - 0.02, **pair)
    (change,) = smaller.overrides
    assert change.startswith("processing.max_pixels=")
    assert 256 < smaller.plan.shape.image < whole.shape.image  # no smaller than it takes
    assert "less detail" in smaller.other_result[0]
    cut = fitted(QLORA, 9.4, answer_tokens=1000, **pair)
    assert [change.partition("=")[0] for change in cut.overrides] == ["processing.max_pixels", "processing.max_length"]
    length = int(cut.overrides[-1].partition("=")[2])
    shape = cut.plan.shape
    assert shape.prompt + shape.image + shape.chosen == length
    assert 32 <= shape.chosen < 1000
    one_more = load_recipe(QLORA, [cut.overrides[0], f"processing.max_length={length + 2}"])
    assert not make_plan(one_more, PlanInput(gpu_memory=int(9.4 * GIB), answer_tokens=1000, **pair)).fits
