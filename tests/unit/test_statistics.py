import math

import numpy as np
import pytest

from mmpref.evals.benchmarks.contract import each
from mmpref.statistics import (
    Formula,
    Ratio,
    estimate,
    mcnemar,
    mean_difference,
    mean_with_interval,
    on_shared_units,
    paired_differences,
    spearman,
    spearman_difference,
    tally,
    weighted_spearman,
)

SHARE = Ratio(top={"hit": 1}, bottom={"n": 1}, why_empty="nothing was counted")
RATIOS = {"share": SHARE}


def table(hits, units=None, sizes=None):
    sizes = sizes or [1] * len(hits)
    counts = [{"hit": hit, "n": size} for hit, size in zip(hits, sizes, strict=True)]
    by_unit = {}
    for unit, row in zip(units or [f"{index:05d}" for index in range(len(hits))], counts, strict=True):
        by_unit.setdefault(unit, []).append(row)
    return tally({unit: each(lambda row: row)(rows) for unit, rows in by_unit.items()})


def test_interval_of_independent_questions_is_the_binomial_one():
    num, share = 400, 0.3
    low, high = estimate(table([index < num * share for index in range(num)]), RATIOS).intervals["share"]
    half = 1.96 * math.sqrt(share * (1 - share) / num)
    assert low == pytest.approx(share - half, abs=0.006)
    assert high == pytest.approx(share + half, abs=0.006)


def test_interval_knows_that_questions_of_one_image_go_together():
    """Four copies of every question, by image: the width of 100 questions, not of 400."""
    hits = [index % 2 for index in range(100)]
    alone = estimate(table(hits), RATIOS).intervals["share"]
    copies = estimate(table(hits * 4, units=[f"{index % 100:05d}" for index in range(400)]), RATIOS).intervals["share"]
    assert copies == pytest.approx(alone)


def test_ninety_five_of_a_hundred_intervals_hold_the_truth():
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        low, high = estimate(table(list(rng.random(150) < 0.4)), RATIOS, resamples=400, seed=trial).intervals["share"]
        held += low <= 0.4 <= high
    assert 180 <= held <= 199


def test_all_alike_gives_the_exact_interval_and_not_zero_width():
    found = estimate(table([1] * 50), RATIOS)
    assert found.metrics["share"] == 1.0
    assert found.intervals["share"] == pytest.approx((0.025 ** (1 / 50), 1.0))
    assert estimate(table([0] * 50), RATIOS).intervals["share"] == pytest.approx((0.0, 1 - 0.025 ** (1 / 50)))


def test_nothing_counted_is_undefined_with_a_reason():
    for empty in (table([]), table([0, 0], sizes=[0, 0])):
        found = estimate(empty, RATIOS)
        assert found.metrics == {"share": None}
        assert found.undefined == {"share": "nothing was counted"}
        assert found.intervals == {}


def test_one_unit_has_a_value_and_no_interval():
    found = estimate(table([2], sizes=[4]), RATIOS)
    assert found.metrics["share"] == 0.5
    assert found.intervals == {}


def test_a_value_for_nothing_and_a_needed_top():
    empty = table([], sizes=[])
    assert (
        estimate(empty, {"m": Ratio(top={"hit": 1}, bottom={"n": 1}, why_empty="", when_empty=0.0)}).metrics["m"] == 0
    )
    needs = Ratio(top={"hit": 1}, bottom={"n": 1}, why_empty="no hit", needs_top=True)
    assert estimate(table([0, 0]), {"m": needs}).undefined == {"m": "no hit"}


def test_same_seed_same_numbers_and_order_changes_nothing():
    hits = [index % 3 == 0 for index in range(60)]
    units = [f"{index:05d}" for index in range(60)]
    once = estimate(table(hits, units), RATIOS, seed=5)
    again = estimate(table(hits[::-1], units[::-1]), RATIOS, seed=5)
    assert once == again
    uneven = table(hits, units, sizes=[1 + index for index in range(60)])
    assert estimate(uneven, RATIOS, seed=6).intervals != estimate(uneven, RATIOS, seed=5).intervals


def test_pieces_of_resampling_do_not_change_the_numbers(monkeypatch):
    hits = [index % 3 == 0 for index in range(60)]
    whole = estimate(table(hits), RATIOS)
    monkeypatch.setattr("mmpref.statistics.bootstrap._CELLS_PER_CHUNK", 100)
    assert estimate(table(hits), RATIOS) == whole


def test_paired_difference_is_narrow_where_systems_agree():
    """Both fail the same half; the second mends 10 of 200. Alone, each interval is +-7 points wide."""
    before = [index % 2 for index in range(200)]
    after = [1 if index in range(0, 20, 2) else hit for index, hit in enumerate(before)]
    found = paired_differences(table(before), table(after), RATIOS)["share"]
    assert found.value == pytest.approx(0.05)
    half = 1.96 * math.sqrt(0.05 * 0.95 / 200)
    assert found.interval == pytest.approx((0.05 - half, 0.05 + half), abs=0.006)
    assert found.clear
    assert found.num_units == 200


