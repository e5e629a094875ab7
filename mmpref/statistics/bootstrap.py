"""From counts per question to metrics with 95 % intervals, and what may be said of the difference of two systems.

Every metric of the benchmarks here is a ratio of two sums of counts or a formula over such ratios, so a metric, its
interval and the difference of two systems come from one table: [U units, K counts]. A unit is what was sampled
independently, an image or a scene; the questions about one image stay together when units are drawn again (the cluster
bootstrap, Efron & Tibshirani 1993).

Two things that the bootstrap cannot show are never concluded from it. An interval of no width is not given: units
that are all alike say nothing about the width. And a difference that fewer than :data:`FEWEST_CHANGED` units make is
not clear, whatever the interval: drawn again, two units that both changed are two units that both changed.

Shapes: U units, K counts, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
RESAMPLES = 2000
FEWEST_CHANGED = 6
"""With five units that all changed in one direction, chance alone does as much in 2 * 0.5^5 = 6 % of all cases (the
sign test); with six in 3 %."""
Interval: TypeAlias = tuple[float, float]
_TAIL = 0.025  # on each side of a 95 % interval
_CELLS_PER_CHUNK = 4_000_000  # resampling weights in memory at once: 32 MB
ROUNDING = 1e-12
_MAX_UNDEFINED_SHARE = 0.05  # an interval over fewer of the resamples than this leaves out would mislead


class Metric(Protocol):
    """A number made of sums of counts.

    ``why_empty`` says what it means for a user that there is none. ``proportion`` says that it cannot leave [0, 1].
    """

    @property
    def why_empty(self) -> str:
        """The reason shown where the metric is undefined."""
        ...

    @property
    def proportion(self) -> bool:
        """Whether it cannot leave [0, 1]."""
        ...

    @property
    def terms(self) -> frozenset[str]:
        """The counts that it is made of."""
        ...

    def of(self, sums: Array, names: Sequence[str]) -> Array:
        """The metric of each row of ``sums`` [R, K]; NaN where it is undefined. Returns [R]."""
        ...

    def informed(self, counts: Array, names: Sequence[str]) -> NDArray[np.bool_]:
        """Which units [U] have a say in it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The weighted sum ``top`` over the weighted sum ``bottom`` of named counts.

    ``when_empty`` is the value that a tool reports when ``bottom`` is zero; None leaves the metric undefined.
    ``needs_top`` also leaves it undefined when ``top`` is zero. ``offset`` is added to a ``bottom`` that is not zero,
    for scripts that start their counters there.
    """

    top: Mapping[str, float]
    bottom: Mapping[str, float]
    why_empty: str
    when_empty: float | None = None
    needs_top: bool = False
    proportion: bool = True
    offset: float = 0.0

    @property
    def terms(self) -> frozenset[str]:
        """See :class:`Metric`."""
        return frozenset((*self.top, *self.bottom))

    def of(self, sums: Array, names: Sequence[str]) -> Array:
        """See :class:`Metric`. Returns [R]."""
        top, bottom = sums @ _weights(self.top, names), sums @ _weights(self.bottom, names)
        empty = bottom == 0
        value: Array = np.divide(top, bottom + self.offset, out=np.full_like(top, np.nan), where=~empty)
        if self.when_empty is not None:
            value[empty] = self.when_empty
        if self.needs_top:
            value[top == 0] = np.nan
        return value

    def informed(self, counts: Array, names: Sequence[str]) -> NDArray[np.bool_]:
        """See :class:`Metric`. Returns [U]."""
        has_say: NDArray[np.bool_] = counts @ _weights(self.bottom, names) != 0
        return has_say


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """A metric made of others: ``combine`` gets the value [R] of each of ``parts`` by name and gives its own [R].

    It is undefined where ``combine`` gives NaN, as it does when it computes with an undefined part.
    """

    parts: Mapping[str, Metric]
    combine: Callable[[Mapping[str, Array]], Array]
    why_empty: str
    proportion: bool = True

    @property
    def terms(self) -> frozenset[str]:
        """See :class:`Metric`."""
        return frozenset().union(*(part.terms for part in self.parts.values()))

    def of(self, sums: Array, names: Sequence[str]) -> Array:
        """See :class:`Metric`. Returns [R]."""
        return self.combine({name: part.of(sums, names) for name, part in self.parts.items()})

    def informed(self, counts: Array, names: Sequence[str]) -> NDArray[np.bool_]:
        """See :class:`Metric`. Returns [U]."""
        has_say: NDArray[np.bool_] = np.any([part.informed(counts, names) for part in self.parts.values()], axis=0)
        return has_say


def rounded(metric: Metric, decimals: int) -> Formula:
    """A share as a script prints it: in percent with so many decimals, and then divided by 100 again."""

    def combine(values: Mapping[str, Array]) -> Array:
        # Python's own round: numpy's differs from it in the last digit of some numbers
        return np.array([round(value * 100, decimals) / 100 for value in values["exact"].tolist()], dtype=np.float64)

    return Formula(parts={"exact": metric}, combine=combine, why_empty=metric.why_empty, proportion=metric.proportion)


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts summed per unit: ``counts`` is [U, K], rows as in ``units``, columns as in ``names``."""

    units: tuple[str, ...]
    names: tuple[str, ...]
    counts: Array


