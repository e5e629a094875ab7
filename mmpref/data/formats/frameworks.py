"""Rows of other training suites: TRL, LLaMA-Factory, ms-swift, Qwen-VL-Series-Finetune, InternVL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmpref.data.formats import writers
from mmpref.data.formats.canonical import CanonicalRow
from mmpref.data.formats.chat import InParts, chat_answer, chat_message, chat_messages, images_in_parts, with_places
from mmpref.data.formats.columns import column_of
from mmpref.data.formats.contract import Format, FormatOptions, Row
from mmpref.data.formats.fields import (
    PLACEHOLDER,
    Images,
    Message,
    answer_without_images,
    fault,
    has,
    has_any,
    is_text,
    is_turns,
    optional_text,
    parts_of,
    placed_or_first,
    placeholder_turn,
    read_images,
    read_videos,
    shown,
    speech,
    text,
    turn,
)
from mmpref.data.formats.media_values import is_empty
from mmpref.data.formats.shared_fields import take_shared, with_system
from mmpref.data.pairs import PAIR_KEYS
from mmpref.records import ROLES

_BOTH = "the row has both 'image' and 'images', and they are not the same; put all that the prompt shows under 'images'"
OPENAI_ROLES: dict[str, str] = {role: role for role in ROLES}
SHAREGPT_ROLES: dict[str, str] = {"human": "user", "gpt": "assistant", "system": "system"}


def _canonical(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    """Our own row; beside its keys, columns that have one meaning in all formats are read. Others are refused later."""
    found = {key: value for key, value in row.items() if key in PAIR_KEYS}
    more = {key: value for key, value in row.items() if key not in PAIR_KEYS and not _says_nothing(key, value)}
    if more:
        for one, several in (("image", "images"), ("video", "videos")):
            if one in more and not has(found, several):
                found[several] = [more.pop(one)]
        shared = take_shared(more)
        if shared.system is not None and isinstance(found.get("prompt"), list | tuple):
            found["prompt"] = with_system(found["prompt"], shared.system)
        if shared.rejected_images is not None:
            value = shared.rejected_images[0]
            found["rejected_images"] = value if isinstance(value, list | tuple) else [value]
        if shared.other_images is not None:
            value = shared.other_images[0]
            found["other_images"] = value if isinstance(value, list | tuple) else [value]
        if shared.template_kwargs:
            own = found.get("template_kwargs")
            both = take_shared({"template_kwargs": own, "chat_template_kwargs": shared.template_kwargs})
            found["template_kwargs"] = both.template_kwargs
        found |= more
    if options.source and found.get("source") is None:
        found["source"] = options.source
    if options.id_prefix and isinstance(found.get("id"), str | int) and not isinstance(found.get("id"), bool):
        found["id"] = f"{options.id_prefix}{found['id']}"
    return [found]


def _says_nothing(key: str, value: Any) -> bool:
    return value is None or (column_of(key) is not None and is_empty(value))


def as_messages(row: Row, *keys: str) -> Row:
    """Turns of ``from`` and ``value`` as messages, as ``maybe_convert_to_chatml`` of TRL's ``data_utils.py`` reads
    them; the usual names of who speaks are read as well."""
    found = {}
    for key in keys:
        if is_turns(row.get(key), "from"):
            roles = OPENAI_ROLES | SHAREGPT_ROLES
            talk = speech(row[key], key, role_key="from", text_key="value", roles=roles)
            found[key] = [{"role": role, "content": content} for role, content in talk]
    return {**row, **found} if found else row


def _trl(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    """TRL's rows: ``prepare_multimodal_messages`` and ``extract_prompt`` of huggingface/trl ``trl/data_utils.py``."""
    row = as_messages(row, "prompt", "chosen", "rejected")
    if has(row, "image", "images"):
        raise fault("images", _BOTH)
    images = images_of(row, options)
    inside = InParts()
    if isinstance(row.get("prompt"), str):
        prompt = [turn("user", text(row, "prompt"))]
        chosen, rejected = text(row, "chosen"), text(row, "rejected")
    elif has(row, "prompt"):
        prompt = chat_messages(row["prompt"], "prompt", inside)
        chosen, rejected = (chat_answer(row.get(key), key) for key in ("chosen", "rejected"))
    else:  # the prompt is the beginning that both sides share
        prompt = _trl_beginning(row, "chosen", inside)
        others = InParts()
        if _trl_beginning(row, "rejected", others) != prompt or others != inside:
            raise fault("prompt_differs", "'chosen' and 'rejected' do not begin with the same turns")
        chosen, rejected = (chat_answer(row[key][-1:], key) for key in ("chosen", "rejected"))
    images = images_in_parts(inside, images, options)
    prompt = with_places(prompt, len(images.items))  # TRL's own rule where there is no place: before the first question
    used = ("image", "images", "prompt", "chosen", "rejected")
    return [CanonicalRow(prompt=prompt, images=images, chosen=chosen, rejected=rejected, used=used).build(row, options)]


