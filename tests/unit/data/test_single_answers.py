"""Pairs become single answers with labels, and each is shown the answer of another row."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import pytest

from mmpref.data.single_answers import describe_single_answers, single_answers, with_mismatched
from mmpref.errors import DataError
from mmpref.records import ImageRef, PreferencePair, WeightSpan, user_turn


def row(name: str, chosen: str = "", rejected: str | None = None, **fields: object) -> PreferencePair:
    given = {"images": (ImageRef(f"{name}.png"),), "prompt": user_turn("what is it ?", num_images=1), **fields}
    return PreferencePair(id=name, chosen=chosen or f"it is {name}", rejected=rejected, **given)  # type: ignore[arg-type]


PAIRS = [row(f"p{number}", rejected=f"it is no {number}") for number in range(20)]


def test_a_pair_becomes_two_answers_that_keep_what_is_theirs() -> None:
    spans = (WeightSpan(0, 2, 4.0),)
    pair = row(
        "a", "a dog", "a cat", rejected_images=(ImageRef("other.png"),), score_chosen=3.0, score_rejected=1.0,
        chosen_weight=spans, rejected_weight=2.5, weight=0.5, response_prefix="It is", source="s", meta={"x": 1},
        template_kwargs={"tools": []}, other_images=(ImageRef("made.png"),),
    )  # fmt: skip
    good, bad, *_ = single_answers([pair, *PAIRS], seed=0)
    assert (good.id, good.chosen, good.rejected, good.label) == ("a/chosen", "a dog", None, True)
    assert (bad.id, bad.chosen, bad.rejected, bad.label) == ("a/rejected", "a cat", None, False)
    assert (good.images, bad.images) == (pair.images, pair.rejected_images)
    assert (good.score_chosen, bad.score_chosen, good.score_rejected, bad.score_rejected) == (3.0, 1.0, None, None)
    assert (good.chosen_weight, bad.chosen_weight) == (spans, 2.5)
    for answer in (good, bad):
        assert (answer.weight, answer.response_prefix, answer.source) == (0.5, "It is", "s")
        assert (answer.meta, answer.template_kwargs, answer.rejected_images) == ({"x": 1}, {"tools": []}, None)
        assert answer.rejected_weight is None


def test_a_labelled_row_stays_one() -> None:
    labelled = row("l", label=False)
    [found, *rest] = single_answers([labelled, *PAIRS], seed=0)
    assert dataclasses.replace(found, mismatched=None) == labelled
    assert len(rest) == 2 * len(PAIRS)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (row("w"), "'w' has one answer and does not say"),
        (row("w", rejected="b", label=True), "two answers and a label"),
    ],
)
def test_a_row_that_does_not_say_which_it_is_is_refused(wrong: PreferencePair, says: str) -> None:
    with pytest.raises(DataError, match=says):
        single_answers([*PAIRS, wrong], seed=0)


def test_every_answer_gets_one_of_another_prompt_and_every_text_is_given_once() -> None:
    found = single_answers(PAIRS, seed=3)
    owners = {answer.chosen: answer for answer in found}
    assert Counter(answer.mismatched for answer in found) == Counter(answer.chosen for answer in found)
    for answer in found:
        assert answer.mismatched != answer.chosen
        assert owners[answer.mismatched or ""].prompt_key != answer.prompt_key
    assert found != single_answers(PAIRS, seed=4)


def test_the_draw_depends_on_the_rows_and_not_on_their_order_or_repetition() -> None:
    found = {answer.id: answer.mismatched for answer in single_answers(PAIRS, seed=3)}
    mixed = [*PAIRS, *PAIRS[:7]]
    random.Random(0).shuffle(mixed)
    again = single_answers(mixed, seed=3)
    assert len(again) == 2 * len(mixed)
    assert all(found[answer.id] == answer.mismatched for answer in again)


@pytest.mark.parametrize("count", [10, 500])
def test_a_text_that_most_rows_have_is_never_its_own_partner(count: int) -> None:
    rows = [row(f"r{n}", "no" if n % 10 == 3 else "yes", label=n % 2 == 0) for n in range(count)]
    found = with_mismatched(rows, seed=0)
    assert {(answer.chosen, answer.mismatched) for answer in found} == {("yes", "no"), ("no", "yes")}


@pytest.mark.parametrize("rows", [[row("a", label=True)], [row("a", "x", label=True), row("b", "x", label=False)]])
def test_rows_without_a_partner_are_refused(rows: list[PreferencePair]) -> None:
    with pytest.raises(DataError, match=r"none of the other .* rows has both another prompt and another answer"):
        with_mismatched(rows, seed=0)


def test_answers_of_one_prompt_are_no_partners() -> None:
    one = [dataclasses.replace(row("a", f"answer {n}", label=True), id=f"a{n}") for n in range(5)]
    with pytest.raises(DataError, match="another prompt"):
        with_mismatched(one, seed=0)
    found = with_mismatched([*one, row("b", label=False)], seed=0)
    assert [answer.mismatched for answer in found[:5]] == ["it is b"] * 5


def test_counts_are_said_and_advice_is_what_balances_them() -> None:
    rows = [*[row(f"g{n}", label=True) for n in range(30)], *[row(f"b{n}", label=False) for n in range(10)]]

    def said(**weights: float) -> str:
        return describe_single_answers(rows, **{"desirable_weight": 1.0, "undesirable_weight": 1.0, **weights})

    assert "30 desirable, 10 undesirable" in said()
    assert "write `loss.kto.undesirable_weight=3`" in said()
    assert "write" not in said(undesirable_weight=3.0)
    assert "write" not in said(undesirable_weight=2.25)
    assert "write `loss.kto.desirable_weight=1.33`" in said(undesirable_weight=4.0)
    assert "write" not in said(undesirable_weight=4.0, desirable_weight=1.34)
    assert "undesirable_weight is 0: undesirable answers" in said(undesirable_weight=0.0)
    assert "loss.kto.desirable_weight is 0: desirable answers" in said(desirable_weight=0.0)
    assert "of one kind alone" in describe_single_answers(rows[:5], desirable_weight=1.0, undesirable_weight=1.0)
