"""Scoring: questions + answers -> ``TaskResult``. No model and no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmpref.errors import ConfigError, DataError
from mmpref.evals.benchmarks import BENCHMARKS
from mmpref.evals.benchmarks.contract import Benchmark, Items, ScoringProtocol
from mmpref.evals.result_warnings import warnings_of
from mmpref.evals.text.vocabulary import COCO, NAMES_ONLY
from mmpref.evals.unread import metrics_of, notes_of
from mmpref.files.rows import Source, choose, first_ids
from mmpref.records import Answer, EvalSample, TaskResult
from mmpref.statistics import RESAMPLES, Difference, Tally, estimate, paired_differences, tally

OVERALL = "overall"


def benchmark_named(name: str) -> Benchmark[Any]:
    """The benchmark of that name; "MMHal-Bench" and "mmhal_bench" are the same as "mmhal".

    Raises:
        ConfigError: there is none.
    """
    aliases = {alias: known.name for known in BENCHMARKS.values() for alias in known.aliases}
    plain = aliases | {known.replace("_", "").removesuffix("bench"): known for known in BENCHMARKS}
    wanted = re.sub(r"[\s_-]", "", name.lower()).removesuffix("bench")
    return BENCHMARKS[plain.get(wanted) or choose(name, BENCHMARKS, "benchmark")]


def with_defaults(benchmark: Benchmark[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """The benchmark's options with defaults filled in.

    Raises:
        ConfigError: an option that the benchmark does not have.
    """
    for name in options:
        choose(name, benchmark.options, f"option of {benchmark.name}")
    return {**benchmark.options, **options}


def text_options(benchmark: str) -> tuple[str, ...]:
    """The options of a benchmark that are text, such as CHAIR's ``image_name``: braces in them are no YAML."""
    return tuple(name for name, default in benchmark_named(benchmark).options.items() if isinstance(default, str))


def load_samples(benchmark: str, questions: Source, **options: Any) -> tuple[EvalSample, ...]:
    """The questions of a benchmark as the model gets them."""
    chosen = benchmark_named(benchmark)
    return chosen.load(questions, with_defaults(chosen, options))


def score(
    benchmark: str,
    questions: Source,
    answers: Source,
    protocol: str = "mmpref",
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    **options: Any,
) -> TaskResult:
    """Score saved answers.

    With several parts (POPE's splits) the result has ``random/accuracy`` and so on; the bare names, also spelled
    ``overall/accuracy``, are over all parts together.

    Args:
        benchmark: a name of ``BENCHMARKS``.
        questions: a path or rows; each benchmark's file says what it takes.
        answers: a path to JSON lines ``{"id", "text"}``, or such rows; files of other tools are read too
            (``files.answer_readers``).
        protocol: whose rules are followed; ``mmpref`` reads real answers best, the others equal the tool they name.
        resamples, seed: of the bootstrap behind the 95 % intervals.
        options: of the benchmark, such as CHAIR's ``synonyms``.

    Raises:
        ConfigError: an unknown benchmark, protocol or option.
        DataError: a file that cannot be used, or ids that are duplicated, unknown or without an answer.
        EvalIncompleteError: the benchmark needs a judge's verdicts, and there are none or too few.
    """
    return score_by(benchmark, questions, answers, (protocol,), resamples=resamples, seed=seed, **options)[protocol]


def score_by(
    benchmark: str,
    questions: Source,
    answers: Source,
    protocols: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    **options: Any,
) -> dict[str, TaskResult]:
    """The same answers under several protocols, read once; everything else as in :func:`score`."""
    chosen = benchmark_named(benchmark)
    for name in protocols:
        choose(name, chosen.protocols, f"protocol of {chosen.name}")
    filled = with_defaults(chosen, options)
    for name in protocols:
        refuse_without_needed(chosen, name, filled)
    samples = chosen.load(questions, filled)
    saved = chosen.load_answers(answers, samples, filled)
    if saved.verdicts and filled.get("verdicts") is None:
        filled["verdicts"] = saved.verdicts
    found = {
        name: score_samples(chosen, samples, saved.answers, name, filled, resamples=resamples, seed=seed)
        for name in protocols
    }
    return {
        name: replace(
            result,
            read_as=saved.read_as,
            notes=(*saved.notes, *result.notes),
            warnings=(*saved.warnings, *result.warnings),
        )
        for name, result in found.items()
    }


def score_beside(
    benchmark: str, questions: Source, answers: Source, protocol: str = "mmpref", **options: Any
) -> tuple[TaskResult, dict[str, TaskResult]]:
    """A result, and beside it the one of the ``official`` protocol where that is another and exists."""
    chosen = benchmark_named(benchmark)
    wanted = (protocol, "official") if official_beside(chosen, protocol, options) else (protocol,)
    found = score_by(benchmark, questions, answers, wanted, **options)
    return found.pop(protocol), found


