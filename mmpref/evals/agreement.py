"""How well judges agree with given verdicts (people's, or those of the official judge) on the same answers.

Everything is counted over the answers that have a verdict from both; what is missing on either side is told and in no
number. Verdicts that hold a hash of what they are about must be about these answers, as everywhere.

- MMHal-Bench: ``exact_agreement`` and ``within_one`` of the ratings from 0 to 6, ``mean_difference`` (judge less given:
  the judge's bias), ``mean_absolute_difference``, ``spearman`` and ``weighted_kappa`` (quadratic weights; Cohen 1968).
- HallusionBench: ``exact_agreement`` and ``kappa`` (Cohen 1960) of correct, incorrect and unclear.
- Object HalBench: ``object_precision``, ``object_recall`` and ``object_f1`` of the COCO objects that the judge finds in
  the answers, against those of the given lists.
- All: of the one yes or no that the benchmark reports (an answer hallucinates: a rating below 3, no correct answer, an
  object that the image does not have) ``hallucination_agreement``, ``hallucination_kappa``, the rate by the given
  verdicts, that by the judge, and ``hallucination_difference``.

Intervals are 95 %, by drawing the questions again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mmpref.errors import ConfigError, DataError
from mmpref.evals.benchmarks import mmhal, object_halbench
from mmpref.evals.benchmarks.contract import Benchmark, Item
from mmpref.evals.benchmarks.judge_tasks import JUDGED
from mmpref.evals.files.rows import pair_by_id
from mmpref.evals.files.verdicts import MAX_SCORE, Correctness, Verdict, read_verdicts, usable_on, verdicts_name
from mmpref.evals.scoring import benchmark_named, refuse_without_needed, with_defaults
from mmpref.files.rows import Source, choose, row_id
from mmpref.records import Answer, EvalSample
from mmpref.statistics import RESAMPLES, Array, Formula, Metric, Ratio, estimate, tally, weighted_spearman

_CATEGORIES: tuple[Correctness, ...] = ("incorrect", "unclear", "correct")
_NONE = "no answer has a verdict from both"
_ALIKE = "one side says the same of all answers, so that chance alone agrees as much"


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One judge against the given verdicts.

    Args:
        judge: who judged, as its verdicts name it.
        given_by: who gave the other verdicts.
        n: answers with a verdict from both, which the metrics are over.
        missing: ids that only the given side decided.
        not_given: ids that have no given verdict.
        metrics, intervals, undefined: as of a ``TaskResult``.
        items: one mapping for each of the ``n`` answers: ``id``, ``given`` and ``judge``.
    """

    judge: str
    given_by: str
    n: int
    missing: tuple[str, ...]
    not_given: tuple[str, ...]
    metrics: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float, float]]
    undefined: Mapping[str, str]
    items: tuple[Item, ...]


def agreement(
    benchmark: str,
    questions: Source,
    answers: Source,
    given: Source,
    verdicts: Source,
    protocol: str = "mmpref",
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    **options: Any,
) -> Agreement:
    """Compare a judge's verdicts with given ones.

    Args:
        benchmark: mmhal, hallusionbench, object_halbench or mmvp.
        given, verdicts: what ``mmpref score`` takes as ``verdicts=``: of people or the official judge, and of the judge
            that is measured.
        protocol: how reviews are read, and objects found.
        options: of the benchmark, such as ``truth`` of Object HalBench.

    Raises:
        ConfigError: the benchmark has no judge.
        DataError: a file cannot be used, or verdicts are about other answers.
    """
    chosen = benchmark_named(benchmark)
    if chosen.name not in JUDGED:
        raise ConfigError(f"{chosen.name} has no judge; these have: {', '.join(JUDGED)}")
    choose(protocol, chosen.protocols, f"protocol of {chosen.name}")
    filled = with_defaults(chosen, options)
    refuse_without_needed(chosen, protocol, filled)
    samples = chosen.load(questions, filled)
    found = chosen.load_answers(answers, samples, filled).answers
    pairs = pair_by_id(samples, found)
    sides = []
    for source in (given, verdicts):
        usable, _ = usable_on(_read(chosen, source, samples, protocol), pairs, max_missing=1.0)
        sides.append(usable)
    both = [sample.id for sample, _ in pairs if sample.id in sides[0] and sample.id in sides[1]]
    counts, items, metrics = _counted(chosen, sides, both, (samples, found), protocol, (given, verdicts), filled)
    result = estimate(tally(counts), metrics, resamples=resamples, seed=seed)
    return Agreement(
        judge=_names(sides[1]),
        given_by=_names(sides[0]),
        n=len(both),
        missing=tuple(name for name in sides[0] if name not in sides[1]),
        not_given=tuple(sample.id for sample, _ in pairs if sample.id not in sides[0]),
        metrics=result.metrics,
        intervals=result.intervals,
        undefined=result.undefined,
        items=tuple(items),
    )


