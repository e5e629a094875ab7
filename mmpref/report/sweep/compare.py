"""Arms compared cell by cell: in how many one beats the other, by how much, where each is best.

A cell of the comparison is a place in the grid: the mean over its seeds. Arms are compared where both have it, on the
seeds that both have, and on the same questions only; what is left out is counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from mmpref.report.sweep.cells import COMPLETE, Better, Measure, Number, SweepResult, Values
from mmpref.statistics import Interval, clopper_pearson, mean_with_t_interval, sign_test

_SAME = 1e-12  # the last bits of a mean are no difference
Readings = Mapping[tuple[str, Values], Mapping[Values, Number]]
"""(arm, place) -> seeds -> number, of one measure."""


@dataclass(frozen=True, slots=True)
class SeedMean:
    """A value over seeds: ``n`` of them, with Student's 95 % interval where there are two or more."""

    mean: float
    interval: Interval | None
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """In how many of ``n`` cells the first arm beats the second; ``ties`` of them are no win and no loss.

    ``interval`` is that of ``wins`` of ``n`` (exact), ``p`` that of the sign test, in which ties have no say.
    ``left_out`` cells are not compared, ``on_fewer_seeds`` of the compared ones lack seeds that the sweep has.
    """

    first: str
    second: str
    wins: int
    losses: int
    ties: int
    left_out: int
    on_fewer_seeds: int = 0

    @property
    def n(self) -> int:
        """Compared cells."""
        return self.wins + self.losses + self.ties

    @property
    def share(self) -> float | None:
        """Wins of all compared; None where nothing was."""
        return self.wins / self.n if self.n else None

    @property
    def interval(self) -> Interval | None:
        """Exact 95 % interval (Clopper-Pearson) of the share; None where nothing was compared."""
        return clopper_pearson(self.wins, self.n) if self.n else None

    @property
    def p(self) -> float | None:
        """Exact two-sided sign test; None where all tie."""
        return sign_test(self.wins, self.losses)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedChange:
    """First arm less second, over the places that both have with all seeds: ``per_seed`` means over those places."""

    first: str
    second: str
    num_places: int
    per_seed: Mapping[Values, float]

    @property
    def over_seeds(self) -> SeedMean | None:
        """The mean over seeds; None where there is no place."""
        return seed_mean(list(self.per_seed.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best place of an arm, of ``n`` that have all seeds.

    ``beside`` are the means of its neighbours. ``on_other_seeds`` is the mean of what each seed gives at the place that
    is best on the other seeds: what the choice does not flatter. ``by_held_out`` is the place with the best held-out
    accuracy, and its value.
    """

    arm: str
    place: Values
    value: SeedMean
    n: int
    beside: Mapping[Values, float]
    on_other_seeds: SeedMean | None = None
    by_held_out: tuple[Values, SeedMean] | None = None


def readings(sweep: SweepResult, measure: Measure) -> dict[tuple[str, Values], dict[Values, Number]]:
    """The numbers of complete cells."""
    found: dict[tuple[str, Values], dict[Values, Number]] = {}
    for cell in sweep.cells:
        if cell.state == COMPLETE and (reading := cell.numbers.get(measure.key)) is not None:
            found.setdefault((cell.arm, sweep.place_of(cell)), {})[sweep.seed_of(cell)] = reading
    return found


def same_questions(found: Readings) -> tuple[dict[tuple[str, Values], dict[Values, float]], int]:
    """The values that were asked what most cells of their seed were asked, and how many were not.

    Seeds may have questions of their own, as where each draws its own world.
    """
    asked: dict[Values, Counter[str]] = {}
    for of_seed in found.values():
        for seed, reading in of_seed.items():
            asked.setdefault(seed, Counter())[reading.asked] += 1
    usual = {seed: counts.most_common(1)[0][0] for seed, counts in asked.items()}
    kept: dict[tuple[str, Values], dict[Values, float]] = {}
    others = 0
    for key, of_seed in found.items():
        for seed, reading in of_seed.items():
            if reading.asked == usual[seed]:
                kept.setdefault(key, {})[seed] = reading.value
            else:
                others += 1
    return kept, others


def seed_mean(values: Sequence[float]) -> SeedMean | None:
    """Mean over seeds; None of nothing."""
    if not values:
        return None
    mean, interval = mean_with_t_interval(values)
    return SeedMean(mean, interval, len(values))


def share_of_cells(sweep: SweepResult, measure: Measure, first: str, second: str) -> tuple[Share, Share]:
    """In how many cells the first arm beats the second: on the means over seeds, and over every cell and seed.

    Raises:
        ValueError: neither more nor less of the measure is better.
    """
    if measure.better is None:
        raise ValueError(f"{measure.key} has no better direction")
    found = readings(sweep, measure)
    of_places: Counter[int] = Counter()
    of_all: Counter[int] = Counter()
    fewer = 0
    for place in sweep.places:
        pairs = _pairs(found, first, second, place)
        of_all.update(_sign(one - other, measure.better) for one, other in pairs.values())
        if pairs:
            mean = math.fsum(one - other for one, other in pairs.values()) / len(pairs)
            of_places[_sign(mean, measure.better)] += 1
            fewer += len(pairs) < len(sweep.seeds)
    total = len(sweep.places)

    def share(counts: Counter[int], of: int, on_fewer_seeds: int = 0) -> Share:
        return Share(
            first=first,
            second=second,
            wins=counts[1],
            losses=counts[-1],
            ties=counts[0],
            left_out=of - counts.total(),
            on_fewer_seeds=on_fewer_seeds,
        )

    return share(of_places, total, fewer), share(of_all, total * len(sweep.seeds))


def paired_change(sweep: SweepResult, measure: Measure, first: str, second: str) -> PairedChange:
    """By how much the first arm differs from the second on the places that both have with all seeds."""
    found = readings(sweep, measure)
    whole = [
        pairs
        for place in sweep.places
        if (pairs := _pairs(found, first, second, place)) and len(pairs) == len(sweep.seeds)
    ]
    per_seed = {
        seed: math.fsum(pairs[seed][0] - pairs[seed][1] for pairs in whole) / len(whole)
        for seed in (sweep.seeds if whole else ())
    }
    return PairedChange(first=first, second=second, num_places=len(whole), per_seed=per_seed)


def change_at(sweep: SweepResult, measure: Measure, first: str, second: str, place: Values) -> SeedMean | None:
    """First arm less second in one place, over the seeds that both have; None where there is none."""
    pairs = _pairs(readings(sweep, measure), first, second, place)
    return seed_mean([one - other for one, other in pairs.values()])


def best_of(sweep: SweepResult, measure: Measure, arm: str, *, held_out: Measure | None = None) -> Best | None:
    """The best place of an arm among those with all seeds (with the most, where none has all); None where there is no
    number, or no direction.

    Args:
        held_out: the measure on held-out pairs by which a place may be chosen without looking at ``measure``.
    """
    if measure.better is None:
        return None
    kept, _ = same_questions(readings(sweep, measure))
    own = {place: kept[arm, place] for place in sweep.places if (arm, place) in kept}
    if not own:
        return None
    most = max(map(len, own.values()))
    own = {place: of_seed for place, of_seed in own.items() if len(of_seed) == most}
    means = {place: _mean(of_seed.values()) for place, of_seed in own.items()}
    place = _best(means, measure.better)
    chosen = seed_mean(list(own[place].values()))
    assert chosen is not None
    return Best(
        arm=arm,
        place=place,
        value=chosen,
        n=len(own),
        beside={near: means[near] for near in _neighbours(sweep, place) if near in means},
        on_other_seeds=_on_other_seeds(own, measure.better),
        by_held_out=_by_held_out(sweep, held_out, arm, own) if held_out is not None else None,
    )


def pairs_of_arms(sweep: SweepResult) -> list[tuple[str, str]]:
    """Every two arms once, the later one first: what is proposed stands behind what it is compared with."""
    return [(second, first) for first, second in combinations(sweep.arms, 2)]


def _pairs(found: Readings, first: str, second: str, place: Values) -> dict[Values, tuple[float, float]]:
    """Seed -> values of both arms in one place, where both were asked the same."""
    one, other = found.get((first, place), {}), found.get((second, place), {})
    return {
        seed: (one[seed].value, other[seed].value)
        for seed in one
        if seed in other and one[seed].asked == other[seed].asked
    }


def _sign(difference: float, better: Better) -> int:
    if abs(difference) <= _SAME:
        return 0
    return 1 if (difference < 0) == (better == "lower") else -1


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)


def _best(means: Mapping[Values, float], better: Better) -> Values:
    """The first of those that are best."""
    return (min if better == "lower" else max)(means, key=lambda place: means[place])


def _neighbours(sweep: SweepResult, place: Values) -> list[Values]:
    """The places one step away on one axis."""
    found = []
    for number, axis in enumerate(sweep.grid_axes):
        at = axis.values.index(place[number])
        for step in (at - 1, at + 1):
            if 0 <= step < len(axis.values):
                found.append((*place[:number], axis.values[step], *place[number + 1 :]))
    return found


def _on_other_seeds(own: Mapping[Values, Mapping[Values, float]], better: Better) -> SeedMean | None:
    seeds = list(next(iter(own.values())))
    if len(seeds) < 2 or any(set(of_seed) != set(seeds) for of_seed in own.values()):
        return None
    values = []
    for left in seeds:
        means = {place: _mean([v for seed, v in of_seed.items() if seed != left]) for place, of_seed in own.items()}
        values.append(own[_best(means, better)][left])
    return seed_mean(values)


def _by_held_out(
    sweep: SweepResult, held_out: Measure, arm: str, own: Mapping[Values, Mapping[Values, float]]
) -> tuple[Values, SeedMean] | None:
    kept, _ = same_questions(readings(sweep, held_out))
    means = {
        place: _mean(kept[arm, place].values()) for place in own if len(kept.get((arm, place), {})) == len(own[place])
    }
    if not means:
        return None
    place = _best(means, held_out.better)
    value = seed_mean(list(own[place].values()))
    return None if value is None else (place, value)
