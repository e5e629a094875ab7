"""The win rate at equal length: known truths are found again, and the edges are what they should be."""

import numpy as np
import pytest

from mmpref.statistics import Ratio, estimate, length_counts, paired_differences, scaled_differences, tally
from mmpref.statistics.length_control import FEWEST_FOR_A_CURVE, LengthControlled, at_equal_length

WIN = Ratio(top={"won": 1}, bottom={"judged": 1}, why_empty="")
METRICS = {"lc": LengthControlled(), "win": WIN}


def table(differences, preferences):
    scaled = scaled_differences({f"{n:04d}": float(d) for n, d in enumerate(differences)})
    return tally(
        {
            name: {**length_counts(scaled[name], float(y)), "won": float(y), "judged": 1}
            for name, y in zip(scaled, preferences, strict=True)
        }
    )


def drawn(rng, num, *, length, quality, mean=40.0):
    differences = rng.normal(mean, 100, size=num)
    chance = 1 / (1 + np.exp(-(quality + length * np.tanh(differences / differences.std()))))
    return differences, (rng.random(num) < chance).astype(float)


def test_a_judge_that_sees_only_length_gives_half_at_equal_length():
    found = estimate(
        table(*drawn(np.random.default_rng(0), 3000, length=3.0, quality=0.0, mean=100)), METRICS, resamples=200
    )
    assert found.metrics["win"] > 0.7
    assert found.metrics["lc"] == pytest.approx(0.5, abs=0.04)
    low, high = found.intervals["lc"]
    assert low < 0.5 < high


def test_a_judge_that_sees_only_quality_gives_the_plain_rate():
    found = estimate(
        table(*drawn(np.random.default_rng(1), 3000, length=0.0, quality=0.8, mean=100)), METRICS, resamples=10
    )
    assert found.metrics["lc"] == pytest.approx(1 / (1 + np.exp(-0.8)), abs=0.04)
    assert found.metrics["lc"] == pytest.approx(found.metrics["win"], abs=0.03)


def test_both_at_once_are_told_apart():
    found = estimate(
        table(*drawn(np.random.default_rng(2), 6000, length=2.0, quality=-1.0, mean=120)), METRICS, resamples=10
    )
    assert found.metrics["lc"] == pytest.approx(1 / (1 + np.e), abs=0.03)
    assert found.metrics["win"] > found.metrics["lc"] + 0.1


def test_the_interval_has_the_truth_about_as_often_as_it_says():
    hits = 0
    for seed in range(40):
        found = estimate(
            table(*drawn(np.random.default_rng(seed), 300, length=1.5, quality=0.5)), METRICS, resamples=100
        )
        low, high = found.intervals["lc"]
        hits += low < 1 / (1 + np.exp(-0.5)) < high
    assert 34 <= hits <= 40


@pytest.mark.parametrize("graded", [False, True])
def test_exchanging_the_two_gives_one_less(graded):
    rng = np.random.default_rng(3)
    differences, preferences = drawn(rng, 200, length=1.0, quality=0.4)
    if graded:
        preferences = rng.choice([0, 0.25, 0.5, 1.0], size=200)
    one = estimate(table(differences, preferences), METRICS, resamples=10).metrics["lc"]
    other = estimate(table(-differences, 1 - preferences), METRICS, resamples=10).metrics["lc"]
    assert one == pytest.approx(1 - other, abs=1e-9)


def test_against_a_fit_with_a_grid_of_both_parameters():
    """The highest likelihood on a fine grid lies where Newton's method ends."""
    x, counts, wins = np.array([-0.5, 0.0, 0.7]), np.array([[10.0, 8.0, 12.0]]), np.array([[3.0, 4.5, 10.0]])
    heights, slopes = np.meshgrid(np.linspace(-2, 2, 801), np.linspace(-4, 4, 801), indexing="ij")
    at = heights[..., None] + slopes[..., None] * x
    value = (wins[0] * at - counts[0] * np.logaddexp(0, at)).sum(-1) - 0.05 * slopes**2
    best = heights.flat[int(value.argmax())]
    assert at_equal_length(x, counts, wins)[0] == pytest.approx(1 / (1 + np.exp(-best)), abs=2e-3)


def test_ties_alone_are_a_half():
    assert estimate(table(range(30), [0.5] * 30), METRICS, resamples=10).metrics["lc"] == pytest.approx(0.5)


@pytest.mark.parametrize("all_of", [0.0, 1.0])
def test_all_won_or_all_lost_is_the_plain_rate_with_an_exact_interval(all_of):
    found = estimate(table(range(40), [all_of] * 40), METRICS)
    assert found.metrics["lc"] == all_of
    assert found.intervals["lc"] == found.intervals["win"]


def test_equal_differences_are_the_plain_rate():
    found = estimate(table([7] * 40, [1.0] * 30 + [0.0] * 10), METRICS)
    assert found.metrics["lc"] == pytest.approx(0.75, abs=1e-9)


def test_where_length_parts_wins_from_losses_there_is_an_end():
    found = estimate(table([-20 + n for n in range(41)], [float(n > 20) for n in range(41)]), METRICS, resamples=50)
    assert 0.2 < found.metrics["lc"] < 0.6
    assert np.isfinite(found.metrics["lc"])


def test_few_answers_are_refused_with_the_reason():
    few = FEWEST_FOR_A_CURVE - 1
    found = estimate(table(range(few), [1.0, 0.0] * (few // 2) + [1.0]), METRICS)
    assert found.metrics["lc"] is None
    assert "too few" in found.undefined["lc"]
    assert estimate(table(range(few + 1), [1.0, 0.0] * 10), METRICS).metrics["lc"] is not None


def test_two_systems_are_compared_on_the_same_prompts():
    rng = np.random.default_rng(4)
    differences, worse = drawn(rng, 200, length=1.0, quality=0.0)
    better = np.maximum(worse, (rng.random(200) < 0.4).astype(float))
    found = paired_differences(table(differences, worse), table(differences, better), METRICS)["lc"]
    assert found.clear
    assert found.value > 0.1
