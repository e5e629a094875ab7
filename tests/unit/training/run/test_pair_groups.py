"""The line at the start of a run that says what ``train.group_pairs`` does."""

from __future__ import annotations

from mmpref.processing import FitPlan
from mmpref.processing.pair_fit import Fit, PromptLength
from mmpref.records import PreferencePair, user_turn
from mmpref.training.parallel.groups import PromptGroups
from mmpref.training.run.pair_groups import describe_groups, works_of


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
