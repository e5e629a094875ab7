"""How the time for a text grows with its length, told on a machine that does other things as well."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time
from typing import TypeVar

Given = TypeVar("Given")


def assert_time_grows_less_than_squared(work: Callable[[Given], object], small: Given, eight_times: Given) -> None:
    """`work` on a text of eight times the length takes far less than sixty-four times as long.

    The least of several takes of both, one after the other; a machine that is disturbed gets more of them, which makes
    nothing pass that is quadratic: the least of its takes stays sixty-four times the other.
    """
    shortest = longest = float("inf")
    for take in range(12):
        shortest = min(shortest, _seconds(work, small))
        longest = min(longest, _seconds(work, eight_times))
        # what is below a hundredth of a second says nothing
        if take >= 2 and longest < 24 * max(shortest, 0.01):
            return
    raise AssertionError(f"{longest:.3f} s for eight times the length, {shortest:.3f} s for once")


def _seconds(work: Callable[[Given], object], given: Given) -> float:
    begin = process_time()
    work(given)
    return process_time() - begin
