"""Where every number comes from: recipes, versions, seeds, protocols, counts, and the commands that make them again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpref.report.cells import NOT_MEASURED
from mmpref.report.markup import Html, tag
from mmpref.report.runs import Evaluation, Run

_SETTINGS = ("loss.name", "loss.beta", "train.learning_rate", "train.num_train_epochs", "model.path")


def provenance_section(runs: Sequence[Run], out: Path) -> Html:
    """The last section of the page."""
    command = shlex.join(["mmpref", "report", *(str(run.path) for run in runs), "--out", str(out)])
    return tag(
        "section",
        tag("h2", "Where it comes from"),
        *(_run(run, is_baseline=place == 0) for place, run in enumerate(runs)),
        tag("h3", "This page"),
        tag("pre", command, tabindex=0),
        id="provenance",
    )


def _run(run: Run, *, is_baseline: bool) -> Html:
    recipe = f"{run.path}/recipe.yaml"
    commands = [shlex.join(["mmpref", "train", recipe, "output=NEW_FOLDER"])] if run.recipe_text else []
    for found in run.evals:
        folder = f"{run.path}/evals/{found.name}"
        asked = [
            "mmpref",
            "eval",
            "--model",
            str(run.path),
            "--benchmark",
            found.benchmark,
            "--protocol",
            found.protocol,
        ]
        commands.append(shlex.join([*asked, "--questions", "QUESTIONS", "--out", folder]))
    problems = [tag("li", problem) for problem in run.problems]
    return tag(
        "article",
        tag("h3", run.label, " ", tag("small", "baseline") if is_baseline else ""),
        tag("dl", *_facts(run), class_="facts-list"),
        tag("ul", *problems, class_="warnings") if problems else "",
        _evaluations(run.evals),
        _folded("Recipe", run.recipe_text) if run.recipe_text else tag("p", "No recipe.yaml in the run folder."),
        _folded("Manifest", json.dumps(dict(run.manifest), indent=2, ensure_ascii=False, sort_keys=True)),
        _folded("Commands", "\n".join(commands)) if commands else "",
        class_="run-facts",
    )


def _facts(run: Run) -> list[Html]:
    versions = run.manifest.get("versions")
    facts: dict[str, Any] = {
        "folder": run.path,
        "state": run.manifest.get("state", "not recorded"),
        "seed": run.manifest.get("seed", "not recorded"),
        "pairs": run.manifest.get("pairs", "not recorded"),
        "in quarantine": run.manifest.get("quarantined", "not recorded"),
    }
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
            tag("th", f"evals/{found.name}", scope="row"),
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


def _count(found: Evaluation, key: str) -> str:
    return str(found.results.get(key, NOT_MEASURED))


def _notes(found: Evaluation) -> str:
    notes = found.results.get("notes")
    parts = [str(note) for note in notes] if isinstance(notes, list) else []
    if found.results.get("complete") is False:
        parts.append("only a part of the questions was asked")
    return "; ".join(parts)


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


def _folded(name: str, content: str) -> Html:
    return tag("details", tag("summary", name), tag("pre", content, tabindex=0))
