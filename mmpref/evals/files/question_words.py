"""What a row of answers shows of the question that it answers: words of a prompt, under whatever key."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from mmpref.files.rows import Row
from mmpref.records import EvalSample

ASKED = "mmpref/asked"
"""Key of the question that a row of our own answered, word by word."""
_QUESTION_KEYS = ("question", "input", "prompt", "query", "instruction")
_TURNS = ("messages", "conversations")
_ANSWERERS = ("assistant", "gpt", "model", "system")
_MOST_DEEP = 6
_IMAGE_MARKS = re.compile(r"<image>|<img>.*?</img>|<\|vision_start\|>.*?<\|vision_end\|>")


def tidy(text: str) -> str:
    """The words of a text with one space between them."""
    return " ".join(text.split())


def plain(text: str) -> str:
    """Letters and digits alone, so that quotes, spaces and full stops of another kind make no other question."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKC", text).casefold()))


def content(sample: EvalSample) -> tuple[str, str]:
    """The image and the question of a sample, with single spaces."""
    return str(sample.meta.get("image", "")), tidy(str(sample.meta.get("question", "")))


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


def asked_texts(row: Row) -> dict[str, str]:
    """All that a row shows of what was asked, by key: a question may stand beside an instruction that all rows share,
    and a chat may be written as turns with parts."""
    found = {}
    for key in (*_QUESTION_KEYS, *_TURNS):
        if text := tidy(_IMAGE_MARKS.sub(" ", "\n".join(_said_in(row.get(key))))):
            found[key] = text
    return found


def _said_in(value: Any, depth: int = 0) -> Iterator[str]:
    """The texts of a prompt that may be a chat, without the turns of the model and of the system."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and depth < _MOST_DEEP:
        for part in value:
            yield from _said_in(part, depth + 1)
    elif isinstance(value, Mapping) and depth < _MOST_DEEP:
        if str(value.get("role", value.get("from", ""))).lower() in _ANSWERERS:
            return
        for key in ("content", "value", "text"):
            yield from _said_in(value.get(key), depth + 1)
