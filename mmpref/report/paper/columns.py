"""Which metrics stand in the table: those of a benchmark's headline or those that were asked for, and with them what
nobody may leave out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmpref.errors import ConfigError, MMPrefError
from mmpref.evals.benchmarks import BENCHMARKS
from mmpref.report.evaluation import Evaluation, Row

YES_RATIO = "yes_ratio"
UNPARSED = "unparsed"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The metrics of one benchmark, of all questions or of one part; ``added`` are those that nobody asked for."""

    benchmark: str
    part: str
    metrics: tuple[str, ...]
    added: tuple[str, ...] = ()


def wanted_columns(evaluations: Sequence[Evaluation], columns: Sequence[str] = ()) -> list[Wanted]:
    """What is shown of each benchmark, in the order of the results or, where columns are given, in theirs.

    Args:
        columns: ``BENCHMARK/METRIC``, ``BENCHMARK/PART/METRIC``, or ``BENCHMARK`` for its headline; nothing: the
            headlines of all benchmarks.

    Raises:
        ConfigError: no result has the benchmark or the metric.
    """
    found = {
        entry.benchmark: [other for other in evaluations if other.benchmark == entry.benchmark] for entry in evaluations
    }
    if not columns:
        return [_complete(name, "", (), found[name]) for name in found]
    chosen: dict[tuple[str, str], list[str]] = {}
    for column in columns:
        first, _, rest = column.partition("/")
        benchmark = _named(first, column, list(found))
        part, _, metric = rest.rpartition("/")
        if part and not any(part in all_parts(entry) for entry in found[benchmark]):
            part, metric = "", rest  # MME's count/accuracy: a name of its own
        metrics = chosen.setdefault((benchmark, part), [])
        if rest and not any(rest in measured(entry) for entry in found[benchmark]):
            known = list(dict.fromkeys(name for entry in found[benchmark] for name in measured(entry)))
            raise ConfigError(
                f"--columns {column}: no result of {benchmark} has {rest!r}; they have {', '.join(known[:40])}"
                + (", ..." if len(known) > 40 else "")
            )
        metrics.extend(
            name for name in ([metric] if rest else _headline(benchmark, found[benchmark])) if name not in metrics
        )
    return [_complete(name, part, metrics, found[name]) for (name, part), metrics in chosen.items()]


def measured(found: Evaluation) -> list[str]:
    """The metrics that a result has, with a value or with the reason why there is none."""
    metrics = found.results.get("metrics")
    return [str(name) for name in metrics] if isinstance(metrics, Mapping) else []


def _named(name: str, column: str, known: Sequence[str]) -> str:
    if name in known:
        return name
    for benchmark in known:
        if benchmark in BENCHMARKS and name in BENCHMARKS[benchmark].aliases:
            return benchmark
    raise ConfigError(
        f"--columns {column}: no result here is of {name!r}; write BENCHMARK/METRIC with one of {', '.join(known)}"
    )


def _headline(benchmark: str, evaluations: Sequence[Evaluation]) -> list[str]:
    """The metrics of all questions that its paper prints, as far as any result has them; else all of all questions."""
    there = dict.fromkeys(name for entry in evaluations for name in measured(entry) if "/" not in name)
    known = BENCHMARKS.get(benchmark)
    named = [name for name in known.headline if name in there] if known is not None else []
    return named or list(there)


def _complete(benchmark: str, part: str, asked: Sequence[str], evaluations: Sequence[Evaluation]) -> Wanted:
    """With the metrics that must stand beside those that were asked for."""
    metrics = list(asked) or _headline(benchmark, evaluations)
    prefix = f"{part}/" if part else ""
    there = {name.removeprefix(prefix) for entry in evaluations for name in measured(entry) if name.startswith(prefix)}
    known = BENCHMARKS.get(benchmark)
    beside = list(known.together) if known is not None and set(known.together) & set(metrics) else []
    if YES_RATIO in there or any(is_yes_no(entry) for entry in evaluations):
        beside.append(YES_RATIO)
        there.add(YES_RATIO)  # counted in the answers where the benchmark has no such metric
    added = [name for name in beside if name in there and name not in metrics]
    return Wanted(benchmark, part, (*metrics, *added), tuple(added) if asked else ())


def parts_of(found: Evaluation, item: Row) -> tuple[str, ...]:
    """The parts that an item belongs to, as its benchmark says."""
    known = BENCHMARKS.get(found.benchmark)
    try:
        return tuple(known.parts(item)) if known is not None else ()
    except (MMPrefError, KeyError, TypeError, ValueError, AttributeError):
        return ()


def all_parts(found: Evaluation) -> list[str]:
    """The parts of a result."""
    return list(dict.fromkeys(part for item in found.items for part in parts_of(found, item)))


def is_yes_no(found: Evaluation) -> bool:
    """Whether its answers were read as yes or no."""
    return any(item.get("read") in ("yes", "no") for item in found.items)
