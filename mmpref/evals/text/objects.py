"""Finding the objects that a caption mentions: CHAIR's text routine, as published and as it was meant.

``official`` follows LisaAnne/Hallucination ``utils/chair.py``: tokens as nltk cuts them, singular forms as the library
``pattern`` makes them (so "bus" is never seen), a fixed set of word pairs joined from left to right, and the spacing of
the synonym list taken literally. ``lmms_eval`` is the same with proper singular forms. ``mmpref``
(``caption_objects.py``) drops the accidents: every entry of several words in the list is joined, longest first ("motor
bike", "stove top oven" once), "bus" counts, words that touch a slash, dash or unicode mark are seen. And it counts what
the caption says to be in the picture: not what it denies, supposes or shows on a poster, and no bus for a "bus stop".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import accumulate
from typing import TypeAlias

from mmpref.evals.text.caption_objects import extract_mmpref
from mmpref.evals.text.caption_words import lower
from mmpref.evals.text.joined_words import NO_OBJECT, QUALIFIED, TOILET
from mmpref.evals.text.mentions import Extractor, MakeExtractor, Mention, NotCounted, Reading, Tokenize
from mmpref.evals.text.singular import singular, singular_as_pattern
from mmpref.evals.text.vocabulary import Vocabulary

__all__ = [
    "Extractor",
    "MakeExtractor",
    "Mention",
    "NotCounted",
    "Reading",
    "Tokenize",
    "count_words",
    "extract_lmms_eval",
    "extract_mmpref",
    "extract_official",
    "true_objects",
]

_Cut: TypeAlias = Callable[[str], tuple[list[str], Callable[[int, int], tuple[int, int]] | None]]
"""Caption -> its words in the singular, and what gives the characters from one word to another, if that is known."""
_Found: TypeAlias = tuple[str, int, int]  # a word or several as one, the place of the first, and how many


def true_objects(names: Iterable[str], captions: Iterable[str], extract: Extractor, vocabulary: Vocabulary) -> set[str]:
    """What an image has: annotated objects by their canonical name, and those that people mention in its captions."""
    mentioned = {mention.object for caption in captions for mention in extract(caption)}
    return {vocabulary.canonical(name) for name in names} | mentioned


def extract_official(vocabulary: Vocabulary, tokenize: Tokenize | None = None) -> Extractor:
    """The script's text routine, with the singular forms of the library ``pattern``.

    Args:
        tokenize: replaces our tokens and singular forms by the caller's; everything after that step is the script's, so
            the official pipeline's own tokens give its exact numbers.
    """
    return _scripts_routine(vocabulary, tokenize, singular_as_pattern)


def extract_lmms_eval(vocabulary: Vocabulary, tokenize: Tokenize | None = None) -> Extractor:
    """The script's text routine, with WordNet's lemmas in the place of the library that does not know "bus"; our
    singular forms equal these here. ``tokenize`` as in :func:`extract_official`."""
    return _scripts_routine(vocabulary, tokenize, singular)


def _scripts_routine(
    vocabulary: Vocabulary, tokenize: Tokenize | None, make_singular: Callable[[str], str]
) -> Extractor:
    pairs, words = _official_pairs(vocabulary), vocabulary.exact
    join = partial(_official, pairs=pairs, starts=frozenset(pair.split()[0] for pair in pairs), words=words)

    @lru_cache(maxsize=50_000)
    def clean(token: str) -> str:
        return make_singular(_without_marks(token))

    cut = partial(_cut, clean=clean)
    return _extractor(cut if tokenize is None else _given(tokenize), join, words)


def _given(tokenize: Tokenize) -> _Cut:
    return lambda caption: (list(tokenize(caption)), None)


def _extractor(cut: _Cut, join: Callable[[Sequence[str]], list[_Found]], words: Mapping[str, str]) -> Extractor:
    def read(caption: str) -> Reading:
        texts, span = cut(caption)
        return Reading(_known(_without_toilet_seat(join(texts)), words, span), [])

    return Extractor(read)


_OFFICIAL_TOKEN = re.compile(r"([^\s,;:@#$%&?!()\[\]{}<>\"“”‘’«»`]+)")
_CONTRACTION = re.compile(r"(?:n't|'(?:s|m|d|ll|re|ve))?\Z")
_WORD_CHARACTER = re.compile(r"\w")


def count_words(text: str) -> int:
    """Words between spaces that have a letter or digit."""
    return len([word for word in text.split() if word[0].isalnum() or _WORD_CHARACTER.search(word)])


def _cut(caption: str, clean: Callable[[str], str]) -> tuple[list[str], Callable[[int, int], tuple[int, int]]]:
    """The script's words of a caption, each as ``clean`` makes it, and a function that gives the characters from one
    word to another."""
    parts = _OFFICIAL_TOKEN.split(lower(caption))  # by turns what stands between tokens, and a token
    ends = [*accumulate(map(len, parts))]

    def edges(index: int) -> tuple[int, int]:
        raw = parts[2 * index + 1]
        word = _without_marks(raw)
        start = ends[2 * index] + raw.find(word)
        return start, start + len(word)

    def span(first: int, last: int) -> tuple[int, int]:
        return edges(first)[0], edges(last)[1]

    return [*map(clean, parts[1::2])], span


@lru_cache(maxsize=50_000)
def _without_marks(token: str) -> str:
    """A token of the script without full stops, quotes and an ending like that of "dog's"."""
    return _CONTRACTION.sub("", token.rstrip(".'"), count=1).lstrip("'")


# --- rules of the paper's script that are not in the synonym list ----------------------------------------------------

_OFFICIAL_UNJOINED = ("dining table", "stove top oven")


def _official_pairs(vocabulary: Vocabulary) -> dict[str, str]:
    """What the script joins: the list's own pairs but one, read with tidy spacing, and its special rules."""
    pairs = {word: word for word in vocabulary.clean if word.count(" ") == 1 and word not in _OFFICIAL_UNJOINED}
    special = {"bow tie": "tie", "wine glas": "wine glass"}
    return pairs | QUALIFIED | special | {pair: pair for pair in NO_OBJECT}


def _official(
    texts: Sequence[str], pairs: Mapping[str, str], starts: frozenset[str], words: Mapping[str, str]
) -> list[_Found]:
    """``starts`` has the first word of every pair."""
    joined: list[_Found] = []
    index = 0
    while index < len(texts):
        text, size = texts[index], 1
        if text in starts and index + 1 < len(texts) and (pair := f"{text} {texts[index + 1]}") in pairs:
            text, size = pairs[pair], 2
        if text in words or text == TOILET:
            joined.append((text, index, size))
        index += size
    return joined


def _without_toilet_seat(found: list[_Found]) -> list[_Found]:
    """The seat of a toilet is not a chair: "seat" does not count in a caption that has a toilet."""
    if any(text == TOILET for text, _, _ in found):
        return [entry for entry in found if entry[0] != "seat"]
    return found


def _known(
    found: Sequence[_Found], words: Mapping[str, str], span: Callable[[int, int], tuple[int, int]] | None
) -> list[Mention]:
    return [
        Mention(text, words[text], index, span(index, index + size - 1) if span is not None else None)
        for text, index, size in found
        if text in words
    ]
