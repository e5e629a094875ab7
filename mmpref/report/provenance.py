"""Where every number comes from: recipes, versions, seeds, protocols, counts, and the commands that make them again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from mmpref.report.cells import NOT_MEASURED
from mmpref.report.commands import commands, explained, page_command
from mmpref.report.html import render
from mmpref.report.notes import notes_of_result
from mmpref.report.runs import RESULTS, Evaluation, Run

_SETTINGS = ("loss.name", "loss.beta", "train.learning_rate", "train.num_train_epochs", "model.path")


def provenance_section(
    runs: Sequence[Run], out: Path, *, title: str | None = None, images: Path | None = None
) -> Markup:
    """The last section of the page."""
    command = page_command([str(run.path) for run in runs], out, title=title, images=images)
    return render("provenance", runs=[_run(run, run is runs[0]) for run in runs], command=command)


def _run(run: Run, is_baseline: bool) -> dict[str, Any]:
    lines = commands(run)
    manifest = ""
    if run.manifest:  # without one: answers that were scored, and no run of ours
        manifest = json.dumps(dict(run.manifest), indent=2, ensure_ascii=False, sort_keys=True)
    return {
        "label": run.label,
        "is_baseline": is_baseline,
        "facts": _facts(run),
        "problems": run.problems,
        "evaluations": [_evaluation(found) for found in run.evals],
        "recipe": run.recipe_text,
        "manifest": manifest,
        "commands": "\n".join(lines),
        "explained": explained(lines) if lines else (),
    }


def _facts(run: Run) -> dict[str, Any]:
    versions = run.manifest.get("versions") or next((found.results.get("versions") for found in run.evals), None)
    facts: dict[str, Any] = {
        "file" if run.path.is_file() else "folder": run.path,
    }
    if run.manifest:
        names = {"state": "state", "seed": "seed", "pairs": "pairs", "in quarantine": "quarantined"}
        facts |= {words: run.manifest.get(name, "not recorded") for words, name in names.items()}
    for key in _SETTINGS:
        value = run.recipe_value(key)
        if value is not None:
            facts[key] = value
    if isinstance(versions, Mapping):
        facts["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return facts


def _evaluation(found: Evaluation) -> tuple[str, ...]:
    """The cells of one evaluation: folder, benchmark, protocol, questions, not read, other protocols, notes."""
    return (
        _place(found),
        found.benchmark or "not recorded",
        found.protocol,
        _count(found, "n"),
        _count(found, "n_unparsed"),
        _other_protocols(found) or "–",
        _notes(found) or "–",
    )


def _place(found: Evaluation) -> str:
    if found.file is None or found.file.name == RESULTS:
        return f"evals/{found.name}" if "scored" not in found.results else found.name
    return found.file.name


def _count(found: Evaluation, key: str) -> str:
    return str(found.results.get(key, NOT_MEASURED))


def _notes(found: Evaluation) -> str:
    return "; ".join(notes_of_result(found))


def _other_protocols(found: Evaluation) -> str:
    """The same answers under other protocols, when the evaluation printed them beside its own."""
    others = found.results.get("protocols")
    parts = []
    for name, result in others.items() if isinstance(others, Mapping) else ():
        other = Evaluation(found.name, result if isinstance(result, Mapping) else {}, ())
        for metric in ("chair_s", "chair_i", "accuracy", "f1"):
            value = other.metric(metric)
            if value is not None:
                parts.append(f"{name} {metric} {100 * value:.1f}")
    return ", ".join(parts)
