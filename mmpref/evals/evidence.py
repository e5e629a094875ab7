"""What a row of answers shows of its question, against the question that it is paired with.

An id, a number or a place in a file can be another split's or another revision's; the words of the prompt, the name of
the image and the category cannot. Whatever a row shows is compared, and a row that shows another question is refused.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from mmpref.errors import DataError
from mmpref.evals.image_names import image_names, image_of
from mmpref.evals.rows import Row
from mmpref.records import EvalSample

ASKED = "mmpref/asked"
"""Key of the question that a row of our own answered, word by word."""
_QUESTION_KEYS = ("question", "input", "prompt", "query", "instruction")
_LABEL_KEYS = ("label", "labels")
_CATEGORY_KEYS = ("split", "category")
_MOST_PARTS = 4  # whose orders are tried: 24 at most
_SHOWN = 80
_IMAGE_MARKS = re.compile(r"<image>|<img>.*?</img>|<\|vision_start\|>.*?<\|vision_end\|>")


def asked_text(row: Row) -> str:
    """The question that a row shows, with single spaces; "" when it shows none."""
    for key in _QUESTION_KEYS:
        if isinstance(row.get(key), str) and row[key].strip():
            return tidy(_IMAGE_MARKS.sub(" ", row[key]))
    messages = row.get("messages")
    if isinstance(messages, list):
        said = [turn for turn in messages if isinstance(turn, Mapping) and turn.get("role") == "user"]
        if said and isinstance(said[-1].get("content"), str):
            return tidy(_IMAGE_MARKS.sub(" ", said[-1]["content"]))
    return ""


def content(sample: EvalSample) -> tuple[str, str]:
    """The image and the question of a sample, with single spaces."""
    return str(sample.meta.get("image", "")), tidy(str(sample.meta.get("question", "")))


def tidy(text: str) -> str:
    return " ".join(text.split())


class Evidence:
    """Gathers, row by row, whether what is shown is what was asked.

    Where some rows show the question of their id and others another one, they answer another file: POPE's splits share
    ids and half of their questions. Where no row does and none shows any other question of the file, the questions were
    put in other words, and the ids are believed; but ours are never in other words. An image or a category that belongs
    to another question is always refused.
    """

    def __init__(self, where: str, samples: Sequence[EvalSample]) -> None:
        self._where = where
        self._samples = samples
        self._seen = 0
        self._right = 0
        self._wrong: list[str] = []
        self._unlike: list[str] = []

    def see(self, number: int, row: Row, sample: EvalSample | None) -> None:
        """Compare one row with the sample that it is paired with."""
        if sample is None:
            return
        self._seen += 1
        ours = isinstance(row.get(ASKED), str)
        said, own = tidy(row[ASKED]) if ours else asked_text(row), content(sample)[1]
        asked = bool(said and own)
        fits = asked and own.casefold() in said.casefold()
        odd = _other_image(row, sample, self._images) or _other_category(row, sample, self._categories)
        if not odd and asked and not fits:
            odd = f"shows {said[:_SHOWN]!r} where {own[:_SHOWN]!r} is asked"
            if not ours and not self._is_asked(said.casefold()):
                self._unlike.append(f"row {number} (id '{sample.id}') {odd}")
                return
        if odd:
            self._wrong.append(f"row {number} (id '{sample.id}') {odd}")
        elif fits:
            self._right += 1

    @cached_property
    def _questions(self) -> dict[int, set[str]]:
        """All questions by their length."""
        found: dict[int, set[str]] = {}
        for sample in self._samples:
            if text := content(sample)[1].casefold():
                found.setdefault(len(text), set()).add(text)
        return found

    def _is_asked(self, said: str) -> bool:
        """Whether these words begin with a question of the file."""
        return any(said[:length] in texts for length, texts in self._questions.items())

    @cached_property
    def _images(self) -> set[str]:
        return {name for sample in self._samples if content(sample)[0] for name in image_names(content(sample)[0])}

    @cached_property
    def _categories(self) -> set[str]:
        return {str(sample.meta[key]) for sample in self._samples for key in _CATEGORY_KEYS if sample.meta.get(key)}

    def refuse_others(self, hint: str = "") -> None:
        """Raise over rows that show another question than theirs.

        Raises:
            DataError: there are some; the first is named.
        """
        odd = self._wrong + (self._unlike if self._right else [])
        if odd:
            raise DataError(
                f"{self._where}: {len(odd)} of {self._seen} rows show another question than their id has; "
                f"{odd[0]}: answers to another split or revision?{hint}"
            )


def _other_image(row: Row, sample: EvalSample, known: set[str]) -> str:
    """What is to be said of an image that belongs to another question; "" when it is the sample's or nobody's."""
    shown = image_of(row) if content(sample)[0] else {}
    own = set(image_names(content(sample)[0])) if shown else set()
    for key, name in shown.items():
        names = set(image_names(name, str(row.get("category", ""))))
        if not names & own and names & known:
            return f"has the {key} {name[:_SHOWN]!r} where {content(sample)[0]!r} is asked about"
    return ""


def _other_category(row: Row, sample: EvalSample, known: set[str]) -> str:
    own = {str(sample.meta[key]) for key in _CATEGORY_KEYS if sample.meta.get(key)}
    for key in _CATEGORY_KEYS if own else ():
        given = {part.strip() for part in row[key].split(",")} if isinstance(row.get(key), str) else set()
        if not given & own and given & known:
            return f"is of the {key} {row[key]!r} where {', '.join(sorted(own))!r} is asked"
    return ""


def fits(row: Row, sample: EvalSample) -> bool:
    """Whether a row without an id shows just this question: its words, and its label if it has one."""
    said, own = asked_text(row).casefold(), content(sample)[1] or tidy(sample.prompt[-1].text)
    if not own or own.casefold() not in said:
        return False
    label = next((str(row[key]) for key in _LABEL_KEYS if isinstance(row.get(key), str)), "").strip(" .\n").lower()
    return {label, str(sample.target).strip().lower()} != {"yes", "no"}


def orders(samples: Sequence[EvalSample]) -> Iterator[tuple[str, list[EvalSample]]]:
    """The samples in the orders that files have: as they are, then with their splits or subtasks in another order."""
    yield "", list(samples)
    key = next((key for key in _CATEGORY_KEYS if any(sample.meta.get(key) for sample in samples)), None)
    if key is None:
        return
    parts: dict[str, list[EvalSample]] = {}
    for sample in samples:
        parts.setdefault(str(sample.meta.get(key)), []).append(sample)
    names = list(parts)
    tried = itertools.permutations(names) if len(names) <= _MOST_PARTS else iter([tuple(sorted(names))])
    for order in tried:
        if list(order) != names:
            yield ", ".join(order), [sample for name in order for sample in parts[name]]


def by_order(rows: Sequence[Row], samples: Sequence[EvalSample]) -> tuple[str, list[EvalSample]] | None:
    """The samples that rows without ids answer, one by one, when every row shows its question; None when they do not.

    Returns:
        How the order was made sure, and the samples in the order of the rows.
    """
    if not rows or len(rows) != len(samples):
        return None
    for order, sorted_samples in orders(samples):
        if all(fits(row, sample) for row, sample in zip(rows, sorted_samples, strict=True)):
            told = len({content(sample)[1] for sample in samples}) > 1
            sure = "checked by what each row was asked" if told else "which nothing in the rows can confirm"
            return f"order ({order + '; ' if order else ''}{sure})", sorted_samples
    return None