def test_paired_difference_changes_sign_with_the_order():
    before, after = table([1, 0, 1, 0] * 10), table([1, 1, 1, 0] * 10)
    forth, back = (paired_differences(a, b, RATIOS)["share"] for a, b in ((before, after), (after, before)))
    assert forth.value == -back.value > 0
    assert forth.interval == pytest.approx((-back.interval[1], -back.interval[0]), abs=0.01)


def test_paired_difference_refuses_other_units():
    with pytest.raises(ValueError, match="same units"):
        paired_differences(table([1, 0]), table([1, 0, 1]), RATIOS)


def test_undefined_on_one_side_is_no_difference():
    found = paired_differences(table([1, 0]), table([0, 0], sizes=[0, 0]), RATIOS)["share"]
    assert (found.first, found.second, found.value, found.interval) == (0.5, None, None, None)


def test_values_are_ratios_of_sums_not_means_of_ratios():
    assert estimate(table([1, 0], sizes=[1, 3]), RATIOS).metrics == {"share": 0.25}


def test_paired_difference_by_hand():
    found = paired_differences(table([1, 1, 0, 0]), table([0, 1, 0, 0]), RATIOS)["share"]
    assert (found.value, found.num_units, found.num_changed) == (-0.25, 4, 1)
    # only one image changes: the difference of a resample is minus the share of its draws, Binomial(4, 1/4) / 4
    assert found.interval == (pytest.approx(-0.75), pytest.approx(0.0))
    assert not found.clear


@pytest.mark.parametrize("num", [2, 3, 4, 5])
def test_a_handful_of_units_that_all_turn_is_not_clear_and_has_a_width(num):
    forth = paired_differences(table([0] * num), table([1] * num), RATIOS)["share"]
    back = paired_differences(table([1] * num), table([0] * num), RATIOS)["share"]
    assert (forth.value, back.value) == (1.0, -1.0)
    assert forth.interval[0] < 0 < forth.interval[1]  # the sign test: p = 2 * 0.5^num > 0.05
    assert back.interval == (-forth.interval[1], -forth.interval[0])
    assert not forth.clear
    assert not back.clear
    assert forth.caution == f"too few units differ ({num} of {num})"


@pytest.mark.parametrize("num", [6, 50])
def test_enough_units_that_all_turn_are_clear(num):
    found = paired_differences(table([0] * num), table([1] * num), RATIOS)["share"]
    assert 0 < found.interval[0] < found.interval[1] == 1.0
    assert found.clear
    assert found.caution == ""


@pytest.mark.parametrize("wanted", [
    SHARE,
    Formula(parts={"x": SHARE}, combine=lambda parts: parts["x"], why_empty=""),
])  # fmt: skip
def test_a_few_changed_units_among_many_are_not_clear_though_the_interval_leaves_out_zero(wanted):
    before = table([0] * 200)
    found = paired_differences(before, table([1] * 5 + [0] * 195), {"m": wanted})["m"]
    assert found.interval[0] > 0
    assert not found.clear
    assert found.caution == "too few units differ (5 of 200)"
    assert paired_differences(before, table([1] * 6 + [0] * 194), {"m": wanted})["m"].clear


def test_changes_in_counts_that_the_metric_is_not_made_of_do_not_count():
    before = tally({str(n): {"hit": 0, "n": 1, "words": 5} for n in range(40)})
    after = tally({str(n): {"hit": n < 5, "n": 1, "words": 9} for n in range(40)})
    assert paired_differences(before, after, RATIOS)["share"].num_changed == 5


WORDS = {"words": Ratio(top={"words": 1}, bottom={"n": 1}, why_empty="", proportion=False)}


@pytest.mark.parametrize("num", [2, 5, 6, 30])
def test_units_all_alike_have_no_interval_and_are_clear_where_they_are_many(num):
    before, after = (tally({str(n): {"words": w, "n": 1} for n in range(num)}) for w in (5.1, 9.3))
    assert estimate(before, WORDS).intervals == {}
    found = paired_differences(before, after, WORDS)["words"]
    assert found.value == pytest.approx(4.2)
    assert found.interval is None
    assert found.clear == (num >= 6)
    assert found.caution == ("all units changed by the same" if num >= 6 else f"too few units differ ({num} of {num})")
    same = paired_differences(before, before, WORDS)["words"]
    assert (same.value, same.interval, same.clear) == (0, None, False)
    assert same.caution == f"none of {num} units differs"
    pairs = mean_difference(dict.fromkeys(before.units, 0.1), dict.fromkeys(before.units, 0.4))
    assert (pairs.interval, pairs.clear) == (None, num >= 6)


def test_units_without_a_say_do_not_widen_or_narrow_the_edge():
    """Two captions mention something; fifty others mention nothing and say nothing about the rate."""
    sizes = [1, 1] + [0] * 50
    found = paired_differences(table([0, 0] + [0] * 50, sizes=sizes), table([1, 1] + [0] * 50, sizes=sizes), RATIOS)
    assert not found["share"].clear
    assert found["share"].interval[0] < 0


