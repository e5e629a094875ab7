"""Spearman's rank correlation (Spearman 1904) with its interval, and the paired difference of two: the only copy.

Shapes: U units, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from mmpref.statistics.bootstrap import RESAMPLES, ROUNDING, Array, Interval, draws, percentiles

Numbers: TypeAlias = Sequence[float] | Array
_FEWEST_RANKED = 3


def spearman(
    first: Numbers, second: Numbers, *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float | None, Interval | None]:
    """Spearman's rank correlation of two numbers of the same units, and its percentile interval over drawn units.

    Equal values share the middle of their ranks. The value is None where one side is all alike, and for fewer than
    three units: any two lie on a line.

    Raises:
        ValueError: the two sides are not equally long, or a value is no finite number.
    """
    one, two = _finite_sides(first, second)
    if len(one) < _FEWEST_RANKED:
        return None, None
    value = float(weighted_spearman(one, two, np.ones((1, len(one))))[0])
    if np.isnan(value):
        return None, None
    drawn = [weighted_spearman(one, two, weights) for weights in draws(len(one), resamples, seed)]
    return value, percentiles(np.concatenate(drawn))


def spearman_difference(
    first: tuple[Numbers, Numbers],
    second: tuple[Numbers, Numbers],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float | None, Interval | None]:
    """Rank correlation of the second two numbers less that of the first two, all four of the same units in the same
    order, with the interval of the paired bootstrap; None as in :func:`spearman`.

    Raises:
        ValueError: the sides are not equally long, or a value is no finite number.
    """
    before, after = _finite_sides(*first), _finite_sides(*second)
    num_units = len(before[0])
    if len(after[0]) != num_units:
        raise ValueError("paired differences need the same units on both sides")
    if num_units < _FEWEST_RANKED:
        return None, None

    def change(weights: Array) -> Array:
        return weighted_spearman(*after, weights) - weighted_spearman(*before, weights)

    value = float(change(np.ones((1, num_units)))[0])
    if np.isnan(value):
        return None, None
    return value, percentiles(np.concatenate([change(weights) for weights in draws(num_units, resamples, seed)]))


def weighted_spearman(first: Array, second: Array, weights: Array) -> Array:
    """Spearman's rank correlation of units that count several times, or not at all.

    Args:
        first: a number of each unit, [U].
        second: another, [U].
        weights: how often each unit counts, [R, U], at least 0.

    Returns:
        [R]; NaN where one side is all alike. Equal values share the middle of their ranks.
    """
    share = weights / weights.sum(axis=1, keepdims=True)
    ranks = [_middle_ranks(side, share) for side in (first, second)]
    covariance = (share * ranks[0] * ranks[1]).sum(axis=1)
    width = np.sqrt((share * ranks[0] ** 2).sum(axis=1) * (share * ranks[1] ** 2).sum(axis=1))
    found: Array = np.divide(covariance, width, out=np.full_like(width, np.nan), where=width > ROUNDING)
    return found


def _middle_ranks(values: Array, share: Array) -> Array:
    """Ranks of units with shares [R, U] of the whole, as shares too, less 1/2: their mean is 0. Returns [R, U]."""
    _, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))
    groups = np.add.reduceat(share[:, order], starts, axis=1)
    ranks: Array = (groups.cumsum(axis=1) - groups / 2 - 0.5)[:, place]
    return ranks


def _finite_sides(first: Numbers, second: Numbers) -> tuple[Array, Array]:
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != two.shape:
        raise ValueError(f"a rank correlation needs two numbers of each unit, not {len(one)} and {len(two)}")
    if not (np.isfinite(one).all() and np.isfinite(two).all()):
        raise ValueError("a rank correlation needs finite numbers")
    return one, two
