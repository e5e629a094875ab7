"""What a row of answers shows of its question, against the question that it is paired with.

An id, a number or a place in a file can be another split's, another revision's or another benchmark's; the words of the
prompt, the name of the image and the category cannot. Whatever a row shows is compared, and a row that shows another
question is refused.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property

from mmpref.errors import DataError
from mmpref.evals.files.image_names import image_names, image_of
from mmpref.evals.files.layouts import place_of
from mmpref.evals.files.question_words import ASKED, asked_text, asked_texts, content, plain, tidy
from mmpref.evals.files.row_order import CATEGORY_KEYS
from mmpref.files.rows import Row
from mmpref.records import EvalSample

_SHOWN = 80


class Evidence:
    """Gathers, row by row, whether what is shown is what was asked.

    - A row that shows another question of the file, or an image or a category of another question, is refused.
    - Prompts in other words than the question are believed where each of these rows shows the image of its question, or
      at least half of the words that tell it from the other questions; ours are never in other words. Where rows show
      the question of their id in part only, the others answer another file: POPE's splits share ids and half of their
      questions.
    - Images that no question has are believed where none of the rows shows one that a question has, and the prompts
      are those of the questions, which are not all the same.
    """

    def __init__(self, where: str, samples: Sequence[EvalSample]) -> None:
        self._where = where
        self._samples = samples
        self._seen = 0
        self._asked: set[str] = set()  # the questions that rows show as they are
        self._prompted = 0  # rows that show them
        self._wrong: list[str] = []
        self._unlike: list[str] = []
        self._reworded: list[str] = []  # unlike too, but with the image or the words of their question
        self._prompt_keys: dict[str, None] = {}
        self._imaged = 0  # rows that show the image of their question
        self._strange: list[tuple[str, dict[str, str], bool]] = []
        self._shown: dict[str, list[str]] = {}

    def see(self, number: int, row: Row, sample: EvalSample | None) -> None:
        """Compare one row with the sample that it is paired with."""
        if sample is None:
            return
        self._seen += 1
        here = f"{place_of(row, '', number)} (id '{sample.id}')"
        images = image_of(row) if content(sample)[0] else {}
        for key, name in images.items():
            self._shown.setdefault(key, []).append(name)
        odd = self._other_image(images, row, sample) or _other_category(row, sample, self._categories)
        imaged = any(self._is_own(name, row, sample) for name in images.values())
        ours = isinstance(row.get(ASKED), str)
        own = content(sample)[1]
        said = {} if ours or not _contains(asked_text(row), own) else {"": own}  # nearly all rows; the rest takes time
        said = said or _said(row, own)
        fits = bool(own) and any(_shows(text, own) for text in said.values())
        if not odd and own and said and not fits:
            odd = self._other_prompt(here, said, own, ours=ours, imaged=imaged)
        if odd:
            self._wrong.append(f"{here} {odd}")
        elif fits:
            self._asked.add(own)
            self._prompted += 1
        if imaged:
            self._imaged += 1
        elif images and not odd:
            self._strange.append((f"{here} has the", {**images, "": content(sample)[0]}, fits))

    def _other_prompt(self, here: str, said: dict[str, str], own: str, *, ours: bool, imaged: bool) -> str:
        """What is to be said of a prompt that is another question of the file; "" for one that is none of them, which
        is noted as the question in other words."""
        text = next(iter(said.values()))
        odd = f"shows {text[:_SHOWN]!r} where {own[:_SHOWN]!r} is asked"
        if ours or any(self._is_asked(text.casefold()) for text in said.values()):
            return odd
        self._prompt_keys |= dict.fromkeys(said)
        backed = imaged or any(self._tells(text, own) for text in said.values())
        (self._reworded if backed else self._unlike).append(f"{here} {odd}")
        return ""

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

    def _tells(self, said: str, own: str) -> bool:
        """Whether words that were said have half of those that tell this question from most others: "dog" in POPE."""
        telling = _words(own) - self._common
        return bool(telling) and 2 * len(telling & _words(said)) >= len(telling)

    @cached_property
    def _common(self) -> set[str]:
        """The words of more than half of the questions, which are all words where there is one question."""
        questions = {content(sample)[1] for sample in self._samples}
        found = Counter(word for question in questions for word in _words(question))
        return {word for word, count in found.items() if 2 * count > len(questions)}

    @cached_property
    def _images(self) -> set[str]:
        return {name for sample in self._samples if content(sample)[0] for name in image_names(content(sample)[0])}

    @cached_property
    def _categories(self) -> set[str]:
        return {str(sample.meta[key]) for sample in self._samples for key in CATEGORY_KEYS if sample.meta.get(key)}

    def _is_own(self, name: str, row: Row, sample: EvalSample) -> bool:
        """Whether an image is the sample's, by its name or where the image is the id."""
        own = {*image_names(content(sample)[0]), *image_names(sample.id)}
        return not own.isdisjoint(image_names(name, str(row.get("category", ""))))

    def _other_image(self, images: dict[str, str], row: Row, sample: EvalSample) -> str:
        """What is to be said of an image that belongs to another question; "" when it is the sample's or nobody's."""
        own = set(image_names(content(sample)[0]))
        for key, name in images.items():
            names = set(image_names(name, str(row.get("category", ""))))
            if not names & own and names & self._images:
                return f"has the {key} {name[:_SHOWN]!r} where {content(sample)[0]!r} is asked about"
        return ""

    @property
    def confirms(self) -> bool:
        """Whether any row shows that it answers the question that it is paired with, by its prompt or its image."""
        return self._prompted > 0 or self._imaged > 0 or bool(self._reworded)

    def refuse_others(self, hint: str = "") -> tuple[str, ...]:
        """Raise over rows that show another question than theirs.

        Returns:
            What the result is to say of rows that were believed though they do not show all of their question.

        Raises:
            DataError: there are some; the first is named.
        """
        odd = self._wrong + ([*self._unlike, *self._reworded] if self._prompted else [])
        if self._unlike and not odd:
            keys = " and ".join(map(repr, self._prompt_keys))
            raise DataError(
                f"{self._where}: no row shows the question that its id has; {self._unlike[0]}: answers to another "
                f"benchmark, split or revision?{hint} If they do answer these questions, in other words, leave {keys} "
                "out of the rows, or add the name of the image to each"
            )
        if odd:
            raise DataError(
                f"{self._where}: {len(odd)} of {self._seen} rows show another question than their id has; "
                f"{odd[0]}: answers to another split or revision?{hint}"
            )
        notes = []
        if self._reworded:
            notes.append(
                f"{len(self._reworded):,} rows show their question in other words, with its image or its own words: "
                f"{self._reworded[0]}"
            )
        return (*notes, *self._strange_images(hint))

    def _strange_images(self, hint: str) -> tuple[str, ...]:
        """A note on images that no question has, where the prompts make the rows sure.

        Raises:
            DataError: nothing does.
        """
        counts = {key for key, names in self._shown.items() if _only_counts(names)}
        odd = []
        for place, images, fits in self._strange:
            if key := next((key for key in images if key and key not in counts), ""):
                odd.append((place, key, images[key], images[""], fits))
        if not odd:
            return ()
        place, key, name, own, _ = odd[0]
        what = f"{place} {key} {name[:_SHOWN]!r} where {own!r} is asked about"
        if not self._imaged and len(self._asked) > 1 and all(fits for *_, fits in odd):
            return (f"no row names an image as the questions do, and the prompts were believed: {what}",)
        few = f"{len(odd)} of {self._seen} rows have an image that no question has"
        few = few if self._imaged else "no row has the image of a question"
        raise DataError(
            f"{self._where}: {few}; {what}: answers to another benchmark, split or revision?{hint} If they do answer "
            f"these questions, leave {key!r} out of the rows, or write the names of "
            "the images as the questions do"
        )