def _names(side: Mapping[str, Verdict]) -> str:
    return ", ".join(sorted({verdict.judge or "a judge that gave no name" for verdict in side.values()})) or "nobody"


def _read(
    benchmark: Benchmark[Any], source: Source, samples: Sequence[EvalSample], protocol: str
) -> dict[str, Verdict]:
    """The verdicts of a source in any layout that the benchmark takes."""
    if benchmark.name == "mmhal":
        return mmhal.ratings(source, samples, mmhal.PROTOCOLS[protocol])
    if JUDGED[benchmark.name].field == "verdict":
        return read_verdicts(source, "verdict")
    return read_verdicts(object_halbench.sentences(source), "objects", verdicts_name(source))


def _counted(
    benchmark: Benchmark[Any],
    sides: Sequence[Mapping[str, Verdict]],
    both: Sequence[str],
    asked: tuple[Sequence[EvalSample], Sequence[Answer]],
    protocol: str,
    sources: tuple[Source, Source],
    options: Mapping[str, Any],
) -> tuple[dict[str, Mapping[str, float]], list[Item], Mapping[str, Metric]]:
    """The counts of every answer, what both sides say of it, and the metrics that are made of the counts."""
    if benchmark.name == "mmhal":
        said = [{name: side[name].score or 0 for name in both} for side in sides]
        table = _Table(MAX_SCORE + 1, mmhal.HALLUCINATES_BELOW)
        return _cells(said, both), _items(said, both), {**table.of_scale(), **table.of_hallucination()}
    if JUDGED[benchmark.name].field == "verdict":
        words = [{name: side[name].verdict for name in both} for side in sides]
        said = [{name: _CATEGORIES.index(word) for name, word in side.items() if word} for side in words]
        table = _Table(len(_CATEGORIES), _CATEGORIES.index("correct"))
        return _cells(said, both), _items(words, both), {**table.of_categories(), **table.of_hallucination()}
    graded = [_graded(benchmark, source, both, asked, protocol, options) for source in sources]
    said = [{name: int(not item["hallucinated"]) for name, item in side.items()} for side in graded]
    named = [{name: {m["object"] for m in item["mentions"]} for name, item in side.items()} for side in graded]
    counts: dict[str, Mapping[str, float]] = {
        name: {
            **cell,
            "both": len(named[0][name] & named[1][name]),
            "given": len(named[0][name]),
            "judged": len(named[1][name]),
        }
        for name, cell in _cells(said, both).items()
    }
    lists = [{name: sorted(objects) for name, objects in side.items()} for side in named]
    return counts, _items(lists, both), {**_OBJECTS, **_Table(2, 1).of_hallucination()}


