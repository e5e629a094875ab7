"""A row becomes a ``PreferencePair``, or a fault that says which row, which field and why.

Everything that later packages rely on is checked here, per row: a batch can add up while its rows do not (one row with
an image too many, the next with one too few), so totals prove nothing.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping
from typing import Any

from mmpref.data.pair_weights import read_answer_weight, read_label, read_weight
from mmpref.data.prompt_rows import HINTS_FOUND, TURN_NAMES, read_prompt
from mmpref.data.quarantine import RowError, where_is
from mmpref.data.row_values import (
    encodable,
    local_file,
    read_answer,
    read_id,
    read_score,
    read_template_kwargs,
    read_text,
    row_fault,
    says_the_same,
    shown_value,
)
from mmpref.records import ImageRef, Message, PreferencePair, Prompt, VideoRef

PAIR_KEYS = (
    "id",
    "images",
    "prompt",
    "chosen",
    "rejected",
    "response_prefix",
    "rejected_images",
    "score_chosen",
    "score_rejected",
    "source",
    "meta",
    "template_kwargs",
    "videos",
    "other_images",
    "weight",
    "chosen_weight",
    "rejected_weight",
    "label",
)

MARKUP_TAKEN_OFF, END_TAKEN_OFF, LINKS = "chat_markup_taken_off", "end_marks_taken_off", "pictures_by_link"
ASIDES = (TURN_NAMES, HINTS_FOUND, MARKUP_TAKEN_OFF, END_TAKEN_OFF, LINKS)
"""Keys of ``meta`` for what is found in turns and parts and is not read: names of speakers, sizes of images, marks of a
chat template that the row was written out in, links to images in the text of a row without images."""
_KEYS = frozenset(PAIR_KEYS)
LOSS_KEYS = ("other_images", "weight", "chosen_weight", "rejected_weight", "label")
"""The keys that say something to the loss alone: an image to compare with, weights, and whether an answer is good."""
ANSWER_KEYS = frozenset({"chosen", "rejected", "rejected_images", "score_chosen", "score_rejected", *LOSS_KEYS})
PROMPT_KEYS = _KEYS - ANSWER_KEYS
"""The keys of a pair without those that say something of its answers."""


def pair_from_row(row: Mapping[str, Any], *, source: str, line: int) -> PreferencePair:
    """The pair that one canonical row describes. A row without ``rejected`` becomes a demonstration.

    Args:
        row: the decoded JSON object.
        source: the file or data set, for messages; also the pair's ``source`` when the row names none.
        line: the row's number in it, from 1; a ``LineNumber`` where it counts lines.

    Raises:
        RowError: with a reason code, when any rule of the format is broken.
    """
    try:
        return _build(row, source)
    except RowError as fault:
        row_id = row_name(row)
        name = "" if row_id is None else f" (id {row_id!r})"
        message = f"{where_is(source, line)}{name}: {fault.detail}"
        raise RowError(message, reason=fault.reason, detail=fault.detail, row_id=row_id) from fault


def row_name(row: Mapping[str, Any]) -> str | None:
    """The id of a row that may be broken, shortened for messages; None when it has none."""
    try:
        return read_id(row.get("id"))[:200]
    except RowError:
        return None


def _build(row: Mapping[str, Any], source: str) -> PreferencePair:
    if not row.keys() <= _KEYS:
        unknown = [str(key) for key in row if key not in _KEYS]
        names, known = ", ".join(map(repr, unknown)), ", ".join(PAIR_KEYS)
        raise row_fault("unknown_key", f"unknown key {names}; known: {known}; anything else belongs in 'meta'")
    given = row.get
    rejected_images = None if given("rejected_images") is None else _images(row, "rejected_images") or None
    asides: dict[str, list[Any]] = {}
    prompt, images, videos = _shown(row, asides)
    chosen = read_answer(row, "chosen")
    rejected = None if given("rejected") is None else read_answer(row, "rejected")
    if rejected_images is not None:
        _check_image_places(len(images), rejected_images, "rejected_images")
        if rejected is None:
            raise row_fault("rejected_images", "'rejected_images' without 'rejected'")
    other_images = _other_images(row, images)
    same_images = rejected_images is None or rejected_images == images
    if rejected is not None and same_images and says_the_same(chosen, rejected):
        raise row_fault("identical_pair", "'chosen' and 'rejected' are the same text")
    score_chosen, score_rejected = read_score(row, "score_chosen"), read_score(row, "score_rejected")
    if (score_chosen is None) != (score_rejected is None):
        side = "score_chosen" if score_rejected is None else "score_rejected"
        raise row_fault("score_one_side", f"only {side!r} is given; give scores on both sides or on neither")
    label = read_label(given("label"))
    if rejected is not None and label is not None:
        raise row_fault(
            "label", "'label' is of a single answer, and the row has a 'rejected' one: drop the label, or 'rejected'"
        )
    if rejected is None and given("rejected_weight") is not None:
        raise row_fault("answer_weight", "'rejected_weight' without 'rejected'")
    return PreferencePair(
        id=read_id(given("id")),
        images=images,
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        response_prefix="" if given("response_prefix") is None else read_text(row, "response_prefix"),
        rejected_images=rejected_images,
        score_chosen=score_chosen,
        score_rejected=score_rejected,
        source=source if given("source") is None else read_text(row, "source") or source,
        meta=_meta(given("meta"), asides),
        template_kwargs=read_template_kwargs(given("template_kwargs")),
        videos=videos,
        other_images=other_images,
        weight=read_weight(row),
        chosen_weight=read_answer_weight(row, "chosen_weight", chosen),
        rejected_weight=None if rejected is None else read_answer_weight(row, "rejected_weight", rejected),
        label=label,
    )


def prompt_from_row(row: Mapping[str, Any], *, source: str, line: int) -> Prompt:
    """The prompt that one row describes which has the keys of a canonical pair but its answers.

    Args and what is raised: as for :func:`pair_from_row`.
    """
    try:
        if not row.keys() <= PROMPT_KEYS:
            unknown = ", ".join(repr(str(key)) for key in row if key not in PROMPT_KEYS)
            known = ", ".join(key for key in PAIR_KEYS if key in PROMPT_KEYS)
            raise row_fault("unknown_key", f"unknown key {unknown}; known: {known}; anything else belongs in 'meta'")
        asides: dict[str, list[Any]] = {}
        prompt, images, videos = _shown(row, asides)
        return Prompt(
            id=read_id(row.get("id")),
            images=images,
            prompt=prompt,
            response_prefix="" if row.get("response_prefix") is None else read_text(row, "response_prefix"),
            source=source if row.get("source") is None else read_text(row, "source") or source,
            meta=_meta(row.get("meta"), asides),
            template_kwargs=read_template_kwargs(row.get("template_kwargs")),
            videos=videos,
        )
    except RowError as fault:
        row_id = row_name(row)
        name = "" if row_id is None else f" (id {row_id!r})"
        message = f"{where_is(source, line)}{name}: {fault.detail}"
        raise RowError(message, reason=fault.reason, detail=fault.detail, row_id=row_id) from fault


def _shown(
    row: Mapping[str, Any], asides: dict[str, list[Any]]
) -> tuple[tuple[Message, ...], tuple[ImageRef, ...], tuple[VideoRef, ...]]:
    """The messages of a row's prompt with their images and videos, as many as there are places for them."""
    given = row.get
    prompt = read_prompt(given("prompt"), asides)
    kinds = [part.kind for message in prompt for part in message.parts]
    places, video_places = kinds.count("image"), kinds.count("video")
    images = () if not places and _holds_none(given("images")) else _images(row, "images")
    _check_image_places(places, images, "images")
    videos: tuple[VideoRef, ...] = ()
    if video_places or given("videos") is not None:
        videos = () if not video_places and _holds_none(given("videos")) else _videos(given("videos"))
        _check_video_places(video_places, videos)
    return prompt, images, videos


