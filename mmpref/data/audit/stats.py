"""The arithmetic of the audit: quantiles, a histogram, and intervals that know that rows share images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_Z = 1.959964
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Mean and quantiles of ``n`` values. All are None where there is no value."""

    n: int
    mean: float | None = None
    min: float | None = None
    p5: float | None = None
    p25: float | None = None
    median: float | None = None
    p75: float | None = None
    p95: float | None = None
    max: float | None = None

    @classmethod
    def of(cls, values: ArrayLike) -> Quantiles:
        """Mean and quantiles of some values; all None where there is none."""
        found = np.asarray(values, dtype=np.float64)
        if not found.size:
            return cls(0)
        return cls(found.size, float(found.mean()), *map(float, np.quantile(found, QUANTILES)))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share or a mean with its 95 % interval; None where the rows leave it undefined."""

    n: int
    value: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts between ``edges``: one edge more than counts; the last bin includes its upper edge."""

    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()

    @classmethod
    def of(cls, values: ArrayLike, *, low: float | None = None, high: float | None = None, bins: int = 10) -> Histogram:
        """Some values in bins of equal width, from ``low`` to ``high`` or as far as the values go."""
        found = np.asarray(values, dtype=np.float64)
        if not found.size:
            return cls()
        low = float(found.min()) if low is None else min(low, float(found.min()))
        high = float(found.max()) if high is None else max(high, float(found.max()))
        if not high - low > 1e-9 * max(abs(low), abs(high)):  # too narrow to cut
            return cls((low, high), (found.size,))
        counts, edges = np.histogram(found, bins=bins, range=(low, high))
        return cls(tuple(map(float, edges)), tuple(map(int, counts)))

    def bars(self) -> str:
        """The counts as one line of block characters, for a terminal."""
        top = max(self.counts, default=0)
        return "".join(" ▁▂▃▄▅▆▇█"[math.ceil(8 * count / top)] for count in self.counts) if top else ""


def mean_estimate(values: ArrayLike, groups: ArrayLike) -> Estimate:
    """The mean, with a normal interval whose width counts groups and not rows: rows of one image are not independent.

    No interval for fewer than two groups.
    """
    found, labels = np.asarray(values, dtype=np.float64), np.asarray(groups)
    if not found.size:
        return Estimate(0)
    mean = float(found.mean())
    error = _grouped_error(found - mean, labels)
    return Estimate(found.size, mean, None if error is None else (mean - _Z * error, mean + _Z * error))


def share_estimate(flags: ArrayLike, groups: ArrayLike) -> Estimate:
    """A share with Wilson's interval at the effective number of rows: n over the design effect of the groups.

    Where all rows agree nothing can be said about the effect, and the number of groups is taken as n.
    """
    found, labels = np.asarray(flags, dtype=np.float64), np.asarray(groups)
    if not found.size:
        return Estimate(0)
    share, n = float(found.mean()), float(found.size)
    error = _grouped_error(found - share, labels)
    if not 0 < share < 1:
        n = float(np.unique(labels).size)
    elif error is not None:
        n /= max(1.0, error**2 * n / (share * (1 - share)))
    else:
        n = 1.0
    return Estimate(found.size, share, _wilson(share, n))


def rank_correlation(left: ArrayLike, right: ArrayLike) -> float | None:
    """Spearman's rho, ties at their mean rank; None for fewer than three pairs or where one side does not vary."""
    first, second = np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if first.size < 3:
        return None
    ranks = [_ranks(values) for values in (first, second)]
    if any(float(values.std()) == 0 for values in ranks):
        return None
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def two_digits(value: float) -> float:
    """Rounded to two significant digits."""
    return float(f"{value:.2g}")


def _grouped_error(residuals: Floats, labels: NDArray[np.generic]) -> float | None:
    """Standard error of a mean by the sums of its residuals in each group."""
    _, places = np.unique(labels, return_inverse=True)
    sums = np.bincount(places, weights=residuals)
    if sums.size < 2:
        return None
    return math.sqrt(float((sums**2).sum()) * sums.size / (sums.size - 1)) / residuals.size


def _wilson(share: float, n: float) -> tuple[float, float]:
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def _ranks(values: Floats) -> Floats:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def join_ids(ids: Sequence[str]) -> str:
    """A few ids for a line of text."""
    return ", ".join(name if len(name) <= 40 else name[:37] + "..." for name in ids)
