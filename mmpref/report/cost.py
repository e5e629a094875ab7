"""What a run cost: time by part, speed, memory, machine, disk; what the run did not record is said."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mmpref.errors import DataError
from mmpref.files.reading import read_text
from mmpref.report.evaluation import number
from mmpref.report.facts import fact_rows
from mmpref.report.html import render
from mmpref.report.runs import Run

NOT_RECORDED = "not recorded"
_STAMP = "%Y-%m-%d %H:%M:%S"
_STAMPED = len("2026-01-01 00:00:00")
_PARTS = {
    "before": "before the first step",
    "training": "training steps",
    "held_out": "held-out pairs",
    "after": "writing the result",
}


def cost_section(runs: Sequence[Run]) -> Markup | None:
    """The section; None where no run was trained here."""
    trained = [run for run in runs if run.manifest]
    if not trained:
        return None
    rows = fact_rows([dict(_facts(run)) for run in trained])
    return render("cost", labels=[run.label for run in trained], rows=rows)


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    cost = run.manifest.get("cost")
    known: Mapping[str, Any] = cost if isinstance(cost, Mapping) else {}
    seconds = known.get("seconds")
    parts: Mapping[str, Any] = seconds if isinstance(seconds, Mapping) else {}
    yield "wall time", _wall_time(run, parts)
    for key, words in _PARTS.items():
        value = number(parts.get(key))
        if value is None and key == "training":
            value = _logged(run, "train_runtime")
        yield words, NOT_RECORDED if value is None else duration(value)
    yield "pairs per second", _speed(run, known)
    yield "answer tokens", _answer_tokens(run)
    yield "image tokens", _image_tokens(run)
    yield "peak memory, process", _size(known.get("peak_host_bytes"))
    yield "peak memory, GPU", _size(known.get("peak_gpu_bytes")) if "peak_gpu_bytes" in known else NOT_RECORDED
    yield "machine", str(known.get("machine") or NOT_RECORDED)
    yield "checkpoints", _on_disk(run.path / "checkpoints", "step-*", "none kept")
    yield "model", _on_disk(run.path, "model", "none")
    yield "benchmarks, answering", _answering(run)


def _wall_time(run: Run, parts: Mapping[str, Any]) -> str:
    values = [number(value) for value in parts.values()]
    known = [value for value in values if value is not None]
    if known:
        return duration(sum(known))
    span = _span_of_log(run.path / "train.log")
    return NOT_RECORDED if span is None else f"{duration(span)} (by train.log, with its pauses)"


def _span_of_log(file: Path) -> float | None:
    """Seconds between the first and the last stamped line."""
    try:
        text = read_text(file, DataError) if file.is_file() else ""
    except DataError:
        return None
    stamps = []
    for line in text.splitlines():
        try:
            stamps.append(datetime.strptime(line[:_STAMPED], _STAMP))
        except ValueError:
            continue
    return (max(stamps) - min(stamps)).total_seconds() if len(stamps) > 1 else None


def _logged(run: Run, name: str) -> float | None:
    return next((value for line in reversed(run.log) if (value := number(line.get(name))) is not None), None)


def _speed(run: Run, cost: Mapping[str, Any]) -> str:
    known = number(cost.get("pairs_per_second"))
    logged = _logged(run, "train_samples_per_second") if known is None else known
    return NOT_RECORDED if logged is None else f"{logged:,.3g}"


def _answer_tokens(run: Run) -> str:
    sides = [[number(value) or 0.0 for value in run.pairs.get(f"len/{side}", ())] for side in ("chosen", "rejected")]
    total = sum(map(sum, sides))
    return f"{total:,.0f} in the pair log" if total else NOT_RECORDED


def _image_tokens(run: Run) -> str:
    fit = run.manifest.get("fit")
    count = number(fit.get("image_tokens")) if isinstance(fit, Mapping) else None
    return NOT_RECORDED if count is None else f"{count:,.0f} in an epoch"


def _size(value: Any) -> str:
    count = number(value)
    if count is None:
        return NOT_RECORDED if value is None else str(value)
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"


def _on_disk(folder: Path, pattern: str, none: str) -> str:
    found = [entry for entry in folder.glob(pattern) if entry.is_dir()]
    total = sum(_bytes_below(entry) for entry in found)
    if not found:
        return none
    return f"{len(found)} of {_size(total)} together" if len(found) > 1 else _size(total)


def _bytes_below(folder: Path) -> int:
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            try:
                total += (Path(place) / name).stat().st_size
            except OSError:  # deleted meanwhile
                continue
    return total


def _answering(run: Run) -> str:
    said = []
    for found in run.evals:
        seconds = number(found.results.get("seconds"))
        said.append(f"{found.name} {NOT_RECORDED if seconds is None else duration(seconds)}")
    return ", ".join(said) or "not evaluated"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
