"""Rows of other training suites: TRL, LLaMA-Factory, ms-swift, Qwen-VL-Series-Finetune, InternVL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmpref.data.formats import writers
from mmpref.data.formats.assembly import canonical
from mmpref.data.formats.border import (
    IMAGE_PART,
    PLACEHOLDER,
    Images,
    Message,
    answer_without_images,
    fault,
    has,
    is_text,
    is_turns,
    optional_text,
    parts_of,
    placed_or_first,
    placeholder_turn,
    read_images,
    refuse_media,
    shown,
    speech,
    text,
    turn,
    without_none,
)
from mmpref.data.formats.contract import Format, FormatOptions, Row
from mmpref.records import ROLES

OPENAI_ROLES: dict[str, str] = {role: role for role in ROLES}
SHAREGPT_ROLES: dict[str, str] = {"human": "user", "gpt": "assistant", "system": "system"}


def _canonical(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    found = dict(row)
    if options.source and found.get("source") is None:
        found["source"] = options.source
    if options.id_prefix and isinstance(found.get("id"), str | int) and not isinstance(found.get("id"), bool):
        found["id"] = f"{options.id_prefix}{found['id']}"
    return [found]


def _trl(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    refuse_media(row)
    if has(row, "image", "images"):
        raise fault("images", "the row has both 'image' and 'images'")
    images = images_of(row, options)
    if isinstance(row.get("prompt"), str):
        prompt = [turn("user", text(row, "prompt"))]
        chosen, rejected = text(row, "chosen"), text(row, "rejected")
    elif has(row, "prompt"):
        inside: list[Any] = []
        prompt = _trl_messages(row["prompt"], "prompt", inside)
        if inside:
            if images.items:
                raise fault("images", "images stand both inside the prompt's parts and in a column of their own")
            images = read_images(inside, "prompt", options)
        chosen, rejected = (_trl_answer(row.get(key), key) for key in ("chosen", "rejected"))
    else:  # the prompt is the beginning that both sides share
        sides = {key: _trl_messages(row.get(key), key) for key in ("chosen", "rejected")}
        prompt = sides["chosen"][:-1]
        if prompt != sides["rejected"][:-1]:
            raise fault("prompt_differs", "'chosen' and 'rejected' do not begin with the same turns")
        chosen, rejected = (_trl_answer(row[key][-1:], key) for key in ("chosen", "rejected"))
    first = next((message for message in prompt if message["role"] == "user"), None)
    if first is not None and not any(IMAGE_PART in message["content"] for message in prompt):
        first["content"] = [*(dict(IMAGE_PART) for _ in images.items), *first["content"]]  # TRL's own rule
    used = ("image", "images", "prompt", "chosen", "rejected")
    return [canonical(row, options, prompt=prompt, images=images, chosen=chosen, rejected=rejected, used=used)]


def images_of(row: Row, options: FormatOptions) -> Images:
    """The images of a row under whichever of the two names it uses."""
    if has(row, "image", "images"):
        raise fault("images", "the row has both 'image' and 'images'")
    key = "images" if has(row, "images") else "image"
    return read_images(row.get(key), key, options)


def _trl_messages(value: Any, key: str, inside: list[Any] | None = None) -> list[Message]:
    """Messages with ordered parts; images that stand inside of parts are added to ``inside``, or refused without it."""
    if not isinstance(value, list | tuple) or not value:
        raise fault("prompt", f"{key!r} must be a non-empty list of messages, got {shown(value)}")
    return [_trl_message(item, f"{key}[{place}]", inside) for place, item in enumerate(value)]


def _trl_message(item: Any, name: str, inside: list[Any] | None) -> Message:
    given = without_none(item)
    if set(given) != {"role", "content"}:
        raise fault("prompt", f"{name} must be a mapping with exactly 'role' and 'content', got {shown(item)}")
    if given["role"] not in ROLES:
        raise fault("roles", f"{name} has role {shown(given['role'])}; known: {', '.join(ROLES)}")
    content = given["content"]
    if isinstance(content, str):
        return turn(given["role"], content)
    if not isinstance(content, list | tuple):
        raise fault("prompt", f"{name} must have a text or a list of parts as 'content', got {shown(content)}")
    parts = []
    for place, part in enumerate(content):
        filled = without_none(part)
        if inside is not None and (image := _image_inside(filled)) is not None:
            inside.append(image)
            filled = dict(IMAGE_PART)
        is_part = filled == IMAGE_PART or (
            set(filled) == {"type", "text"} and filled["type"] == "text" and isinstance(filled["text"], str)
        )
        if not is_part:
            raise fault("prompt", f"{name}.content[{place}] must be an image or a text part, got {shown(part)}")
        parts.append(filled)
    return turn(given["role"], parts)


def _image_inside(part: Row) -> Any:
    """The image that a part itself carries, as chat templates and the chat API write it; None for other parts."""
    if part.get("type") == "image" and len(part) == 2:
        return next((part[key] for key in ("image", "path", "url", "base64") if key in part), None)
    if part.get("type") == "image_url" and set(part) == {"type", "image_url"}:
        given = part["image_url"]
        return given.get("url") if isinstance(given, Mapping) else given
    return None


def _trl_answer(value: Any, key: str) -> str:
    messages = _trl_messages(value, key) if not isinstance(value, str) else [turn("assistant", value)]
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise fault("answer", f"{key!r} must be one assistant message")
    if IMAGE_PART in messages[0]["content"]:
        raise fault("image_place", f"{key!r} holds an image; answers are text only")
    return "".join(part["text"] for part in messages[0]["content"])


def _is_trl(row: Row) -> bool:
    plain_text = is_text(row, "prompt", "chosen", "rejected") and not has_media(row) and not is_math(row)
    talk = is_turns(row.get("prompt"), "role") and is_turns(row.get("chosen"), "role")
    implicit = not has(row, "prompt") and is_turns(row.get("chosen"), "role") and is_turns(row.get("rejected"), "role")
    return plain_text or talk or implicit


def has_media(row: Row) -> bool:
    """The row names an image or a video."""
    return any(row.get(key) for key in ("image", "images", "video", "videos", "img_path", "image_path"))


def has_image(row: Row) -> bool:
    """The row has a column of one image, or of several."""
    return bool(row.get("image") or row.get("images"))


def is_mm_rlhf(row: Row) -> bool:
    """The row has the columns of MM-RLHF's pairs."""
    marked = any(has(row, key) for key in ("chosen_reason", "rejected_reason", "is_tie", "video"))
    return marked and is_text(row, "prompt", "chosen", "rejected")