@dataclass(frozen=True, slots=True)
class Estimate:
    """Metrics with their intervals, and the reason for each that is undefined."""

    metrics: Mapping[str, float | None]
    intervals: Mapping[str, Interval]
    undefined: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Second system less first, on the same units, with the 95 % interval of the paired bootstrap.

    ``value`` is None when the metric is undefined for one of the two; ``interval`` is None when it cannot be given.
    ``num_changed`` of the ``num_units`` units have other counts in the second system; ``alike`` says that all of them
    changed by the same, so that there is a difference and no width.
    """

    first: float | None
    second: float | None
    value: float | None
    interval: Interval | None
    num_units: int
    num_changed: int
    alike: bool = False

    @property
    def clear(self) -> bool:
        """Whether enough units make the difference, and the interval leaves out zero or all changed alike."""
        leaves_out_zero = self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)
        return (leaves_out_zero or self.alike) and self.num_changed >= FEWEST_CHANGED

    @property
    def caution(self) -> str:
        """What the interval alone does not show: why there is none, or that too few units make it; else ""."""
        if self.value is None:
            return ""
        if not self.num_changed:
            return f"none of {self.num_units} units differs"
        if self.num_changed < FEWEST_CHANGED:
            return f"too few units differ ({self.num_changed} of {self.num_units})"
        if self.alike:
            return "all units changed by the same"
        return "" if self.interval is not None else "undefined in too many resamples"


def tally(counts: Mapping[str, Mapping[str, float]]) -> Tally:
    """The counts of every unit as a table; units are sorted, so the order of questions changes nothing."""
    units, names = sorted(counts), sorted({name for row in counts.values() for name in row})
    table = np.array([[counts[unit].get(name, 0.0) for name in names] for unit in units], dtype=np.float64)
    return Tally(tuple(units), tuple(names), table.reshape(len(units), len(names)))


def estimate(table: Tally, wanted: Mapping[str, Metric], *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Each metric over all units, and its percentile interval over units drawn with replacement."""
    total = table.counts.sum(axis=0, keepdims=True)
    drawn = _resampled_sums(table.counts, resamples, seed)
    metrics: dict[str, float | None] = {}
    intervals: dict[str, Interval] = {}
    undefined: dict[str, str] = {}
    for name, metric in wanted.items():
        value = float(metric.of(total, table.names)[0])
        if np.isnan(value):
            metrics[name] = None
            undefined[name] = metric.why_empty
            continue
        metrics[name] = value
        num_informed = int(np.count_nonzero(metric.informed(table.counts, table.names)))
        if metric.proportion and value in (0.0, 1.0) and num_informed:
            intervals[name] = _edge_interval(value, num_informed)
        elif num_informed > 1 and (interval := percentiles(metric.of(drawn, table.names))) is not None:
            intervals[name] = interval
    return Estimate(metrics, intervals, undefined)


