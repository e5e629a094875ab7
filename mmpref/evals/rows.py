"""Reading question and answer files, and pairing answers with questions by id.

A source is a path (JSON lines, one JSON array or object, or a table) or the rows themselves. Answers are
``{"id", "text"}``; the key names that public tools write are understood too. Nothing is dropped silently: a duplicate,
missing or unknown id is an error that names the first ones.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from mmpref import file_reading
from mmpref.errors import ConfigError, DataError
from mmpref.evals.tables import TABLES, read_table
from mmpref.records import Answer, EvalSample

Row: TypeAlias = Mapping[str, Any]
Source: TypeAlias = str | Path | Iterable[Any] | Mapping[Any, Any]

ID_KEYS = ("id", "question_id", "image_id", "idx", "index")
TEXT_KEYS = (
    "text",
    "model_answer",
    "model_prediction",
    "prediction",
    "predict",
    "response",
    "caption",
    "output",
    "generated_text",
    "pred",
)
_LABEL_OR_TEXT = "answer"  # in a row that has one of the others it is the label
_CUT = ("length", "max_tokens")  # what servers give as the reason why an answer ends where it does
_SHOWN_IDS = 3
_SHOWN_KEYS = 12


@dataclass(frozen=True, slots=True)
class Saved:
    """What a source of answers holds: the answers and, in layouts that carry them, the judge's verdicts as rows.

    ``read_as`` says for people in which layout and by what the answers were matched; ``notes`` go into the result.
    """

    answers: Sequence[Answer]
    verdicts: tuple[Row, ...] = ()
    read_as: str = ""
    notes: tuple[str, ...] = ()


def is_path(source: object) -> bool:
    return isinstance(source, str | Path)


def read_text(path: str | Path) -> str:
    """A text file in UTF-8, with or without a byte order mark.

    Raises:
        DataError: it is missing, or in another encoding.
    """
    return file_reading.read_text(path, DataError)


def load_json(path: str | Path) -> Any:
    """The content of a JSON file, or the list of the rows of a JSON lines file.

    Raises:
        DataError: the file is missing, or a line of it is not JSON.
    """
    file = Path(path)
    text = read_text(file)
    try:
        return file_reading.parse_json(text, DataError, str(file))
    except DataError:
        lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
        if lines and not _begins_as_json(lines[0][1]):
            raise DataError(
                f"{file} is no JSON: line {lines[0][0]} is {_short(lines[0][1])}; read are JSON lines, one JSON array "
                f"or object, and tables with names in their first line ({', '.join(TABLES)})"
            ) from None
        return [file_reading.parse_json(line, DataError, f"{file}, line {number}") for number, line in lines]


def _begins_as_json(line: str) -> bool:
    """Whether a line looks like JSON, however broken, or is some."""
    if line.lstrip()[0] in "[{":
        return True
    try:
        file_reading.json_value(line)
    except ValueError:
        return False
    return True


def load_rows(source: Source, what: str) -> list[Row]:
    """The rows of a source. A single JSON object counts as one row.

    Raises:
        DataError: the source is not a table of JSON objects.
    """
    if isinstance(source, str | Path) and Path(source).suffix.lower() in TABLES:
        return [{key: cell for key, cell in row.items() if cell not in (None, "")} for row in read_table(Path(source))]
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


def row_id(row: Row, where: str, keys: Sequence[str] = ID_KEYS) -> str:
    """The id of a row as text, under the first of ``keys`` that it has, so that 17 and "17" are the same question.

    Raises:
        DataError: it has none, or one that is no text and no whole number.
    """
    key = next((key for key in keys if key in row), None)
    if key is None:
        raise DataError(f'{where}: no id; a row is {{"id": ..., "text": ...}} and this one has {_keys(row)}')
    name = as_id(row[key])
    if name is None:
        raise DataError(f"{where}: {key} is {_short(row[key])}; expected text or a whole number")
    return name


def as_id(value: object) -> str | None:
    """A value as an id: text or a whole number, which tables may have as 17.0; None for all else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        return None
    return str(value)


def text_of(row: Row, key: str, where: str, default: str | None = None) -> str:
    """What a row says under a key that has text.

    Args:
        default: where the key is missing or null; None: it must be there, and say something.

    Raises:
        DataError: it is missing, no text, or blank.
    """
    text = row.get(key)
    if text is None and default is not None:
        return default
    if not isinstance(text, str) or (default is None and not text.strip()):
        raise DataError(f"{where}: {key} is {_short(text) if key in row else 'missing'}; expected text")
    return text


def texts_of(row: Row, key: str, where: str) -> tuple[str, ...]:
    """The list of texts that a row has under a key; an empty list is one.

    Raises:
        DataError: it is missing, no list, or has something else in it.
    """
    texts = row.get(key)
    if not isinstance(texts, Sequence) or isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: {key} is {_short(texts) if key in row else 'missing'}; expected a list of texts")
    return tuple(texts)


def text_key(row: Row, asked: str = "") -> str | None:
    """The key under which a row has its answer, None when there is none."""
    keys = [key for key in TEXT_KEYS if key in row]
    if _LABEL_OR_TEXT in row and all(_is_question(row[key], asked) for key in keys):
        return _LABEL_OR_TEXT
    return next((key for key in keys if not _is_question(row[key], asked)), keys[0] if keys else None)


def answer_text(row: Row, where: str, *, asked: str = "") -> str:
    """What a row's answer says.

    Args:
        asked: the question, which is no answer where a row has it under one of the keys of answers.

    Raises:
        DataError: there is none, it is no text, or two keys have different ones.
    """
    key = text_key(row, asked)
    if key is None:
        raise DataError(f'{where}: no text; a row is {{"id": ..., "text": ...}} and this one has {_keys(row)}')
    text = row[key]
    if not isinstance(text, str):
        raise DataError(f"{where}: {key} is {_short(text)}; expected text (an empty answer is an empty string)")
    for other in TEXT_KEYS:
        said = row.get(other)
        if isinstance(said, str) and said != text and key != _LABEL_OR_TEXT and not _is_question(said, asked):
            raise DataError(
                f"{where}: {key} {_short(text)} and {other} {_short(said)} are two different answers; leave one key out"
            )
    return text


def _is_question(text: object, asked: str) -> bool:
    return isinstance(text, str) and bool(asked) and text.strip() != "" and " ".join(text.split()).startswith(asked)


def cut_by_length(row: Row) -> bool:
    """Whether a row says that its answer ends where the limit of tokens did."""
    return any(row.get(key) in _CUT for key in ("finish_reason", "stop_reason"))


def _keys(row: Row) -> str:
    names = [str(key) for key in row]
    return ", ".join(names[:_SHOWN_KEYS]) + (
        f" and {len(names) - _SHOWN_KEYS} more" if len(names) > _SHOWN_KEYS else ""
    )


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
