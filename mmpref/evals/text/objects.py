"""Finding the objects that a caption mentions: CHAIR's text routine, as published and as it was meant.

``official`` follows LisaAnne/Hallucination ``utils/chair.py``: tokens as nltk cuts them, singular forms as the library
``pattern`` makes them (so "bus" is never seen), a fixed set of word pairs joined from left to right, and the spacing of
the synonym list taken literally. ``lmms_eval`` is the same with proper singular forms. ``mmpref`` keeps the rules that
carry meaning and drops the accidents: every entry of several words in the list is joined, longest first ("motor bike",
"stove top oven" once), "bus" counts, words that touch a slash, dash or unicode mark are seen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeAlias

from mmpref.errors import DataError
from mmpref.evals.text.singular import singular, singular_as_pattern
from mmpref.files.reading import read_text


@dataclass(frozen=True, slots=True)
class Mention:
    """One mention of an object: the word as matched, the object's name, where it stands.

    ``position`` counts tokens from 0; ``span`` is the start and end character in the caption, None when the tokens came
    from the caller.
    """

    word: str
    object: str
    position: int
    span: tuple[int, int] | None


Extractor: TypeAlias = Callable[[str], list[Mention]]
_Found: TypeAlias = tuple[str, int, int]  # a word or several as one, the place of the first, and how many


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words that name objects: ``exact`` as the list spells them, ``clean`` with spacing and case put right."""

    exact: Mapping[str, str]
    clean: Mapping[str, str]

    @staticmethod
    def read(source: str | Path | Iterable[str]) -> Vocabulary:
        """A list in CHAIR's format, as a path or as its lines.

        Raises:
            DataError: the file cannot be read or names no object.
        """
        where = str(source) if isinstance(source, str | Path) else "synonyms"
        lines = read_text(source, DataError, "synonyms:").splitlines() if isinstance(source, str | Path) else [*source]
        if odd := [line for line in lines if not isinstance(line, str)]:
            raise DataError(f"synonyms: {odd[0]!r:.60} is no line of text, its words separated by commas")
        groups = [line.strip().split(", ") for line in lines if line.strip() and not line.startswith("#")]
        if not groups:
            raise DataError(f"synonyms: {where} is empty; expected one object per line, its words separated by commas")
        exact = {word: group[0] for group in groups for word in group}
        names = {word: group[0] for group in groups for word in ",".join(group).split(",") if word.strip()}
        return Vocabulary(exact, _clean(names))

    @staticmethod
    def of_names(names: Iterable[str]) -> Vocabulary:
        """Each name stands only for itself."""
        known = {name: name for name in names}
        return Vocabulary(known, _clean(known))

    def __contains__(self, name: str) -> bool:
        return name in self.exact or _tidy(name) in self.clean

    def canonical(self, name: str) -> str:
        """The object that a ground-truth name means; a name outside the list stays as it is."""
        return self.exact.get(name) or self.clean.get(_tidy(name), _tidy(name))


NAMES_ONLY, COCO = "names", "coco"
"""Words that stand for a list: only the names of the ground truth, and mmpref's own list for COCO."""
NO_LIST = "no synonym list: only the object names of the ground truth are looked for"
OWN_LIST = (
    "objects are looked for with mmpref's own list of words for COCO's categories, not with CHAIR's authors' list"
)
_OWN_FILE = Path(__file__).with_name("coco_words.txt")
_MOST_CATEGORIES = 40
"""Categories of COCO that a ground truth of nothing else names where it is COCO's: half of them."""


def vocabulary_of(
    synonyms: str | Path | Iterable[str] | None, names: Iterable[str], *, from_coco: bool
) -> tuple[Vocabulary, str]:
    """The words that name objects, and a note on where they are from; "" where they were given.

    Args:
        synonyms: a list, "coco" for our own, "names" for none, or None: our own where the ground truth is COCO's.
        names: the objects of the ground truth.
        from_coco: whether they come from annotation files of COCO.

    Raises:
        DataError: the list cannot be read.
    """
    known = set(names)
    if synonyms is None:
        own = Vocabulary.read(_OWN_FILE)
        categories = set(own.exact.values())
        like_coco = known <= categories and len(known) >= _MOST_CATEGORIES
        synonyms = COCO if from_coco or like_coco else NAMES_ONLY
    if synonyms == COCO:
        return Vocabulary.read(_OWN_FILE), OWN_LIST
    if synonyms == NAMES_ONLY:
        return Vocabulary.of_names(known), NO_LIST
    return Vocabulary.read(synonyms), ""


def true_objects(names: Iterable[str], captions: Iterable[str], extract: Extractor, vocabulary: Vocabulary) -> set[str]:
    """What an image has: annotated objects by their canonical name, and those that people mention in its captions."""
    mentioned = {mention.object for caption in captions for mention in extract(caption)}
    return {vocabulary.canonical(name) for name in names} | mentioned


def _clean(names: Mapping[str, str]) -> dict[str, str]:
    """Tidy words to tidy names; the singular of a word that the list has in the plural ("skis") means the same."""
    tidy = {_tidy(word): _tidy(name) for word, name in names.items()}
    one = {" ".join([*word.split()[:-1], singular(word.split()[-1])]): name for word, name in tidy.items() if word}
    return one | tidy


def _tidy(word: str) -> str:
    return " ".join(word.lower().split())


