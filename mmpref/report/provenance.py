"""Where every number comes from: recipes, versions, seeds, protocols, counts, and the commands that make them again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpref.report.cells import NOT_MEASURED
from mmpref.report.commands import commands, explained, page_command
from mmpref.report.markup import Html, tag
from mmpref.report.notes import notes_of_result
from mmpref.report.runs import RESULTS, Evaluation, Run

_SETTINGS = ("loss.name", "loss.beta", "train.learning_rate", "train.num_train_epochs", "model.path")


def provenance_section(runs: Sequence[Run], out: Path, *, title: str | None = None, images: Path | None = None) -> Html:
    """The last section of the page."""
    command = page_command([str(run.path) for run in runs], out, title=title, images=images)
    return tag(
        "section",
        tag("h2", "Where it comes from"),
        *(_run(run, is_baseline=place == 0) for place, run in enumerate(runs)),
        tag("h3", "This page"),
        tag("pre", command, tabindex=0),
        id="provenance",
    )


def _run(run: Run, *, is_baseline: bool) -> Html:
    lines = commands(run)
    problems = [tag("li", problem) for problem in run.problems]
    return tag(
        "article",
        tag("h3", run.label, " ", tag("small", "baseline") if is_baseline else ""),
        tag("dl", *_facts(run), class_="facts-list"),
        tag("ul", *problems, class_="warnings") if problems else "",
        _evaluations(run.evals),
        *_training(run),
        _folded("Commands", "\n".join(lines), explained(lines)) if lines else "",
        class_="run-facts",
    )


def _training(run: Run) -> list[Html]:
    if not run.manifest:  # answers that were scored, and no run of ours
        return []
    return [
        _folded("Recipe", run.recipe_text) if run.recipe_text else tag("p", "No recipe.yaml in the run folder."),
        _folded("Manifest", json.dumps(dict(run.manifest), indent=2, ensure_ascii=False, sort_keys=True)),
    ]


def _facts(run: Run) -> list[Html]:
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
    return [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items()]


def _evaluations(evals: Sequence[Evaluation]) -> Html:
    if not evals:
        return tag("p", "Not evaluated.", class_="notice")
    heads = ("folder", "benchmark", "protocol", "questions", "not read", "beside it", "notes")
    rows = [
        tag(
            "tr",
            tag("th", _place(found), scope="row"),
            tag("td", found.benchmark or "not recorded"),
            tag("td", found.protocol),
            tag("td", _count(found, "n")),
            tag("td", _count(found, "n_unparsed")),
            tag("td", _other_protocols(found) or "–"),
            tag("td", _notes(found) or "–"),
        )
        for found in evals
    ]
    table = tag(
        "table",
        tag("caption", "Evaluations", class_="hidden"),
        tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads))),
        tag("tbody", *rows),
        class_="plain",
    )
    return tag("div", table, class_="scroll", role="region", aria_label="Evaluations of this run", tabindex=0)


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


def _folded(name: str, content: str, below: Sequence[str] = ()) -> Html:
    told = [tag("li", words) for words in below]
    return tag(
        "details",
        tag("summary", name),
        tag("pre", content, tabindex=0),
        tag("ul", *told, class_="notes") if told else "",
    )