def is_math(row: Row) -> bool:
    """The row has the columns of Uni-DPO's math files."""
    return any(has(row, key) for key in ("score_margin", "correct_chosen", "correct_rejected"))


def _alpaca(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    refuse_media(row)
    images = read_images(row.get("images"), "images", options)
    system, query = optional_text(row, "system"), optional_text(row, "input")
    prompt = [placeholder_turn("system", system)] if system else []
    for asked, told in _history(row):
        prompt += [placeholder_turn("user", asked), placeholder_turn("assistant", told)]
    question = text(row, "instruction", reason="prompt")
    prompt.append(placeholder_turn("user", "\n".join(piece for piece in (question, query) if piece)))
    return [_plain_answers(row, options, prompt, images, "images", "system", "input", "history", "instruction")]


def _history(row: Row) -> list[tuple[str, str]]:
    """Earlier turns as pairs of question and answer."""
    history = row.get("history") or ()
    found = []
    for place, said in enumerate(history if isinstance(history, list | tuple) else (history,)):
        if not isinstance(said, list | tuple) or len(said) != 2 or not all(isinstance(item, str) for item in said):
            raise fault("prompt", f"history[{place}] must be a pair of question and answer, got {shown(said)}")
        found.append((said[0], said[1]))
    return found


def _is_swift(row: Row) -> bool:
    talk = has(row, "messages") or is_text(row, "query", "response")
    return talk and any(row.get(key) for key in _SWIFT_REJECTED)


def _plain_answers(
    row: Row, options: FormatOptions, prompt: list[Message], images: Images, *used: str
) -> dict[str, Any]:
    chosen, rejected = (answer_without_images(text(row, key), key) for key in ("chosen", "rejected"))
    used = (*used, "chosen", "rejected")
    return canonical(row, options, prompt=prompt, images=images, chosen=chosen, rejected=rejected, used=used)


def _sharegpt(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    refuse_media(row)
    images = read_images(row.get("images"), "images", options)
    key = "messages" if has(row, "messages") else "conversations"
    openai = is_turns(row.get(key), "role")
    names = ("role", "content") if openai else ("from", "value")
    roles = OPENAI_ROLES if openai else SHAREGPT_ROLES

    def said(value: Any, where: str) -> list[tuple[str, str]]:
        return speech(value, where, role_key=names[0], text_key=names[1], roles=roles)

    system = optional_text(row, "system")
    prompt = [placeholder_turn("system", system)] if system else []
    prompt += [placeholder_turn(role, content) for role, content in said(row.get(key), key)]
    answers = []
    for side in ("chosen", "rejected"):
        ((role, answer),) = said([row.get(side)], side)
        if role != "assistant":
            raise fault("roles", f"{side!r} must be said by the assistant")
        answers.append(answer_without_images(answer, side))
    used = ("images", "system", key, "chosen", "rejected")
    return [canonical(row, options, prompt=prompt, images=images, chosen=answers[0], rejected=answers[1], used=used)]


def _swift(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    """ms-swift's row. Where there are more images than places, the missing places stand before what is said first: its
    own rule, and the reason why many of its files have no places at all."""
    refuse_media(row)
    if row.get("tools"):
        raise fault("tools", "the row has tools, which a pair cannot hold")

    def said(key: str) -> list[tuple[str, str]]:
        return speech(row.get(key), key, role_key="role", text_key="content", roles=OPENAI_ROLES)

    turns = said("messages") if has(row, "messages") else _swift_query(row)
    if turns[-1][0] != "assistant":
        raise fault("answer", "'messages' must end with the preferred answer of the assistant")
    if has(row, "rejected_response", "rejected_messages"):
        raise fault("answer", "the row has both 'rejected_response' and 'rejected_messages'")
    if has(row, "rejected_messages"):
        others = said("rejected_messages")
        if others[:-1] != turns[:-1] or others[-1][0] != "assistant":
            raise fault("prompt_differs", "'messages' and 'rejected_messages' do not begin with the same turns")
        rejected = others[-1][1]
    elif has(row, "rejected_response"):
        rejected = text(row, "rejected_response")
    else:  # the same answer, to another image
        rejected = turns[-1][1]
    more = (
        None if row.get("rejected_images") is None else read_images(row["rejected_images"], "rejected_images", options)
    )
    images = images_of(row, options)
    prompt = [placeholder_turn(role, content) for role, content in turns[:-1]]
    missing = len(images.items) - sum(part == IMAGE_PART for message in prompt for part in message["content"])
    first = next((message for message in prompt if message["role"] == "user"), None)
    if first is not None and missing > 0:
        first["content"] = [*(dict(IMAGE_PART) for _ in range(missing)), *first["content"]]
    return [
        canonical(
            row,
            options,
            prompt=prompt,
            images=images,
            chosen=answer_without_images(turns[-1][1], "messages"),
            rejected=answer_without_images(rejected, "rejected"),
            used=("image", "images", *_SWIFT_KEYS),
            rejected_images=more,
        )
    ]


_SWIFT_TALK = ("system", "history", "query", "response")
_SWIFT_REJECTED = ("rejected_response", "rejected_messages", "rejected_images")
_SWIFT_KEYS = ("messages", *_SWIFT_TALK, *_SWIFT_REJECTED)


def _swift_query(row: Row) -> list[tuple[str, str]]:
    """The turns of ms-swift's query and response form."""
    system = optional_text(row, "system")
    turns = [("system", system)] if system else []
    for asked, told in _history(row):
        turns += [("user", asked), ("assistant", told)]
    return [*turns, ("user", text(row, "query", reason="prompt")), ("assistant", text(row, "response"))]


def _qwen_vl(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    refuse_media(row)
    images = images_of(row, options)
    prompt = [turn("user", parts_of(text(row, "prompt", reason="prompt")))]
    return [_plain_answers(row, options, prompt, images, "image", "images", "prompt")]


def _internvl(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    refuse_media(row)
    images = read_images(row.get("image"), "image", options)
    question = text(row, "question", reason="prompt")
    prompt = [turn("user", placed_or_first(question, len(images.items)))]
    chosen, rejected = text(row, "chosen"), text(row, "rejected")
    used = ("image", "question", "chosen", "rejected")
    return [canonical(row, options, prompt=prompt, images=images, chosen=chosen, rejected=rejected, used=used)]


def is_internvl(row: Row) -> bool:
    """Question, answers, and a column that only InternVL's files have."""
    marked = any(has(row, key) for key in ("answer_gt", "image_wh", "chosen_meta", "rejected_meta"))
    only_text = not (has_media(row) or has(row, "image_id") or has(row, "system"))
    return (marked or only_text) and is_text(row, "question", "chosen", "rejected")


NOT_HELD = ("response_prefix", "rejected_images")

SUITES = (
    Format(
        name="canonical",
        title="mmpref's own rows",
        signature="prompt (list of messages), chosen (text)",
        key="prompt",
        matches=lambda row: is_turns(row.get("prompt"), "role") and is_text(row, "chosen"),
        to_canonical=_canonical,
        from_canonical=dict,
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
        name="ms_swift",
        title="ms-swift: messages with a rejected answer",
        signature="messages or query and response, and rejected_response, rejected_messages or rejected_images; images",
        key=None,
        matches=_is_swift,
        to_canonical=_swift,
        from_canonical=writers.to_ms_swift,
        cannot_hold=("response_prefix",),
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