def _said(row: Row, own: str) -> dict[str, str]:
    """All that a row shows of what was asked, less what has no words and what is the beginning of the question."""
    found = {ASKED: tidy(row[ASKED])} if isinstance(row.get(ASKED), str) else asked_texts(row)
    return {key: text for key, text in found.items() if any(map(str.isalnum, text)) and not _is_cut(text, own)}


def _contains(said: str, own: str) -> bool:
    return own != "" and own.casefold() in said.casefold()


def _shows(said: str, own: str) -> bool:
    """Whether words that were said contain a question; other quotes, spaces and full stops make no difference."""
    return _contains(said, own) or (plain(own) != "" and plain(own) in plain(said))


def _is_cut(said: str, own: str) -> bool:
    """Whether what was said is the beginning of the question, with dots for the rest."""
    return said.endswith(("...", "\u2026")) and plain(own).startswith(plain(said))


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def _only_counts(names: Sequence[str]) -> bool:
    """Whether the values of an image's key are no names but count the rows, from 0 or 1 on."""
    if not all(name.isdecimal() and name.isascii() and len(name) < _LONGEST_COUNT for name in names):
        return False
    numbers = sorted(map(int, names))
    return numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


_LONGEST_COUNT = 10


def _other_category(row: Row, sample: EvalSample, known: set[str]) -> str:
    own = {str(sample.meta[key]) for key in CATEGORY_KEYS if sample.meta.get(key)}
    for key in CATEGORY_KEYS if own else ():
        given = {part.strip() for part in row[key].split(",")} if isinstance(row.get(key), str) else set()
        if not given & own and given & known:
            return f"is of the {key} {row[key]!r} where {', '.join(sorted(own))!r} is asked"
    return ""
