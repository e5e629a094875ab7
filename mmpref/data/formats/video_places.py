"""Where in a foreign prompt its videos stand: at video parts, at literal placeholders, or before the first question.

Suites write ``<video>`` in the text; LLaVA's own rows of videos write ``<image>`` for them. Both are read in user turns
of rows that have videos, once for all formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmpref.data.formats.fields import IMAGE_PART, PLACEHOLDER, VIDEO_PART, VIDEO_PLACEHOLDER, Message, Parts, fault

_PLACE = re.compile(r"\(<video>\./</video>\)|<video>(?:(?:\./)?</video>|(?![^<>\n]+</video>))")
"""A placeholder; MiniCPM's way to write it, and the pair of tags with nothing between them. A path between them makes
it none: it may be another video than the column's, and is refused where texts are checked."""
_IMAGE = re.compile(re.escape(PLACEHOLDER))


def with_video_places(prompt: Sequence[Message], num_videos: int, *, num_images: int, texts: Any) -> list[Message]:
    """The prompt with a part for each of the row's videos.

    Args:
        prompt: canonical messages; a ``<video>`` in a text is still text.
        num_videos: of the row.
        num_images: of the row.
        texts: what the row says as it is written: a part for an image that it does not write as ``<image>`` is no place
            for a video.

    Raises:
        RowError: ``video_count``, places that are not as many as the videos, or none beside images, so that the order
            of the two is not known.
    """
    if not num_videos:
        return list(prompt)
    places = sum(part == VIDEO_PART for message in prompt for part in message["content"])
    if places:
        return _counted(prompt, places, num_videos)
    marks = sum(len(_PLACE.findall(text)) for text in _asked(prompt))
    if marks:
        return _counted([_split(message, _PLACE) for message in prompt], marks, num_videos)
    if not num_images and (found := _as_llava_writes(prompt, texts)) is not None:
        return _counted(found[0], found[1], num_videos)
    if num_images:
        raise fault(
            "video_count",
            f"the row has {num_images} images and {num_videos} videos, and the prompt says of no video where it "
            "stands; write <image> and <video> in their places",
        )
    first = next((place for place, message in enumerate(prompt) if message["role"] == "user"), None)
    if first is None:
        return list(prompt)
    asked = {**prompt[first], "content": [*(dict(VIDEO_PART) for _ in range(num_videos)), *prompt[first]["content"]]}
    return [*prompt[:first], asked, *prompt[first + 1 :]]


def _counted(prompt: Sequence[Message], places: int, num_videos: int) -> list[Message]:
    if places != num_videos:
        raise fault("video_count", f"the prompt has {places} places for videos and the row has {num_videos} videos")
    return list(prompt)


def _asked(prompt: Sequence[Message]) -> Iterator[str]:
    """The texts of user turns."""
    for message in prompt:
        if message["role"] == "user":
            yield from (part["text"] for part in message["content"] if part["type"] == "text")


def _as_llava_writes(prompt: Sequence[Message], texts: Any) -> tuple[list[Message], int] | None:
    """The prompt with its ``<image>`` as places of videos, and their number; None where it has none."""
    if not _says(texts, PLACEHOLDER):
        return None
    split = [_split(message, _IMAGE) for message in prompt]
    found = [
        {**message, "content": [dict(VIDEO_PART) if part == IMAGE_PART else part for part in message["content"]]}
        for message in split
    ]
    places = sum(part == VIDEO_PART for message in found for part in message["content"])
    return (found, places) if places else None


def _split(message: Message, mark: re.Pattern[str]) -> Message:
    """A user turn with its marks as video parts. A line break behind a mark is the mark's, and so is the one before the
    marks that end the turn: models write their own."""
    content = message["content"]
    if message["role"] != "user" or not content:  # an empty turn is refused where turns are checked
        return message
    parts: Parts = []
    texts = [number for number, part in enumerate(content) if part["type"] == "text"]
    last_text, is_stripped = -1, False  # the last text that stays, and whether a line break was taken off it before
    for number, part in enumerate(content):
        if part["type"] != "text":
            parts.append(part)
            continue
        pieces = mark.split(part["text"])
        for place, piece in enumerate(pieces):
            if place:
                parts.append(dict(VIDEO_PART))
            text = piece.removeprefix("\n") if place else piece
            if text or len(pieces) == 1:
                parts.append({"type": "text", "text": text})
                last_text = len(parts) - 1
                is_stripped = content[-1]["type"] != "text" and number == texts[-1] and place == len(pieces) - 1
    if parts[-1]["type"] != "text" and last_text >= 0 and not is_stripped:
        parts[last_text]["text"] = parts[last_text]["text"].removesuffix("\n")
    return {**message, "content": [part for part in parts if part["type"] != "text" or part["text"]] or parts}


def _says(value: Any, mark: str) -> bool:
    """Whether a text anywhere inside of a value has the mark."""
    if isinstance(value, str):
        return mark in value
    if isinstance(value, Mapping):
        return any(_says(item, mark) for item in value.values())
    return isinstance(value, list | tuple) and any(_says(item, mark) for item in value)


def refuse_places(text: str, key: str) -> None:
    """Refuse an answer of a row with videos that holds a place for one.

    Raises:
        RowError: ``video_place``.
    """
    if VIDEO_PLACEHOLDER in text:
        raise fault("video_place", f"{key!r} holds {VIDEO_PLACEHOLDER}; answers are text only")
