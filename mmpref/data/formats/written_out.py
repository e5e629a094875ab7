"""Plain-text prompts and answers that are written out in a chat template already.

A chat template would write its own marks around them once more: the model would see the old marks as letters, and learn
two ends of its turn. Where the marks leave no doubt they are taken off and the turns are read; the pair's ``meta`` says
so, and the rows are counted. Where they do leave one, the row is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmpref.data.formats.answer_ends import without_ends
from mmpref.data.formats.fields import IMAGE_PART, Message, Parts, fault, turn
from mmpref.data.pairs import END_TAKEN_OFF, MARKUP_TAKEN_OFF
from mmpref.data.quarantine import RowError

REASON = "chat_markup"
_IMAGE = "\ufffc"
"""In place of an image while a text is taken apart; a text that has it is not read."""


@dataclass(frozen=True, slots=True)
class Markup:
    """How one family of templates writes turns.

    ``said`` is one whole turn, as (role, text), and ``end`` its last mark; ``opening`` begins the answer; ``start`` may
    come before everything.
    What is ``inside`` of a text shows that turns cannot be separated.
    """

    name: str
    said: re.Pattern[str]
    opening: str
    inside: re.Pattern[str]
    end: str = ""
    start: str = ""
    plain: bool = False
    """Made of words, not of tokens: anyone may write that, so it counts only from the beginning of a plain prompt."""


def _of_tokens(name: str, head: str, end: str, opening: str, start: str = "") -> Markup:
    """Turns between tokens; ``head`` has the role as its group."""
    mark = re.escape(head.partition("ROLE")[0])
    said = re.compile(
        re.escape(head).replace("ROLE", r"(system|user|assistant|model)") + rf"(.*?){re.escape(end)}\n?", re.DOTALL
    )
    return Markup(name, said, opening, re.compile(rf"{mark}|{re.escape(end)}"), end, start)


_FAMILIES = (
    _of_tokens("ChatML", "<|im_start|>ROLE\n", "<|im_end|>", "<|im_start|>assistant"),
    _of_tokens(
        "Llama 3",
        "<|start_header_id|>ROLE<|end_header_id|>\n\n",
        "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>",
        "<|begin_of_text|>",
    ),
    _of_tokens("Gemma", "<start_of_turn>ROLE\n", "<end_of_turn>", "<start_of_turn>model", "<bos>"),
    _of_tokens("Zephyr", "<|ROLE|>\n", "</s>", "<|assistant|>", "<s>"),
    _of_tokens("Phi-3", "<|ROLE|>\n", "<|end|>", "<|assistant|>", "<s>"),
    Markup(
        "HH",
        re.compile(r"(?:\A|\n\n)(Human|Assistant): ?(.*?)(?=\n\n(?:Human|Assistant):|\Z)", re.DOTALL),
        "\n\nAssistant:",
        re.compile(r"(?:\A|\n\n)(?:Human|Assistant):"),
        plain=True,
    ),
)
_ROLES = {"Human": "user", "Assistant": "assistant", "model": "assistant"}
_SPEAKERS = {"user": "Human", "assistant": "Assistant"}
_THINK = r"(?:\s*<think>\s*(?:</think>)?)?\s*\Z"
_OPENED = re.compile(
    r"(?:<\|im_start\|>assistant(?:<\|im_sep\|>)?|<\|start_header_id\|>assistant<\|end_header_id\|>|<start_of_turn>model"
    r"|<\|[Aa]ssistant\|>|<｜Assistant｜>|<\|start\|>assistant|<\|start_of_role\|>assistant<\|end_of_role\|>"
    r"|<\|CHATBOT_TOKEN\|>|\[/INST\])" + _THINK
)
_USER_IN_WORDS = re.compile(r"(?:\A|\s)USER:")
_ROLE = r"(?:system|user|assistant|model)"
_HEAD = (
    rf"<\|im_start\|>{_ROLE}(?:[ \t]*\n|<\|im_sep\|>)|<\|start_header_id\|>\w+<\|end_header_id\|>[ \t]*\n"
    rf"|<start_of_turn>{_ROLE}[ \t]*\n|<\|{_ROLE}\|>[ \t]*\n"
)
"""What a turn of tokens begins with; the tokens alone may be words of a sentence."""
_TURN_BEFORE = re.compile(
    rf"(?:^[ \t{_IMAGE}]*(?:<s>|<bos>|<\|begin_of_text\|>)? ?(?:{_HEAD}|\[INST\]|<\|start\|>{_ROLE}|<｜User｜>"
    r"|<｜begin▁of▁sentence｜>|<\|start_of_role\|>|<BOS_TOKEN>|<\|START_OF_TURN_TOKEN\|>))"
    r"|(?:<\|im_end\|>|<\|eot_id\|>|<end_of_turn>|<\|end\|>|</s>|<\|end_of_text\|>)[ \t]?\n?\Z",
    re.MULTILINE,
)
"""A turn before the beginning of the answer: from the beginning of a line, or up to the answer."""
_ANSWER_OPENED = re.compile(
    rf"(?:<s>|<bos>|<\|begin_of_text\|>)?\s*(?:{_HEAD}"
    r"|\[INST\](?!\s*(?:and|or)\s*\[/INST\])(?:(?!\[/INST\]).)*\[/INST\](?![.,;:!?)\"'`\]]))",
    re.DOTALL,
)
_LETTERS = ", or, if the marks are meant letter by letter, write the row in mmpref's own format"
_ADVICE = (
    f"take the marks off, or give the turns as lists of messages under 'prompt', 'chosen' and 'rejected'{_LETTERS}"
)
_ADVICE_IN_MESSAGES = f"take the marks off and give each turn as a message of its own{_LETTERS}"


def may_be_written_out(prompt: Sequence[Message], chosen: str, rejected: str | None) -> bool:
    """Whether a text holds anything that a mark begins or ends with; asked for every row, and seldom so."""
    for answer in (chosen, rejected or ""):
        if answer.endswith(">") or "<" in answer[:80] or "[" in answer[:80]:
            return True
        if answer[-1:].isspace() and answer.rstrip().endswith(">"):
            return True
    for part in prompt[-1]["content"] if prompt else ():
        if part["type"] == "text" and _has_marks(part["text"]):
            return True
    return False


def read_written_out(
    prompt: Sequence[Message], chosen: str, rejected: str | None, *, plain: bool
) -> tuple[list[Message], str, str | None, dict[str, Any]]:
    """Prompt and answers without the marks of a chat template, and what was taken off, for ``meta``.

    Args:
        prompt: as the format reads it.
        chosen: the better answer.
        rejected: the worse one, if there is one.
        plain: the prompt came as one text and not as messages, in which someone may quote ``Human:``.

    Raises:
        RowError: ``chat_markup`` or ``end_mark``, for marks that cannot be taken off without a guess.
    """
    found: dict[str, Any] = {}
    advice = _ADVICE if plain else _ADVICE_IN_MESSAGES
    turns, family = _turns(prompt, plain)
    if family is not None:
        found[MARKUP_TAKEN_OFF] = family.name
    elif _is_opened(prompt, plain):
        raise fault(REASON, f"the prompt is written out in a chat template, and not as turns alone: {advice}")
    for side, answer in (("chosen", chosen), ("rejected", rejected or "")):
        if _ANSWER_OPENED.match(answer.lstrip()):
            raise fault(REASON, f"{side!r} begins with the marks of a chat template: {advice}")
    if family is not None and family.plain:  # the blank after ``Assistant:``
        chosen, rejected = chosen.removeprefix(" "), None if rejected is None else rejected.removeprefix(" ")
    chosen, rejected, marks = without_ends(chosen, rejected, "" if family is None else family.end)
    if marks:
        found[END_TAKEN_OFF] = marks
    return turns, chosen, rejected, found


def is_written_out(prompt: Sequence[Message], chosen: str, rejected: str | None, *, plain: bool) -> bool:
    """Whether reading a row back would take something off that is meant letter by letter here."""
    try:
        return bool(read_written_out(prompt, chosen, rejected, plain=plain)[3])
    except RowError:
        return True


def _text(message: Message) -> str:
    return "".join(part["text"] if part["type"] == "text" else _IMAGE for part in message["content"])


def _has_marks(text: str) -> bool:
    return "<" in text or "/INST]" in text or "ssistant:" in text or "ASSISTANT:" in text


def _is_opened(prompt: Sequence[Message], plain: bool) -> bool:
    """Whether the last turn ends where a template begins the answer; if plain, also whether a whole turn begins it.

    What someone says in messages may end with a mark that they ask about: there it takes a turn before that, too.
    """
    if not prompt or prompt[-1]["role"] != "user" or not _has_marks(text := _text(prompt[-1])):
        return False
    opened = _OPENED.search(text, max(0, len(text) - 200))
    if not plain:
        return opened is not None and _TURN_BEFORE.search(text[: opened.start()]) is not None
    begin = text.lstrip(_IMAGE).lstrip()
    if any(not family.plain and family.said.match(begin.removeprefix(family.start)) for family in _FAMILIES):
        return True
    return opened is not None or _is_opened_in_words(text.rstrip())


def _is_opened_in_words(text: str) -> bool:
    if text.endswith("\n\nAssistant:"):
        return True
    before = text.removesuffix("ASSISTANT:")
    return len(before) < len(text) and before[-1:].isspace() and _USER_IN_WORDS.search(before) is not None


def _turns(prompt: Sequence[Message], plain: bool) -> tuple[list[Message], Markup | None]:
    """The turns that a single user turn is written out of; the prompt as it is where it is not."""
    if len(prompt) != 1 or prompt[0]["role"] != "user" or not _has_marks(_text(prompt[0])):
        return list(prompt), None
    written = _text(prompt[0])
    if sum(part["type"] == "image" for part in prompt[0]["content"]) != written.count(_IMAGE):
        return list(prompt), None
    for family in _FAMILIES:
        if (plain or not family.plain) and (turns := _in_family(written, family, plain)):
            return turns, family
    return list(prompt), None


def _in_family(written: str, family: Markup, plain: bool) -> list[Message] | None:
    """The turns of a text that is nothing but turns of one family and, at its end, the beginning of the answer."""
    if family.end not in written:  # else each head would look for it, up to the end of the text
        return None
    body = written.lstrip(_IMAGE)
    before = len(written) - len(body)  # images without a place of their own come before everything
    body = body.rstrip().removesuffix(family.opening) if body.rstrip().endswith(family.opening) else body
    is_opened = len(body) < len(written) - before
    body = body.lstrip("\n").removeprefix(family.start).lstrip("\n")
    if family.plain and not is_opened:
        return None
    turns: list[tuple[str, str]] = []
    place = 0
    while place < len(body) and (match := family.said.match(body, place)):
        if family.inside.search(match[2]):
            return None
        turns.append((_ROLES.get(match[1], match[1]), match[2].strip() if family.plain else match[2]))
        place = match.end()
    if not turns or body[place:].strip() or turns[-1][0] != "user":
        return None
    if len(turns) == 1 and not plain and not is_opened:  # someone may ask about one turn
        return None
    if family.plain:
        turns = _in_alternation(turns, bool(before))
    asked = [role for role, _ in turns].index("user")
    found = []
    for number, (role, said) in enumerate(turns):
        if _IMAGE in said and role != "user":
            return None
        found.append(turn(role, _parts(_IMAGE * before + said if number == asked else said)))
    return found


def _in_alternation(turns: list[tuple[str, str]], has_image_before: bool) -> list[tuple[str, str]]:
    """Turns in words, with what one speaker says in several of them as one turn, as HH-RLHF has it now and then.

    Raises:
        RowError: ``chat_markup``, for a turn of nothing, or an answer to nothing; it counts turns as they are written.
    """
    joined: list[tuple[str, str]] = []
    for number, (role, said) in enumerate(turns, start=1):
        speaker = _SPEAKERS[role]
        if not said and not (has_image_before and role == "user" and not joined):
            raise fault(
                REASON,
                f"the prompt is written out as turns, and turn {number}, {speaker}, is empty: write what was said, or "
                "take the turn out (two turns of one speaker in a row are joined)",
            )
        if not joined and role != "user":
            raise fault(
                REASON,
                f"the prompt is written out as turns, and turn {number} is {speaker}'s, an answer to nothing: take it "
                "out, or put the Human: turn before it",
            )
        if joined and joined[-1][0] == role:
            joined[-1] = (role, f"{joined[-1][1]}\n\n{said}")
        else:
            joined.append((role, said))
    return joined


def _parts(said: str) -> Parts | str:
    if _IMAGE not in said:
        return said
    parts: Parts = []
    for place, piece in enumerate(said.split(_IMAGE)):
        if place:
            parts.append(dict(IMAGE_PART))
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts
