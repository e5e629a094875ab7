"""The ids that rows of answers have, of several that they may have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mmpref.errors import DataError
from mmpref.evals.files.image_names import IMAGE_KEYS, ImageIndex, image_of
from mmpref.evals.files.question_words import content
from mmpref.files.rows import ID_KEYS, Row, as_id, row_id
from mmpref.records import EvalSample

IdsOf: TypeAlias = Callable[[Row], Sequence[str]]
_COUNTS = ("question_id", "idx", "index")
_NUMBERS = ("id", *_COUNTS)  # keys that often count the rows of a file


@dataclass(frozen=True, slots=True, kw_only=True)
class IdRules:
    """How the rows of a benchmark's answers name their question.

    Args:
        ids_of: the ids that a row's own fields make, best first.
        keys: where an id may be, the benchmark's own key first.
        numbered: the questions have no id in their file, so that ids which are all numbers from 0 on, or exactly those
            from 1 to the last, are understood as their order there.
        prefix: may stand before an id of the samples and be left out in the rows.
    """

    ids_of: IdsOf = lambda row: ()
    keys: Sequence[str] = ID_KEYS
    numbered: bool = False
    prefix: str = ""


class RowIds:
    """The ids of rows that may have several, by the benchmark's own key."""

    def __init__(self, rows: Sequence[Row], samples: Sequence[EvalSample], where: str, rules: IdRules) -> None:
        keys = rules.keys
        self._known = {sample.id for sample in samples}
        self._prefix = rules.prefix
        # where the image is the question, its name is an id
        by_image = keys[0] in IMAGE_KEYS
        self._images = ImageIndex(_names_of(samples)) if by_image else None
        more = [key for key in (*IMAGE_KEYS, "images") if key not in keys] if by_image else []
        self._keys = (keys[0], *more, *keys[1:])
        self._where = where
        self.used = any(self._value(row, key) is not None for row in rows for key in self._keys)
        self._counted = self._running_numbers(rows)

    def _value(self, row: Row, key: str) -> str | None:
        if key in IMAGE_KEYS:
            return image_of(row, keys=(key,)).get(key)
        if key == "images":
            return image_of(row, keys=()).get(key)
        return as_id(row.get(key))

    def has(self, row: Row) -> bool:
        """Whether a row has anything that may be an id."""
        return any(key in row and row[key] is not None for key in self._keys)

    def names_image(self, row: Row) -> bool:
        """Whether a row names an image that is the question."""
        images = image_of(row).values() if self._images is not None else ()
        return any(self._resolved(name, "image") in self._known for name in images)

    def _resolved(self, value: str, key: str) -> str:
        """The id of a sample that the value means, or the value."""
        if value in self._known:
            return value
        if self._prefix + value in self._known:
            return self._prefix + value
        may_be_image = key not in _NUMBERS or not value.isdecimal()
        image = self._images.find(value) if self._images is not None and may_be_image else None
        return image if image is not None else value

    def _running_numbers(self, rows: Sequence[Row]) -> set[str]:
        """Keys that only count the rows, beside the benchmark's own: such a number may be some question's by chance."""
        found = set()
        for key in self._keys[1:]:
            if key in _NUMBERS and any(self._value(row, self._keys[0]) is not None for row in rows):
                values = [as_id(row.get(key)) for row in rows if row.get(key) is not None]
                numbers = sorted(int(value) for value in values if value is not None and value.isdecimal())
                whole = bool(numbers) and len(numbers) == len(values)
                if whole and numbers == list(range(numbers[0], numbers[-1] + 1)):
                    found.add(key)
        return found

    def of(self, row: Row, place: str) -> tuple[str, str]:
        """The key and the id of a row.

        Raises:
            DataError: it has none, or two that name different questions.
        """
        values = {key: value for key in self._keys if (value := self._value(row, key)) is not None}
        if not values:
            return "id", row_id(row, place, self._keys)
        resolved = {key: self._resolved(value, key) for key, value in values.items()}
        may_be = [key for key in values if key not in self._counts(values)]
        own = self._keys[0]
        if self._images is None and own in values:
            chosen = own
        else:
            chosen = next((key for key in may_be if resolved[key] in self._known), may_be[0])
        for key in may_be:
            if resolved[key] in self._known and resolved[chosen] in self._known and resolved[key] != resolved[chosen]:
                raise DataError(
                    f"{place}: {chosen} {values[chosen]!r} and {key} {values[key]!r} name two different questions; "
                    f"leave out the one that is wrong: the id is usually under {own}"
                )
        return chosen, resolved[chosen]

    def _counts(self, values: Mapping[str, str]) -> set[str]:
        """The keys of a row that are no id of the benchmark when others are there."""
        if self._images is None:  # an image is not the question
            others = {key for key in values if key in IMAGE_KEYS}
        else:  # LLaVA's number of a caption is no image
            others = {*_COUNTS} if any(key in IMAGE_KEYS or key == "images" for key in values) else set()
        found = (others | self._counted) - {self._keys[0]}
        return found if values.keys() - found else set()


def _names_of(samples: Sequence[EvalSample]) -> list[tuple[str, str]]:
    named = [(sample.id, sample.id) for sample in samples]
    return named + [(content(sample)[0], sample.id) for sample in samples if content(sample)[0]]


def numbers_to_ids(rows: Sequence[Row], samples: Sequence[EvalSample], own_key: str) -> Sequence[Row]:
    """Rows whose ids are the numbers of the questions in their file, with the ids of the questions; others as they
    are."""
    if own_key in IMAGE_KEYS and any(row.get(own_key) is not None for row in rows):
        return rows  # a number beside it counts the rows, in whatever order they are
    own = {sample.id for sample in samples}
    ids = [as_id(next((row[key] for key in _NUMBERS if row.get(key) is not None), None)) or "" for row in rows]
    first = int(set(ids) == {str(number) for number in range(1, len(samples) + 1)})
    order = {str(number): sample.id for number, sample in enumerate(samples, first)}
    if not ids or not own.isdisjoint(ids) or not set(ids) <= order.keys():
        return rows
    return [{**row, "id": order[name]} for row, name in zip(rows, ids, strict=True)]
