"""What a result was made from, for its ``results.json``: what was asked and how, and which model gave saved answers."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpref.errors import DataError
from mmpref.files.reading import read_json
from mmpref.files.rows import load_rows
from mmpref.generation.answer_log import ANSWERS, SETTINGS

_PLAIN = re.compile(r"[A-Za-z_/][\w.{}/-]*")
_YAML_WORDS = ("true", "false", "null", "yes", "no", "on", "off")


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


def model_of_answers(answers: Sequence[str]) -> str:
    """Which model gave saved answers, where their rows (LLaVA's ``model_id``) or the settings beside them name it."""
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
