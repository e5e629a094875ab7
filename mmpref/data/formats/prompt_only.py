"""Rows that ask and do not answer: question files, LLaVA's and others', and conversations that end in a question.

They become canonical rows without answers. What changes what the model is shown is read, or its row refused, by the
same list of columns as in pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mmpref.data.formats.canonical import IMAGE_NAMES, CanonicalRow
from mmpref.data.formats.chat import InParts, chat_messages, images_in_parts, with_places
from mmpref.data.formats.columns import standard
from mmpref.data.formats.contract import FormatOptions, Row
from mmpref.data.formats.fields import (
    Message,
    fault,
    has,
    is_turns,
    optional_text,
    placed_or_first,
    placeholder_turn,
    speech,
    text,
    turn,
)
from mmpref.data.formats.frameworks import SHAREGPT_ROLES, history_of, images_of
from mmpref.data.pairs import ANSWER_KEYS

_ASKED = ("question", "prompt", "query", "instruction", "text")
"""Columns of the question; the first that is there counts. ``text`` comes last: beside a question it is an answer."""
_TALKS = ("messages", "conversations", "conversation")
_IDS = ("id", "question_id", "idx", "sample_id")
_LONGEST = 300
"""Characters of a column that is kept in ``meta``: a category or a short answer, and no text of its own."""


class PromptRow(NamedTuple):
    """A canonical row without answers, and whether one was left out: a conversation that ended with it."""

    row: dict[str, Any]
    had_answer: bool


def prompt_of(row: Row, options: FormatOptions) -> PromptRow:
    """The prompt of a row without preferences.

    What else the row has goes to ``meta`` where it is a number or a short text.

    Raises:
        RowError: nothing asks, places and images do not match, or a column changes the prompt and is not read.
    """
    row = standard(row)
    talk = next((key for key in _TALKS if has(row, key)), None)
    if talk is None and is_turns(row.get("prompt")):
        talk = "prompt"
    images, had_answer = images_of(row, options), False
    if talk is not None:
        inside = InParts()
        prompt = _turns(row[talk], talk, inside)
        asked = [*prompt]
        while asked and asked[-1]["role"] == "assistant":
            asked.pop()
        prompt, had_answer = asked, len(asked) < len(prompt)
        if not prompt or prompt[-1]["role"] != "user":
            raise fault("roles", f"{talk!r} asks nothing: it has no turn of the user before its answer")
        images = images_in_parts(inside, images, options)
        prompt = with_places(prompt, len(images.items))
        used: tuple[str, ...] = (talk,)
    else:
        asked_in = next((key for key in _ASKED if has(row, key)), None)
        if asked_in is None:
            known = ", ".join((*_ASKED, *_TALKS))
            keys = ", ".join(sorted(str(key)[:40] for key in row)[:20]) or "none"
            raise fault("prompt", f"nothing in the row asks; its keys: {keys}; a question is read from: {known}")
        question = text(row, asked_in, reason="prompt")
        used = (asked_in,)
        prompt = []
        if asked_in == "instruction":  # alpaca's, whose input belongs to the question
            question = "\n".join(piece for piece in (question, optional_text(row, "input")) if piece)
            for before, answer in history_of(row):
                prompt += [placeholder_turn("user", before), placeholder_turn("assistant", answer)]
            used += ("input", "history")
        if prompt:
            prompt = with_places([*prompt, placeholder_turn("user", question)], len(images.items))
        else:
            prompt = [turn("user", placed_or_first(question, len(images.items)))]
    used = ("image", "images", *used)
    found = CanonicalRow(prompt=prompt, images=images, chosen="", rejected=None, used=used, ids=_IDS)
    canonical = {key: value for key, value in found.build(row, options).items() if key not in ANSWER_KEYS}
    own = row.get("meta")
    kept = own.keys() if isinstance(own, Mapping) else ()
    meta = {
        key: value
        for key, value in canonical.pop("meta", {}).items()
        if key in {*kept, IMAGE_NAMES} or _is_short(value)
    }
    return PromptRow(canonical | ({"meta": meta} if meta else {}), had_answer)


def _turns(value: Any, key: str, inside: InParts) -> list[Message]:
    if is_turns(value, "from"):
        said = speech(value, key, role_key="from", text_key="value", roles=SHAREGPT_ROLES)
        return [placeholder_turn(role, content) for role, content in said]
    if isinstance(value, str):
        return [turn("user", value)]
    return chat_messages(value, key, inside)


def _is_short(value: Any) -> bool:
    return isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= _LONGEST)
