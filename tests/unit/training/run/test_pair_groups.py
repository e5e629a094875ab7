"""The line at the start of a run that says what ``train.group_pairs`` does."""

from __future__ import annotations

from dataclasses import replace

from mmpref.processing import FitPlan, PairCollator, PairEncoder, plan_fit
from mmpref.processing.family import family_of
from mmpref.processing.other_images import OtherImageSettings
from mmpref.processing.pair_fit import Fit, PromptLength
from mmpref.records import PreferencePair, user_turn
from mmpref.training.parallel.groups import PromptGroups
from mmpref.training.run.pair_groups import describe_groups, works_of
from tests.tiny_vlms import TINY, draw, pair


def _pairs(*prompts: str) -> list[PreferencePair]:
    return [
        PreferencePair(
            id=str(number), prompt=user_turn(prompt, num_images=0), images=(), chosen=f"yes {number}", rejected="no"
        )
        for number, prompt in enumerate(prompts)
    ]


def _line(*prompts: str, grouped: bool = True, width: int = 3, row_tokens: int | None = None) -> str | None:
    groups = PromptGroups(_pairs(*prompts))
    return describe_groups(groups, grouped=grouped, pairs_per_update=width, seed=0, row_tokens=row_tokens)


def test_one_is_said_as_one() -> None:
    assert _line("a", "a", "a") == (
        "group_pairs: 3 pairs of 1 prompt, 3.0 a prompt; an update of 3 pairs holds about 1 prompt, 1.8 times fewer "
        "tokens than pairs by themselves"
    )
    assert _line("a", width=1) == "group_pairs: 1 pair of 1 prompt: no prompt has a second pair, so nothing is grouped"
    assert "an update of 1 pair holds about 1 prompt in place of 1" in (_line("a", "a", grouped=False, width=1) or "")


def test_what_is_saved_is_a_bound_where_row_tokens_may_keep_pairs_apart() -> None:
    line = _line("a", "a", "a", row_tokens=12) or ""
    assert "up to 1.8 times fewer tokens than pairs by themselves, as far as processing.row_tokens" in line
    off = _line("a", "a", "a", grouped=False, row_tokens=12) or ""
    assert "up to 1.8 times fewer" in off


def test_rejected_answers_that_are_not_run_cost_nothing() -> None:
    """A demonstration loss reads the chosen side only, also of rows that have both."""
    pairs = _pairs("a", "a")
    fits = [
        Fit(pair_id=pair.id, prompts=(PromptLength(10, 0),), answers=(3, 50), space=None, max_pixels=None)
        for pair in pairs
    ]
    plan = FitPlan(pairs, fits)
    assert PromptGroups(pairs, works_of(plan, "shared_prefix")).cost((0, 1)) == 10 + 3 + 3 + 50
    assert PromptGroups(pairs, works_of(plan, "shared_prefix", need_rejected=False)).cost((0, 1)) == 10 + 3 + 3
    assert PromptGroups(pairs, works_of(plan, "plain", need_rejected=False)).cost((0, 1)) == 2 * (10 + 3)


def test_the_answer_under_another_image_and_the_mismatched_one_are_counted_as_they_are_run() -> None:
    encoder = PairEncoder(
        TINY["llava"].processor(), family_of("llava", has_vision=True), other_image=OtherImageSettings(kind="noise")
    )
    rows = [
        pair("seen", images=("28x28-1",), chosen="7 red .", rejected="a red square and a dog ."),
        pair("text", images=(), chosen="7 red .", rejected="a red square and a dog ."),
    ]
    plan = plan_fit(rows, encoder, lambda image: draw(image).size)
    for row, fit in zip(rows, plan.fits, strict=True):
        packed, plain = (
            PairCollator(encoder, draw, layout=layout, need_other=True)([row]) for layout in ("shared_prefix", "plain")
        )
        assert packed.num_tokens == fit.tokens
        assert plain.num_tokens == fit.rows * fit.longest
        [work] = works_of(FitPlan([row], [fit]), "shared_prefix")
        assert float(work) == fit.work
        image_tokens = fit.image_tokens * len(packed.vision.get("pixel_values", ()))
        assert fit.work == fit.tokens + image_tokens
    [single] = works_of(FitPlan([replace(rows[1], mismatched="a dog", rejected=None)], [plan.fits[1]]), "shared_prefix")
    answer, prompt = plan.fits[1].run[0], plan.fits[1].prompt
    assert float(single) >= 2 * (prompt + answer)
