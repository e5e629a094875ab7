"""How much two answers share, word by word, and where they differ.

Words are found without knowing the language: runs of letters and digits, with apostrophes inside; Chinese, Japanese and
Korean characters are words by themselves, so that a sentence without spaces is not one word. The longest common
subsequence is computed on whole machine words at a time (Crochemore et al. 2001, Hyyrö 2004), so a pair of long answers
takes well under a millisecond.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmpref.records import PreferencePair

_ALONE = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD_PATTERN = rf"[{_ALONE}]|(?:(?![{_ALONE}])\w)+(?:['’](?:(?![{_ALONE}])\w)+)*"
_WORD = re.compile(_WORD_PATTERN)
_TOKEN = re.compile(rf"{_WORD_PATTERN}|[^\w\s]")

MAX_TOKENS = 5_000
"""Longer texts are not compared in place by ``mark_differences``."""


REPEATED_FROM = 20
"""Letters that a prompt must have before answers that begin with it repeat it: a short one may be said by chance."""


def repeats_prompt(pair: PreferencePair) -> bool:
    """Whether every answer begins with all that the user asked last, as files have it whose answers were not cut."""
    asked = pair.prompt[-1].text.strip()
    if len(asked) < REPEATED_FROM or not pair.chosen.lstrip().startswith(asked):
        return False
    return pair.rejected is None or pair.rejected.lstrip().startswith(asked)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a text; ``differs`` when the other text does not have it at this place."""

    text: str
    differs: bool = False


def words(text: str) -> list[str]:
    """The words of a text, as written; punctuation is left out."""
    return _WORD.findall(text)


def count_words(text: str) -> int:
    """The number of words, by the rule of this module."""
    return sum(1 for _ in _WORD.finditer(text))


def jaccard(left: Sequence[str], right: Sequence[str]) -> float:
    """Words that both have, divided by words that either has; each word counts once. Two empty lists are equal: 1."""
    first, second = set(left), set(right)
    either = len(first | second)
    return len(first & second) / either if either else 1.0


def edit_similarity(left: Sequence[str], right: Sequence[str]) -> float:
    """2 LCS / (n + m): 1 for equal lists, 0 for lists without a common word, order counts."""
    total = len(left) + len(right)
    return 2 * _lcs_length(left, right) / total if total else 1.0


def mark_differences(left: str, right: str) -> tuple[tuple[Piece, ...], tuple[Piece, ...]]:
    """Both texts in pieces: what they share in order, and what only one of them has.

    The pieces of a side, joined, are its text. A lone short word that is shared between two differences is counted to
    the differences: "the" in two unrelated sentences is chance. Texts of more than ``MAX_TOKENS`` are returned
    unmarked.
    """
    spans = [[match.span() for match in _TOKEN.finditer(text)] for text in (left, right)]
    if max(map(len, spans)) > MAX_TOKENS:
        return (Piece(left),) if left else (), (Piece(right),) if right else ()
    tokens = [[text[start:end] for start, end in found] for text, found in zip((left, right), spans, strict=True)]
    matches = _without_chance(_matches(tokens[0], tokens[1]), tokens[0], tokens[1])
    shared = ({first for first, _ in matches}, {second for _, second in matches})
    return _pieces(left, spans[0], shared[0]), _pieces(right, spans[1], shared[1])


def _lcs_rows(left: Sequence[str], right: Sequence[str]) -> Iterator[int]:
    """After each word of ``right``: the bits of ``left`` at which the LCS length does not grow."""
    places: dict[str, int] = {}
    for place, word in enumerate(left):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(left)) - 1
    row = full
    for word in right:
        kept = row & places.get(word, 0)
        row = ((row + kept) | (row - kept)) & full
        yield row


def _lcs_length(left: Sequence[str], right: Sequence[str]) -> int:
    last = (1 << len(left)) - 1
    for last in _lcs_rows(left, right):  # noqa: B007
        pass
    return len(left) - last.bit_count()


def _matches(left: Sequence[str], right: Sequence[str]) -> list[tuple[int, int]]:
    """Places (in left, in right) of one longest common subsequence."""
    rows = list(_lcs_rows(left, right))
    found = []
    i, j = len(left) - 1, len(right) - 1
    while i >= 0 and j >= 0:
        grows_here = not rows[j] >> i & 1  # the LCS of left[:i+1], right[:j+1] is longer than that of left[:i]
        if not grows_here:
            i -= 1
        elif j and not rows[j - 1] >> i & 1:
            j -= 1
        else:
            found.append((i, j))
            i, j = i - 1, j - 1
    return found[::-1]


def _without_chance(matches: list[tuple[int, int]], left: Sequence[str], right: Sequence[str]) -> list[tuple[int, int]]:
    """Leave out runs that a reader would not call common: one short word or mark between two differences."""
    runs: list[list[tuple[int, int]]] = []
    for match in matches:
        if runs and (match[0] - 1, match[1] - 1) == runs[-1][-1]:
            runs[-1].append(match)
        else:
            runs.append([match])
    kept = []
    for run in runs:
        (first, other), (last, other_last) = run[0], run[-1]
        at_edge = (first == 0 and other == 0) or (last == len(left) - 1 and other_last == len(right) - 1)
        if at_edge or sum(len(left[place]) for place, _ in run) > 3:
            kept += run
    return kept


def _pieces(text: str, spans: Sequence[tuple[int, int]], shared: set[int]) -> tuple[Piece, ...]:
    """Cut between tokens: space between two differing tokens differs too, all other space is shared."""
    pieces: list[Piece] = []
    start = 0
    state = False
    for place, (begin, end) in enumerate(spans):
        differs = place not in shared
        if differs != state:
            cut = begin if differs else spans[place - 1][1]
            pieces.append(Piece(text[start:cut], state))
            start, state = cut, differs
        if place == len(spans) - 1 and state:
            pieces.append(Piece(text[start:end], True))
            start, state = end, False
    pieces.append(Piece(text[start:], state))
    return tuple(piece for piece in pieces if piece.text)
