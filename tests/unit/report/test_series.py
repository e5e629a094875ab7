"""Figures of methods over the values of one setting."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpref.report.figures.series import Panel, Point, Series, apart, series_figure, series_image

PANEL = Panel(
    "CHAIR_s, %",
    "swapped labels, %",
    ("0", "40"),
    (
        Series("DPO", 2, (Point(13.0, (11.0, 15.0)), Point(27.0))),
        Series("A method with a long name", 3, (None, Point(27.1)), short="long"),
    ),
    level=("start", 36.0),
)


def test_names_that_do_not_touch_stay_where_they_are() -> None:
    assert apart([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])


def test_names_that_would_lie_on_each_other_stand_around_their_middle() -> None:
    assert apart([0.5, 0.5], 0.1) == pytest.approx([0.45, 0.55])
    assert apart([0.2, 0.5, 0.52, 0.54], 0.1) == pytest.approx([0.2, 0.42, 0.52, 0.62])


def test_a_block_that_grows_takes_in_its_neighbour() -> None:
    assert apart([0.4, 0.5, 0.5], 0.1) == pytest.approx([0.4 - 0.1 / 3, 0.5 - 0.1 / 3, 0.6 - 0.1 / 3])


@given(st.lists(st.floats(0, 1), max_size=9))
def test_names_never_touch_and_keep_their_order(heights: list[float]) -> None:
    found = apart(sorted(heights), 0.1)
    assert len(found) == len(heights)
    assert all(later - earlier >= 0.1 - 1e-9 for earlier, later in pairwise(found))


def test_a_method_is_known_by_name_dashes_and_marker_and_not_by_colour_alone() -> None:
    svg = series_image([[PANEL]], alt="alt <text>", width=3, height=3)
    assert "<title>alt &lt;text&gt;</title>" in svg
    for text in ("A method with a long name", ">long<", "DPO", "start", "swapped labels, %", "CHAIR_s, %", "40"):
        assert text in svg
    dashes = set(re.findall(r"stroke-dasharray: ([^;]+);", svg))
    assert len(dashes) >= 3  # two methods and the level
    assert "--run-2" in svg
    assert "--run-3" in svg


def test_the_same_numbers_give_the_same_bytes_and_ids_of_their_own_on_a_page() -> None:
    first, again, other = (series_figure(PANEL, name=name) for name in ("one", "one", "two"))
    assert first == again
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, other)]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_a_panel_without_any_dot_is_drawn_and_empty() -> None:
    empty = Panel("recall", "beta", ("1",), (Series("DPO", 2, (None,)),))
    assert "recall" in series_figure(empty, name="empty")
