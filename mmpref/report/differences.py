"""Paired differences of two evaluations, by the code that made their numbers (``evals.scoring.compare``)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mmpref.errors import MMPrefError
from mmpref.evals.scoring import compare
from mmpref.records import TaskResult
from mmpref.report.evaluation import Evaluation
from mmpref.report.questions import same_question
from mmpref.statistics import Difference


def result_of(evaluation: Evaluation, ids: set[str] | None = None) -> TaskResult:
    """An evaluation as mmpref.evals has it, with all its items or those of ``ids``."""
    items = tuple(item for item in evaluation.items if ids is None or str(item.get("id")) in ids)
    metrics = evaluation.results.get("metrics")
    return TaskResult(
        benchmark=evaluation.benchmark,
        protocol=evaluation.protocol,
        n=len(items),
        n_unparsed=0,
        metrics=dict(metrics) if isinstance(metrics, Mapping) else {},
        items=items,
    )


def paired_differences(
    first: Evaluation, second: Evaluation, labels: tuple[str, str], notes: list[str], *, what: str = ""
) -> dict[str, Difference]:
    """Second less first by metric, on the questions that both answered, where the items give the very numbers of
    results.json; a metric that one side does not define is left out.

    Args:
        labels: of the two runs.
        notes: gets a sentence for everything that stands in the way.
        what: begins the sentences.
    """
    where = f"{what}{', ' if what else ''}{labels[1]} against {labels[0]}"
    if len({first.protocol, second.protocol}) > 1:
        notes.append(f"{where}: not compared, protocols differ ({first.protocol} and {second.protocol})")
        return {}
    if not first.items or not second.items:
        without = " and ".join(label for label, side in zip(labels, (first, second), strict=True) if not side.items)
        notes.append(f"{where}: no paired difference, because items.jsonl is missing or empty ({without})")
        return {}
    ids = [{str(item.get("id")) for item in side.items} for side in (first, second)]
    before = {str(item.get("id")): item for item in first.items}
    also = {str(item.get("id")): item for item in second.items}
    shared = {name for name in ids[0] & ids[1] if same_question(before[name], also[name])}
    others = len(ids[0] & ids[1]) - len(shared)
    named = f", and {others} more have the same id and another image or wording" if others else ""
    if not shared:
        notes.append(f"{where}: no paired difference, no question was answered by both{named}")
        return {}
    if len(shared) < max(map(len, ids)):
        notes.append(
            f"{where}: the questions differ; the difference is over the {len(shared)} that both answered "
            f"(of {len(ids[0])} and {len(ids[1])}{named})"
        )
    try:
        found = compare(result_of(first, shared), result_of(second, shared))
        for side, own_ids, end, label in ((first, ids[0], "first", labels[0]), (second, ids[1], "second", labels[1])):
            own = found if own_ids == shared else compare(result_of(side), result_of(side), resamples=1)
            wrong = [name for name, entry in own.items() if _disagree(side.metric(name), getattr(entry, end))]
            if wrong:
                names = ", ".join(wrong[:3])
                notes.append(f"{where}: no paired difference, items.jsonl of {label} gives other {names}")
                return {}
    except (MMPrefError, KeyError, TypeError, ValueError, AttributeError) as err:
        notes.append(f"{where}: no paired difference, the items cannot be compared ({type(err).__name__}: {err})")
        return {}
    known = {name: entry for name, entry in found.items() if entry.value is not None}
    both = [name for name in _metrics(first) if name in _metrics(second) and not name.startswith("overall/")]
    if left := [name for name in both if name not in known]:
        names = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        notes.append(f"{where}: no paired difference of {names}, which the items of both do not give")
    return known


def _metrics(found: Evaluation) -> list[str]:
    metrics = found.results.get("metrics")
    names = [str(name) for name in metrics] if isinstance(metrics, Mapping) else []
    return [name for name in names if found.metric(name) is not None]


def _disagree(stored: float | None, recomputed: float | None) -> bool:
    if stored is None or recomputed is None:
        return False
    return not math.isclose(stored, recomputed, rel_tol=1e-6, abs_tol=1e-6)