def images_of(row: Row, options: FormatOptions) -> Images:
    """The images and the videos of a row under whichever of the two names it uses for each."""
    if has(row, "image", "images"):
        raise fault("images", _BOTH)
    key = "images" if has(row, "images") else "image"
    found = read_images(row.get(key), key, options)
    if not has_any(row, "video", "videos"):
        return found
    if has(row, "video", "videos"):
        raise fault("videos", _BOTH.replace("image", "video"))
    key = "videos" if has(row, "videos") else "video"
    return replace(found, videos=read_videos(row[key], key, options))


def _trl_beginning(row: Row, key: str, inside: InParts) -> list[Message]:
    """The turns before the answer."""
    value = row.get(key)
    if not isinstance(value, list | tuple) or not value:
        raise fault("prompt", f"{key!r} must be a non-empty list of messages, got {shown(value)}")
    return [chat_message(item, f"{key}[{place}]", inside) for place, item in enumerate(value[:-1])]


def _is_trl(row: Row) -> bool:
    plain_text = is_text(row, "prompt", "chosen", "rejected") and not has_media(row) and not is_math(row)
    sides = [is_turns(row.get(key), "role") or is_turns(row.get(key), "from") for key in ("chosen", "rejected")]
    talk = sides[0] and (is_turns(row.get("prompt"), "role") or is_turns(row.get("prompt"), "from"))
    implicit = not has(row, "prompt") and all(sides)
    implicit = implicit and not (has(row, "retrieved_image") and has_image(row)) and not is_after_messages(row)
    return plain_text or talk or implicit


def is_after_messages(row: Row) -> bool:
    """One message on each side, and the turns before it under ``messages``, as axolotl has them."""
    sides = (row.get("chosen"), row.get("rejected"))
    return has(row, "messages") and all(isinstance(side, list | tuple) and len(side) == 1 for side in sides)


def has_media(row: Row) -> bool:
    """The row has a column of images or of videos."""
    return has_image(row) or bool(row.get("video") or row.get("videos"))


def has_image(row: Row) -> bool:
    """The row has a column of one image, or of several."""
    return bool(row.get("image") or row.get("images"))


def is_mm_rlhf(row: Row) -> bool:
    """The row has the columns of MM-RLHF's pairs, videos among them."""
    marked = has_any(row, "chosen_reason", "rejected_reason", "is_tie", "video", "videos")
    return marked and is_text(row, "prompt", "chosen", "rejected") and not is_math(row) and not is_written_out(row)


def is_written_out(row: Row) -> bool:
    """The prompt is written out in LLaVA-1.5's template, as mDPO's rows have it."""
    prompt = row.get("prompt")
    return has_image(row) and isinstance(prompt, str) and prompt.rstrip().endswith("ASSISTANT:") and "USER:" in prompt


def is_math(row: Row) -> bool:
    """The row has the columns of Uni-DPO's math files."""
    return has_any(row, "score_margin", "correct_chosen", "correct_rejected")