def extractor_for(
    protocol: str, vocabulary: Vocabulary, tokenize: Callable[[str], Sequence[str]] | None = None
) -> Extractor:
    """The text routine of a protocol.

    Args:
        tokenize: replaces our tokens and singular forms by the caller's (caption -> singular tokens); everything after
            that step is the protocol's, so the official pipeline's own tokens give its exact numbers.
    """
    if protocol in ("official", "lmms_eval"):
        pairs = _official_pairs(vocabulary)
        # lmms-eval took WordNet's lemmas in the place of the library that knows no "bus"; ours are alike here
        make_singular = singular_as_pattern if protocol == "official" else singular
        words = vocabulary.exact
        join = partial(_official, pairs=pairs, starts=frozenset(pair.split()[0] for pair in pairs), words=words)
        cut = partial(_cut, pattern=_OFFICIAL_TOKEN, bare=_without_marks, make_singular=make_singular)
    else:
        words = vocabulary.clean
        longest: dict[str, int] = {pair.split()[0]: 2 for pair in (*_QUALIFIED, *_NO_OBJECT)}
        for word in words:
            first, *rest = word.split()
            longest[first] = max(longest.get(first, 1), 1 + len(rest))
        join = partial(_robust, words=words, longest=longest)
        cut = partial(_cut, pattern=_WORD, bare=str, make_singular=singular)

    def extract(caption: str) -> list[Mention]:
        texts, spans = cut(caption) if tokenize is None else (list(tokenize(caption)), None)
        return _known(_without_toilet_seat(join(texts)), words, spans)

    return extract


_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
_OFFICIAL_TOKEN = re.compile(r"[^\s,;:@#$%&?!()\[\]{}<>\"“”‘’«»`]+")
_CONTRACTION = re.compile(r"(?:n't|'(?:s|m|d|ll|re|ve))?\Z")
_WORD_CHARACTER = re.compile(r"\w")


def count_words(text: str) -> int:
    """Words between spaces that have a letter or digit."""
    return sum(_WORD_CHARACTER.search(word) is not None for word in text.split())


def _cut(
    caption: str, pattern: re.Pattern[str], bare: Callable[[str], str], make_singular: Callable[[str], str]
) -> tuple[list[str], Callable[[int, int], tuple[int, int]]]:
    """The words of a caption in the singular, and what tells where those from one to another stand in it."""
    found = list(pattern.finditer(_lower(caption)))

    def edges(index: int) -> tuple[int, int]:
        raw = found[index].group()
        word = bare(raw)
        start = found[index].start() + raw.find(word)
        return start, start + len(word)

    def span(first: int, last: int) -> tuple[int, int]:
        return edges(first)[0], edges(last)[1]

    return [make_singular(bare(match.group())) for match in found], span


def _lower(caption: str) -> str:
    """In lower case with every character in its place, because spans must fit the caption."""
    lower = caption.lower()
    if len(lower) == len(caption):
        return lower
    return "".join(small if len(small := char.lower()) == 1 else char for char in caption)


@lru_cache(maxsize=50_000)
def _without_marks(token: str) -> str:
    """A token of the script without full stops, quotes and an ending like that of "dog's"."""
    return _CONTRACTION.sub("", token.rstrip(".'"), count=1).lstrip("'")


# --- rules of the paper's script that are not in the synonym list ----------------------------------------------------

_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")
# a young or grown animal is not a person, a passenger train has no passenger in it, a toilet seat is no chair
_QUALIFIED = {
    **{f"{age} {animal}": animal for age in ("baby", "adult") for animal in _ANIMALS},
    **{f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")},
    "toilet seat": "toilet",
}
# joined and then known to no list, so that neither word counts
_NO_OBJECT = ("home plate", "train track")
_TOILET = "toilet"
_OFFICIAL_UNJOINED = ("dining table", "stove top oven")


def _official_pairs(vocabulary: Vocabulary) -> dict[str, str]:
    """What the script joins: the list's own pairs but one, read with tidy spacing, and its special rules."""
    pairs = {word: word for word in vocabulary.clean if word.count(" ") == 1 and word not in _OFFICIAL_UNJOINED}
    special = {"bow tie": "tie", "wine glas": "wine glass"}
    return pairs | _QUALIFIED | special | {pair: pair for pair in _NO_OBJECT}


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
        if text in words or text == _TOILET:
            joined.append((text, index, size))
        index += size
    return joined


def _robust(texts: Sequence[str], words: Mapping[str, str], longest: Mapping[str, int]) -> list[_Found]:
    """``longest`` has, for every word that an entry or a rule begins with, the words of the longest one."""
    joined: list[_Found] = []
    index = 0
    while index < len(texts):
        text, size = texts[index], 1
        if text in longest or "-" in text:
            text, size = _longest_match(texts, index, words, longest.get(text, 1))
            joined.append((text, index, size))
        index += size
    return joined


def _longest_match(texts: Sequence[str], index: int, words: Mapping[str, str], longest: int) -> tuple[str, int]:
    """The word at ``index``, joined with its followers when the list or a rule knows them as one, and how many."""
    for size in range(min(longest, len(texts) - index), 1, -1):
        text = " ".join(texts[index : index + size])
        if text in words or text in _NO_OBJECT:
            return text, size
        if size == 2 and text in _QUALIFIED:
            return _QUALIFIED[text], 2
    text = texts[index]
    if "-" in text and text not in words:  # "hot-dog" is hot dog, "tea-pot" is teapot
        return next((form for form in (text.replace("-", " "), text.replace("-", "")) if form in words), text), 1
    return text, 1


def _without_toilet_seat(found: list[_Found]) -> list[_Found]:
    """The seat of a toilet is not a chair: "seat" does not count in a caption that has a toilet."""
    if any(text == _TOILET for text, _, _ in found):
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
