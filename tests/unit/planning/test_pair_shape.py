"""What runs together of prompts with several pairs: against real batches, and what divides them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpref.errors import ConfigError
from mmpref.planning.pair_shape import Shape, at_once, update_of
from mmpref.planning.plan import Plan, make_plan
from mmpref.planning.plan_input import PlanInput
from mmpref.planning.text import facts
from mmpref.processing import PairCollator, PairEncoder
from mmpref.processing.family import family_of
from mmpref.processing.layout import LayoutName
from mmpref.processing.other_images import OtherImageSettings
from mmpref.recipe.loading import load_recipe
from mmpref.recipe.sections import Recipe
from mmpref.records import ImageRef
from tests.tiny_vlms import TINY, draw, pair

FOUR = Shape(prompt=100, image=516, patches=577, chosen=150, rejected=150, answers=4, pairs=6)


def recipe(*changes: str) -> Recipe:
    free = ["train.group_pairs=prompt", "processing.row_tokens=null"]
    return load_recipe("llava_1_5_7b_uni_dpo_qlora", [*free, *changes])


def batches(pairs: int, accumulation: int, *changes: str) -> Recipe:
    sizes = f"train.per_device_train_batch_size={pairs}", f"train.gradient_accumulation_steps={accumulation}"
    return recipe(*sizes, *changes)


@pytest.mark.parametrize("layout", ["shared_prefix", "plain"])
@pytest.mark.parametrize("answers", [2, 3, 5])
def test_tokens_predictions_and_images_are_those_of_a_real_batch(answers: int, layout: LayoutName) -> None:
    texts = [f"{number} is a red square ." for number in range(answers)]
    rows = [
        pair(f"{i}{j}", images=("28x28-1",), chosen=texts[i], rejected=texts[j])
        for i, j in itertools.combinations(range(answers), 2)
    ]
    encoder = PairEncoder(TINY["llava"].processor(), family_of("llava", has_vision=True))
    encoded = encoder.encode(rows[0], draw)
    image, length = sum(encoded.prompt.image_tokens), len(encoded.chosen_ids)
    assert {len(ids) for row in rows for _, ids in filter(None, encoder.encode(row, draw).sides())} == {length}
    shape = Shape(
        prompt=len(encoded.prompt) - image, image=image, patches=image, chosen=length, rejected=length,
        answers=answers, pairs=len(rows),
    )  # fmt: skip
    batch = PairCollator(encoder, draw, layout=layout)(rows)
    assert batch.num_tokens == shape.tokens(layout)
    assert len(batch.targets) == shape.answer_tokens
    assert len(batch.vision["pixel_values"]) == shape.images(layout)
    part = PairCollator(encoder, draw, layout=layout)(rows[:2])
    assert part.num_tokens == shape.some_pairs(2).tokens(layout)


@pytest.mark.parametrize("layout", ["shared_prefix", "plain"])
@pytest.mark.parametrize("answers", [2, 3])
def test_the_answer_under_another_image_is_counted_as_a_real_batch_runs_it(answers: int, layout: LayoutName) -> None:
    texts = [f"{number} is a red square ." for number in range(answers)]
    rows = [
        replace(
            pair(f"{i}{j}", images=("28x28-1",), chosen=texts[i], rejected=texts[j]),
            other_images=(ImageRef(path=f"28x28-{2 + i + j}"),),
        )
        for i, j in itertools.combinations(range(answers), 2)
    ]
    made = OtherImageSettings(source="column")
    encoder = PairEncoder(TINY["llava"].processor(), family_of("llava", has_vision=True), other_image=made)
    encoded = encoder.encode(rows[0], draw)
    image, length = sum(encoded.prompt.image_tokens), len(encoded.chosen_ids)
    shape = Shape(
        prompt=len(encoded.prompt) - image, image=image, patches=image, chosen=length, rejected=length,
        answers=answers, pairs=len(rows), other=True,
    )  # fmt: skip
    batch = PairCollator(encoder, draw, layout=layout, need_other=True)(rows)
    assert batch.num_tokens == shape.tokens(layout)
    assert len(batch.targets) == shape.answer_tokens
    assert len(batch.vision["pixel_values"]) == shape.images(layout)
    if layout == "shared_prefix":
        triangles = sum(segment.branches[0].length ** 2 / 2 for segment in batch.segments)
        further = [branch for segment in batch.segments for branch in segment.branches[1:]]
        triangles += sum(branch.length * (branch.at + branch.length / 2) for branch in further)
        # an answer begins where it differs from the others, and is counted whole
        assert shape.seen(layout) == pytest.approx(triangles, rel=0.05)


def test_the_image_term_costs_what_its_specification_counts() -> None:
    """LLaVA-1.5 with 616 tokens before two answers of 80: 776 to 1,472 tokens packed, 1,392 to 2,088 in rows."""
    pair_alone = Shape(prompt=40, image=576, patches=577, chosen=80, rejected=80)
    with_other = replace(pair_alone, other=True)
    assert [one.tokens("shared_prefix") for one in (pair_alone, with_other)] == [776, 1472]
    assert [one.tokens("plain") for one in (pair_alone, with_other)] == [1392, 2088]
    assert [one.images("shared_prefix") for one in (pair_alone, with_other)] == [1, 2]
    assert [one.images("plain") for one in (pair_alone, with_other)] == [2, 3]
    assert (
        with_other.in_words
        == "576 image + 40 prompt + 80 + 80 answer tokens, and 696 tokens once more with another image"
    )


MDPO = ("loss={name: mdpo}", "data.other_image=made")


def test_a_plan_counts_the_other_image_in_memory_operations_and_words() -> None:
    changes = ("train.group_pairs=off", "train.gradient_checkpointing=false")
    plain, image = planned("loss={name: dpo}", *changes, answers=2), planned(*MDPO, *changes, answers=2)
    times = image.shape.tokens("shared_prefix") / plain.shape.tokens("shared_prefix")
    assert (plain.memory.tokens, image.memory.tokens) == (1176, 2102)
    # a part of them does not grow with the tokens
    assert image.memory.step["activations"] == pytest.approx(times * plain.memory.step["activations"], rel=0.04)
    assert image.flops_per_pair / plain.flops_per_pair == pytest.approx(times, rel=0.03)
    assert "926 tokens once more with another image" in dict(facts(image, gpu=None)[0])["one pair"]
    of_text = planned(*MDPO, *changes, answers=2, image_size=None)
    assert not of_text.shape.other
    assert planned("loss={name: ddpo}", *changes, answers=2).memory == plain.memory


def test_constants_of_an_update_cost_forwards_and_no_memory() -> None:
    def of(name: str, *changes: str) -> Plan:
        return planned(f"loss={{name: {name}}}", "train.group_pairs=off", *changes, answers=2)

    dpo, mpo, kto = of("dpo"), of("mpo"), of("kto")
    assert mpo.memory.peak == dpo.memory.peak
    # with checkpointing a step of LoRA costs three forwards and the reference one; a running shift is one more
    assert mpo.flops_per_pair / dpo.flops_per_pair == pytest.approx(5 / 4, rel=0.05)
    at_once = ("train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=1")
    assert of("mpo", *at_once).flops_per_pair == of("dpo", *at_once).flops_per_pair
    assert kto.shape.rejected == 0
    assert kto.memory.tokens == dpo.memory.tokens - 250
    alone, cached = of("sft"), of("kto", "reference.kind=cache")
    assert kto.flops_per_pair > cached.flops_per_pair > 1.15 * alone.flops_per_pair


def test_the_issues_own_count() -> None:
    pairs_alone = 6 * Shape(prompt=100, image=516, chosen=150, rejected=150).tokens("shared_prefix")
    assert (pairs_alone, FOUR.tokens("shared_prefix")) == (5496, 1216)
    assert FOUR.in_words == "516 image + 100 prompt + 4 x 150 answer tokens in 6 pairs"


@pytest.mark.parametrize(("pairs", "accumulation", "together"), [
    (1, 128, 6), (6, 4, 6), (8, 1, 8), (8, 16, 12), (12, 1, 12), (1, 4, 4), (2, 1, 2), (1, 8, 6), (6, 2, 6), (7, 2, 8),
])  # fmt: skip
def test_pairs_of_a_prompt_come_in_one_batch(pairs: int, accumulation: int, together: int) -> None:
    wanted = batches(pairs, accumulation)
    assert at_once(wanted, FOUR, "shared_prefix").pairs == together
    assert update_of(wanted, FOUR, "shared_prefix").pairs == pairs * accumulation


@given(pairs=st.integers(1, 20), accumulation=st.integers(1, 9), limit=st.integers(1, 9000) | st.none())
def test_what_runs_at_once_is_within_the_limit_and_never_less_than_a_pair(
    pairs: int, accumulation: int, limit: int | None
) -> None:
    wanted = batches(pairs, accumulation, f"processing.row_tokens={'null' if limit is None else limit}")
    found = at_once(wanted, FOUR, "shared_prefix")
    one = FOUR.some_pairs(1).tokens("shared_prefix")
    assert one <= found.tokens
    assert limit is None or found.tokens <= max(limit, one)
    whole = at_once(batches(pairs, accumulation), FOUR, "shared_prefix")
    assert found.tokens <= whole.tokens
    if limit is None or limit >= whole.tokens:
        assert found == whole
    update = update_of(wanted, FOUR, "shared_prefix")
    assert update.pairs == pairs * accumulation
    assert update.tokens <= update.pairs * one


@pytest.mark.parametrize("pairs", [1, 4])
def test_pairs_by_themselves_are_counted_as_before(pairs: int) -> None:
    one = Shape()
    found = at_once(batches(pairs, 3), one, "shared_prefix")
    assert (found.parts, found.tokens) == (((one, pairs),), pairs * (100 + 250 + 250))


def planned(*changes: str, answers: int = 4, pairs: int | None = None, **asked: Any) -> Plan:
    return make_plan(recipe(*changes), PlanInput(answers_per_prompt=answers, pairs_per_prompt=pairs, **asked))


def test_a_group_costs_what_its_tokens_cost_and_makes_more_pairs_an_hour() -> None:
    alone, together = planned(answers=2, gpu="RTX 4090"), planned(gpu="RTX 4090")
    assert alone.speed is not None
    assert together.speed is not None
    tokens = together.shape.tokens("shared_prefix") / 6 / alone.shape.tokens("shared_prefix")
    assert together.flops_per_pair / alone.flops_per_pair == pytest.approx(tokens, rel=0.05)  # 128 pairs are 21 x 6 + 2
    assert together.speed.pairs_per_hour[0] > 3.9 * alone.speed.pairs_per_hour[0]
    assert together.speed.tokens / together.speed.pairs == pytest.approx(together.memory.tokens / 6, rel=0.03)
    assert alone.memory.peak < together.memory.peak
    best_of = planned(answers=8, pairs=7)
    assert alone.flops_per_pair / best_of.flops_per_pair == pytest.approx(2.9, rel=0.1)


def test_row_tokens_lowers_the_memory_of_a_group_to_that_of_a_pair_and_is_advised() -> None:
    whole, one = planned("train.gradient_checkpointing=false"), planned(answers=2)
    within = f"processing.row_tokens={one.memory.tokens}"
    assert planned(within).memory.step == one.memory.step
    assert planned(within).flops_per_pair == pytest.approx(one.flops_per_pair)
    room = planned("train.gradient_checkpointing=true", answers=8).needed - 1
    tight = planned(answers=8, gpu_memory=room)
    assert tight.on_card is not None
    assert [words for words, _ in tight.on_card.changes][-1].startswith("processing.row_tokens=")
    assert whole.on_card is None


def test_groups_that_the_recipe_would_not_run_together_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.group_pairs=prompt"):
        planned("train.group_pairs=off")
    with pytest.raises(ConfigError, match="2 to 6 pairs"):
        planned(pairs=7)
    with pytest.raises(ConfigError, match="two answers make one pair"):
        planned(answers=2, pairs=2)
    with pytest.raises(ConfigError, match="chosen answers alone"):
        planned("loss={name: sft}")


def test_the_plan_says_what_it_is_of() -> None:
    rows, notes = facts(planned(), gpu=None)
    assert dict(rows)["one prompt"] == "576 image + 100 prompt + 4 x 250 answer tokens in 6 pairs"
    assert "1,676 tokens in 6 pairs at once" in dict(rows)["layout"]
    assert not any("--answers-per-prompt" in note for note in notes)
    rows, notes = facts(planned("processing.row_tokens=1400"), gpu=None)
    assert "1,176 tokens in 1 pair at once, by processing.row_tokens=1400" in dict(rows)["layout"]
    rows, notes = facts(planned(answers=2), gpu=None)
    assert "in a micro-batch of 1" in dict(rows)["layout"]
    assert any("--answers-per-prompt" in note for note in notes)