def _other_images(row: Mapping[str, Any], images: tuple[ImageRef, ...]) -> tuple[ImageRef, ...] | None:
    """The images that stand in the place of the prompt's, as many; None where there are none."""
    if row.get("other_images") is None:
        return None
    found = () if _holds_none(row["other_images"]) else _images(row, "other_images")
    if not found:
        return None
    _check_image_places(len(images), found, "other_images")
    if found == images:
        raise row_fault(
            "other_images", "'other_images' are the row's own 'images': give others, or drop the column from this row"
        )
    return found


def _images(row: Mapping[str, Any], key: str) -> tuple[ImageRef, ...]:
    value = row.get(key)
    if value is None and key == "images":
        return ()
    if not isinstance(value, list | tuple):
        raise row_fault("images", f"{key!r} must be a list of paths or embedded images, got {shown_value(value)}")
    return tuple(_image(item, f"{key}[{place}]") for place, item in enumerate(value))


def _image(item: Any, name: str) -> ImageRef:
    """A path, raw bytes, or the mapping ``{"path": ..., "bytes": ...}`` with bytes raw or in base64."""
    if isinstance(item, str):
        if not item.strip():
            raise row_fault("images", f"{name} is an empty path")
        return ImageRef(path=encodable(local_file(item), name))
    if isinstance(item, bytes):
        return ImageRef(data=item)
    if isinstance(item, Mapping) and set(item) <= {"path", "bytes"}:
        data = item.get("bytes")
        if data is None and isinstance(item.get("path"), str):
            return _image(item["path"], name)
        if isinstance(data, bytes):
            return ImageRef(data=data)
        if isinstance(data, str):
            try:
                return ImageRef(data=base64.b64decode(data, validate=True))
            except (binascii.Error, ValueError) as error:
                raise row_fault("images", f"{name} has 'bytes' that are not base64: {error}") from error
    raise row_fault("images", f"{name} must be a path or a mapping with 'bytes' or 'path', got {shown_value(item)}")


