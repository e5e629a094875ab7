"""Scores from their own scales to one range: monotone, within it, and back again; and the mean of several."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mmpref.errors import ConfigError
from mmpref.sampling.mapping import KnownMapping, ScaleMapping, combined, is_on, mapping_of, read_mappings

numbers = st.floats(-1e6, 1e6)
bounds = st.tuples(numbers, numbers).filter(lambda pair: pair[0] < pair[1])
raws = st.lists(numbers, min_size=1, max_size=30)


@given(bounds, st.lists(numbers, min_size=2), bounds)
def test_a_mapping_keeps_the_order_and_the_range(scale, raw, to):
    for mapping in (mapping_of(scale, raw, to), mapping_of((None, None), raw, to)):
        assert mapping is not None
        mapped = [mapping.apply(value) for value in sorted(raw)]
        assert mapped == sorted(mapped)
        assert all(to[0] <= value <= to[1] for value in mapped)


@given(bounds, bounds, st.floats(0, 1))
def test_what_is_on_the_scale_is_found_again_by_the_inverse(scale, to, share):
    width = to[1] - to[0]
    assume(scale[1] - scale[0] > 1e-3 and width > 1e-3)
    mapping = mapping_of(scale, [], to)
    assert mapping is not None
    raw = min(max(scale[0] + share * (scale[1] - scale[0]), scale[0]), scale[1])
    back = mapping.inverse(mapping.apply(raw))
    rounding = 1e-9 * (1 + max(map(abs, to)) / width) * (scale[1] - scale[0]) + 1e-9 * max(map(abs, scale))
    assert back == pytest.approx(raw, abs=rounding)


@given(raws)
def test_the_percentiles_of_an_open_scale_are_its_ends_and_what_lies_beyond_is_clipped(raw):
    mapping = mapping_of((None, None), raw, (0.0, 5.0))
    assert mapping is not None
    assert (mapping.low, mapping.high) == pytest.approx(tuple(np.percentile(raw, [1, 99])))
    assert mapping.clips == (True, True)
    if mapping.low < mapping.high:
        assert (mapping.apply(min(raw) - 1), mapping.apply(max(raw) + 1)) == (0.0, 5.0)


def test_values_by_hand():
    assert [mapping_of((1.0, 5.0), [], (0.0, 5.0)).apply(raw) for raw in (1, 2, 5)] == [0.0, 1.25, 5.0]
    half_open = mapping_of((None, 0.0), [-4.0, -2.0, 0.0], (0.0, 10.0))
    assert (half_open.high, half_open.clips) == (0.0, (True, False))
    assert half_open.apply(0.0) == 10.0
    assert half_open.apply(-100.0) == 0.0


def test_equal_scores_are_mapped_to_the_middle_and_no_score_has_no_mapping():
    mapping = mapping_of((None, None), [3.0, 3.0], (0.0, 4.0))
    assert [mapping.apply(raw) for raw in (3.0, 99.0)] == [2.0, 2.0]
    assert mapping.inverse(2.0) is None
    assert mapping.describe() == "all 3 -> 2 (the 1st percentile and the 99th percentile of 2 scores)"
    assert mapping_of((None, None), [], (0.0, 4.0)) is None


def test_scores_that_a_float_hardly_holds_are_mapped_too():
    mapping = mapping_of((None, None), [-1.7e308, 1.7e308], (0.0, 1.0))
    assert mapping.apply(0.0) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("scale", "raw", "on"),
    [
        ((0.0, 1.0), 1.0, True),
        ((0.0, 1.0), 1.0000001, False),
        ((0.0, None), -1e-9, False),
        ((None, None), 1e300, True),
        ((None, None), math.inf, False),
        ((None, None), math.nan, False),
    ],
)
def test_a_score_is_on_its_scale_or_not(scale, raw, on):
    assert is_on(scale, raw) is on


def test_the_mean_is_weighted_and_needs_every_scorer_that_has_a_weight():
    assert combined({"a": 1.0, "b": 4.0}, {}) == 2.5
    assert combined({"a": 1.0, "b": 4.0}, {"b": 2.0}) == 3.0
    assert combined({"a": 1.0, "b": None}, {}) is None
    assert combined({"a": 1.0, "b": None}, {"b": 0.0}) == 1.0


def test_a_mapping_is_read_back_from_the_folder_or_the_file_of_an_earlier_step(tmp_path):
    mapping = ScaleMapping(low=-1.5, high=2.0, to=(0.0, 5.0), clips=(True, False), scores=7)
    content = {
        "range": [0, 5],
        "scorers": {
            "gain": {"version": "2", "mapping": mapping.as_json()},
            "none": {"version": "1", "mapping": None},
        },
    }
    (tmp_path / "scores.json").write_text(json.dumps(content))
    for place in (tmp_path, tmp_path / "scores.json"):
        assert read_mappings(place) == ((0.0, 5.0), {"gain": KnownMapping("2", mapping)})


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "{}",
        '{"range": [0, 5], "scorers": {"a": {}}}',
        '{"range": [0, 5], "scorers": {"a": {"version": "1", "mapping": {"low": 2, "high": 1, "to": [0, 5], '
        '"clips": [true, true], "scores": 2}}}}',
        '{"range": [0, 5], "scorers": {"a": {"version": "1", "mapping": {"low": NaN, "high": 1, "to": [0, 5], '
        '"clips": [true, true], "scores": 2}}}}',
    ],
)
def test_a_file_that_has_no_mappings_is_named(tmp_path, content):
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(ConfigError, match=r"other\.json is no scores\.json"):
        read_mappings(tmp_path / "other.json")


def test_a_mapping_is_a_value():
    mapping = ScaleMapping(low=0.0, high=1.0, to=(0.0, 5.0))
    assert replace(mapping, high=2.0).apply(1.0) == 2.5
