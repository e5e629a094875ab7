"""Pairs of plain columns under further names: axolotl's strategies, and HH-RLHF's two whole talks.

The rules are those of axolotl-ai-cloud/axolotl, ``chatml.py`` and ``chat_template.py`` below
``src/axolotl/prompt_strategies/dpo``, and, for talks whose beginning is shared, of ``extract_prompt`` in
huggingface/trl ``trl/data_utils.py``. axolotl's ``nectar`` is not among them: it takes the answer of the highest rank
for the best one, and in the set that it is meant for, rank 1 is.
"""

from __future__ import annotations

from typing import Any

from mmpref.data.formats.canonical import CanonicalRow
from mmpref.data.formats.chat import InParts, chat_answer, chat_messages, images_in_parts, with_places
from mmpref.data.formats.contract import Format, FormatOptions, Row
from mmpref.data.formats.fields import fault, has, has_any, is_text, is_turns, text, turn
from mmpref.data.formats.frameworks import images_of, is_after_messages

_ASKED = ("prompt", "input", "question", "instruction")
"""Where axolotl looks for the question; the first that is there counts, and another one is refused."""


def _axolotl(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    inside = InParts()
    others = [key for key in _ASKED if has(row, key)]
    if has(row, "messages") and others:
        raise fault("prompt", f"the row has both 'messages' and {others[0]!r}; keep the one that asks")
    if has(row, "messages"):
        asked = "messages"
        given = row["messages"]
        prompt = [turn("user", given)] if isinstance(given, str) else chat_messages(given, "messages", inside)
        sides = ("chosen", "rejected")
        answers = tuple(chat_answer(row.get(key), key) for key in sides)
    else:
        asked = others[0] if others else _ASKED[0]
        prompt = [turn("user", text(row, asked, reason="prompt"))]
        chosen, rejected = (key if has(row, key) else f"{key}_response" for key in ("chosen", "rejected"))
        sides = (chosen, rejected)
        answers = tuple(text(row, key) for key in sides)
    images = images_in_parts(inside, images_of(row, options), options)
    return [
        CanonicalRow(
            prompt=with_places(prompt, len(images.items)),
            images=images,
            chosen=answers[0],
            rejected=answers[1],
            used=("image", "images", asked, *sides),
        ).build(row, options)
    ]


def _is_axolotl(row: Row) -> bool:
    if _is_hh_rlhf(row):
        return False
    if has(row, "messages"):
        asked = is_turns(row["messages"], "role") or isinstance(row["messages"], str)
        return asked and not has(row, "prompt") and (is_text(row, "chosen", "rejected") or is_after_messages(row))
    if has_any(row, "response", "conversations"):
        return False
    if is_text(row, "chosen_response", "rejected_response"):
        return any(is_text(row, key) for key in _ASKED)
    return is_text(row, "input", "chosen", "rejected") and not has_any(row, "prompt", "question", "instruction")


_ASSISTANT = "\n\nAssistant:"
_HUMAN = "\n\nHuman:"


def _hh_rlhf(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    """Both talks up to their last answer are the prompt; turns are read out of its marks as elsewhere."""
    better, worse = (text(row, key) for key in ("chosen", "rejected"))
    ends = [said.rfind(_ASSISTANT) + len(_ASSISTANT) for said in (better, worse)]
    if better[: ends[0]] != worse[: ends[1]]:
        raise fault("prompt_differs", "'chosen' and 'rejected' do not begin with the same turns")
    for key, said, end in zip(("chosen", "rejected"), (better, worse), ends, strict=True):
        if _HUMAN in said[end:]:
            raise fault("chat_markup", f"{key!r} goes on with a turn of Human after its answer; cut the talk before it")
    images = images_of(row, options)
    return [
        CanonicalRow(
            prompt=with_places([turn("user", better[: ends[0]])], len(images.items)),
            images=images,
            chosen=better[ends[0] :].lstrip(),
            rejected=worse[ends[1] :].lstrip(),
            used=("image", "images", "chosen", "rejected"),
        ).build(row, options)
    ]


def _is_hh_rlhf(row: Row) -> bool:
    if has_any(row, *_ASKED) or not is_text(row, "chosen", "rejected"):
        return False
    return all(row[key].lstrip().startswith("Human:") and _ASSISTANT in row[key] for key in ("chosen", "rejected"))


PLAIN_PAIRS = (
    Format(
        name="axolotl",
        title="axolotl: system, and prompt, input, question or instruction, or messages, with the two answers",
        signature="messages (turns or text) with chosen and rejected (text or one message); input with chosen and "
        "rejected; or prompt, input, question or instruction with chosen_response and rejected_response",
        key=None,
        matches=_is_axolotl,
        to_canonical=_axolotl,
    ),
    Format(
        name="hh_rlhf",
        title="HH-RLHF: two whole talks of Human and Assistant, with the same beginning",
        signature="chosen and rejected (text: Human: ... Assistant: ...), no prompt",
        key="chosen",
        matches=_is_hh_rlhf,
        to_canonical=_hh_rlhf,
    ),
)
