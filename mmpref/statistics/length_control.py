"""The win rate at equal length: a logistic curve of the preference over the length difference, read off at zero.

    P(win) = 1 / (1 + exp(-(model + slope * x))),   x = tanh(length difference / its standard deviation)

In the spirit of AlpacaEval 2 (Dubois et al. 2024, arXiv:2404.04475, equation 1), without its term for the difficulty of
an instruction, and fitted on the answers of these two systems alone: it is no number of AlpacaEval's.

The differences enter in steps of 0.01, so that counts for each step are all that is needed, as every metric here is
made of counts: units drawn again are counts drawn again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmpref.statistics.bootstrap import Array

FEWEST_FOR_A_CURVE = 20
"""Preferences below which no curve is fitted: two numbers from fewer say more about chance than about length."""
_STEPS = range(-100, 101)
_RIDGE = 0.1
"""Weight of slope^2 / 2 beside the log-likelihood, as of a tenth of a preference: where length alone parts wins from
losses the slope would have no end; with some hundred preferences it changes nothing that is seen."""
_ROUNDS, _DONE = 100, 1e-10


def length_counts(difference: float, preference: float) -> dict[str, float]:
    """What one preference adds to the counts of :class:`LengthControlled`.

    Args:
        difference: tanh of the scaled length difference, in [-1, 1], positive where the judged answer is longer.
        preference: from 0 (lost) to 1 (won).
    """
    step = round(100 * difference)
    return {f"length_n{step:+d}": 1.0, f"length_y{step:+d}": preference}


@dataclass(frozen=True, slots=True)
class LengthControlled:
    """The win rate at equal length as a metric of counts by :func:`length_counts`. Undefined below
    :data:`FEWEST_FOR_A_CURVE` preferences."""

    why_empty: str = f"fewer than {FEWEST_FOR_A_CURVE} judged answers: too few to fit a curve over length"
    proportion: bool = True

    @property
    def terms(self) -> frozenset[str]:
        """See :class:`mmpref.statistics.Metric`."""
        return frozenset(f"length_{kind}{step:+d}" for kind in "ny" for step in _STEPS)

    def of(self, sums: Array, names: Sequence[str]) -> Array:
        """See :class:`mmpref.statistics.Metric`. Returns [R]."""
        column = {name: index for index, name in enumerate(names)}
        steps = [step for step in _STEPS if f"length_n{step:+d}" in column]
        if not steps:
            return np.full(len(sums), np.nan)
        counts = sums[:, [column[f"length_n{step:+d}"] for step in steps]]
        wins = sums[:, [column[f"length_y{step:+d}"] for step in steps]]
        value = at_equal_length(np.array(steps) / 100, counts, wins)
        value[counts.sum(axis=1) < FEWEST_FOR_A_CURVE] = np.nan
        return value

    def informed(self, counts: Array, names: Sequence[str]) -> NDArray[np.bool_]:
        """See :class:`mmpref.statistics.Metric`. Returns [U]."""
        at = [index for index, name in enumerate(names) if name.startswith("length_n")]
        has_say: NDArray[np.bool_] = counts[:, at].sum(axis=1) > 0
        return has_say


def at_equal_length(x: Array, counts: Array, wins: Array) -> Array:
    """The height of the logistic curve at x = 0, by Newton's method with halved steps.

    It is the plain rate where all won or all lost, and where all differences are zero. Exchanging the two systems (-x,
    counts - wins) gives one less the value.

    Args:
        x: [L] length differences.
        counts: [R, L] preferences at each of them.
        wins: [R, L] their sums.

    Returns:
        [R]; NaN where there is no preference.
    """
    total, won = counts.sum(axis=1), wins.sum(axis=1)
    rate: Array = np.divide(won, total, out=np.full_like(won, np.nan), where=total > 0)
    inner = (rate > 0) & (rate < 1)
    if np.any(inner):
        rate[inner] = _height(x, counts[inner], wins[inner], rate[inner])
    return rate


def _height(x: Array, counts: Array, wins: Array, rate: Array) -> Array:
    height, slope = np.log(rate / (1 - rate)), np.zeros_like(rate)
    best = _objective(x, counts, wins, height, slope)
    for _ in range(_ROUNDS):
        share = _logistic(height[:, None] + slope[:, None] * x)
        rest, weight = wins - counts * share, counts * share * (1 - share)
        up, across = rest.sum(axis=1), rest @ x - _RIDGE * slope
        one, mixed, two = weight.sum(axis=1), weight @ x, weight @ (x * x) + _RIDGE
        determinant = np.maximum(one * two - mixed * mixed, 1e-12)
        steps = (two * up - mixed * across) / determinant, (one * across - mixed * up) / determinant
        size = np.minimum(1.0, 5.0 / np.maximum(np.maximum(*map(np.abs, steps)), 1e-300))
        for _ in range(40):  # halved where it would go down
            value = _objective(x, counts, wins, height + size * steps[0], slope + size * steps[1])
            worse = value < best - 1e-12 * np.abs(best)
            if not np.any(worse):
                break
            size = np.where(worse, size / 2, size)
        size = np.where(worse, 0.0, size)
        height, slope = height + size * steps[0], slope + size * steps[1]
        best = np.where(worse, best, value)
        if np.all(size * np.maximum(*map(np.abs, steps)) < _DONE):
            break
    return _logistic(height)


def _objective(x: Array, counts: Array, wins: Array, height: Array, slope: Array) -> Array:
    """The log-likelihood less the ridge. [R]"""
    at = height[:, None] + slope[:, None] * x
    found: Array = (wins * at - counts * np.logaddexp(0.0, at)).sum(axis=1) - _RIDGE / 2 * slope**2
    return found


def _logistic(at: Array) -> Array:
    found: Array = np.exp(-np.logaddexp(0.0, -at))
    return found


def scaled_differences(longer: Mapping[str, float]) -> dict[str, float]:
    """tanh of each length difference over their standard deviation; zeros where all are the same.

    Args:
        longer: id -> length of the judged answer less that of the other.
    """
    if not longer:
        return {}
    mean = math.fsum(longer.values()) / len(longer)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in longer.values()) / len(longer))
    return {name: math.tanh(value / deviation) if deviation else 0.0 for name, value in longer.items()}
