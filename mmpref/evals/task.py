"""The table of benchmarks, and scoring: questions + answers -> ``TaskResult``. No model and no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from mmpref.errors import DataError
from mmpref.evals.benchmark import Benchmark
from mmpref.evals.chair import CHAIR
from mmpref.evals.metrics import RESAMPLES, Difference, Tally, estimate, paired_differences, tally
from mmpref.evals.pope import POPE
from mmpref.evals.rows import Source, choose, first_ids
from mmpref.records import Answer, EvalSample, TaskResult

BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType({benchmark.name: benchmark for benchmark in (POPE, CHAIR)})
OVERALL = "overall"


def benchmark_named(name: str) -> Benchmark:
    """The benchmark of that name.

    Raises:
        ConfigError: there is none.
    """
    return BENCHMARKS[choose(name, BENCHMARKS, "benchmark")]


def with_defaults(benchmark: Benchmark, options: Mapping[str, Any]) -> dict[str, Any]:
    """The benchmark's options with defaults filled in.

    Raises:
        ConfigError: an option that the benchmark does not have.
    """
    for name in options:
        choose(name, benchmark.options, f"option of {benchmark.name}")
    return {**benchmark.options, **options}


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
        answers: a path to JSON lines ``{"id", "text"}``, or such rows.
        protocol: whose rules are followed; ``mmpref`` reads real answers best, the others equal the tool they name.
        resamples, seed: of the bootstrap behind the 95 % intervals.
        options: of the benchmark, such as CHAIR's ``synonyms``.

    Raises:
        ConfigError: an unknown benchmark, protocol or option.
        DataError: a file that cannot be used, or ids that are duplicated, unknown or without an answer.
    """
    chosen = benchmark_named(benchmark)
    choose(protocol, chosen.protocols, f"protocol of {benchmark}")
    filled = with_defaults(chosen, options)
    samples = chosen.load(questions, filled)
    loaded = chosen.load_answers(answers, filled)
    return score_samples(chosen, samples, loaded, protocol, filled, resamples=resamples, seed=seed)


def score_samples(
    benchmark: Benchmark,
    samples: Sequence[EvalSample],
    answers: Sequence[Answer],
    protocol: str,
    options: Mapping[str, Any],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> TaskResult:
    """Score answers to samples that are loaded already; ``options`` are complete."""
    judged = benchmark.judge(samples, answers, protocol, options)
    metrics: dict[str, float | None] = {}
    intervals: dict[str, tuple[float, float]] = {}
    undefined: dict[str, str] = {}
    tables = _tallies(benchmark, judged.items)
    for prefix, table in tables.items():
        found = estimate(table, benchmark.ratios(protocol), resamples=resamples, seed=seed)
        for head in ("", f"{OVERALL}/") if prefix == "" and len(tables) > 1 else (prefix,):
            metrics |= {head + name: value for name, value in found.metrics.items()}
            intervals |= {head + name: interval for name, interval in found.intervals.items()}
            undefined |= {head + name: reason for name, reason in found.undefined.items()}
    return TaskResult(
        benchmark=benchmark.name,
        protocol=protocol,
        n=judged.n,
        n_unparsed=judged.n_unparsed,
        metrics=metrics,
        intervals=intervals,
        undefined=undefined,
        notes=judged.notes,
        items=judged.items,
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
        {(str(item["id"]), chosen.unit(item), chosen.group(item)) for item in result.items}
        for result in (first, second)
    )
    if odd := sorted({name for name, _, _ in asked ^ also_asked}):
        raise DataError(f"cannot compare: {len(odd)} questions were answered on one side only: {first_ids(odd)}")
    before, after = _tallies(chosen, first.items), _tallies(chosen, second.items)
    return {
        prefix + name: difference
        for prefix, table in before.items()
        for name, difference in paired_differences(
            table, after[prefix], chosen.ratios(first.protocol), resamples=resamples, seed=seed
        ).items()
    }


def _tallies(benchmark: Benchmark, items: Sequence[Mapping[str, Any]]) -> dict[str, Tally]:
    """Counts of all items under "", and of each part under its name when there are several."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for item in items:
        groups.setdefault(benchmark.group(item), []).append(item)
    parts: dict[str, Sequence[Mapping[str, Any]]] = {"": items}
    if len(groups) > 1:
        parts |= {f"{name}/": part for name, part in groups.items()}
    return {
        prefix: tally(
            [benchmark.count(item) for item in part], [benchmark.unit(item) for item in part], benchmark.counts
        )
        for prefix, part in parts.items()
    }