def _graded(
    benchmark: Benchmark[Any],
    source: Source,
    both: Sequence[str],
    asked: tuple[Sequence[EvalSample], Sequence[Answer]],
    protocol: str,
    options: Mapping[str, Any],
) -> dict[str, Item]:
    """The items of the answers that both judged, by the lists of one source."""
    wanted = set(both)
    rows = [row for row in object_halbench.sentences(source) if row_id(row, "verdicts") in wanted]
    samples, answers = [one for one in asked[0] if one.id in wanted], [one for one in asked[1] if one.id in wanted]
    found = benchmark.grade(samples, answers, benchmark.protocols[protocol], {**options, "verdicts": rows})
    return {str(item["id"]): item for item in found.items}


def _items(said: Sequence[Mapping[str, Any]], both: Sequence[str]) -> list[Item]:
    return [{"id": name, "given": said[0][name], "judge": said[1][name]} for name in both]


def _cells(said: Sequence[Mapping[str, int]], both: Sequence[str]) -> dict[str, Mapping[str, float]]:
    """Of every answer the cell of the table (given, judge) that it falls into."""
    return {name: {"n": 1, f"{said[0][name]}/{said[1][name]}": 1} for name in both}


def _ratio(top: str, bottom: str, why: str) -> Ratio:
    return Ratio(top={top: 1}, bottom={bottom: 1}, why_empty=why)


def _f1(values: Mapping[str, Array]) -> Array:
    precision, recall = values["precision"], values["recall"]
    total = precision + recall
    f1: Array = np.divide(2 * precision * recall, total, out=np.where(np.isnan(total), total, 0.0), where=total > 0)
    return f1


_PRECISION = _ratio("both", "judged", "the judge names no object")
_RECALL = _ratio("both", "given", "no object is given")
_OBJECTS: Mapping[str, Metric] = {
    "object_precision": _PRECISION,
    "object_recall": _RECALL,
    "object_f1": Formula(
        parts={"precision": _PRECISION, "recall": _RECALL}, combine=_f1, why_empty="one side names no object"
    ),
}


@dataclass(frozen=True, slots=True)
class _Table:
    """The metrics of a table of ``size`` x ``size`` shares: given verdicts in rows, the judge's in columns.

    An answer hallucinates where its verdict is one of the first ``good_from``.
    """

    size: int
    good_from: int

    def of_scale(self) -> dict[str, Metric]:
        """Those of ratings, whose distance counts."""
        return {
            "exact_agreement": self._share(lambda given, judge: given == judge),
            "within_one": self._share(lambda given, judge: abs(given - judge) <= 1),
            "mean_difference": self._metric(_mean_difference, proportion=False),
            "mean_absolute_difference": self._metric(_mean_absolute_difference, proportion=False),
            "spearman": self._metric(_spearman, why=_ALIKE, proportion=False),
            "weighted_kappa": self._metric(partial(_kappa, weights=_squares), why=_ALIKE, proportion=False),
        }

    def of_categories(self) -> dict[str, Metric]:
        """Those of verdicts without an order."""
        return {
            "exact_agreement": self._share(lambda given, judge: given == judge),
            "kappa": self._metric(partial(_kappa, weights=_unequal), why=_ALIKE, proportion=False),
        }

    def of_hallucination(self) -> dict[str, Metric]:
        """Those of the one yes or no."""
        good = self.good_from

        def halves(table: Array) -> Array:
            rows = np.stack([table[:good].sum(axis=0), table[good:].sum(axis=0)])
            return np.stack([rows[:, :good].sum(axis=1), rows[:, good:].sum(axis=1)], axis=1)

        def kappa(table: Array) -> Array:
            return _kappa(halves(table), weights=_unequal)

        def difference(table: Array) -> Array:
            found: Array = halves(table)[1, 0] - halves(table)[0, 1]
            return found

        return {
            "hallucination_agreement": self._share(lambda given, judge: (given < good) == (judge < good)),
            "hallucination_kappa": self._metric(kappa, why=_ALIKE, proportion=False),
            "hallucination_rate_given": self._share(lambda given, judge: given < good),
            "hallucination_rate_judge": self._share(lambda given, judge: judge < good),
            "hallucination_difference": self._metric(difference, proportion=False),
        }

    def _share(self, counts: Callable[[int, int], bool]) -> Ratio:
        size = range(self.size)
        top = {f"{given}/{judge}": 1.0 for given in size for judge in size if counts(given, judge)}
        return Ratio(top=top, bottom={"n": 1}, why_empty=_NONE)

    def _metric(self, of: Callable[[Array], Array], *, why: str = _NONE, proportion: bool) -> Formula:
        """A metric of the table of shares [size, size, R]."""
        names = [f"{given}/{judge}" for given in range(self.size) for judge in range(self.size)]
        parts: dict[str, Metric] = {name: _ratio(name, "n", _NONE) for name in names}

        def combine(values: Mapping[str, Array]) -> Array:
            return of(np.stack([values[name] for name in names]).reshape(self.size, self.size, -1))

        return Formula(parts=parts, combine=combine, why_empty=why, proportion=proportion)


