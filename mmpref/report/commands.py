"""The commands that make a run's numbers again, with every setting that its files hold and that is not the default.

What the files do not say is written in capitals and explained below the commands.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpref.evals.benchmarks import BENCHMARKS
from mmpref.evals.benchmarks.judge_tasks import JUDGED
from mmpref.report.evaluation import RESULTS, Evaluation, number
from mmpref.report.runs import Run

_NAMES = {
    "NEW_FOLDER": "a folder that holds nothing yet",
    "QUESTIONS": "the question file, which the results do not name",
    "IMAGES": "the folder that the questions' image paths start from, which the results do not name",
    "OPTIONS": "the benchmark's options as KEY=VALUE, where there were some: the results do not name them",
    "SERVER": "the address of the server that answered, which the results do not name",
    "JUDGE_SERVER": "the address of the judge's server, which is not recorded",
    "JUDGE_MODEL": "the judge's name there; it is in the notes",
}
_BY_SERVER = "ServerAnswerer"
_OURS = (None, "TransformersAnswerer", "LikelihoodAnswerer", "ProcessesAnswerer", _BY_SERVER)
_FLAGS = {"dtype": "--dtype", "quantization": "--quantization", "max_pixels": "--max-pixels"}


def commands(run: Run) -> list[str]:
    """The commands of a run, one a line."""
    out = [shlex.join(["mmpref", "train", f"{run.path}/recipe.yaml", "output=NEW_FOLDER"])] if run.recipe_text else []
    return out + [command for found in run.evals if (command := _command(run, found))]


def explained(lines: list[str]) -> list[str]:
    """What the words in capitals of commands mean, which no file says."""
    words = {word for line in lines for part in shlex.split(line) for word in part.split("=")}
    explanations = [f"{name}: {meaning}" for name, meaning in _NAMES.items() if name in words]
    if any("--server" in shlex.split(line) for line in lines):
        explanations.append("where the server asks for a key: --key-env with the environment variable that holds it")
    return explanations


def _command(run: Run, found: Evaluation) -> str | None:
    """The command that makes an evaluation again, as far as the evaluation says how it was made; else None."""
    file = found.file or run.path / "evals" / found.name / RESULTS
    scored = found.results.get("scored")
    benchmark = ["--benchmark", found.benchmark, "--protocol", found.protocol]
    if isinstance(scored, Mapping):
        files = [part for key in ("questions", "answers") for path in _list(scored, key) for part in (f"--{key}", path)]
        out = file.parent if file.name == RESULTS else file
        return shlex.join(["mmpref", "score", *benchmark, *files, *_list(scored, "options"), "--out", str(out)])
    settings = found.results.get("settings")
    given: Mapping[str, Any] = settings if isinstance(settings, Mapping) else {}
    model = given.get("model")
    answered_by = str(model) if model else str(run.path) if run.manifest else None
    if answered_by is None or given.get("answerer") not in _OURS:  # an answerer of the caller's has no command
        return None
    asked = found.results.get("asked")
    parts = ["mmpref", "eval", "--model", answered_by, *benchmark, *_model(given)]
    parts += ["--setting", str(given["setting"])] if given.get("setting") else []
    parts += _server(given, found) + _questions(asked) + _images(found) + _lengths(found, given)
    parts += [*_judge(found, asked), "--out", str(file.parent)]
    parts += _list(asked, "options") if isinstance(asked, Mapping) else ["OPTIONS"] if _has_options(found) else []
    return shlex.join(parts)


def _model(given: Mapping[str, Any]) -> list[str]:
    parts = ["--adapter", str(given["adapter"])] if given.get("adapter") else []
    parts += [part for key, flag in _FLAGS.items() if given.get(key) for part in (flag, str(given[key]))]
    if given.get("template_kwargs"):
        parts += ["--template-kwargs", json.dumps(given["template_kwargs"], ensure_ascii=False)]
    return parts


def _server(given: Mapping[str, Any], found: Evaluation) -> list[str]:
    facts = found.results.get("answered_by")
    url = facts.get("server") if isinstance(facts, Mapping) else None
    if given.get("answerer") != _BY_SERVER and not url:
        return []
    return ["--server", str(url or "SERVER")]


def _questions(asked: object) -> list[str]:
    files = _list(asked, "questions") if isinstance(asked, Mapping) else []
    return [part for file in files or ["QUESTIONS"] for part in ("--questions", file)]


def _images(found: Evaluation) -> list[str]:
    if "images" not in found.results:
        return ["--image-root", "IMAGES"]
    root = found.results["images"]
    return ["--image-root", str(root)] if root else []


def _lengths(found: Evaluation, given: Mapping[str, Any]) -> list[str]:
    """The limits of new tokens and of questions, where they were others than the benchmark's own."""
    known = BENCHMARKS.get(found.benchmark)
    tokens, parts = given.get("max_new_tokens"), []
    if tokens is not None and (known is None or tokens != known.max_new_tokens):
        parts += ["--max-new-tokens", str(tokens)]
    asked = found.results.get("asked")
    limit = asked.get("limit") if isinstance(asked, Mapping) else None
    if not isinstance(asked, Mapping) and found.results.get("complete") is False:
        answered, broken = number(found.results.get("n")), number(found.results.get("n_unanswered")) or 0
        limit = None if answered is None else int(answered + broken)  # all that were to be asked
    return [*parts, "--limit", str(limit)] if limit is not None else parts


def _judge(found: Evaluation, asked: object) -> list[str]:
    if found.benchmark not in JUDGED:
        return []
    options = _list(asked, "options") if isinstance(asked, Mapping) else []
    if any(option.startswith("verdicts=") for option in options) or not _was_judged(found):
        return []
    return ["--judge-server", "JUDGE_SERVER", "--judge-model", "JUDGE_MODEL"]


def _was_judged(found: Evaluation) -> bool:
    """Whether a model judged the answers, as the notes of a result or of one beside it say; old results have none."""
    beside = found.results.get("protocols")
    results = [found.results, *(beside.values() if isinstance(beside, Mapping) else ())]
    notes = [note for result in results if isinstance(result, Mapping) for note in _list(result, "notes")]
    known = BENCHMARKS.get(found.benchmark)
    if not notes:
        return known is not None and known.needs_judge
    return any(note.startswith("judged by") for note in notes)


def _has_options(found: Evaluation) -> bool:
    known = BENCHMARKS.get(found.benchmark)
    return known is None or bool(known.options)


def _list(given: object, key: str) -> list[str]:
    found = given.get(key) if isinstance(given, Mapping) else None
    return [str(entry) for entry in found] if isinstance(found, list) else []


def page_command(runs: list[str], out: Path, *, title: str | None, images: Path | None) -> str:
    """The command that makes the page again."""
    more = ["--title", title] if title else []
    more += ["--image-root", str(images)] if images else []
    return shlex.join(["mmpref", "report", *runs, "--out", str(out), *more])
