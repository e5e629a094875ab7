"""Which cases of a sweep a tier runs; the tier ``slow`` runs all of them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from itertools import product
from typing import Any

import pytest


def corners(cases: Iterable[Any], *kept: Hashable) -> list[Any]:
    """Cases for ``parametrize``, of which the default tier runs those of ``kept`` and the others are marked ``slow``.

    Args:
        cases: values, or tuples of them.
        kept: each a case itself, or the first value of one that is a tuple. One that no case has is a mistake here.
    """
    found, seen = [], set()
    for case in cases:
        names = [name for name in (case, case[0] if isinstance(case, tuple) else case) if isinstance(name, Hashable)]
        seen.update(name for name in names if name in kept)
        values = case if isinstance(case, tuple) else (case,)
        found.append(case if any(name in kept for name in names) else pytest.param(*values, marks=pytest.mark.slow))
    assert seen == set(kept), f"no case is named {sorted(map(str, set(kept) - seen))}"
    return found


def checkerboard(*axes: Iterable[Any]) -> list[Any]:
    """Every combination of a value of each axis for ``parametrize``. The default tier runs every second one, so that
    each value still stands beside several of every other axis; the others are marked ``slow``.

    Args:
        axes: of values, or of tuples of them, which stand for several parameters.
    """
    found = []
    for combination in product(*(enumerate(axis) for axis in axes)):
        values = [one for _, value in combination for one in (value if isinstance(value, tuple) else (value,))]
        is_slow = sum(place for place, _ in combination) % 2
        found.append(pytest.param(*values, marks=[pytest.mark.slow] if is_slow else []))
    return found


def spread(items: Iterable[pytest.Item], most: int) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """The tests to run and those to leave out, where of each test at most so many cases run: the first and the last,
    and others evenly between them."""
    items = list(items)
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    taken = set()
    for own in cases.values():
        count = min(most, len(own))
        taken.update(own[round(place * (len(own) - 1) / max(count - 1, 1))] for place in range(count))
    return [item for item in items if item in taken], [item for item in items if item not in taken]
