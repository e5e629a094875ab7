"""What a reader must know before the numbers: what is damaged, missing or not finished, and what is not comparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath

from mmpref.report.runs import Run

MOST_SHOWN = 8
"""Further sentences are folded away."""


def cautions(runs: Sequence[Run], notes: Sequence[str]) -> list[str]:
    """Sentences, the gravest first.

    Args:
        runs: as they were read.
        notes: what stands in the way of the comparison of their benchmarks.
    """
    trained = [run for run in runs if run.manifest]
    found = [
        f"{run.label}: failed, {run.manifest.get('error', 'no reason recorded')}" for run in trained if _failed(run)
    ]
    found += _other_data(trained)
    found += [f"{run.label}: {problem}" for run in runs for problem in run.problems]
    found += [f"{run.label}: {lacking}" for run in trained for lacking in _lacking(run)]
    return list(dict.fromkeys([*found, *notes]))


def _failed(run: Run) -> bool:
    return run.state == "failed"


def _other_data(runs: Sequence[Run]) -> list[str]:
    """Runs whose training files have other content than those of the first run that names its own."""
    known = [(run, hashes) for run in runs if (hashes := _hashes(run)) and not _is_start_of(run, runs)]
    if not known:
        return []
    first, expected = known[0]
    others = [run.label for run, hashes in known if hashes != expected]
    if not others:
        return []
    return [
        f"{', '.join(others)}: trained on other data than {first.label} (the hashes of the files differ): a difference "
        "between them is not one of the loss alone"
    ]


def _is_start_of(run: Run, runs: Sequence[Run]) -> bool:
    """Whether others of the runs began with its model: it is what they are compared with, and no rival."""
    own = (run.path.absolute() / "model").parts
    paths = (other.recipe_value("model.path") for other in runs)
    starts = [PurePath(path).parts for path in paths if isinstance(path, str) and path]
    return any(len(start) > 1 and own[-len(start) :] == start for start in starts)


def _hashes(run: Run) -> frozenset[str]:
    data = run.manifest.get("data")
    return frozenset(map(str, data.values())) if isinstance(data, Mapping) else frozenset()


def _lacking(run: Run) -> list[str]:
    """What the run folder has not, and which parts of the page that costs."""
    found = []
    if not run.log:
        found.append("metrics.jsonl is missing or has no usable line: no curves, alarms or gradient norms of this run")
    if not run.pairs:
        when = "; it is written at the first checkpoint" if run.state == "running" else ""
        found.append(f"no pair log (pairs.parquet){when}: this run is not in the analyses of its training pairs")
    return found