def test_no_claim_is_made_of_noise_more_often_than_is_said():
    """Both systems are the same coin, on 8 images each: 5 % may be called clear, and fewer are."""
    rng = np.random.default_rng(3)
    clear = 0
    for trial in range(300):
        before, after = (table(list(rng.random(8) < 0.5)) for _ in range(2))
        clear += paired_differences(before, after, RATIOS, resamples=300, seed=trial)["share"].clear
    assert clear <= 0.05 * 300


def test_shared_units_are_those_of_both():
    first, second = on_shared_units(table([1, 1], units=["a", "b"]), table([0, 0], units=["b", "c"]))
    assert first.units == second.units == ("b",)
    found = paired_differences(first, second, RATIOS)["share"]
    assert (found.value, found.num_units) == (-1, 1)
    assert not found.clear
    empty = on_shared_units(table([1], units=["a"]), table([0], units=["b"]))
    assert paired_differences(*empty, RATIOS)["share"].value is None


def test_mean_with_interval():
    value, interval = mean_with_interval([1.0, 2.0, 3.0])
    assert value == 2.0
    assert interval[0] < 2.0 < interval[1]
    assert mean_with_interval([1.0]) == (1.0, None)
    assert mean_with_interval([0.1 + 0.2, 0.3, 0.3])[1] is None  # the last bit of a sum is no width
    with pytest.raises(ValueError, match="no values"):
        mean_with_interval([])


def test_mean_difference_is_paired_by_unit():
    first = {f"p{n}": float(n) for n in range(20)}
    second = {f"p{n}": n + 1.0 + 0.1 * (n % 3) for n in range(5, 40)}
    found = mean_difference(first, second)
    assert (found.num_units, found.num_changed) == (15, 15)
    assert found.value == pytest.approx(1.1)
    assert 1.0 < found.interval[0] < 1.1 < found.interval[1] < 1.2
    assert found.clear
    assert mean_difference(first, {"other": 1.0}) is None
    two = mean_difference({"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 1.5})
    assert two.interval[0] > 0
    assert not two.clear


def test_mcnemar_is_the_exact_binomial_test():
    def by_hand(b, c):
        n = b + c
        tail = sum(math.comb(n, k) for k in range(min(b, c) + 1)) / 2**n
        return min(1.0, 2 * tail)

    for b, c in ((0, 1), (1, 5), (5, 1), (10, 25), (3, 3), (0, 20), (400, 470)):
        assert mcnemar(b, c) == pytest.approx(by_hand(b, c), rel=1e-9)
    assert mcnemar(0, 0) is None
    assert mcnemar(20, 20) == 1.0
    assert mcnemar(0, 5000) == 0.0 or mcnemar(0, 5000) < 1e-300


def test_ties_share_the_middle_of_their_ranks_in_spearman():
    first, second = [1, 2, 2, 3, 3, 3, 9], [5, 1, 4, 4, 4, 7, 7]

    def ranks(values):
        return [np.mean([at for at, other in enumerate(sorted(values), 1) if other == value]) for value in values]

    rho, interval = spearman(first, second, resamples=200)
    assert rho == pytest.approx(np.corrcoef(ranks(first), ranks(second))[0, 1])
    assert interval[0] < rho < interval[1]
    assert spearman(first, [-value for value in second], resamples=2)[0] == pytest.approx(-rho)


def test_a_unit_that_counts_twice_is_two_equal_units_in_spearman():
    first, second = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 1.0, 4.0, 3.0])
    (once,) = weighted_spearman(first, second, np.array([[1.0, 2.0, 0.0, 1.0]]))
    rho, _ = spearman([1, 2, 2, 4], [2, 1, 1, 3], resamples=2)
    assert once == pytest.approx(rho)


@pytest.mark.parametrize(("first", "second"), [([1, 2], [1, 2]), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [4, 4, 4])])
def test_spearman_is_undefined_for_two_units_and_where_one_side_is_all_alike(first, second):
    assert spearman(first, second) == (None, None)
    assert spearman_difference((first, second), (first, second)) == (None, None)


def test_spearman_refuses_other_lengths_and_what_is_no_number():
    with pytest.raises(ValueError, match="two numbers of each unit"):
        spearman([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="finite"):
        spearman([1, 2, math.nan], [1, 2, 3])
    with pytest.raises(ValueError, match="same units"):
        spearman_difference(([1, 2, 3], [1, 2, 3]), ([1, 2, 3, 4], [1, 2, 3, 4]))


def test_the_difference_of_two_rank_correlations_is_second_less_first():
    units = list(range(40))
    jumbled = [(7 * unit) % 40 for unit in units]
    value, interval = spearman_difference((units, jumbled), (units, units), resamples=200)
    assert value == pytest.approx(1 - spearman(units, jumbled, resamples=2)[0])
    assert 0 < interval[0] < value < interval[1]
