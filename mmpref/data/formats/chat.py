"""Messages with ordered parts, as chat templates take them: TRL's, and the content lists of other suites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmpref.data.formats.contract import FormatOptions
from mmpref.data.formats.fields import (
    IMAGE_PART,
    NOT_IN_A_VIDEO,
    PLACEHOLDER,
    VIDEO_PART,
    Images,
    Message,
    fault,
    parts_of,
    read_images,
    read_videos,
    shown,
    turn,
    video_of,
    without_none,
)
from mmpref.data.formats.media_values import is_empty
from mmpref.data.prompt_rows import IMAGE_HINTS, VIDEO_HINTS
from mmpref.records import ROLES


def chat_messages(value: Any, key: str, inside: InParts | None = None) -> list[Message]:
    """Messages with ordered parts; images inside of parts are added to ``inside``, or refused without it."""
    if not isinstance(value, list | tuple) or not value:
        raise fault("prompt", f"{key!r} must be a non-empty list of messages, got {shown(value)}")
    return [chat_message(item, f"{key}[{place}]", inside) for place, item in enumerate(value)]


def chat_message(item: Any, name: str, inside: InParts | None) -> Message:
    """One message with ordered parts; see :func:`chat_messages`."""
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
    """The text of one assistant message, or of a plain answer."""
    messages = chat_messages(value, key) if not isinstance(value, str) else [turn("assistant", value)]
    if len(messages) != 1 or messages[0]["role"] != "assistant":
        raise fault("answer", f"{key!r} must be one assistant message")
    for part in messages[0]["content"]:
        if part["type"] != "text":
            raise fault(f"{part['type']}_place", f"{key!r} holds an {part['type']}; answers are text only")
    return "".join(part["text"] for part in messages[0]["content"])


def with_places(prompt: list[Message], num_images: int) -> list[Message]:
    """A prompt whose images are in a column: at its image parts, at the literal placeholders in user turns, or before
    what the user says first.

    Raises:
        RowError: ``image_count``, placeholders without parts that are not as many as the images.
    """
    if not num_images or any(IMAGE_PART in message["content"] for message in prompt):
        return prompt
    asked = [message for message in prompt if message["role"] == "user"]
    places = sum(part.get("text", "").count(PLACEHOLDER) for message in asked for part in message["content"])
    if not places and asked:
        asked[0]["content"] = [*(dict(IMAGE_PART) for _ in range(num_images)), *asked[0]["content"]]
    elif places != num_images:
        raise fault("image_count", f"the prompt has {places} places {PLACEHOLDER} and the row has {num_images} images")
    for message in asked if places else ():
        message["content"] = [
            found
            for part in message["content"]
            for found in (parts_of(part["text"]) if part["type"] == "text" else [part])
        ]
    return prompt


@dataclass(slots=True)
class InParts:
    """Images, videos and indexes found inside the parts of a prompt."""

    images: list[Any] = field(default_factory=list)
    indexes: list[Any] = field(default_factory=list)
    videos: list[Any] = field(default_factory=list)
    """Each with the frames of a second that it says it has."""
    video_indexes: list[Any] = field(default_factory=list)


_IMAGE_VALUES = ("image", "path", "url", "base64", "image_url")
_VIDEO_VALUES = ("video", "path", "url", "video_url")
_PART_EXTRAS = frozenset({"index", *IMAGE_HINTS})
_VIDEO_EXTRAS = frozenset({"index", "sample_fps", *VIDEO_HINTS})


def read_part(part: Any, name: str, inside: InParts | None) -> dict[str, str]:
    """A part of a message as ours. An image or a video in it goes to ``inside``, or is refused without it.

    Raises:
        RowError: no image, video or text part; ``audio``, or ``video`` for a piece of one, with that reason.
    """
    if type(part) is dict:  # nearly all of them
        if part == IMAGE_PART:
            return dict(IMAGE_PART)
        if len(part) == 2 and part.get("type") == "text" and type(part.get("text")) is str:
            return {"type": "text", "text": part["text"]}
    filled = without_none(part)
    kind = filled.pop("type", None)
    if isinstance(kind, str) and "audio" in kind:
        raise fault(
            "audio",
            f"{name} is a part of type {kind!r}: audio is not supported, only images, videos and text are; drop these "
            "rows",
        )
    if isinstance(kind, str) and "video" in kind:
        return _video_part(filled, kind, name, inside)
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
    raise fault("prompt", f"{name} must be an image, a video or a text part, got {shown(part)}")


def _video_part(filled: dict[str, Any], kind: str, name: str, inside: InParts | None) -> dict[str, str]:
    values = {key: value for key, value in filled.items() if key not in _VIDEO_EXTRAS}
    if values.get("text") == "":
        del values["text"]
    index = filled.get("index")
    if index is not None and inside is not None:
        inside.video_indexes.append(index)
    if not values and kind == "video":
        return dict(VIDEO_PART)
    if len(values) == 1 and kind in ("video", "video_url") and inside is not None:
        ((key, video),) = values.items()
        video = video.get("url") if key == "video_url" and isinstance(video, Mapping) else video
        if key in _VIDEO_VALUES and video is not None:
            # of a list of frames, what Qwen's tools call its rate; of a file, how many frames its author would take
            fps = filled.get("sample_fps", filled.get("fps"))
            inside.videos.append((video, _rate(fps) if isinstance(video, list | tuple) else None))
            return dict(VIDEO_PART)
    if more := sorted(map(str, values.keys() - {*_VIDEO_VALUES, "text"})):
        raise fault("video", f"{name} has {', '.join(map(repr, more))}: {NOT_IN_A_VIDEO}")
    raise fault("video", f"{name} must be one video, by its path or its frames, got {shown(filled)}")


def _rate(fps: Any) -> Any:
    """Frames a second; Qwen's own examples write the number as text."""
    try:
        return float(fps) if isinstance(fps, str) else fps
    except ValueError:
        return fps  # refused by the reader of canonical rows, which shows it


def images_in_parts(inside: InParts, images: Images, options: FormatOptions) -> Images:
    """The images and videos of a row: those of its parts, or of its columns.

    Raises:
        RowError: both; or parts that name those of a column in another order than theirs.
    """
    for medium, in_parts, column, indexes in (
        ("image", inside.images, images.items, inside.indexes),
        ("video", inside.videos, images.videos, inside.video_indexes),
    ):
        if in_parts and column:
            raise fault(f"{medium}s", f"{medium}s are both inside the prompt's parts and in a column of their own")
        if indexes and indexes != list(range(len(indexes))):
            raise fault(
                f"{medium}_place",
                f"the {medium} parts have the indexes {indexes[:8]}; write '{medium}s' in their order",
            )
    found = read_images(inside.images, "prompt", options) if inside.images else images
    videos = images.videos
    if inside.videos:
        videos = [
            read_videos([video], "prompt", options)[0] if fps is None else video_of(video, fps, "prompt", options)
            for video, fps in inside.videos
        ]
    return Images(found.items, found.names, videos)
