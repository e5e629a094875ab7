"""How far scorers agree: counts by hand, Spearman as scipy defines it, and intervals that contain the value."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpref.sampling.agreement_of_scorers import ScoredPrompt, agreements


def prompt(unit, **scores):
    return ScoredPrompt(unit, scores)


def test_pairs_within_prompts_are_counted_and_ties_are_out():
    prompts = [prompt("a", x=[1, 2, 3], y=[1, 3, 2]), prompt("b", x=[1, 1, None], y=[0, 5, 7])]
    (found,) = agreements(prompts, ["x", "y"])
    assert (found.same_order, found.other_order, found.ties, found.answers) == (2, 1, 1, 5)
    assert found.share == pytest.approx(2 / 3)


def test_scores_of_different_prompts_are_not_compared_in_the_share():
    prompts = [prompt(str(at), x=[at], y=[-at]) for at in range(5)]
    (found,) = agreements(prompts, ["x", "y"])
    assert (found.share, found.spearman) == (None, pytest.approx(-1.0))
    assert found.row()[3] == "undefined"


def ranks(values):
    return [statistics.fmean(at for at, other in enumerate(sorted(values), 1) if other == value) for value in values]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=20))
def test_spearman_is_the_correlation_of_mean_ranks(values):
    first, second = zip(*values, strict=True)
    prompts = [prompt(str(at), x=[one], y=[two]) for at, (one, two) in enumerate(values)]
    (found,) = agreements(prompts, ["x", "y"])
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found.spearman is None
    else:
        assert found.spearman == pytest.approx(statistics.correlation(ranks(first), ranks(second)), abs=1e-9)


def test_intervals_contain_what_they_are_of_and_narrow_with_more_images():
    chance = random.Random(0)

    def found(size):
        prompts = []
        for at in range(size):
            truth = [chance.random() for _ in range(4)]
            noisy = [[value + chance.gauss(0, 0.3) for value in truth] for _ in range(2)]
            prompts.append(prompt(str(at), x=noisy[0], y=noisy[1]))
        return agreements(prompts, ["x", "y"])[0]

    few, many = found(30), found(300)
    for one in (few, many):
        assert one.share_interval[0] < one.share < one.share_interval[1]
        assert one.spearman_interval[0] < one.spearman < one.spearman_interval[1]
    width = [one.share_interval[1] - one.share_interval[0] for one in (few, many)]
    assert width[1] < width[0] / 2
    assert many.share > 0.6


def test_each_two_of_three_scorers_are_compared_and_one_alone_is_not():
    prompts = [prompt("a", x=[1, 2], y=[1, 2], z=[2, 1])]
    found = agreements(prompts, ["x", "y", "z"])
    assert [(one.first, one.second, one.share) for one in found] == [("x", "y", 1.0), ("x", "z", 0.0), ("y", "z", 0.0)]
    assert agreements(prompts, ["x"]) == []


def test_scores_too_far_apart_for_a_product_are_ordered():
    (found,) = agreements([prompt("a", x=[1e-300, 2e-300], y=[1e-300, 2e-300])], ["x", "y"])
    assert (found.same_order, found.ties) == (1, 0)
