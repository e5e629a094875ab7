"""Intervals and tests that need no drawing: of a share, of wins against losses, of a mean over few seeds.

All three come from one function, the regularised incomplete beta function I_x(a, b).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from mmpref.statistics.bootstrap import Interval

_TINY = 1e-300  # stands for a zero that would be divided by
_STEPS = 10_000  # of the continued fraction; it needs about sqrt(max(a, b))
_HALVINGS = 200  # more than the digits that a float has


def clopper_pearson(successes: int, n: int, *, tail: float = 0.025) -> Interval:
    """The exact interval of a share (Clopper & Pearson 1934): what it leaves out would give so many successes or
    fewer, or so many or more, with a probability below ``tail``.

    Args:
        successes: of ``n`` independent trials.
        tail: probability on each side; 0.025 for a 95 % interval.

    Returns:
        Its two ends in [0, 1]; (0, 1) where there was no trial.

    Raises:
        ValueError: the counts are not 0 <= successes <= n, or ``tail`` is not in (0, 0.5).
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials")
    if not 0 < tail < 0.5:
        raise ValueError(f"tail {tail} is not between 0 and 0.5")
    low = 0.0 if not successes else _inverse(lambda x: beta_share(x, successes, n - successes + 1), tail)
    high = 1.0 if successes == n else _inverse(lambda x: beta_share(x, successes + 1, n - successes), 1 - tail)
    return low, high


def sign_test(wins: int, losses: int) -> float | None:
    """Two-sided exact p that a win is as likely as a loss (the sign test); ties have no say. None where there is
    neither.

    Raises:
        ValueError: a count is below 0.
    """
    if wins < 0 or losses < 0:
        raise ValueError(f"{wins} wins and {losses} losses")
    total, fewer = wins + losses, min(wins, losses)
    if not total:
        return None
    logs = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
        for k in range(fewer + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def mcnemar(turned_wrong: int, turned_right: int) -> float | None:
    """Two-sided exact p that as many questions turn right as wrong (McNemar 1947, by the binomial test); None when none
    turned."""
    return sign_test(turned_wrong, turned_right)


@lru_cache(maxsize=64)
def t_quantile(degrees: int, *, tail: float = 0.025) -> float:
    """What Student's t exceeds with probability ``tail``: 12.706, 4.303, 3.182 for 1, 2, 3 degrees of freedom and a
    95 % interval.

    Raises:
        ValueError: ``degrees`` is below 1, or ``tail`` is not in (0, 0.5).
    """
    if degrees < 1 or not 0 < tail < 0.5:
        raise ValueError(f"t with {degrees} degrees of freedom and tail {tail}")
    # P(|T| > t) = I_x(degrees / 2, 1 / 2) with x = degrees / (degrees + t^2)
    x = _inverse(lambda share: beta_share(share, degrees / 2, 0.5), 2 * tail)
    return math.sqrt(degrees * (1 - x) / x)


def mean_with_t_interval(values: Sequence[float]) -> tuple[float, Interval | None]:
    """Mean of independent values, as one for each training seed, and its 95 % interval by Student's t; None for one
    value, and where all are the same: values that do not differ say nothing about how far others would lie.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("no values, no mean")
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    half = t_quantile(len(values) - 1) * math.sqrt(variance / len(values))
    return mean, (mean - half, mean + half) if half > 1e-12 * max(1.0, abs(mean)) else None


def beta_share(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), for a, b > 0 and x in [0, 1].

    By its continued fraction (Abramowitz & Stegun 26.5.8), evaluated from the front (Lentz 1976), on the side of the
    mean where it converges fast.
    """
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1.0 - beta_share(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x) - math.log(a)
    )
    upper, lower, value = 1.0, 0.0, 1.0
    for step in range(_STEPS):
        half = step // 2
        if step == 0:
            term = 1.0
        elif step % 2 == 0:
            term = half * (b - half) * x / ((a + 2 * half - 1) * (a + 2 * half))
        else:
            term = -(a + half) * (a + b + half) * x / ((a + 2 * half) * (a + 2 * half + 1))
        lower = 1 / ((1 + term * lower) or _TINY)
        upper = (1 + term / upper) or _TINY
        value *= upper * lower
        if abs(upper * lower - 1) < 1e-15:
            break
    return front * (value - 1)


def _inverse(rising: Callable[[float], float], wanted: float) -> float:
    """Where a function that rises from 0 to 1 over [0, 1] has a value, by halving."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return (low + high) / 2
