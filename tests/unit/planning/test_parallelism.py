"""What is split over several GPUs is split, and what is not is not."""

from __future__ import annotations

import pytest

from mmpref.errors import ConfigError
from mmpref.planning.parallelism import BUCKET
from mmpref.planning.plan import make_plan
from tests.unit.planning.shared_recipes import FULL, ONE, QLORA, on, over, recipe, sizes


def test_ddp_keeps_everything_everywhere_and_every_gradient_twice() -> None:
    alone, parallel = make_plan(recipe(FULL, *ONE)), make_plan(recipe(FULL, *ONE), on(over(8, "ddp")))
    _, trained, _ = sizes()
    assert parallel.memory.step == alone.memory.step
    assert parallel.memory.before == {**alone.memory.before, "buckets": 4 * trained}


@pytest.mark.parametrize("gpus", [2, 8, 64])
def test_fsdp2_splits_sixteen_bytes_a_trained_weight_and_nothing_of_the_activations(gpus: int) -> None:
    alone, parallel = (
        make_plan(recipe(FULL, *ONE)),
        make_plan(recipe(FULL, *ONE), on(over(gpus, "fsdp2"))),
    )
    weights, trained, _ = sizes()
    assert parallel.memory.before["weights, not quantised"] == (4 * trained + 2 * (weights - trained)) // gpus
    assert parallel.memory.step["gradients"] == 4 * trained // gpus
    assert parallel.memory.step["optimizer"] == 8 * trained // gpus
    for part in ("activations", "head", "vision", "recomputed layer"):
        assert 0 < parallel.memory.step[part] <= alone.memory.step[part]  # a float32 stream of hidden states, alone
        assert parallel.memory.step[part] == make_plan(recipe(FULL, *ONE), on(over(2, "fsdp2"))).memory.step[part]
    assert parallel.memory.step["autocast's copies"] == 0 < alone.memory.step["autocast's copies"]
    assert parallel.memory.step["gathered"] > 2 * 2 * max(151936 * 1536 // 2, 1)


def test_zero_keeps_a_float32_copy_and_splits_by_stage() -> None:
    weights, trained, _ = sizes()
    second = make_plan(recipe(FULL, *ONE), on(over(8, "zero2"))).memory
    assert second.before["weights, not quantised"] == 2 * weights
    assert second.step["optimizer"] == 12 * trained // 8
    assert second.before["buckets"] == 2 * 2 * min(BUCKET, trained)
    assert second.step["gathered"] == 0
    third = make_plan(recipe(FULL, *ONE), on(over(8, "zero3"))).memory
    assert third.before["weights, not quantised"] == 2 * weights // 8
    assert third.step["optimizer"] == second.step["optimizer"]
    assert third.step["gathered"] > 0


def test_a_packed_base_and_a_copied_reference_are_split_by_fsdp2() -> None:
    alone = make_plan(recipe(QLORA)).memory
    parallel = make_plan(recipe(QLORA), on(over(8, "ddp"))).memory
    assert parallel.before["weights, quantised"] == alone.before["weights, quantised"] > 0
    sliced = make_plan(recipe(QLORA, "train.optim=adamw_torch"), on(over(8, "fsdp2"))).memory
    # of 4.127 bits a weight, 4 are split and the scales are not
    assert sliced.before["weights, quantised"] / alone.before["weights, quantised"] == pytest.approx(
        (4 / 8 + 0.127) / 4.127, rel=0.02
    )
    assert sliced.before["weights, not quantised"] == alone.before["weights, not quantised"] // 8
    whole = make_plan(recipe(FULL)).memory.before["reference"]
    assert make_plan(recipe(FULL), on(over(8, "ddp"))).memory.before["reference"] == whole > 0
    assert make_plan(recipe(FULL), on(over(8, "fsdp2"))).memory.before["reference"] == whole // 8


def test_split_gradients_travel_after_every_micro_batch_and_are_never_whole() -> None:
    _, trained, _ = sizes()
    many, one = (make_plan(recipe(FULL, *c), on(over(8, "fsdp2"))) for c in (["reference.kind=cache"], ONE))
    assert many.memory.step["gradients"] == one.memory.step["gradients"] == 4 * trained // 8
    assert many.network.traffic.gradients == pytest.approx(128 * one.network.traffic.gradients, rel=1e-6)


def test_weights_that_train_cost_what_the_page_says() -> None:
    """By default 16 bytes, and 2 for what is frozen; all in float32 or all in bfloat16 where that is asked for."""
    _, trained, _ = sizes()
    found = [make_plan(recipe(FULL, *ONE, *change)).memory
             for change in ([], ["model.dtype=float32"], ["model.dtype=bfloat16"])]  # fmt: skip
    per_weight = [
        (m.before["weights, not quantised"] + m.step["gradients"] + m.step["optimizer"]) / trained for m in found
    ]
    frozen = (sizes()[0] - trained) / trained
    assert per_weight == pytest.approx([16 + 2 * frozen, 16 + 4 * frozen, 8 + 2 * frozen])
    assert found[0].step["autocast's copies"] == found[1].step["autocast's copies"] > 1.6 * trained
    assert found[2].step["autocast's copies"] == 0


def test_a_plan_without_bf16_takes_what_a_card_does_by_default() -> None:
    left = make_plan(recipe(FULL, *ONE, "train.bf16=null"))
    assert left.recipe.train.bf16 is True
    assert left.needed == make_plan(recipe(FULL, *ONE)).needed
    assert make_plan(recipe(FULL, *ONE, "train.bf16=null", "train.use_cpu=true")).recipe.train.bf16 is False
    assert make_plan(recipe(FULL, *ONE, "train.bf16=null", "model.dtype=float16")).recipe.train.bf16 is False


def test_the_global_batch_is_over_all_gpus() -> None:
    plan = make_plan(recipe(FULL, "train.per_device_train_batch_size=2"), on(over(8, "ddp", 2)))
    assert plan.global_batch == 2 * 128 * 16


def test_the_fix_for_too_few_pairs_is_one() -> None:
    changed = recipe(FULL, "train.gradient_accumulation_steps=125")
    assert make_plan(changed, on(over(8, "ddp"), pairs=1000)).global_batch == 1000
    with pytest.raises(ConfigError, match="there are 999"):
        make_plan(changed, on(over(8, "ddp"), pairs=999))
