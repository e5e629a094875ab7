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
from pathlib import Path
from typing import TypeAlias

from mmpref.errors import DataError
from mmpref.evals.plurals import singular, singular_as_pattern


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


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    position: int
    span: tuple[int, int] | None


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
        try:
            lines = (
                Path(source).read_text(encoding="utf-8-sig").splitlines() if isinstance(source, str | Path) else source
            )
            groups = [line.strip().split(", ") for line in lines if line.strip()]
        except (OSError, UnicodeDecodeError) as err:
            raise DataError(f"synonyms: {where} cannot be read: {err}") from err
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
        return lambda caption: _official(
            _tokens(caption, tokenize, _OFFICIAL_TOKEN, make_singular), pairs, vocabulary.exact
        )
    words = vocabulary.clean
    longest: dict[str, int] = {pair.split()[0]: 2 for pair in (*_QUALIFIED, *_NO_OBJECT)}
    for word in words:
        first, *rest = word.split()
        longest[first] = max(longest.get(first, 1), 1 + len(rest))
    return lambda caption: _robust(_tokens(caption, tokenize, _WORD, singular), words, longest)


_WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
_OFFICIAL_TOKEN = re.compile(r"[^\s,;:@#$%&?!()\[\]{}<>\"“”‘’«»`]+")
_CONTRACTION = re.compile(r"(?:n't|'(?:s|m|d|ll|re|ve))?\Z")
_VISIBLE_WORD = re.compile(r"\S*\w\S*")


def count_words(text: str) -> int:
    """Words between spaces that have a letter or digit."""
    return len(_VISIBLE_WORD.findall(text))


def _tokens(
    caption: str,
    tokenize: Callable[[str], Sequence[str]] | None,
    pattern: re.Pattern[str],
    make_singular: Callable[[str], str],
) -> list[_Token]:
    if tokenize is not None:
        return [_Token(text, position, None) for position, text in enumerate(tokenize(caption))]
    out: list[_Token] = []
    lower = caption.lower() if len(caption.lower()) == len(caption) else caption  # spans must fit the caption
    for match in pattern.finditer(lower):
        word = match.group()
        if pattern is _OFFICIAL_TOKEN:
            word = _CONTRACTION.sub("", word.rstrip(".'"), count=1).lstrip("'")
        start = match.start() + match.group().find(word)
        out.append(_Token(make_singular(word), len(out), (start, start + len(word))))
    return out


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
_OFFICIAL_UNJOINED = ("dining table", "stove top oven")


def _official_pairs(vocabulary: Vocabulary) -> dict[str, str]:
    """What the script joins: the list's own pairs but one, read with tidy spacing, and its special rules."""
    pairs = {word: word for word in vocabulary.clean if word.count(" ") == 1 and word not in _OFFICIAL_UNJOINED}
    special = {"bow tie": "tie", "wine glas": "wine glass"}
    return pairs | _QUALIFIED | special | {pair: pair for pair in _NO_OBJECT}


def _official(tokens: Sequence[_Token], pairs: Mapping[str, str], words: Mapping[str, str]) -> list[Mention]:
    joined = []
    index = 0
    while index < len(tokens):
        token = tokens[index]
        pair = f"{token.text} {tokens[index + 1].text}" if index + 1 < len(tokens) else ""
        if pair in pairs:
            joined.append(_join(tokens[index : index + 2], pairs[pair]))
            index += 2
        else:
            joined.append(token)
            index += 1
    return _known(_without_toilet_seat(joined), words)


def _robust(tokens: Sequence[_Token], words: Mapping[str, str], longest: Mapping[str, int]) -> list[Mention]:
    """``longest`` has, for every word that an entry or a rule begins with, the words of the longest one."""
    joined = []
    index = 0
    while index < len(tokens):
        size, token = _longest_match(tokens, index, words, longest.get(tokens[index].text, 1))
        joined.append(token)
        index += size
    return _known(_without_toilet_seat(joined), words)


def _longest_match(tokens: Sequence[_Token], index: int, words: Mapping[str, str], longest: int) -> tuple[int, _Token]:
    """The token at ``index``, joined with its followers when the list or a rule knows them as one."""
    for size in range(min(longest, len(tokens) - index), 1, -1):
        run = tokens[index : index + size]
        text = " ".join(token.text for token in run)
        if text in words or text in _NO_OBJECT:
            return size, _join(run, text)
        if size == 2 and text in _QUALIFIED:
            return 2, _join(run, _QUALIFIED[text])
    token = tokens[index]
    if "-" in token.text and token.text not in words:  # "hot-dog" is hot dog, "tea-pot" is teapot
        token = next(
            (_Token(form, token.position, token.span)
             for form in (token.text.replace("-", " "), token.text.replace("-", "")) if form in words),
            token,
        )  # fmt: skip
    return 1, token


def _join(run: Sequence[_Token], text: str) -> _Token:
    first, last = run[0], run[-1]
    span = (first.span[0], last.span[1]) if first.span and last.span else None
    return _Token(text, first.position, span)


def _without_toilet_seat(tokens: list[_Token]) -> list[_Token]:
    """The seat of a toilet is not a chair: "seat" does not count in a caption that has a toilet."""
    if any(token.text == "toilet" for token in tokens):
        return [token for token in tokens if token.text != "seat"]
    return tokens


def _known(tokens: Sequence[_Token], words: Mapping[str, str]) -> list[Mention]:
    return [
        Mention(token.text, words[token.text], token.position, token.span) for token in tokens if token.text in words
    ]
