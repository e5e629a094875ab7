"""``results.json`` and ``items.jsonl``: a result as files that other programs read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpref.errors import DataError
from mmpref.evals.judging.tasks import JUDGED, official_judge
from mmpref.files import json_text, read_json, replacing, write_json
from mmpref.records import TaskResult
from mmpref.rundir import versions

RESULTS = "results.json"


def result_content(result: TaskResult, **more: Any) -> dict[str, Any]:
    """What ``results.json`` holds: the result without its items, the versions, and ``more``."""
    return {
        **_numbers(result),
        **({"official_judge": official_judge(result.benchmark)} if result.benchmark in JUDGED else {}),
        "versions": versions(),
        **more,
    }


def write_result(path: Path, result: TaskResult, **more: Any) -> None:
    """Write ``results.json``, whole or not at all. Results under further protocols go in ``protocols``.

    Raises:
        CheckpointError: the file cannot be written.
    """
    write_json(path, result_content(result, **more))


def write_items(path: Path, result: TaskResult) -> None:
    """Write what was read from every answer and how it was judged, one JSON object per line."""
    with replacing(path) as stream:
        for item in result.items:
            stream.write((json_text(item) + "\n").encode("utf-8"))


def other_protocols(results: Mapping[str, TaskResult]) -> dict[str, dict[str, Any]]:
    """The numbers of the same answers under other protocols, to stand beside the main ones."""
    return {protocol: _numbers(result) for protocol, result in results.items()}


def metrics_beside(path: Path) -> dict[str, dict[str, float | None]]:
    """The metrics that a ``results.json`` has under further protocols, by protocol."""
    protocols = read_json(path, DataError).get("protocols", {})
    return {protocol: dict(numbers["metrics"]) for protocol, numbers in protocols.items()}


def _numbers(result: TaskResult) -> dict[str, Any]:
    return {
        "benchmark": result.benchmark,
        "protocol": result.protocol,
        "n": result.n,
        "n_unparsed": result.n_unparsed,
        "n_missing": result.n_missing,
        "metrics": dict(result.metrics),
        "intervals": {name: list(interval) for name, interval in result.intervals.items()},
        "undefined": dict(result.undefined),
        "notes": list(result.notes),
    }
