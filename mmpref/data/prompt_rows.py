"""The prompt of a canonical row: its messages and their parts; what is found beside them goes to meta."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmpref.data.placeholders import OURS, refuse_images, refuse_marks
from mmpref.data.row_values import (
    encodable,
    row_fault,
    shown_value,
)
from mmpref.records import ROLES, Message, Part

_TURN_KEYS = {"role", "content"}


IMAGE_HINTS = ("min_pixels", "max_pixels", "resized_height", "resized_width", "detail")
"""What an image part may say of the size it is to be read at; images are sized by the recipe."""
VIDEO_HINTS = (*IMAGE_HINTS, "total_pixels", "fps", "raw_fps", "nframes", "min_frames", "max_frames")
"""What a video part may say of its size and of how many frames are taken; the recipe says both."""
HINTS: dict[str, tuple[str, ...]] = {"image": IMAGE_HINTS, "video": VIDEO_HINTS}


_TEXT_PART = frozenset({"type", "text", "index"})


TURN_NAMES = "turn_names"


HINTS_FOUND = "image_hints"


def read_prompt(value: Any, asides: dict[str, list[Any]]) -> tuple[Message, ...]:
    """The messages of a prompt.

    Args:
        value: of the row's ``prompt``.
        asides: gets what is found and not read, for ``meta``: names of speakers, sizes of images.

    Raises:
        RowError: with a reason code, when any rule of the format is broken.
    """
    if not isinstance(value, list | tuple) or not value:
        raise row_fault("prompt", f"'prompt' must be a non-empty list of messages, got {shown_value(value)}")
    prompt = tuple([_message(item, place, asides) for place, item in enumerate(value)])
    for place, item in enumerate(value):
        said = item["content"]
        is_asked = item["role"] == "user" and type(said) is str and ("](" in said or "<" in said)
        if is_asked and not any(message.num_images or message.num_videos for message in prompt):
            refuse_images(said, f"prompt[{place}]", advice=OURS)
    for key, medium in (("index", "image"), ("video_index", "video")):
        if (indexes := asides.pop(key, None)) and indexes != list(range(len(indexes))):
            detail = f"the {medium} parts have the indexes {indexes[:8]}; write '{medium}s' in their order"
            raise row_fault(f"{medium}_place", detail)
    if len(prompt) == 1 and prompt[0].role == "user":
        return prompt
    turns = prompt[1:] if prompt[0].role == "system" else prompt
    roles = [message.role for message in turns]
    if not roles or any(role != ("user", "assistant")[place % 2] for place, role in enumerate(roles)):
        shown = ", ".join(message.role for message in prompt)[:200]
        raise row_fault("roles", f"turns must be [system,] user, assistant, user, ...; got {shown}")
    if roles[-1] != "user":
        raise row_fault(
            "roles", "the prompt must end with a user turn; the beginning of the answer goes in 'response_prefix'"
        )
    if any(message.num_images for message in prompt if message.role != "user"):
        raise row_fault("image_place", "an image part is outside a user turn")
    if any(message.num_videos for message in prompt if message.role != "user"):
        raise row_fault("video_place", "a video part is outside a user turn")
    return prompt


def _message(item: Any, place: int, asides: dict[str, list[Any]]) -> Message:
    if (type(item) is not dict and not isinstance(item, Mapping)) or item.keys() != _TURN_KEYS:
        item = _named_turn(item, place, asides)
    role, content = item["role"], item["content"]
    if role not in ROLES:
        raise row_fault("roles", f"prompt[{place}] has role {shown_value(role)}; known: {', '.join(ROLES)}")
    if isinstance(content, str):
        text = content if content.isascii() else encodable(content, f"prompt[{place}]")
        if not text.strip() and role != "system":
            raise row_fault("empty_turn", f"prompt[{place}] ({role}) has no text")
        if "<" in text:  # text that is meant letter by letter goes into a part
            refuse_marks(text, f"prompt[{place}]", has_images=False, advice=OURS)
        return Message(role, (Part("text", text),))
    if not isinstance(content, list | tuple):
        raise row_fault(
            "prompt", f"prompt[{place}] must have a text or a list of parts as 'content', got {shown_value(content)}"
        )
    parts = tuple([_part(part, place, number, asides) for number, part in enumerate(content)])
    if role != "system" and not any(part.kind != "text" or part.text.strip() for part in parts):
        raise row_fault("empty_turn", f"prompt[{place}] ({role}) has neither text nor image nor video")
    return Message(role=role, parts=parts)


def _named_turn(item: Any, place: int, asides: dict[str, list[Any]]) -> Mapping[str, Any]:
    """A turn that also says who in the role speaks, or that a parquet reader filled; anything more is refused."""
    said = item.items() if isinstance(item, Mapping) else ()
    given = {key: value for key, value in said if not _is_absent(key, value)}
    if isinstance(name := given.pop("name", ""), str) and given.keys() == _TURN_KEYS:
        if name:
            asides.setdefault(TURN_NAMES, []).append(name)
        return given
    raise row_fault(
        "prompt", f"prompt[{place}] must be a mapping with exactly 'role' and 'content', got {shown_value(item)}"
    )


def _is_absent(key: Any, value: Any) -> bool:
    return value is None or (key not in _TURN_KEYS and isinstance(value, str | list | dict) and not value)


def _part(item: Any, turn: int, number: int, asides: dict[str, list[Any]]) -> Part:
    if type(item) is dict:  # nearly all of them
        if item == {"type": "image"}:
            return Part("image")
        if len(item) == 2 and item.get("type") == "text" and type(item.get("text")) is str and item["text"].isascii():
            return Part("text", item["text"])
    name = f"prompt[{turn}].content[{number}]"
    if isinstance(item, Mapping):
        # a parquet reader fills the key that a part does not have with None
        given = {key: value for key, value in item.items() if value is not None}
        if given == {"type": "image"}:
            return Part("image")
        if given.get("type") == "text" and isinstance(given.get("text"), str) and given.keys() <= _TEXT_PART:
            return Part("text", encodable(given["text"], name))
        kind = given.get("type")
        hints = HINTS.get(kind) if isinstance(kind, str) else None
        if hints is not None and given.keys() <= {"type", "text", "index", *hints} and not given.get("text"):
            if "index" in given:
                asides.setdefault("index" if kind == "image" else "video_index", []).append(given["index"])
            if found := {key: given[key] for key in hints if key in given}:
                asides.setdefault(HINTS_FOUND, []).append(found)
            return Part("image" if kind == "image" else "video")
        if "audio" in str(kind):
            raise row_fault(
                "audio", f"{name} is audio, which is not supported, only images, videos and text are; drop these rows"
            )
        if kind in ("image_url", "video_url"):
            medium = str(kind).removesuffix("_url")
            raise row_fault(
                "prompt",
                f"{name} is an {kind} part; write {{type: {medium}}} there, and its path or address under '{medium}s'",
            )
        if kind == "video":
            raise row_fault(
                "video",
                f"{name} must be {{type: video}} alone, with its path under 'videos'; a piece of a video is cut out "
                f"before; got {shown_value(item)}",
            )
    raise row_fault(
        "prompt",
        f"{name} must be {{type: image}}, {{type: video}} or {{type: text, text: ...}}, got {shown_value(item)}",
    )
