"""``results.json`` and ``items.jsonl``: a result as files that other programs read."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError, DataError
from mmpref.evals.journal import ANSWERS, ITEMS, SETTINGS
from mmpref.evals.judging.tasks import JUDGED, official_judge
from mmpref.evals.rows import load_rows
from mmpref.file_reading import read_json, without_links
from mmpref.files import json_text, replacing, write_json
from mmpref.records import TaskResult
from mmpref.rundir import versions

RESULTS = "results.json"
_PLAIN = re.compile(r"[A-Za-z_/][\w.{}/-]*")
_YAML_WORDS = ("true", "false", "null", "yes", "no", "on", "off")
_OTHER_TABLES = (".html", ".csv", ".md", ".tex")


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


def write_scored(out: Path, result: TaskResult, *, inputs: Sequence[Path] = (), **more: Any) -> None:
    """Write a result and its items: as ``results.json`` and ``items.jsonl`` into a folder, or as ``NAME.json`` and
    ``NAME.items.jsonl`` beside it. ``mmpref report`` reads both forms.

    Args:
        out: a file, where it has a suffix; else a folder.
        inputs: what was read for the result, which is not written over.

    Raises:
        ConfigError: ``out`` is an input, an evaluation that a model answered, or asks for a table.
        CheckpointError: a file cannot be written.
    """
    file, items = (out / RESULTS, out / ITEMS) if out.is_dir() or not out.suffix else (out, _items_beside(out))
    if out.suffix in _OTHER_TABLES:
        raise ConfigError(
            f"--out {out}: score writes JSON; write {out.with_suffix('.json')}, and then make the table with: "
            f"mmpref report {out.with_suffix('.json')} --out {out}"
        )
    if (file.parent / SETTINGS).is_file() and file.name == RESULTS:
        raise ConfigError(f"--out {out} holds an evaluation by mmpref eval, whose results stay; choose another folder")
    for given in inputs:
        if without_links(given) in (without_links(file), without_links(items)):
            raise ConfigError(f"--out {out} would write over {given}, which is read; choose another name")
    told = _model_of(more.get("scored", {}).get("answers", ()))
    write_items(items, result)
    write_json(file, {**result_content(result, **more), **({"model": told} if told else {}), "items": items.name})


def _model_of(answers: Sequence[str]) -> str:
    """Which model gave saved answers, where their rows (LLaVA's ``model_id``) or the settings beside them tell it."""
    found: set[str] = set()
    for file in map(Path, answers):
        with contextlib.suppress(DataError):  # who scored them has read them; here it is about a name alone
            if file.name == ANSWERS and (file.parent / SETTINGS).is_file():
                settings = read_json(file.parent / SETTINGS, DataError)
                given = [settings.get(key) for key in ("model", "adapter")] if isinstance(settings, dict) else []
                found |= {" with ".join(str(name) for name in given if name)} - {""}
            elif file.suffix == ".jsonl" and file.is_file():
                names = [row.get("model_id") for row in load_rows(file, "answers")]
                found |= {name for name in names if isinstance(name, str) and name}
    return ", ".join(sorted(found))


def asked_as(questions: Any, options: Mapping[str, Any], limit: int | None) -> dict[str, Any]:
    """What an evaluation was asked with, as the command line would give it, so that it can be asked again.

    Returns:
        ``questions`` (absolute paths; none where rows were given), ``options`` (``KEY=VALUE``) and ``limit``.
    """
    given = [questions] if isinstance(questions, str | Path) else questions
    files = list(given) if isinstance(given, Sequence) and all(isinstance(part, str | Path) for part in given) else []
    return {
        "questions": [str(Path(file).absolute()) for file in files],
        "options": [f"{name}={_as_option(value)}" for name, value in options.items()],
        "limit": limit,
    }


def _as_option(value: Any) -> str:
    """A value so that the command line reads it as what it is; a file's path is absolute."""
    if isinstance(value, Path) or (isinstance(value, str) and "/" in value and Path(value).exists()):
        return str(Path(value).absolute())
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _YAML_WORDS:
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _items_beside(file: Path) -> Path:
    return file.with_name(f"{file.stem}.{ITEMS}")


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
        **({"answers_read_as": result.read_as} if result.read_as else {}),
        "metrics": dict(result.metrics),
        "intervals": {name: list(interval) for name, interval in result.intervals.items()},
        "undefined": dict(result.undefined),
        "notes": list(result.notes),
    }