def _places(table: Array) -> tuple[Array, Array]:
    """The numbers of rows and of columns, to be multiplied with a table [K, K, R]."""
    numbers = np.arange(len(table), dtype=np.float64)
    return numbers[:, None, None], numbers[None, :, None]


def _mean_difference(table: Array) -> Array:
    rows, columns = _places(table)
    mean: Array = (table * (columns - rows)).sum(axis=(0, 1))
    return mean


def _mean_absolute_difference(table: Array) -> Array:
    rows, columns = _places(table)
    mean: Array = (table * np.abs(columns - rows)).sum(axis=(0, 1))
    return mean


def _squares(rows: Array, columns: Array) -> Array:
    return (rows - columns) ** 2


def _unequal(rows: Array, columns: Array) -> Array:
    differ: Array = (rows != columns).astype(np.float64)
    return differ


def _kappa(table: Array, weights: Callable[[Array, Array], Array]) -> Array:
    """Cohen's kappa, 1 - disagreement / disagreement by chance; NaN where chance cannot disagree. Returns [R]."""
    weight = weights(*_places(table))
    seen = (table * weight).sum(axis=(0, 1))
    by_chance = (table.sum(axis=1)[:, None] * table.sum(axis=0)[None, :] * weight).sum(axis=(0, 1))
    kappa: Array = 1 - np.divide(seen, by_chance, out=np.full_like(seen, np.nan), where=by_chance > 0)
    return kappa


def _spearman(table: Array) -> Array:
    """Spearman's rank correlation; NaN where one side is all alike. Returns [R]."""
    rows, columns = (places.ravel() for places in np.indices(table.shape[:2], dtype=np.float64))
    return weighted_spearman(rows, columns, table.reshape(len(rows), -1).T)


def agreement_cell(found: Agreement, name: str) -> str:
    """One metric with its interval, for a table."""
    value, interval = found.metrics.get(name), found.intervals.get(name)
    if value is None:
        return f"undefined: {found.undefined.get(name, '')}"
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def agreement_content(found: Mapping[str, Agreement]) -> dict[str, Any]:
    """What ``mmpref agreement --out`` writes, by the file of each judge."""
    return {
        file: {
            "judge": one.judge,
            "given_by": one.given_by,
            "n": one.n,
            "n_missing": len(one.missing),
            "n_not_given": len(one.not_given),
            "missing": list(one.missing),
            "metrics": dict(one.metrics),
            "intervals": {name: list(interval) for name, interval in one.intervals.items()},
            "undefined": dict(one.undefined),
            "items": list(one.items),
        }
        for file, one in found.items()
    }


def refuse_nothing_in_common(found: Mapping[str, Agreement]) -> None:
    """Raise where a judge decided none of the answers that were decided before.

    Raises:
        DataError: so it is.
    """
    for file, one in found.items():
        if not one.n:
            raise DataError(
                f"{file}: none of its verdicts is on an answer that has a given one: {len(one.missing)} answers have "
                f"no usable verdict there, {len(one.not_given)} have no given one"
            )
