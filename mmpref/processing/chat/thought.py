"""Think blocks in text: by the marks that models are known to write, and by the names that other marks have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

THINK_MARKS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
)


@dataclass(frozen=True, slots=True)
class Thought:
    """An answer that thinks first, in its parts."""

    opening: str  # the mark; "" where the answer begins behind it
    closing: str
    reasoning: str
    content: str
    marks: tuple[str, str]


def thought_of(answer: str) -> Thought | None:
    """The answer's think block, if it begins with one (or ends one that was opened before it)."""
    text = answer.lstrip()
    for opening, closing in THINK_MARKS:
        if closing not in text:
            continue
        before, _, content = text.partition(closing)
        if before.startswith(opening):
            return Thought(opening, closing, before.removeprefix(opening), content, (opening, closing))
        if opening not in before:
            return Thought("", closing, before, content, (opening, closing))
    return None


def never_closed(answer: str) -> tuple[str, str] | None:
    """The marks of a block that the answer begins with and does not end: its thought was cut."""
    text = answer.lstrip()
    return next((marks for marks in THINK_MARKS if text.startswith(marks[0]) and marks[1] not in text), None)


def opens_thought(text: str) -> bool:
    """Whether a think block is open where the text ends."""
    return any(text.rfind(opening) > text.rfind(closing) for opening, closing in THINK_MARKS)


def has_think_mark(text: str) -> bool:
    """Whether the text has a mark that begins or ends a think block."""
    return any(mark in text for pair in THINK_MARKS for mark in pair)


# --- marks that are not in the table: what they are called says what they do -------------------------------------

_NAMED = re.compile(r"think|thought|reason|analysis|(?<![a-z])inner|scratch|reflect", re.IGNORECASE)
_OFF = re.compile(
    r"(?<![a-z])no[ _-]?(?:think|thought|reason)|(?:think|thought|reason)\w*?[ _-]?(?:off|none|disabled)", re.IGNORECASE
)
_CLOSING = re.compile(r"^\W{0,2}/|(?<![a-z])(?:end|close|suffix|stop)(?![a-z])", re.IGNORECASE)
# one word beside a token, as in "<|channel|>analysis<|message|>", or joined to a role, as in "assistant/think";
# "let me think" opens no block
_LABEL = re.compile(
    r"[\W_]*(?:think(?:ing)?|thoughts?|reason(?:ing)?|analysis|inner|scratchpad|reflection)[\W_]*", re.IGNORECASE
)
_TAG = r"<[^<>\n]{1,40}>|\[/?[A-Z_]{2,30}\]|◁[^◁▷\n]{1,30}▷"


@lru_cache(maxsize=64)  # the same few texts for all rows, and some tokenizers have thousands of tokens
def named_thought(text: str, tokens: tuple[str, ...]) -> Literal["", "open", "closed"]:
    """What a text does about thinking, by the names of its tokens and tags: ``""`` where it does nothing.

    Args:
        tokens: added tokens of the tokenizer; whatever looks like a tag counts as well.
    """
    state: Literal["", "open", "closed"] = ""
    by_label = False  # a word opened it: then the mark that it touches belongs to it, and the next one ends it
    for between, mark, previous in _marks(text, tokens):
        if _LABEL.fullmatch(between) and (previous or mark or between[0] in "/_-"):
            state, by_label = "open", True
            if mark and not between[-1].isspace() and not _mirrors(previous, mark):
                continue
        if not mark:
            break
        if by_label and state == "open":
            state = "closed"
        elif _NAMED.search(mark) and not _OFF.search(mark):
            state = "closed" if _CLOSING.search(mark) else "open"
    return state


def ends_named_thought(answer: str, tokens: tuple[str, ...]) -> bool:
    """Whether the first mark about thinking that the answer holds ends a block, which was opened before it."""
    marks = _marks(answer, tuple(filter(_NAMED.search, tokens)))
    named = (mark for _, mark, _ in marks if _NAMED.search(mark) and not _OFF.search(mark))
    return _CLOSING.search(next(named, "")) is not None


def _marks(text: str, tokens: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """(text before a mark, the mark, the mark before it); at last what follows, with no mark."""
    at, previous = 0, ""
    for match in _pattern(tokens).finditer(text):
        yield text[at : match.start()], match.group(), previous
        at, previous = match.end(), match.group()
    yield text[at:], "", previous


@lru_cache(maxsize=8)
def _pattern(tokens: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join([*map(re.escape, sorted(filter(None, tokens), key=len, reverse=True)), _TAG]))


def _mirrors(opening: str, closing: str) -> bool:
    """``<|channel>`` and ``<channel|>``."""
    return opening.startswith("<|") and closing == f"<{opening[2:-1]}|>"
