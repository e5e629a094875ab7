"""The permutation test in closed form equals the mean and the spread over all orders."""

import itertools
import random

import numpy as np
import pytest

from mmpref.evals.shuffle_test import moved, shuffle_test, together


def by_all_orders(said, shown):
    counts = [
        sum(len(here & there) for here, there in zip(order, shown, strict=True))
        for order in itertools.permutations(said)
    ]
    return np.mean(counts), np.std(counts)


@pytest.mark.parametrize("seed", range(4))
def test_mean_and_deviation_are_those_of_all_orders(seed):
    rng = random.Random(seed)
    said, shown = ([set(rng.sample("abcd", rng.randint(0, 3))) for _ in range(6)] for _ in range(2))
    found = shuffle_test(said, shown)
    mean, deviation = by_all_orders(said, shown)
    assert found.expected == pytest.approx(mean)
    assert found.deviation == pytest.approx(deviation)
    assert found.common == sum(len(here & there) for here, there in zip(said, shown, strict=True))


def test_parts_together_are_dealt_out_within_themselves():
    said, shown = [{"1"}, {"2"}, {"2"}, {"a"}, {"b"}], [{"1"}, {"2"}, {"1"}, {"b"}, {"a"}]
    found = together([shuffle_test(said[:3], shown[:3]), shuffle_test(said[3:], shown[3:])])
    first, second = (list(itertools.permutations(part)) for part in (said[:3], said[3:]))
    counts = [
        sum(len(here & there) for here, there in zip(one + other, shown, strict=True))
        for one in first
        for other in second
    ]
    assert (found.common, found.most) == (2, 5)
    # the spread of a part is over its places less one, as Hoeffding's variance is that of all orders
    assert (found.expected, found.deviation) == (pytest.approx(np.mean(counts)), pytest.approx(np.std(counts)))


def test_answers_that_fit_have_skill_one_and_those_that_are_alike_tell_nothing():
    sets = [{str(number)} for number in range(20)]
    good = shuffle_test(sets, sets)
    assert (good.skill, good.sigmas) == (1.0, good.reach)
    assert good.sigmas > 5
    alike = shuffle_test([{"1"}] * 20, sets)
    assert (alike.sigmas, alike.reach) == (0.0, 0.0)


def test_skill_is_cohens_kappa_of_two_labels():
    said = [{"yes"}] * 6 + [{"no"}] * 4
    shown = [{"yes"}] * 5 + [{"no"}] * 5
    assert shuffle_test(said, shown).skill == pytest.approx((0.9 - 0.5) / (1 - 0.5))


@pytest.mark.parametrize("by", [1, -1, 3])
def test_moved_answers_fit_where_they_came_from(by):
    shown = [{str(number)} for number in range(30)]
    said = [shown[(number + by) % 30] for number in range(30)]
    assert moved(said, shown, by).skill == 1.0
    assert moved(said, shown, 0).skill < 0.1


def test_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="2 answers and 1 questions"):
        shuffle_test([{"a"}, {"b"}], [{"a"}])
