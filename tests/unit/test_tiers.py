"""Sweeps of which the default tier runs some: none of the others is lost, and a wrong name is found."""

from __future__ import annotations

from itertools import product

import pytest

from tests.tiers import checkerboard, corners


def is_slow(case: object) -> bool:
    return any(mark.name == "slow" for mark in getattr(case, "marks", ()))


def test_corners_are_the_cases_that_are_named_and_the_others_are_slow() -> None:
    found = corners(["a", "b", "c"], "b")
    assert [is_slow(case) for case in found] == [True, False, True]
    assert [found[0].values, found[1], found[2].values] == [("a",), "b", ("c",)]
    pairs = corners(product("ab", (0, 1)), ("a", 1), "b")
    assert [is_slow(case) for case in pairs] == [True, False, False, False]


def test_a_corner_that_is_no_case_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"no case is named \['d'\]"):
        corners(["a", "b"], "a", "d")


def test_a_checkerboard_has_every_combination_once_and_half_of_them_by_default() -> None:
    found = checkerboard(["a", "b", "c"], [(1, "x"), (2, "y")], [True, False])
    assert {case.values for case in found} == {
        (letter, *couple, flag) for letter, couple, flag in product("abc", [(1, "x"), (2, "y")], [True, False])
    }
    assert len(found) == 12
    quick = [case.values for case in found if not is_slow(case)]
    assert len(quick) == 6
    for place, size in enumerate((3, 2, 2, 2)):
        assert len({values[place] for values in quick}) == size