def _alpaca(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    images = images_of(row, options)
    query = optional_text(row, "input")
    prompt: list[Message] = []
    for asked, answered in history_of(row):
        prompt += [placeholder_turn("user", asked), placeholder_turn("assistant", answered)]
    question = text(row, "instruction", reason="prompt")
    prompt.append(placeholder_turn("user", "\n".join(piece for piece in (question, query) if piece)))
    return [_plain_answers(row, options, prompt, images, "image", "images", "input", "history", "instruction")]


def history_of(row: Row) -> list[tuple[str, str]]:
    """Earlier turns as pairs of question and answer."""
    history = row.get("history") or ()
    found = []
    for place, said in enumerate(history if isinstance(history, list | tuple) else (history,)):
        if not isinstance(said, list | tuple) or len(said) != 2 or not all(isinstance(item, str) for item in said):
            raise fault("prompt", f"history[{place}] must be a pair of question and answer, got {shown(said)}")
        found.append((said[0], said[1]))
    return found


def _plain_answers(
    row: Row, options: FormatOptions, prompt: list[Message], images: Images, *used: str
) -> dict[str, Any]:
    chosen, rejected = (answer_without_images(text(row, key), key) for key in ("chosen", "rejected"))
    used = (*used, "chosen", "rejected")
    return CanonicalRow(prompt=prompt, images=images, chosen=chosen, rejected=rejected, used=used).build(row, options)


def _sharegpt(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    images = images_of(row, options)
    if has(row, "messages", "conversations"):
        raise fault("prompt", "the row has both 'messages' and 'conversations'")
    key = "messages" if has(row, "messages") else "conversations"
    openai = is_turns(row.get(key), "role")
    names = ("role", "content") if openai else ("from", "value")
    roles = OPENAI_ROLES if openai else SHAREGPT_ROLES

    def said(value: Any, where: str) -> list[tuple[str, str]]:
        return speech(value, where, role_key=names[0], text_key=names[1], roles=roles)

    prompt = [placeholder_turn(role, content) for role, content in said(row.get(key), key)]
    answers = []
    for side in ("chosen", "rejected"):
        ((role, answer),) = said([row.get(side)], side)
        if role != "assistant":
            raise fault("roles", f"{side!r} must be said by the assistant")
        answers.append(answer_without_images(answer, side))
    used = ("image", "images", key, "chosen", "rejected")
    return [
        CanonicalRow(prompt=prompt, images=images, chosen=answers[0], rejected=answers[1], used=used).build(
            row, options
        )
    ]


def _qwen_vl(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    images = images_of(row, options)
    prompt = [turn("user", parts_of(text(row, "prompt", reason="prompt")))]
    return [_plain_answers(row, options, prompt, images, "image", "images", "prompt")]


def _internvl(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    images = images_of(row, options)
    question = text(row, "question", reason="prompt")
    prompt = [turn("user", placed_or_first(question, len(images.items)))]
    chosen, rejected = text(row, "chosen"), text(row, "rejected")
    used = ("image", "images", "question", "chosen", "rejected")
    return [CanonicalRow(prompt=prompt, images=images, chosen=chosen, rejected=rejected, used=used).build(row, options)]


def is_internvl(row: Row) -> bool:
    """Question, answers, and a column that only InternVL's files have."""
    marked = has_any(row, "answer_gt", "image_wh", "chosen_meta", "rejected_meta")
    only_text = not (has_image(row) or has(row, "image_id"))
    return (marked or only_text) and is_text(row, "question", "chosen", "rejected")


LOSS_NOT_HELD = ("other_images", "weight", "chosen_weight", "rejected_weight")
NOT_HELD = ("response_prefix", "rejected_images", *LOSS_NOT_HELD)

SUITES = (
    Format(
        name="canonical",
        title="mmpref's own rows",
        signature="prompt (list of messages), chosen (text)",
        key="prompt",
        matches=lambda row: is_turns(row.get("prompt"), "role") and is_text(row, "chosen"),
        to_canonical=_canonical,
        from_canonical=dict,
        template_keys=None,
        holds="both",
    ),
    Format(
        name="trl",
        title="TRL: conversational preference rows, with or without images; explicit or implicit prompt; plain text",
        signature="chosen and rejected (lists of messages), prompt (the same, text, or absent), images or image",
        key="chosen",
        matches=_is_trl,
        to_canonical=_trl,
        from_canonical=writers.to_trl,
        cannot_hold=NOT_HELD,
        template_keys=None,
    ),
    Format(
        name="llamafactory_alpaca",
        title="LLaMA-Factory: alpaca ranking; also Uni-DPO's multimodal file",
        signature="instruction, chosen (text), rejected; input, system, history, images",
        key="instruction",
        matches=lambda row: is_text(row, "instruction", "chosen", "rejected"),
        to_canonical=_alpaca,
        from_canonical=writers.to_alpaca,
        cannot_hold=NOT_HELD,
    ),
    Format(
        name="llamafactory_sharegpt",
        title="LLaMA-Factory: sharegpt ranking, with from/value or role/content turns",
        signature="conversations or messages (lists of turns), chosen and rejected (one turn each); system, images",
        key="chosen",
        matches=lambda row: (
            isinstance(row.get("chosen"), Mapping) and (has(row, "conversations") or has(row, "messages"))
        ),
        to_canonical=_sharegpt,
        from_canonical=writers.to_sharegpt,
        cannot_hold=NOT_HELD,
    ),
    Format(
        name="qwen_vl_finetune",
        title="Qwen-VL-Series-Finetune: prompt with <image> placeholders",
        signature="image or images, prompt (text with <image>), chosen, rejected",
        key="prompt",
        matches=lambda row: (
            has_image(row)
            and is_text(row, "prompt", "chosen", "rejected")
            and PLACEHOLDER in row["prompt"]
            and not is_mm_rlhf(row)
            and not is_written_out(row)
        ),
        to_canonical=_qwen_vl,
    ),
    Format(
        name="internvl",
        title="InternVL and MMPR: question with or without <image>, one image or several",
        signature="question, chosen, rejected, and answer_gt, image_wh, chosen_meta, rejected_meta, or no image; image",
        key="question",
        matches=is_internvl,
        to_canonical=_internvl,
    ),
)
