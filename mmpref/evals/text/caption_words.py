"""A caption as words in order, each with what stands before it: what the rules of context look at."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from mmpref.evals.text.singular import singular

WORD = re.compile(r"[^\W_]+(?:-[^\W_]+)*")
_WORD_KEPT = re.compile(f"({WORD.pattern})")
COMMA, STOP = ",", "."
"""What stands before a word: a pause within a sentence, or its end; "" for nothing but a space."""

_STOPS = re.compile(r"[.!?;:\n()—–…\[\]{}]")
_APOSTROPHES = ("'", "\N{RIGHT SINGLE QUOTATION MARK}")
_ENDS_OF_NOT = {"n't", "n\N{RIGHT SINGLE QUOTATION MARK}t", "cannot"}


@dataclass(frozen=True, slots=True)
class CaptionWords:
    """The words of a caption.

    Args:
        text: the caption, "" when the tokens came from the caller.
        raw: each word in lower case as it is written, "not" for the n't of "isn't".
        one: each word in the singular.
        breaks: what stands before each word: "", ``COMMA`` or ``STOP``.
        asked: for each word whether its sentence ends with a question mark.
        spans: the start and end character of each word, empty when the tokens came from the caller.
    """

    text: str
    raw: list[str]
    one: list[str]
    breaks: list[str]
    asked: list[bool]
    spans: list[tuple[int, int]]

    def span(self, first: int, last: int) -> tuple[int, int] | None:
        """The characters from one word to another."""
        return (self.spans[first][0], self.spans[last][1]) if self.spans else None


def lower(caption: str) -> str:
    """In lower case with every character in its place, because spans must fit the caption."""
    made = caption.lower()
    if len(made) == len(caption):
        return made
    return "".join(small if len(small := char.lower()) == 1 else char for char in caption)


def cut(caption: str) -> CaptionWords:
    """The words of a caption."""
    text = lower(caption)
    parts = _WORD_KEPT.split(text)
    gaps, raw = parts[::2], parts[1::2]  # a gap before each word, and what stands after the last
    edges = [*accumulate(map(len, parts[:-1]))]
    breaks = ["" if gap == " " else _break(gap) for gap in gaps[:-1]]
    questions = [at for at, gap in enumerate(gaps) if "?" in gap] if "?" in text else []
    if any(mark in text for mark in ("'t", "\N{RIGHT SINGLE QUOTATION MARK}t")):
        for at, word in enumerate(raw):
            if word == "t" and at and gaps[at] in _APOSTROPHES and raw[at - 1].endswith("n"):
                raw[at - 1 : at + 1] = [raw[at - 1][:-1] or "n", "not"]
    if "cannot" in text:
        raw = ["not" if word == "cannot" else word for word in raw]
    spans = [*zip(edges[::2], edges[1::2], strict=True)]
    return CaptionWords(caption, raw, [*map(singular, raw)], breaks, _asked(breaks, questions), spans)


def given(tokens: Sequence[str]) -> CaptionWords:
    """The caller's tokens; those without a letter or digit are punctuation."""
    raw: list[str] = []
    breaks: list[str] = []
    questions: list[int] = []
    before = ""
    for token in tokens:
        breaks.append(before)
        if WORD.search(token):
            before = ""
        else:
            mark = _break(token + " ")
            before = STOP if STOP in (mark, before) else mark or before
        if "?" in token:
            questions.append(len(raw))
        raw.append("not" if token.lower() in _ENDS_OF_NOT else token.lower())
    return CaptionWords("", raw, list(tokens), breaks, _asked(breaks, questions), [])


@lru_cache(maxsize=1_000)
def _break(gap: str) -> str:
    if _STOPS.search(gap) and gap not in (".", ":"):  # "3.5" and "10:30" end nothing
        return STOP
    return COMMA if "," in gap or " - " in gap else ""


def _asked(breaks: Sequence[str], questions: Sequence[int]) -> list[bool]:
    """Which words stand in a sentence that ends with a question mark."""
    asked = [False] * len(breaks)
    for after in questions:
        word = after - 1
        while word >= 0 and not asked[word]:
            asked[word] = True
            if breaks[word] == STOP:
                break
            word -= 1
    return asked
