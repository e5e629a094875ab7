"""Single answers with a label, as other suites have them for KTO: TRL, LLaMA-Factory, ms-swift.

The rules are those of "Unpaired preference" in ``docs/source/dataset_formats.md`` of huggingface/trl, of ``kto_tag`` in
``src/llamafactory/data/converter.py`` of hiyouga/LLaMA-Factory, and of "KTO" in
``docs/source_en/Customization/Custom-dataset.md`` of modelscope/ms-swift, whose ``label`` has another meaning in rows
without an answer (classification): those are not read.
"""

from __future__ import annotations

from typing import Any

from mmpref.data.formats import writers
from mmpref.data.formats.canonical import CanonicalRow
from mmpref.data.formats.chat import InParts, chat_answer, chat_messages, images_in_parts, with_places
from mmpref.data.formats.contract import Format, FormatOptions, Row
from mmpref.data.formats.fields import (
    Images,
    Message,
    answer_without_images,
    fault,
    has,
    has_any,
    is_text,
    is_turns,
    optional_text,
    placeholder_turn,
    speech,
    text,
    turn,
)
from mmpref.data.formats.frameworks import (
    NOT_HELD,
    OPENAI_ROLES,
    SHAREGPT_ROLES,
    as_messages,
    history_of,
    images_of,
)
from mmpref.data.formats.swift import swift_answered
from mmpref.data.pair_weights import read_label
from mmpref.data.quarantine import RowError

_COMPARED = ("chosen", "rejected", "rejected_response", "rejected_messages", "rejected_images", "completions")
"""Columns of rows that compare answers, in which a label means something else."""
_NOT_HELD = (*NOT_HELD, "rejected_weight", "score_chosen")


def _labelled(
    row: Row, options: FormatOptions, prompt: list[Message], images: Images, answer: str, *used: str, label: str
) -> dict[str, Any]:
    return CanonicalRow(
        prompt=prompt,
        images=images,
        chosen=answer,
        rejected=None,
        used=("image", "images", *used, label),
        label=row.get(label),
    ).build(row, options)


def _trl_kto(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    row = as_messages(row, "prompt", "completion")
    inside = InParts()
    if isinstance(row.get("prompt"), str):
        prompt, answer = [turn("user", text(row, "prompt"))], text(row, "completion")
    else:
        prompt = chat_messages(row.get("prompt"), "prompt", inside)
        answer = chat_answer(row.get("completion"), "completion")
    images = images_in_parts(inside, images_of(row, options), options)
    prompt = with_places(prompt, len(images.items))
    return [_labelled(row, options, prompt, images, answer, "prompt", "completion", label="label")]


def _is_trl_kto(row: Row) -> bool:
    both = is_text(row, "prompt", "completion")
    talk = is_turns(row.get("prompt")) and has(row, "completion") and not isinstance(row["prompt"], str)
    return (both or talk) and _is_label(row.get("label")) and not has_any(row, *_COMPARED)


def _alpaca_kto(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    prompt: list[Message] = []
    for asked, answered in history_of(row):
        prompt += [placeholder_turn("user", asked), placeholder_turn("assistant", answered)]
    question = "\n".join(
        piece for piece in (text(row, "instruction", reason="prompt"), optional_text(row, "input")) if piece
    )
    prompt.append(placeholder_turn("user", question))
    answer = answer_without_images(text(row, "output"), "output")
    used = ("instruction", "input", "history", "output")
    return [_labelled(row, options, prompt, images_of(row, options), answer, *used, label="kto_tag")]


def _sharegpt_kto(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    if has(row, "messages", "conversations"):
        raise fault("prompt", "the row has both 'messages' and 'conversations'")
    key = "messages" if has(row, "messages") else "conversations"
    openai = is_turns(row.get(key), "role")
    names = ("role", "content") if openai else ("from", "value")
    roles = OPENAI_ROLES if openai else SHAREGPT_ROLES
    *asked, (role, answer) = speech(row.get(key), key, role_key=names[0], text_key=names[1], roles=roles)
    if role != "assistant" or not asked:
        raise fault("answer", f"{key!r} must end with the answer of the assistant, after a question")
    prompt = [placeholder_turn(role, content) for role, content in asked]
    answer = answer_without_images(answer, key)
    return [_labelled(row, options, prompt, images_of(row, options), answer, key, label="kto_tag")]


def _swift_kto(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    prompt, answer, images, used = swift_answered(row, options)
    return [_labelled(row, options, prompt, images, answer_without_images(answer, used[-1]), *used, label="label")]


def _is_swift_kto(row: Row) -> bool:
    """Messages that end with an answer, or query and response; rows of a question alone are of another task."""
    if not _is_label(row.get("label")) or has_any(row, *_COMPARED, "kto_tag", "completion"):
        return False
    talk = next((row[key] for key in ("messages", "conversation", "conversations") if has(row, key)), None)
    if talk is None:
        return is_text(row, "query", "response")
    if not is_turns(talk):
        return False
    last = talk[-1] if isinstance(talk[-1], dict) else {}
    return last.get("role", last.get("from")) in ("assistant", "gpt", "bot") or "assistant" in last


def _is_label(value: Any) -> bool:
    try:
        return read_label(value) is not None
    except RowError:
        return False


LABELLED = (
    Format(
        name="trl_kto",
        title="TRL: unpaired preference, one answer and whether it is desirable",
        signature="prompt and completion (text, or lists of messages), label (true or false); images or image",
        key="completion",
        matches=_is_trl_kto,
        to_canonical=_trl_kto,
        from_canonical=writers.to_trl_kto,
        cannot_hold=_NOT_HELD,
        template_keys=None,
        holds="labels",
    ),
    Format(
        name="llamafactory_kto",
        title="LLaMA-Factory: alpaca rows with a kto_tag",
        signature="instruction, output, kto_tag (true or false); input, system, history, images",
        key="kto_tag",
        matches=lambda row: is_text(row, "instruction", "output") and not has_any(row, *_COMPARED),
        to_canonical=_alpaca_kto,
        from_canonical=writers.to_alpaca_kto,
        cannot_hold=_NOT_HELD,
        holds="labels",
    ),
    Format(
        name="llamafactory_kto_sharegpt",
        title="LLaMA-Factory: sharegpt rows with a kto_tag",
        signature="conversations or messages that end with an answer, kto_tag (true or false); system, images",
        key="kto_tag",
        matches=lambda row: (
            has_any(row, "conversations", "messages") and not has(row, "instruction") and not has_any(row, *_COMPARED)
        ),
        to_canonical=_sharegpt_kto,
        from_canonical=writers.to_sharegpt_kto,
        cannot_hold=_NOT_HELD,
        holds="labels",
    ),
    Format(
        name="ms_swift_kto",
        title="ms-swift: messages that end with an answer, and a label",
        signature="messages, conversation(s), or query and response, and label (true or false); images",
        key="label",
        matches=_is_swift_kto,
        to_canonical=_swift_kto,
        from_canonical=writers.to_ms_swift_kto,
        cannot_hold=_NOT_HELD,
        holds="labels",
    ),
)
