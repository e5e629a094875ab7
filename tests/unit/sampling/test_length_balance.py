"""Which possible pairs are kept: the limits, and the balance of lengths."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpref.sampling.length_balance import Limits, PossiblePairs, Selection, choose, is_even, select


def possible(*rows: tuple[int, float, int, int], images: list[list[str]] | None = None) -> PossiblePairs:
    """(prompt, margin, words chosen, words rejected) each."""
    columns = list(zip(*rows, strict=True)) or [(), (), (), ()]
    return PossiblePairs(
        prompt=np.array(columns[0], dtype=np.int64),
        margin=np.array(columns[1], dtype=np.float64),
        chosen_words=np.array(columns[2], dtype=np.float64),
        rejected_words=np.array(columns[3], dtype=np.float64),
        images=images or [],
    )


def test_the_highest_margin_of_each_prompt_is_kept() -> None:
    pairs = possible((0, 1, 5, 5), (0, 3, 5, 9), (2, 2, 1, 1), (2, 2, 8, 1))
    assert select(pairs, Limits(per_prompt=1)).tolist() == [1, 2]  # of equal ones the first
    assert select(pairs, Limits(per_prompt=2)).tolist() == [0, 1, 2, 3]
    assert select(pairs, Limits()).tolist() == [0, 1, 2, 3]


def test_an_image_has_at_most_so_many_pairs_the_best_ones() -> None:
    pairs = possible((0, 1, 5, 5), (1, 3, 5, 5), (2, 2, 5, 5), images=[["a"], ["a", "b"], ["b"]])
    assert select(pairs, Limits(per_image=1)).tolist() == [1]
    assert select(pairs, Limits(per_image=2)).tolist() == [0, 1, 2]


def test_a_prompt_gives_another_pair_where_that_balances() -> None:
    """By hand: best against worst is 4 words shorter; the second prompt has a pair of 4 more for 0.5 less margin."""
    pairs = possible((0, 3, 4, 8), (1, 3, 4, 8), (1, 2.5, 8, 4))
    found = choose(pairs, Limits(per_prompt=1), balance=True)
    assert found.plain.tolist() == [0, 1]
    assert found.kept.tolist() == [0, 2]
    assert found.way == "choosing"


def test_a_pair_is_dropped_where_no_other_balances() -> None:
    """By hand: the third pair brings the least margin for each of its words."""
    pairs = possible((0, 3, 10, 4), (1, 3, 4, 10), (2, 1, 4, 10))
    found = choose(pairs, Limits(per_prompt=1), balance=True)
    assert found.kept.tolist() == [0, 1]


def test_what_is_even_stays() -> None:
    pairs = possible((0, 3, 100, 101), (1, 3, 101, 100), (1, 2, 90, 20))
    found = choose(pairs, Limits(per_prompt=1), balance=True)
    assert (found.kept.tolist(), found.way, found.price) == ([0, 1], "even", 0.0)


def test_where_all_pairs_have_one_sign_those_of_equal_lengths_are_left() -> None:
    pairs = possible((0, 3, 4, 8), (1, 1, 4, 4), (2, 2, 4, 5))
    assert choose(pairs, Limits(per_prompt=1), balance=True).kept.tolist() == [1]
    assert choose(possible((0, 3, 4, 8)), Limits(per_prompt=1), balance=True).kept.tolist() == []


def simulated(prompts: int, answers: int, bias: float, seed: int) -> PossiblePairs:
    """Answers whose score falls with their length, as those of a model that makes things up."""
    random = np.random.default_rng(seed)
    rows = []
    for prompt in range(prompts):
        words = random.integers(5, 60, answers)
        scores = random.normal(3, 1, answers) - bias * (words - 32) / 16
        rows += [
            (prompt, float(scores[one] - scores[two]), int(words[one]), int(words[two]))
            for one in range(answers)
            for two in range(answers)
            if scores[one] > scores[two]
        ]
    return possible(*rows)


@pytest.mark.parametrize("bias", [1.0, 0.4, -0.7])
def test_a_model_whose_short_answers_are_better_gives_balanced_pairs_of_nearly_the_same_margin(bias: float) -> None:
    pairs = simulated(400, 4, bias, seed=3)
    found = choose(pairs, Limits(per_prompt=1), balance=True)
    assert abs(pairs.words[found.plain].mean()) > 5
    assert abs(pairs.words[found.kept].mean()) <= 0.4
    assert found.kept.size > 0.95 * found.plain.size
    dropped_only = _by_dropping(pairs, found)
    assert pairs.margin[found.kept].sum() > 1.2 * pairs.margin[dropped_only].sum()


def _by_dropping(pairs: PossiblePairs, found: Selection) -> np.ndarray:
    """A slow count of what dropping alone keeps: the pairs of least margin a word go, one by one."""
    words, margin = pairs.words, pairs.margin
    kept = found.plain.tolist()
    while abs(words[kept].mean()) > 0.4:
        sign = np.sign(words[kept].sum())
        kept.remove(min((place for place in kept if words[place] * sign > 0), key=lambda p: margin[p] / abs(words[p])))
    return np.array(kept)


rows = st.lists(
    st.tuples(st.integers(0, 6), st.floats(0.01, 5, allow_subnormal=False), st.integers(0, 30), st.integers(0, 30)),
    min_size=1,
    max_size=25,
).map(sorted)
limits = st.builds(Limits, per_prompt=st.none() | st.integers(1, 3), per_image=st.none() | st.integers(1, 3))


@settings(max_examples=120, deadline=None)
@given(rows=rows, limits=limits)
def test_whatever_the_pairs_the_limits_hold_and_the_bias_never_grows(
    rows: list[tuple[int, float, int, int]], limits: Limits
) -> None:
    images = [[f"image {prompt // 2}"] for prompt in range(7)]
    pairs = possible(*rows, images=images)
    found = choose(pairs, limits, balance=True)
    for places in (found.plain, found.kept):
        assert sorted(set(places.tolist())) == places.tolist()
        prompts = Counter(pairs.prompt[places].tolist())
        assert max(prompts.values(), default=0) <= (limits.per_prompt or 99)
        over = Counter(image for prompt in prompts.elements() for image in images[prompt])
        assert max(over.values(), default=0) <= (limits.per_image or 99)
    assert found.plain.size > 0
    if found.kept.size:
        assert abs(pairs.words[found.kept].mean()) <= abs(pairs.words[found.plain].mean()) + 1e-9
    else:
        assert len({np.sign(words) for words in pairs.words.tolist()}) == 1
    again = choose(pairs, limits, balance=True)
    assert again.kept.tolist() == found.kept.tolist()
    assert choose(pairs, limits, balance=False).kept.tolist() == found.plain.tolist()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), bias=st.floats(-1.5, 1.5), most=st.none() | st.integers(1, 3))
def test_many_prompts_are_always_balanced(seed: int, bias: float, most: int | None) -> None:
    pairs = simulated(60, 4, bias, seed)
    found = choose(pairs, Limits(per_prompt=most), balance=True)
    assert is_even(pairs, found.kept)
