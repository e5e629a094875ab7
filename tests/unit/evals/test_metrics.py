import math

import numpy as np
import pytest

from mmpref.evals.benchmark import each
from mmpref.evals.metrics import Ratio, estimate, paired_differences, tally

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
    monkeypatch.setattr("mmpref.evals.metrics._CELLS_PER_CHUNK", 100)
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
