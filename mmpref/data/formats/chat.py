"""Messages with ordered parts, as chat templates take them: TRL's, and the content lists of other suites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmpref.data.formats.contract import FormatOptions
from mmpref.data.formats.fields import (
    IMAGE_PART,
    PLACEHOLDER,
    Images,
    Message,
    fault,
    parts_of,
    read_images,
    shown,
    turn,
    without_none,
)
from mmpref.data.formats.media_values import is_empty
from mmpref.data.prompt_rows import IMAGE_HINTS
from mmpref.records import ROLES


def chat_messages(value: Any, key: str, inside: InParts | None = None) -> list[Message]:
    """Messages with ordered parts; images that stand inside of parts are added to ``inside``, or refused without it."""
    if not isinstance(value, list | tuple) or not value:
        raise fault("prompt", f"{key!r} must be a non-empty list of messages, got {shown(value)}")
    return [chat_message(item, f"{key}[{place}]", inside) for place, item in enumerate(value)]


def chat_message(item: Any, name: str, inside: InParts | None) -> Message:
    """One message of a chat as a role and its parts.

    Raises:
        RowError: it is none.
    """
    if type(item) is dict and len(item) == 2:  # nearly all of them
        role, said = item.get("role"), item.get("content")
        if type(role) is str and role in ROLES and type(said) is str:
            return {"role": role, "content": [{"type": "text", "text": said}]}
    given = {key: value for key, value in without_none(item).items() if key == "content" or not is_empty(value)}
    given.pop("name", None)  # who in the role speaks: kept in ``meta``
    if set(given) != {"role", "content"}:
        raise fault("prompt", f"{name} must be a mapping with exactly 'role' and 'content', got {shown(item)}")
    if given["role"] not in ROLES:
        raise fault("roles", f"{name} has role {shown(given['role'])}; known: {', '.join(ROLES)}")
    content = given["content"]
    if isinstance(content, str):
        return turn(given["role"], content)
    if not isinstance(content, list | tuple):
        raise fault("prompt", f"{name} must have a text or a list of parts as 'content', got {shown(content)}")
    return turn(given["role"], [read_part(part, f"{name}.content[{n}]", inside) for n, part in enumerate(content)])


def chat_answer(value: Any, key: str) -> str:
    """The text of an answer: a string, or a chat of one assistant message without images.

    Raises:
        RowError: it is neither.
    """
    messages = chat_messages(value, key) if not isinstance(value, str) else [turn("assistant", value)]
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise fault("answer", f"{key!r} must be one assistant message")
    if IMAGE_PART in messages[0]["content"]:
        raise fault("image_place", f"{key!r} holds an image; answers are text only")
    return "".join(part["text"] for part in messages[0]["content"])


def with_places(prompt: list[Message], num_images: int) -> list[Message]:
    """A prompt whose images stand in a column: at its image parts, at the literal placeholders in user turns, or before
    what the user says first.

    Raises:
        RowError: ``image_count``, placeholders without parts that are not as many as the images.
    """
    if not num_images or any(IMAGE_PART in message["content"] for message in prompt):
        return prompt
    asked = [message for message in prompt if message["role"] == "user"]
    places = sum(part["text"].count(PLACEHOLDER) for message in asked for part in message["content"])
    if not places and asked:
        asked[0]["content"] = [*(dict(IMAGE_PART) for _ in range(num_images)), *asked[0]["content"]]
    elif places != num_images:
        raise fault("image_count", f"the prompt has {places} places {PLACEHOLDER} and the row has {num_images} images")
    for message in asked if places else ():
        message["content"] = [found for part in message["content"] for found in parts_of(part["text"])]
    return prompt


@dataclass(slots=True)
class InParts:
    """What the parts of a prompt themselves hold."""

    images: list[Any] = field(default_factory=list)
    indexes: list[Any] = field(default_factory=list)


_IMAGE_VALUES = ("image", "path", "url", "base64", "image_url")
_PART_EXTRAS = frozenset({"index", *IMAGE_HINTS})


def read_part(part: Any, name: str, inside: InParts | None) -> dict[str, str]:
    """A part of a message as ours. An image that stands in it goes to ``inside``, or is refused without it.

    Raises:
        RowError: no image or text part; ``video`` or ``audio``, with that reason.
    """
    if type(part) is dict:  # nearly all of them
        if part == IMAGE_PART:
            return dict(IMAGE_PART)
        if len(part) == 2 and part.get("type") == "text" and type(part.get("text")) is str:
            return {"type": "text", "text": part["text"]}
    filled = without_none(part)
    kind = filled.pop("type", None)
    for medium in ("video", "audio"):
        if isinstance(kind, str) and medium in kind:
            raise fault(
                medium,
                f"{name} is a part of type {kind!r}: {medium} is not supported, only images and text are; "
                "drop these rows",
            )
    index = filled.get("index")
    values = {key: value for key, value in filled.items() if key not in _PART_EXTRAS}
    if kind == "text" and set(values) == {"text"} and isinstance(values["text"], str):
        return {"type": "text", "text": values["text"]}
    if kind in ("image", "image_url"):
        if values.get("text") == "":
            del values["text"]
        if index is not None and inside is not None:
            inside.indexes.append(index)
        if not values and kind == "image":
            return dict(IMAGE_PART)
        image: Any = None
        if len(values) == 1:
            ((key, image),) = values.items()
            image = image if key in _IMAGE_VALUES else values if key == "bytes" else None
            image = image.get("url") if key == "image_url" and isinstance(image, Mapping) else image
        elif set(values) == {"bytes", "path"}:
            image = values
        if image is not None and inside is not None:
            inside.images.append(image)
            return dict(IMAGE_PART)
    raise fault("prompt", f"{name} must be an image or a text part, got {shown(part)}")


def images_in_parts(inside: InParts, images: Images, options: FormatOptions) -> Images:
    """The images of a row: those of its parts, or of its column.

    Raises:
        RowError: both; or parts that name the images of the column in another order than theirs.
    """
    if inside.images and images.items:
        raise fault("images", "images stand both inside the prompt's parts and in a column of their own")
    if inside.indexes and inside.indexes != list(range(len(inside.indexes))):
        raise fault(
            "image_place", f"the image parts have the indexes {inside.indexes[:8]}; write 'images' in their order"
        )
    return read_images(inside.images, "prompt", options) if inside.images else images
