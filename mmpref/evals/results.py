"""``results.json`` and ``items.jsonl``: a result as files that other programs read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError, DataError
from mmpref.evals.benchmarks.judge_tasks import JUDGED, official_judge
from mmpref.evals.files.asked import model_of_answers
from mmpref.evals.text.revision import READING_REVISION
from mmpref.files.hashes import content_hashes
from mmpref.files.reading import read_json, refuse_written_over
from mmpref.files.writing import json_text, replacing, write_json
from mmpref.generation.answer_log import ITEMS, SETTINGS
from mmpref.records import TaskResult
from mmpref.rundir.folder import versions

RESULTS = "results.json"
_OTHER_TABLES = (".html", ".csv", ".md", ".tex")


def result_content(result: TaskResult, **more: Any) -> dict[str, Any]:
    """The content of ``results.json``: the result without its items, the versions, and ``more``; of scored answers the
    model, where they name it."""
    model = model_of_answers(more.get("scored", {}).get("answers", ()))
    return {
        **_numbers(result),
        **({"official_judge": official_judge(result.benchmark)} if result.benchmark in JUDGED else {}),
        "versions": versions(),
        "reader": {"revision": READING_REVISION},
        **({"model": model} if model else {}),
        **more,
    }


def write_result(path: Path, result: TaskResult, **more: Any) -> None:
    """Write ``results.json``, written atomically. Results under further protocols go in ``protocols``.

    Raises:
        CheckpointError: the file cannot be written.
    """
    write_json(path, result_content(result, **more))


def write_items(path: Path, result: TaskResult) -> None:
    """Write what was read from every answer and how it was graded, one JSON object per line."""
    with replacing(path) as stream:
        for item in result.items:
            stream.write((json_text(item) + "\n").encode("utf-8"))


def write_scored(out: Path, result: TaskResult, *, inputs: Sequence[Path] = (), **more: Any) -> None:
    """Write a result and its items: as ``results.json`` and ``items.jsonl`` into a folder, or as ``NAME.json`` and
    ``NAME.items.jsonl`` beside it. ``mmpref report`` reads both forms.

    Args:
        out: a file, where it has a suffix; else a folder.
        inputs: what was read for the result: it is not written over, and the sha256 of each file stands in the result.

    Raises:
        ConfigError: ``out`` is an input, an evaluation that a model answered, or asks for a table.
        CheckpointError: a file cannot be written.
    """
    file, items = refuse_unwritable_result(out, inputs)
    hashes = content_hashes(sorted({path for path in inputs if path.is_file()}), DataError)
    read = {"inputs": {str(path): digest for path, digest in hashes.items()}} if hashes else {}
    write_items(items, result)
    write_json(file, {**result_content(result, **more), **read, "items": items.name})


def refuse_unwritable_result(out: Path, inputs: Sequence[Path]) -> tuple[Path, Path]:
    """The files that :func:`write_scored` writes: the result and its items.

    Raises:
        ConfigError: as there.
    """
    file, items = (out / RESULTS, out / ITEMS) if out.is_dir() or not out.suffix else (out, _items_beside(out))
    if out.suffix in _OTHER_TABLES:
        raise ConfigError(
            f"--out {out}: score writes JSON; write {out.with_suffix('.json')}, and then make the table with: "
            f"mmpref report {out.with_suffix('.json')} --out {out}"
        )
    if (file.parent / SETTINGS).is_file() and file.name == RESULTS:
        raise ConfigError(f"--out {out} holds an evaluation by mmpref eval, whose results stay; choose another folder")
    refuse_written_over({"--out": file, "the file of items beside --out,": items}, inputs)
    return file, items


def _items_beside(file: Path) -> Path:
    return file.with_name(f"{file.stem}.{ITEMS}")


def other_protocols(results: Mapping[str, TaskResult]) -> dict[str, dict[str, Any]]:
    """The numbers of the same answers under other protocols, to be written beside the main ones."""
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
        **({"answers_read_as": result.read_as} if result.read_as else {}),
        "metrics": dict(result.metrics),
        "intervals": {name: list(interval) for name, interval in result.intervals.items()},
        "undefined": dict(result.undefined),
        "notes": list(result.notes),
        "warnings": [{"code": warning.code, "sentence": warning.sentence} for warning in result.warnings],
    }
