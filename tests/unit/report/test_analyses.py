from __future__ import annotations

import numpy as np
import pytest

from mmpref.report.analyses import (
    CHAIR_RATIOS,
    POPE_RATIOS,
    Ratio,
    chair_counts,
    intervals,
    mean_with_interval,
    most_common_share,
    paired_differences,
    pope_counts,
    repetition,
    tally,
    values,
)

NAMES = ["top", "bottom"]
SHARE = {"share": Ratio({"top": 1}, {"bottom": 1})}


def table(rows):
    return {unit: np.array(row, dtype=float) for unit, row in rows.items()}


def test_values_are_ratios_of_sums_not_means_of_ratios():
    found = values(table({"a": [1, 1], "b": [0, 3]}), NAMES, SHARE)
    assert found == {"share": 0.25}


def test_nothing_to_divide_by_is_none():
    assert values(table({"a": [0, 0]}), NAMES, SHARE) == {"share": None}
    assert values({}, NAMES, SHARE) == {"share": None}


def test_paired_difference_by_hand():
    first = table({"a": [1, 1], "b": [1, 1], "c": [0, 1], "d": [0, 1]})
    second = table({"a": [0, 1], "b": [1, 1], "c": [0, 1], "d": [0, 1]})
    difference = paired_differences(first, second, NAMES, SHARE)["share"]
    assert difference.value == pytest.approx(-0.25)
    assert difference.num_units == 4
    # only picture a changes: the difference of a resample is minus the share of draws that are a, Binomial(4, 1/4) / 4
    assert difference.interval == (pytest.approx(-0.75), pytest.approx(0.0))
    assert not difference.clear


def test_sign_turns_with_the_order_of_the_runs():
    rng = np.random.default_rng(1)
    first = {str(n): np.array([rng.integers(0, 2), 1.0]) for n in range(50)}
    second = {name: np.array([0.0, 1.0]) for name in first}
    forth = paired_differences(first, second, NAMES, SHARE)["share"]
    back = paired_differences(second, first, NAMES, SHARE)["share"]
    assert forth.value == -back.value < 0
    assert forth.interval == pytest.approx((-back.interval[1], -back.interval[0]))
    assert forth.clear


def test_pairing_takes_out_what_is_hard_for_both():
    rng = np.random.default_rng(0)
    first = {str(n): np.array([float(rng.random() < 0.5), 1.0]) for n in range(400)}
    second = {name: (row if int(name) % 20 else np.array([0.0, 1.0])) for name, row in first.items()}
    low, high = paired_differences(first, second, NAMES, SHARE)["share"].interval
    alone = intervals(first, NAMES, SHARE)["share"]
    assert high - low < 0.5 * (alone[1] - alone[0])


def test_only_shared_units_are_compared():
    difference = paired_differences(table({"a": [1, 1], "b": [1, 1]}), table({"b": [0, 1], "c": [0, 1]}), NAMES, SHARE)
    assert difference["share"].value == -1
    assert difference["share"].num_units == 1
    assert difference["share"].interval is None
    assert paired_differences(table({"a": [1, 1]}), table({"b": [0, 1]}), NAMES, SHARE) == {}


def test_interval_is_near_the_normal_one():
    found = intervals({str(n): np.array([float(n < 120), 1.0]) for n in range(400)}, NAMES, SHARE)["share"]
    half = 1.96 * (0.3 * 0.7 / 400) ** 0.5
    assert found == (pytest.approx(0.3 - half, abs=0.008), pytest.approx(0.3 + half, abs=0.008))


def test_mean_with_interval():
    value, interval = mean_with_interval([1.0, 2.0, 3.0])
    assert value == 2.0
    assert interval[0] < 2.0 < interval[1]
    assert mean_with_interval([1.0]) == (1.0, None)


def test_chair_counts(folders):
    item = folders.caption_item(1, ["fork", "plate", "plate"])  # scene 1: fork, tree, kite
    assert item["objects"] == ["fork", "kite", "tree"]
    names = sorted({n for ratio in CHAIR_RATIOS.values() for n in (*ratio.top, *ratio.bottom)})
    found = values(tally([chair_counts(item)], ["x"], names), names, CHAIR_RATIOS)
    assert found == {
        "chair_s": 1.0,
        "chair_i": pytest.approx(2 / 3),
        "recall": pytest.approx(1 / 3),
        "mean_length": 12.0,
    }


@pytest.mark.parametrize(
    ("protocol", "f1", "yes_ratio"),
    [("mmpref", 2 / 4, 2 / 4), ("lmms_eval", 2 / 3, 2 / 4)],
)
def test_pope_counts_follow_the_protocol(protocol, f1, yes_ratio):
    # one hit, one false yes, one unread yes-question, one right no
    reads = [("yes", "yes"), ("yes", "no"), ("unparsed", "yes"), ("no", "no")]
    counts = [pope_counts({"read": read, "label": label}, protocol=protocol) for read, label in reads]
    names = sorted({n for ratio in POPE_RATIOS.values() for n in (*ratio.top, *ratio.bottom)})
    found = values(tally(counts, list("abcd"), names), names, POPE_RATIOS)
    assert found == {"accuracy": 0.5, "f1": pytest.approx(f1), "yes_ratio": yes_ratio}


def test_repetition():
    assert repetition("a red cup and a blue fork .") == 0
    assert repetition("red cup red cup red cup red cup") == pytest.approx(1 - 2 / 6)
    assert repetition("") == 0
    assert repetition("a cup") == 0


def test_most_common_share():
    assert most_common_share(["A cup .", "a  cup .", "a fork ."]) == pytest.approx(2 / 3)
    assert most_common_share([]) == 0
