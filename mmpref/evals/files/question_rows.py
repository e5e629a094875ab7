"""Rows of questions, each with the place it stands at, so that whatever is wrong is named by file and row."""

from __future__ import annotations

from collections.abc import Iterable

from mmpref.errors import DataError
from mmpref.files.rows import Row, Source, first_ids, is_path, load_rows, short

YES_NO = ("yes", "no")


def question_rows(source: Source, what: str = "questions") -> list[tuple[str, Row]]:
    """The rows of a source with their places: "pope.json, row 3", or "questions, row 3" where rows came as they are.

    Args:
        what: what the rows are called where they have no file.

    Raises:
        DataError: the source is no table of JSON objects.
    """
    name = str(source) if is_path(source) else what
    return [(f"{name}, row {number}", row) for number, row in enumerate(load_rows(source, what), 1)]


def yes_no_label(row: Row, key: str, where: str) -> str:
    """The label of a row as "yes" or "no", whatever its case and the spaces around it.

    Raises:
        DataError: it is neither.
    """
    label = row.get(key)
    word = label.strip().lower() if isinstance(label, str) else ""
    if word not in YES_NO:
        said = short(label) if key in row else "missing"
        raise DataError(f"{where}: {key} is {said}; expected 'yes' or 'no'")
    return word


def refuse_repeated_rows(rows: Iterable[tuple[str, str]], what: str) -> None:
    """Refuse rows of one id among those that answer or judge, where the ids are those of the questions.

    Args:
        rows: the place and the id of each row.
        what: what the rows are, "answers" or the name of their file.

    Raises:
        DataError: there are some; all are counted, and the first is named with its places.
    """
    places: dict[str, list[str]] = {}
    for where, name in rows:
        places.setdefault(name, []).append(where)
    if twice := [name for name, found in places.items() if len(found) > 1]:
        shown = " and ".join(places[twice[0]][:3])
        raise DataError(
            f"{what}: {len(twice)} ids appear more than once: {first_ids(twice)}; {twice[0]!r} is in {shown}; keep one "
            "of the rows"
        )


def refuse_repeated_ids(ids: Iterable[tuple[str, str]], what: str = "id") -> None:
    """Refuse ids that stand in two rows.

    Args:
        ids: the place and the id of each row.

    Raises:
        DataError: some do; the first is named with both its places, the others are counted.
    """
    first: dict[str, str] = {}
    twice: dict[str, tuple[str, str]] = {}
    for where, name in ids:
        if name in first:
            twice.setdefault(name, (first[name], where))
        first.setdefault(name, where)
    if twice:
        name, (before, again) = next(iter(twice.items()))
        others = f"; {len(twice)} in all: {first_ids(list(twice))}" if len(twice) > 1 else ""
        raise DataError(f"{again}: {what} {name!r} stands in {before} too{others}; keep one of the rows")
