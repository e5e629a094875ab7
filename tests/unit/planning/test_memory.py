"""Each part of the memory answers to the keys that change it."""

from __future__ import annotations

import pytest

from mmpref.models.find_config import find_config
from mmpref.models.known_configs import known_config
from mmpref.planning.architecture import describe
from mmpref.planning.gpus import GIB, on_card
from mmpref.planning.memory import estimate
from mmpref.planning.pair_shape import Shape
from mmpref.planning.plan import make_plan
from mmpref.planning.plan_input import PlanInput
from mmpref.recipe.loading import load_recipe
from mmpref.recipe.sections import Recipe


def recipe(name: str = "qwen2_5_vl_7b_uni_dpo_qlora", *changes: str) -> Recipe:
    return load_recipe(name, list(changes))


def test_the_parts_answer_to_the_keys_that_are_said_to_change_them() -> None:
    base = make_plan(recipe())
    kept = base.memory
    assert base.other_checkpointing.peak > 1.3 * kept.peak
    plain = make_plan(recipe(), PlanInput(layout="plain")).memory
    assert plain.tokens > 1.4 * kept.tokens
    assert plain.step["activations"] > 1.4 * kept.step["activations"]
    doubled = make_plan(recipe("qwen2_5_vl_7b_uni_dpo_qlora", "train.per_device_train_batch_size=2")).memory
    assert doubled.tokens == 2 * kept.tokens
    whole = make_plan(recipe("qwen2_5_vl_7b_uni_dpo_qlora", "adapter.kind=lora")).memory
    assert whole.resting > 2 * kept.resting
    plain_adam = make_plan(recipe("qwen2_5_vl_7b_uni_dpo_qlora", "train.optim=adamw_torch")).memory
    assert plain_adam.step["optimizer"] == pytest.approx(4 * kept.step["optimizer"], rel=0.03)
    full = make_plan(recipe("qwen2_vl_2b_uni_dpo_full")).memory
    frozen = 665_000_000 * 2  # the tower of Qwen2-VL without its merger is the same for both
    assert full.before["reference"] == pytest.approx(full.before["weights, not quantised"] - frozen, rel=0.03)
    cached = make_plan(recipe("qwen2_vl_2b_uni_dpo_full", "reference.kind=cache")).memory
    assert cached.before["reference"] == 0
    assert full.step["optimizer"] == 2 * full.step["gradients"]
    assert kept.before["reference"] == 0


def test_four_bits_with_double_quantisation_are_4_127_bits_a_weight() -> None:
    config = known_config("llava-hf/llava-1.5-7b-hf")
    assert config is not None
    memory = make_plan(recipe("llava_1_5_7b_uni_dpo_qlora")).memory
    text = config.get_text_config()
    layer = 4 * text.hidden_size**2 + 3 * text.hidden_size * text.intermediate_size
    weights = text.num_hidden_layers * layer
    assert 8 * memory.before["weights, quantised"] / weights == pytest.approx(4.127, abs=1e-3)


def test_the_largest_pair_is_the_last_that_fits() -> None:
    import torch

    room = 24 * GIB
    wanted = recipe("llava_1_5_7b_uni_dpo_qlora")
    plan = make_plan(wanted, PlanInput(gpu_memory=room))
    assert plan.on_card is not None
    longest = plan.on_card.longest
    config, _ = find_config(wanted.model.path)
    model = describe(config, wanted)
    for tokens, fits in ((longest, True), (longest + 1, False)):
        shape = Shape(prompt=100, image=plan.shape.image, patches=plan.shape.patches, chosen=tokens, rejected=tokens)
        assert (on_card(estimate(model, wanted, shape, dtype=torch.bfloat16).peak) <= room) == fits
