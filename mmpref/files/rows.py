"""Rows of JSON lines, JSON and tables, and their ids: read from a path, or given as they are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from mmpref.errors import ConfigError, DataError
from mmpref.files import reading as file_reading
from mmpref.files.tables import TABLES, read_table

Row: TypeAlias = Mapping[str, Any]
Source: TypeAlias = str | Path | Iterable[Any] | Mapping[Any, Any]

ID_KEYS = ("id", "question_id", "image_id", "idx", "index")
_SHOWN_IDS = 3
_LONGEST_ID = 160  # in a message; a path may be an id, and so may a text by mistake
_SHOWN_KEYS = 12


def is_path(source: object) -> bool:
    """Whether rows are given by a path, and not as they are."""
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
                f"{file} is no JSON: line {lines[0][0]} is {short(lines[0][1])}; read are JSON lines, one JSON array "
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
    if len(rows) > 1 and all(isinstance(row, Path) for row in rows):
        raise DataError(
            f"{where}: {len(rows)} files, {rows[0]} and others; this is one file: write their rows into one"
        )
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise DataError(f"{where}, row {number}: expected a JSON object, got {short(row)}")
    return rows


def row_id(row: Row, where: str, keys: Sequence[str] = ID_KEYS) -> str:
    """The id of a row as text, under the first of ``keys`` that it has, so that 17 and "17" are the same question.

    Raises:
        DataError: it has none, or one that is no text and no whole number.
    """
    key = next((key for key in keys if key in row), None)
    if key is None:
        raise DataError(f'{where}: no id; a row is {{"id": ..., "text": ...}} and this one has {shown_keys(row)}')
    name = as_id(row[key])
    if name is None:
        raise DataError(f"{where}: {key} is {short(row[key])}; expected text or a whole number")
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
        raise DataError(f"{where}: {key} is {short(text) if key in row else 'missing'}; expected text")
    return text


def texts_of(row: Row, key: str, where: str) -> tuple[str, ...]:
    """The list of texts that a row has under a key; an empty list is one.

    Raises:
        DataError: it is missing, no list, or has something else in it.
    """
    texts = row.get(key)
    if not isinstance(texts, Sequence) or isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where}: {key} is {short(texts) if key in row else 'missing'}; expected a list of texts")
    return tuple(texts)


def shown_keys(row: Row) -> str:
    """The first keys of a row, for a message."""
    names = [str(key) for key in row] or ["no keys"]
    return ", ".join(names[:_SHOWN_KEYS]) + (
        f" and {len(names) - _SHOWN_KEYS} more" if len(names) > _SHOWN_KEYS else ""
    )


def refuse_duplicates(ids: Iterable[str], what: str) -> None:
    """Refuse ids that appear more than once.

    Raises:
        DataError: some do; the message begins with ``what``, counts them and names the first.
    """
    seen: set[str] = set()
    twice: dict[str, None] = {}
    for name in ids:
        if name in seen:
            twice[name] = None
        seen.add(name)
    if twice:
        raise DataError(f"{what}: {len(twice)} ids appear more than once: {first_ids(list(twice))}")


def first_ids(ids: Sequence[str]) -> str:
    """The first ids in quotes and the number of the others, for a message."""
    shown = ", ".join(short(name, _LONGEST_ID) for name in ids[:_SHOWN_IDS])
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
    shown = f"known: {', '.join(names)}" if names else "there is none"
    raise ConfigError(f"unknown {what} '{value}' ({shown}){hint}")


def short(value: object, most: int = 60) -> str:
    """``repr`` of a value, cut to ``most`` characters, for a message."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
