"""Reading question and answer files, and pairing answers with questions by id.

A source is a path (JSON lines, or one JSON array or object) or the rows themselves. Answers are ``{"id", "text"}``;
the key names that public tools write are understood too. Nothing is dropped silently: a duplicate, missing or unknown
id is an error that names the first ones.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from mmpref import files
from mmpref.errors import ConfigError, DataError
from mmpref.records import Answer, EvalSample

Row: TypeAlias = Mapping[str, Any]
Source: TypeAlias = str | Path | Iterable[Any] | Mapping[Any, Any]

_ID_KEYS = ("id", "question_id", "image_id")
# "answer" is last: in a table that also has "prediction" it is the label
_TEXT_KEYS = ("text", "model_answer", "model_prediction", "prediction", "response", "caption", "answer")
_SHOWN_IDS = 3


@dataclass(frozen=True, slots=True)
class Saved:
    """What a source of answers holds: the answers and, in layouts that carry them, the judge's verdicts as rows."""

    answers: Sequence[Answer]
    verdicts: tuple[Row, ...] = ()


def is_path(source: object) -> bool:
    return isinstance(source, str | Path)


def read_text(path: str | Path) -> str:
    """A text file in UTF-8, with or without a byte order mark.

    Raises:
        DataError: it is missing, or in another encoding.
    """
    return files.read_text(path, DataError)


def load_json(path: str | Path) -> Any:
    """The content of a JSON file, or the list of the rows of a JSON lines file.

    Raises:
        DataError: the file is missing, or a line of it is not JSON.
    """
    file = Path(path)
    text = read_text(file)
    try:
        return files.parse_json(text, DataError, str(file))
    except DataError:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        return [files.parse_json(line, DataError, f"{file}, line {number}") for number, line in lines]


def load_rows(source: Source, what: str) -> list[Row]:
    """The rows of a source. A single JSON object counts as one row.

    Raises:
        DataError: the source is not a table of JSON objects.
    """
    content = load_json(source) if isinstance(source, str | Path) else source
    rows = [content] if isinstance(content, Mapping) else list(content) if isinstance(content, Iterable) else None
    where = str(source) if is_path(source) else what
    if rows is None:
        raise DataError(f"{where}: expected rows of JSON objects, got {type(content).__name__}")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise DataError(f"{where}, row {number}: expected a JSON object, got {_short(row)}")
    return rows


def load_answers(source: Source) -> list[Answer]:
    """Answers in the order of the source; ``Answer`` objects are taken as they are.

    Raises:
        DataError: a row has no usable id or text.
    """
    if not isinstance(source, str | Path | Mapping):
        source = [{"id": row.id, "text": row.text} if isinstance(row, Answer) else row for row in source]
    where = str(source) if is_path(source) else "answers"
    return [
        Answer(id=row_id(row, f"{where}, row {number}"), text=answer_text(row, f"{where}, row {number}"))
        for number, row in enumerate(load_rows(source, "answers"), 1)
    ]


def row_id(row: Row, where: str) -> str:
    """The id of a row as text, so that 17 and "17" are the same question."""
    key = next((key for key in _ID_KEYS if key in row), None)
    if key is None:
        raise DataError(f'{where}: no id; a row is {{"id": ..., "text": ...}} and this one has {sorted(row)}')
    value = row[key]
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(f"{where}: {key} is {_short(value)}; expected text or a whole number")
    return str(value)


def answer_text(row: Row, where: str) -> str:
    key = next((key for key in _TEXT_KEYS if key in row), None)
    if key is None:
        raise DataError(f'{where}: no text; a row is {{"id": ..., "text": ...}} and this one has {sorted(row)}')
    if not isinstance(row[key], str):
        raise DataError(f"{where}: {key} is {_short(row[key])}; expected text (an empty answer is an empty string)")
    return str(row[key])


def pair_by_id(
    samples: Sequence[EvalSample], answers: Sequence[Answer], *, may_cover_part: bool = False, hint: str = ""
) -> list[tuple[EvalSample, str]]:
    """Each question with its answer, in the order of the questions.

    Args:
        may_cover_part: questions without an answer are left out (annotations of more images than were captioned).
        hint: how ids are written in this benchmark, for the message about unknown ones.

    Raises:
        DataError: an id twice, an answer to no question, or (unless ``may_cover_part``) a question with no answer.
    """
    refuse_duplicates((sample.id for sample in samples), "questions")
    refuse_duplicates((answer.id for answer in answers), "answers")
    known = {sample.id for sample in samples}
    if unknown := [answer.id for answer in answers if answer.id not in known]:
        raise DataError(
            f"{len(unknown)} of {len(answers)} answers have an id that no question has: {first_ids(unknown)}{hint}"
        )
    texts = {answer.id: answer.text for answer in answers}
    missing = [sample.id for sample in samples if sample.id not in texts]
    if missing and not may_cover_part:
        raise DataError(
            f"{len(missing)} of {len(samples)} questions have no answer: {first_ids(missing)}; "
            "an unanswered question is written with an empty text"
        )
    return [(sample, texts[sample.id]) for sample in samples if sample.id in texts]


def refuse_duplicates(ids: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for name in ids:
        if name in seen:
            twice[name] = None
        seen.add(name)
    if twice:
        raise DataError(f"{what}: {len(twice)} ids appear more than once: {first_ids(list(twice))}")


def first_ids(ids: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in ids[:_SHOWN_IDS])
    return shown + (f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else "")


def choose(value: str, known: Iterable[str], what: str) -> str:
    """``value`` when it is known.

    Raises:
        ConfigError: it is not; the message has the nearest name.
    """
    names = list(known)
    if value in names:
        return value
    near = difflib.get_close_matches(value, names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise ConfigError(f"unknown {what} '{value}' (known: {', '.join(names)}){hint}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