def _videos(value: Any) -> tuple[VideoRef, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise row_fault("videos", f"'videos' must be a list of paths or lists of frames, got {shown_value(value)}")
    return tuple(_video(item, f"videos[{place}]") for place, item in enumerate(value))


def _video(item: Any, name: str) -> VideoRef:
    """A path, or the mapping ``{"frames": [...], "fps": ...}``; ``{"path": ...}`` is a path too, as parquet has it."""
    if isinstance(item, str):
        if not item.strip():
            raise row_fault("videos", f"{name} is an empty path")
        return VideoRef(path=encodable(local_file(item), name))
    given = {key: value for key, value in item.items() if value is not None} if isinstance(item, Mapping) else {}
    if given.keys() == {"path"} and isinstance(given["path"], str):
        return _video(given["path"], name)
    if "frames" in given and given.keys() <= {"frames", "fps"}:
        frames, fps = given["frames"], given.get("fps")
        if not isinstance(frames, list | tuple) or not frames:
            raise row_fault("videos", f"{name} must have a list of images as 'frames', got {shown_value(frames)}")
        images = tuple(_image(frame, f"{name}.frames[{place}]") for place, frame in enumerate(frames))
        return VideoRef(frames=images, fps=None if fps is None else _fps(fps, name))
    raise row_fault(
        "videos",
        f"{name} must be a path, or a mapping with 'frames' (images) and 'fps' (a number or null), got "
        f"{shown_value(item)}",
    )


SLOWEST = 0.00001
"""Frames a second of a list: one a day. Far fewer would move positions in time out of what a whole number holds."""


def _fps(value: Any, name: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not SLOWEST <= value <= 1e6:
        raise row_fault(
            "videos",
            f"{name} must have the frames of a second as 'fps' (a number from {SLOWEST:.5f} to 1000000), or null, got "
            f"{shown_value(value)}",
        )
    return float(value)


def _holds_none(media: Any) -> bool:
    """How a text row of a file with images or videos says that it has none: ``[None]`` or ``[""]``."""
    return isinstance(media, list | tuple) and all(item is None or item == "" for item in media)


def _check_image_places(places: int, images: tuple[ImageRef, ...], key: str) -> None:
    if places != len(images):
        raise row_fault("image_count", f"the prompt has {places} image parts and {key!r} has {len(images)} images")


def _check_video_places(places: int, videos: tuple[VideoRef, ...]) -> None:
    if places != len(videos):
        raise row_fault("video_count", f"the prompt has {places} video parts and 'videos' has {len(videos)} videos")


def _meta(value: Any, asides: Mapping[str, Any]) -> dict[str, Any]:
    if value is None:
        return dict(asides)
    if not isinstance(value, Mapping):
        raise row_fault("meta", f"'meta' must be a mapping, got {shown_value(value)}")
    return {**value, **asides} if asides else dict(value)
