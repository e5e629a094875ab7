"""Exact intervals and tests against values by hand and sums of fractions."""

from fractions import Fraction
from math import comb, sqrt

import pytest

from mmpref.statistics import clopper_pearson, mean_with_t_interval, sign_test, t_quantile
from mmpref.statistics.exact import beta_share


def at_least(successes, n, share):
    """P(X >= successes) as an exact fraction."""
    p = Fraction(share)
    return sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(successes, n + 1))


@pytest.mark.parametrize(("successes", "n"), [(1, 2), (3, 7), (13, 16), (14, 16), (1, 30), (29, 30), (57, 100)])
def test_each_end_of_the_interval_leaves_out_its_tail_exactly(successes, n):
    low, high = clopper_pearson(successes, n)
    assert float(at_least(successes, n, low)) == pytest.approx(0.025, rel=1e-9)
    assert float(1 - at_least(successes + 1, n, high)) == pytest.approx(0.025, rel=1e-9)


def test_the_interval_at_the_edges_has_a_closed_form():
    assert clopper_pearson(0, 16) == pytest.approx((0, 1 - 0.025 ** (1 / 16)))
    assert clopper_pearson(16, 16) == pytest.approx((0.025 ** (1 / 16), 1))
    assert clopper_pearson(0, 0) == (0, 1)


def test_the_published_shares_of_sixteen_cells():
    """81 % and 88 % of 16 combinations are 13 and 14 of them."""
    assert clopper_pearson(13, 16) == pytest.approx((0.5435, 0.9595), abs=5e-5)
    assert clopper_pearson(14, 16) == pytest.approx((0.6165, 0.9845), abs=5e-5)


def test_successes_and_failures_are_mirror_images():
    low, high = clopper_pearson(3, 11)
    assert clopper_pearson(8, 11) == pytest.approx((1 - high, 1 - low), abs=1e-14)


def test_large_counts_are_close_to_the_normal_interval():
    low, high = clopper_pearson(400_000, 1_000_000)
    half = 1.959964 * sqrt(0.4 * 0.6 / 1_000_000)
    assert (low, high) == pytest.approx((0.4 - half, 0.4 + half), abs=1e-6)


@pytest.mark.parametrize(("successes", "n"), [(-1, 3), (4, 3), (0, -1)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(ValueError, match="successes"):
        clopper_pearson(successes, n)


@pytest.mark.parametrize("a", [1, 2, 5, 40])
@pytest.mark.parametrize("b", [1, 3, 17])
@pytest.mark.parametrize("x", [0.003, 0.2, 0.5, 0.9, 0.9999])
def test_the_beta_share_is_a_binomial_sum(a, b, x):
    assert beta_share(x, a, b) == pytest.approx(float(at_least(a, a + b - 1, x)), rel=1e-10, abs=1e-300)


@pytest.mark.parametrize(
    ("degrees", "known"), [(1, 12.7062047), (2, 4.3026527), (3, 3.1824463), (9, 2.2621572), (100, 1.9839715)]
)
def test_t_quantiles_are_those_of_the_table(degrees, known):
    assert t_quantile(degrees) == pytest.approx(known, abs=1e-6)


def test_t_of_many_degrees_is_normal_and_impossible_ones_are_refused():
    assert t_quantile(10**7) == pytest.approx(1.959964, abs=1e-5)
    with pytest.raises(ValueError, match="0 degrees"):
        t_quantile(0)


def test_the_sign_test_by_hand():
    assert sign_test(6, 0) == pytest.approx(2 / 64)
    assert sign_test(1, 5) == pytest.approx(2 * 7 / 64)
    assert sign_test(3, 3) == 1
    assert sign_test(0, 0) is None
    with pytest.raises(ValueError, match="losses"):
        sign_test(1, -1)


def test_the_mean_over_seeds_by_hand():
    mean, interval = mean_with_t_interval([1.0, 2.0, 3.0])
    half = 4.302653 / sqrt(3)
    assert (mean, interval) == (2.0, pytest.approx((2 - half, 2 + half)))
    assert mean_with_t_interval([4.0]) == (4.0, None)
    assert mean_with_t_interval([0.1, 0.1, 0.1])[1] is None
    with pytest.raises(ValueError, match="no values"):
        mean_with_t_interval([])