def official_beside(benchmark: Benchmark[Any], protocol: str, options: Mapping[str, Any]) -> bool:
    """Whether the ``official`` number can be given beside the one of ``protocol``."""
    official = benchmark.protocols.get("official")
    if official is None or benchmark.protocols.get(protocol) is official:
        return False
    return not official.needs or _is_given(options, official.needs)


def _is_given(options: Mapping[str, Any], name: str) -> bool:
    """Whether an option has a list of somebody's, and no name of mmpref's own."""
    return options.get(name) not in (None, COCO, NAMES_ONLY)


def refuse_without_needed(benchmark: Benchmark[Any], protocol: str, options: Mapping[str, Any]) -> None:
    """Raise over a protocol whose rules need what was not given.

    Raises:
        ConfigError: so it is; a number by other rules would bear the protocol's name.
    """
    needed = benchmark.protocols[protocol].needs
    if needed and not _is_given(options, needed):
        raise ConfigError(
            f"protocol '{protocol}' of {benchmark.name} is made with its authors' {needed}, and without them it would "
            f"be a number that no script gives: {benchmark.how_to_get}"
        )


def score_samples(
    benchmark: Benchmark[Any],
    samples: Sequence[EvalSample],
    answers: Sequence[Answer],
    protocol: str,
    options: Mapping[str, Any],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> TaskResult:
    """Score answers to samples that are loaded already; ``options`` are complete."""
    rules: ScoringProtocol = benchmark.protocols[protocol]
    graded = benchmark.grade(samples, answers, rules, options)
    metrics: dict[str, float | None] = {}
    intervals: dict[str, tuple[float, float]] = {}
    undefined: dict[str, str] = {}
    parts = _parts(benchmark, graded.items)
    for part, items in parts.items():
        wanted = metrics_of(benchmark.metrics(rules, part, items), items, rules)
        found = estimate(_tally(benchmark, items), wanted, resamples=resamples, seed=seed)
        for head in ("", f"{OVERALL}/") if part == "" and len(parts) > 1 else (f"{part}/" if part else "",):
            metrics |= {head + name: value for name, value in found.metrics.items()}
            intervals |= {head + name: interval for name, interval in found.intervals.items()}
            undefined |= {head + name: reason for name, reason in found.undefined.items()}
    return TaskResult(
        benchmark=benchmark.name,
        protocol=protocol,
        n=graded.n,
        n_unparsed=graded.n_unparsed,
        n_missing=graded.n_missing,
        metrics=metrics,
        intervals=intervals,
        undefined=undefined,
        notes=(*graded.notes, *notes_of(graded.items, answers, graded.n_unparsed)),
        items=graded.items,
        warnings=warnings_of(graded.items, answers, benchmark.parts),
    )


def compare(
    first: TaskResult, second: TaskResult, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """Second less first, metric by metric, on the same questions: images are drawn again for both systems together.

    Raises:
        DataError: the two are not answers to the same questions under one protocol.
    """
    if (first.benchmark, first.protocol) != (second.benchmark, second.protocol):
        raise DataError(
            f"cannot compare {first.benchmark} under {first.protocol} with {second.benchmark} under {second.protocol}"
        )
    chosen = benchmark_named(first.benchmark)
    asked, also_asked = (
        {(str(item["id"]), chosen.unit(item), tuple(chosen.parts(item))) for item in result.items}
        for result in (first, second)
    )
    if odd := sorted({name for name, _, _ in asked ^ also_asked}):
        raise DataError(f"cannot compare: {len(odd)} questions were answered on one side only: {first_ids(odd)}")
    before, after = _parts(chosen, first.items), _parts(chosen, second.items)
    rules = chosen.protocol_of_result(first.protocol)
    return {
        (f"{part}/" if part else "") + name: difference
        for part, items in before.items()
        for name, difference in paired_differences(
            _tally(chosen, items),
            _tally(chosen, after[part]),
            chosen.metrics(rules, part, items),
            resamples=resamples,
            seed=seed,
        ).items()
    }


def _parts(benchmark: Benchmark[Any], items: Items) -> dict[str, Items]:
    """All items under "", and those of each part under its name."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for item in items:
        for part in benchmark.parts(item):
            found.setdefault(part, []).append(item)
    return {"": items, **found}


def _tally(benchmark: Benchmark[Any], items: Items) -> Tally:
    units: dict[str, list[Mapping[str, Any]]] = {}
    for item in items:
        units.setdefault(benchmark.unit(item), []).append(item)
    return tally({unit: benchmark.counts(part) for unit, part in units.items()})
