"""Phrases in which the name of an object names something else: the "bus" of a bus stop (``lookalikes.txt``)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path

from mmpref.errors import DataError
from mmpref.evals.text.caption_words import WORD
from mmpref.evals.text.singular import singular
from mmpref.files.reading import read_text

_FILE = Path(__file__).with_name("lookalikes.txt")


@lru_cache(maxsize=1)
def _all_phrases() -> Mapping[str, str]:
    """Phrase, its words in the singular -> why it does not count."""
    phrases: dict[str, str] = {}
    why = ""
    for line in read_text(_FILE, DataError, "words without their object:").splitlines():
        if line.startswith("["):
            why = line.strip("[]")
        elif line and not line.startswith("#"):
            first, _, second = (part.strip() for part in line.partition("+"))
            for before in first.split(","):
                for after in second.split(","):
                    phrases.setdefault(_in_singular(f"{before} {after}"), why)
    return phrases


def lookalikes(words: Collection[str]) -> dict[str, str]:
    """The phrases that have one of ``words`` in them, and why they do not count."""
    longest = max((word.count(" ") for word in words), default=0) + 1
    return {
        phrase: why
        for phrase, why in _all_phrases().items()
        if phrase not in words and object_word(phrase, words, longest)
    }


def object_word(phrase: str, words: Collection[str], longest: int = 4) -> str:
    """The last and longest word of an object in a phrase, "" for none."""
    parts = phrase.split()
    for end in range(len(parts), 0, -1):
        for start in range(max(0, end - longest), end):
            if (word := " ".join(parts[start:end])) in words:
                return word
    return ""


def _in_singular(phrase: str) -> str:
    return " ".join(singular(word) for word in WORD.findall(phrase.lower()))