def paired_differences(
    first: Tally, second: Tally, wanted: Mapping[str, Metric], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """``second - first`` per metric; both systems are seen on the same drawn units, so what is hard for both cancels.

    Raises:
        ValueError: the two tables do not have the same units.
    """
    if first.units != second.units:
        raise ValueError("paired differences need the same units on both sides")
    first, second = _same_columns(first, second)
    num_counts = len(first.names)
    drawn = _resampled_sums(np.hstack([first.counts, second.counts]), resamples, seed)
    out: dict[str, Difference] = {}
    for name, metric in wanted.items():
        before = float(metric.of(first.counts.sum(axis=0, keepdims=True), first.names)[0])
        after = float(metric.of(second.counts.sum(axis=0, keepdims=True), second.names)[0])
        defined = not (np.isnan(before) or np.isnan(after))
        columns = [index for index, column in enumerate(first.names) if column in metric.terms]
        informed = metric.informed(first.counts, first.names) | metric.informed(second.counts, second.names)
        num_informed = int(np.count_nonzero(informed))
        interval, alike = None, False
        if defined and metric.proportion and abs(after - before) == 1 and num_informed:
            interval = _edge_difference(after - before, num_informed)
        elif defined and num_informed > 1:
            changes = metric.of(drawn[:, num_counts:], first.names) - metric.of(drawn[:, :num_counts], first.names)
            interval, alike = percentiles(changes), _is_constant(changes) and after != before
        out[name] = Difference(
            first=None if np.isnan(before) else before,
            second=None if np.isnan(after) else after,
            value=after - before if defined else None,
            interval=interval,
            num_units=len(first.units),
            num_changed=int(np.count_nonzero(np.any(first.counts[:, columns] != second.counts[:, columns], axis=1))),
            alike=alike,
        )
    return out


def on_shared_units(first: Tally, second: Tally) -> tuple[Tally, Tally]:
    """The two tables cut to the units that both have."""
    shared = tuple(unit for unit in first.units if unit in set(second.units))

    def cut(table: Tally) -> Tally:
        row = {unit: index for index, unit in enumerate(table.units)}
        return Tally(shared, table.names, table.counts[[row[unit] for unit in shared]])

    return cut(first), cut(second)


def mean_with_interval(
    sample: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, Interval | None]:
    """Mean of independent values and its percentile interval.

    Raises:
        ValueError: there are no values.
    """
    if not len(sample):
        raise ValueError("no values, no mean")
    column = np.asarray(sample, dtype=np.float64)[:, None]
    interval = percentiles(_resampled_sums(column, resamples, seed)[:, 0] / len(column)) if len(column) > 1 else None
    return float(column.mean()), interval


def mean_difference(
    first: Mapping[str, float], second: Mapping[str, float], *, resamples: int = RESAMPLES, seed: int = 0
) -> Difference | None:
    """``second - first`` of values by unit, over the units that both have; None where there is none."""
    shared = sorted(first.keys() & second.keys())
    if not shared:
        return None
    changes = [second[unit] - first[unit] for unit in shared]
    value, interval = mean_with_interval(changes, resamples=resamples, seed=seed)
    before, after = (math.fsum(side[unit] for unit in shared) / len(shared) for side in (first, second))
    changed = sum(change != 0 for change in changes)
    return Difference(
        first=before,
        second=after,
        value=value,
        interval=interval,
        num_units=len(shared),
        num_changed=changed,
        alike=len(shared) > 1 and value != 0 and _is_constant(np.asarray(changes)),
    )


def _same_columns(first: Tally, second: Tally) -> tuple[Tally, Tally]:
    """The two tables with the same counts in the same order; what one side never counted is zero there."""
    names = tuple(sorted({*first.names, *second.names}))

    def aligned(table: Tally) -> Tally:
        column = {name: index for index, name in enumerate(table.names)}
        zero = np.zeros(len(table.units))
        return Tally(
            table.units,
            names,
            np.stack([table.counts[:, column[name]] if name in column else zero for name in names], axis=1)
            if names
            else table.counts,
        )

    return aligned(first), aligned(second)


def _weights(terms: Mapping[str, float], names: Sequence[str]) -> Array:
    return np.array([terms.get(name, 0.0) for name in names], dtype=np.float64)


def _resampled_sums(counts: Array, resamples: int, seed: int) -> Array:
    """Sums of the counts over units drawn with replacement, once per resample: [R, K]."""
    num_units = len(counts)
    if num_units == 0:
        return np.zeros((resamples, counts.shape[1]))
    return np.concatenate([weights @ counts for weights in draws(num_units, resamples, seed)])


def draws(num_units: int, resamples: int, seed: int) -> Iterator[Array]:
    """How often each unit is drawn, as [some R, U]; the numbers do not depend on the size of the pieces."""
    piece = max(1, _CELLS_PER_CHUNK // num_units)
    if resamples <= piece:
        yield _drawn(num_units, resamples, seed)
        return
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, piece):
        yield _draw(rng, num_units, min(piece, resamples - start))


@lru_cache(maxsize=2)  # the splits of a benchmark and its protocols often have as many units
def _drawn(num_units: int, resamples: int, seed: int) -> Array:
    return _draw(np.random.default_rng(seed), num_units, resamples)


def _draw(rng: np.random.Generator, num_units: int, resamples: int) -> Array:
    return rng.multinomial(num_units, np.full(num_units, 1.0 / num_units), size=resamples).astype(np.float64)


def percentiles(values: Array) -> Interval | None:
    """What 95 % of the resamples lie in; None where too many are undefined, and where that has no width: units that are
    all alike say nothing about it."""
    defined = values[~np.isnan(values)]
    if len(defined) < (1 - _MAX_UNDEFINED_SHARE) * len(values) or not len(defined):
        return None
    low, high = np.quantile(defined, [_TAIL, 1 - _TAIL])
    return None if _is_constant(np.array([low, high])) else (float(low), float(high))


def _is_constant(values: Array) -> bool:
    """Whether all values are one number, but for the last bits of their sums; False where any is undefined."""
    return bool(np.ptp(values) <= ROUNDING * max(1.0, float(np.abs(values).max())))


def _edge_interval(value: float, num_units: int) -> Interval:
    """Exact (Clopper-Pearson) interval when all units agree: drawing them again would give no width at all."""
    reach = 1 - _TAIL ** (1 / num_units)
    return (0.0, reach) if value == 0 else (1 - reach, 1.0)


def _edge_difference(value: float, num_units: int) -> Interval:
    """The same where all units turned from one edge to the other: at least ``_edge_interval``'s share of all units turn
    so, and the rest at most turn the other way."""
    low, _ = _edge_interval(1.0, num_units)
    return (2 * low - 1, 1.0) if value > 0 else (-1.0, 1 - 2 * low)
