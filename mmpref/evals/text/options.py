"""The options of a multiple-choice question, and where an answer says the text of one.

Texts are compared in plain words: small letters, no markup, no articles, numbers as digits.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import TypeAlias

Options: TypeAlias = Mapping[str, str]
"""The text of each option by its letter, from A on."""

_MARKS = {
    "(A)": r"[(（]\s*{}\s*[)）]",
    "A)": r"(?<![\w(]){}\s*[)）]",
    "A.": r"(?<![\w.]){}\s*[.．、]",
    "A:": r"(?<![\w]){}\s*[:：]",
}
_NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    )
}
_ARTICLES = {"a", "an", "the"}
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")


_PICTURE = r"(?:provided |given |above |attached )?(?:image|picture|photo|photograph)"
_ABOUT_THE_IMAGE = re.compile(
    rf"(?:\b(?:based|judging|going) (?:up)?(?:on|from|by)|\b(?:as )?(?:seen|shown|depicted|visible|can be seen) in|"
    rf"\baccording to|\blooking at|\bfrom|\bin|\bon) (?:the|this) {_PICTURE}\b\s*,?",
    re.I,
)


def without_image(text: str) -> str:
    """The text without "in the image", "based on the photo" and the like: "on" may be the text of an option."""
    return _ABOUT_THE_IMAGE.sub(" ", text)


@dataclass(frozen=True, slots=True)
class Asked:
    """A multiple-choice question in its parts: what is asked, the options, and what follows them (an instruction)."""

    stem: str
    options: dict[str, str]
    rest: str = ""


def split_options(text: str) -> Asked:
    """The parts of a question; one that lists no options is all stem.

    Lists are read with ``(A)``, ``A)``, ``A.`` and ``A:``, in capitals or not, one in a line or all in one, with
    letters from A on and at least two options. Of a list in lines an option ends with its line.
    """
    for mark in _MARKS.values():
        for letters in (ascii_uppercase, ascii_uppercase.lower()):
            for start in ("(?m)^[ \t]*", ""):
                if (found := _listed(text, start + mark, letters, one_line=bool(start))) is not None:
                    return found
    return Asked(text.strip(), {})


def options_of(text: str) -> dict[str, str]:
    """The options that a question lists, by their letters; nothing where it lists none."""
    return split_options(text).options


def _listed(text: str, mark: str, letters: str, *, one_line: bool) -> Asked | None:
    places: list[re.Match[str]] = []
    for letter in letters:
        found = re.compile(mark.format(letter)).search(text, places[-1].end() if places else 0)
        if found is None:
            break
        places.append(found)
    ends = [*(place.start() for place in places[1:]), len(text)]
    if len(places) < 2:
        return None
    if one_line and (line := text.find("\n", places[-1].end())) >= 0:
        ends[-1] = line
    texts = [text[place.end() : end] for place, end in zip(places, ends, strict=True)]
    texts = [said.split("\n")[0].strip() if one_line else said.strip() for said in texts]
    if not all(texts):
        return None
    stem, rest = text[: places[0].start()].strip(), text[ends[-1] :].strip()
    return Asked(stem, dict(zip(ascii_uppercase, texts, strict=False)), rest)


def words_of(text: str) -> list[str]:
    """The plain words of a text, in order: small letters, without articles, numbers as digits."""
    folded = unicodedata.normalize("NFKC", text).translate(_APOSTROPHES).casefold()
    words = (word.removesuffix("'s") for word in _WORD.findall(folded))
    return [_NUMBERS.get(word, word) for word in words if word not in _ARTICLES]


_APOSTROPHES = {ord(char): "'" for char in "’‘ʼ´`＇"}


@dataclass(frozen=True, slots=True)
class OptionWords:
    """The words of each option, longest option first; two options of the same words are none."""

    by_letter: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, options: Options) -> OptionWords:
        """Of the options of a question."""
        words = {letter: tuple(words_of(without_image(text)) or words_of(text)) for letter, text in options.items()}
        texts = list(words.values())
        alone = {letter: said for letter, said in words.items() if said and texts.count(said) == 1}
        return cls(dict(sorted(alone.items(), key=lambda item: -len(item[1]))))

    def whole(self, words: Sequence[str]) -> str:
        """The letter of the option that has exactly these words, "" where there is none."""
        return next((letter for letter, said in self.by_letter.items() if said == tuple(words)), "")

    def said_in(self, words: Sequence[str]) -> list[tuple[int, str]]:
        """Where words say an option: the places of the first words and the letters; of two options at one place the
        longer one."""
        found: list[tuple[int, str]] = []
        taken: set[int] = set()
        for letter, said in self.by_letter.items():
            for place in range(len(words) - len(said) + 1):
                here = range(place, place + len(said))
                if tuple(words[place : place + len(said)]) == said and taken.isdisjoint(here):
                    found.append((place, letter))
                    taken.update(here)
        return sorted(found)

    @property
    def numbers(self) -> bool:
        """Whether an option is a number alone, so that "option 2" may mean either."""
        return any(len(said) == 1 and said[0].isdecimal() for said in self.by_letter.values())
