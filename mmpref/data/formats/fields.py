"""Reading foreign values strictly, at the border: texts, placeholders, turns, images, scores.

Only here is a literal ``<image>`` understood as the place of an image, once; in canonical text it is only text. The
line break that the LLaVA habit puts between a placeholder and the text belongs to the placeholder: models write their
own.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmpref.data.formats.contract import FormatOptions, Row
from mmpref.data.formats.media_values import looks_like_image, names_gif
from mmpref.data.quarantine import RowError
from mmpref.data.row_values import local_file

PLACEHOLDER = "<image>"
VIDEO_PLACEHOLDER = "<video>"
MEDIA_PLACEHOLDERS = (PLACEHOLDER, VIDEO_PLACEHOLDER, "<audio>")
_CLOSED = re.compile(r"\(<image>\./</image>\)|<image>(?:\./)?</image>")
"""Further ways to write one placeholder: MiniCPM's, and the pair of tags with nothing between them."""
Message = dict[str, Any]
Parts = list[dict[str, str]]
IMAGE_PART = {"type": "image"}
VIDEO_PART = {"type": "video"}


def fault(reason: str, detail: str) -> RowError:
    """A row that cannot be used, with a reason that can be counted."""
    return RowError(detail, reason=reason)


def shown(value: Any) -> str:
    """A value for a message: its type and its beginning."""
    if isinstance(value, str | list | tuple | Mapping | bytes):
        return f"{type(value).__name__} {str(value[:60] if isinstance(value, str | bytes) else value)[:60]!r}"
    try:
        return f"{type(value).__name__} {value!r}"[:80]
    except ValueError:  # a whole number too long to print
        return f"a huge {type(value).__name__}"


def has(row: Row, *keys: str) -> bool:
    """Every key is there with a value."""
    for key in keys:  # noqa: SIM110  twice as fast as all(): detection asks this a dozen times for every row
        if row.get(key) is None:
            return False
    return True


def has_any(row: Row, *keys: str) -> bool:
    """One of the keys is there with a value."""
    for key in keys:  # noqa: SIM110
        if row.get(key) is not None:
            return True
    return False


def is_text(row: Row, *keys: str) -> bool:
    """Every key holds text."""
    for key in keys:  # noqa: SIM110
        if not isinstance(row.get(key), str):
            return False
    return True


def is_turns(value: Any, *keys: str) -> bool:
    """A non-empty list of mappings whose first has the keys."""
    return isinstance(value, list | tuple) and bool(value) and isinstance(value[0], Mapping) and has(value[0], *keys)


def text(row: Row, key: str, *, reason: str = "answer") -> str:
    """The text under a key."""
    value = row.get(key)
    if not isinstance(value, str):
        raise fault(reason, f"{key!r} must be text, got {shown(value)}")
    return value


def without_none(item: Any) -> dict[str, Any]:
    """A mapping without the keys that a parquet reader filled; empty for anything else."""
    return {key: value for key, value in item.items() if value is not None} if isinstance(item, Mapping) else {}


def optional_text(row: Row, key: str) -> str:
    """The text under a key, empty where there is none."""
    return "" if row.get(key) is None else text(row, key, reason="prompt")


def parts_of(content: str) -> Parts:
    """Text with literal placeholders as ordered parts. ``text_of`` is its inverse."""
    if "</image>" in content:
        content = _CLOSED.sub(PLACEHOLDER, content)
    pieces = content.split(PLACEHOLDER)
    if len(pieces) == 1:
        return [{"type": "text", "text": content}]
    ends_with_image = pieces[-1] == ""
    pieces = [pieces[0], *(piece.removeprefix("\n") for piece in pieces[1:])]
    if ends_with_image:
        last = max((place for place, piece in enumerate(pieces) if piece), default=0)
        pieces[last] = pieces[last].removesuffix("\n")
    parts: Parts = []
    for place, piece in enumerate(pieces):
        if place:
            parts.append(dict(IMAGE_PART))
        if piece:
            parts.append({"type": "text", "text": piece})
    return parts


def text_of(parts: Iterable[Row]) -> str:
    """Ordered parts as text with literal placeholders. Text that itself holds a placeholder is refused.

    Raises:
        RowError: ``literal_placeholder``, since a reader of the written row would take it for an image.
    """
    pieces, marks = [""], []
    for part in parts:
        if part.get("type") in ("image", "video"):
            marks.append(f"<{part['type']}>")
            pieces.append("")
        else:
            pieces[-1] += refuse_placeholders(str(part.get("text", "")))
    if not marks:
        return pieces[0]
    for end in ("</image>", "</video>"):
        if any(end in piece for piece in pieces):
            raise fault("literal_placeholder", f"the text holds a literal {end}, which ends a place for media here")
    if pieces[-1] == "":
        last = max((place for place, piece in enumerate(pieces) if piece), default=0)
        if pieces[last].endswith("\n"):
            pieces[last] += "\n"
    after = ("\n" + piece if piece.startswith("\n") else piece for piece in pieces[1:])
    return pieces[0] + "".join(mark + piece for mark, piece in zip(marks, after, strict=True))


def refuse_placeholders(content: str) -> str:
    """The text itself, proved to hold no placeholder of any medium."""
    for name in MEDIA_PLACEHOLDERS:
        if name in content:
            raise fault("literal_placeholder", f"the text holds a literal {name}, which means a place for media here")
    return content


def placed_or_first(content: str, num_images: int) -> Parts:
    """Placeholders by position; where the text has none, the images come first.

    Without images the text stays as it is, for the check of literal placeholders to judge.
    """
    if num_images and PLACEHOLDER in content:
        return parts_of(content)
    return [*(dict(IMAGE_PART) for _ in range(num_images)), {"type": "text", "text": content}]


def turn(role: str, content: Parts | str) -> Message:
    """A canonical message."""
    return {"role": role, "content": [{"type": "text", "text": content}] if isinstance(content, str) else content}


def placeholder_turn(role: str, content: str) -> Message:
    """A message of a format with placeholders. Other roles than ``user`` have no images."""
    if role == "user":
        return turn(role, parts_of(content))
    if PLACEHOLDER in content:
        raise fault("image_place", f"a {role} turn holds {PLACEHOLDER}; images belong in user turns")
    return turn(role, content)


def answer_without_images(content: str, key: str) -> str:
    """An answer in a format where ``<image>`` is a place for an image wherever it is."""
    if PLACEHOLDER in content:
        raise fault("image_place", f"{key!r} holds {PLACEHOLDER}; answers are text only")
    return content


def speech(value: Any, key: str, *, role_key: str, text_key: str, roles: Mapping[str, str]) -> list[tuple[str, str]]:
    """A list of turns in someone's keys as (our role, text) pairs."""
    if not isinstance(value, list | tuple) or not value:
        raise fault("prompt", f"{key!r} must be a non-empty list of turns, got {shown(value)}")
    turns = []
    for place, item in enumerate(value):
        name = f"{key}[{place}]"
        given = without_none(item)
        given.pop("name", None)  # who in the role speaks: kept in ``meta``
        if set(given) != {role_key, text_key}:
            raise fault("prompt", f"{name} must be a mapping with exactly {role_key!r} and {text_key!r}")
        role, content = given[role_key], given[text_key]
        if not isinstance(role, str) or role not in roles:
            raise fault("roles", f"{name} has {role_key} {shown(role)}; known: {', '.join(roles)}")
        if not isinstance(content, str):
            raise fault("prompt", f"{name} must have text as {text_key!r}, got {shown(content)}")
        turns.append((roles[role], content))
    return turns


@dataclass(frozen=True, slots=True)
class Images:
    """The images of a row as canonical items, the file names that came with embedded ones, and the row's videos."""

    items: list[Any]
    names: list[str]
    videos: list[Any] = field(default_factory=list)


def read_images(value: Any, key: str, options: FormatOptions) -> Images:
    """One image or a list of them: paths, raw bytes, ``{"bytes", "path"}`` mappings, or ``data:`` URIs with base64."""
    if value is None:
        return Images([], [])
    items: list[Any] = []
    names: list[str] = []
    for place, item in enumerate(value if isinstance(value, list | tuple) else [value]):
        found, name = _image(item, f"{key}[{place}]", options)
        items.append(found)
        names += [name] if name else []
    return Images(items, names)


def needed(images: Images, key: str) -> Images:
    """The media of a data set in which every row has an image or a video: without it the question makes no sense."""
    if not images.items and not images.videos:
        raise fault("images", f"the row has no {key!r}")
    return images


def _image(item: Any, name: str, options: FormatOptions) -> tuple[Any, str]:
    if isinstance(item, str) and item.startswith("data:"):
        head, comma, encoded = item.partition(",")
        if not comma or not head.endswith(";base64"):
            raise fault("images", f"{name} is a data URI without base64 content")
        return {"bytes": _base64(encoded, name)}, ""
    if isinstance(item, str) and item.strip():
        return _path_after(local_file(item), options.image_after), ""
    if isinstance(item, bytes):
        return item, ""
    if isinstance(item, Mapping) and set(item) <= {"bytes", "path"}:
        data: Any = item.get("bytes")
        path: Any = item.get("path")
        if data is None and isinstance(path, str) and path.strip():
            return _path_after(local_file(path), options.image_after), ""
        file_name = path if isinstance(path, str) else ""
        if isinstance(data, bytes):
            return data, file_name
        if isinstance(data, str):
            return {"bytes": _base64(data, name)}, file_name
    raise fault("images", f"{name} must be a path or an embedded image, got {shown(item)}")


def read_videos(value: Any, key: str, options: FormatOptions) -> list[Any]:
    """One video or a list of them as canonical items: a path, a list of frames, or a mapping with ``frames``.

    Raises:
        RowError: ``video`` for what is no whole video by its path or frames, ``videos`` for anything else.
    """
    if value is None:
        return []
    items = value if isinstance(value, list | tuple) else [value]
    if items and all(map(_is_frame, items)) and not isinstance(value, str):
        if key == "video":
            return [{"frames": read_images(items, key, options).items}]
        raise fault(
            "videos", f"{key!r} names images, not videos; write the frames of one video as a list: {key}: [[...]]"
        )
    return [_video(item, f"{key}[{place}]", options) for place, item in enumerate(items)]


_IMAGE_BYTES = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"RIFF")


def _is_frame(item: Any) -> bool:
    """Whether an item is an image by its look, and no embedded video. A GIF among videos is a whole one."""
    data = item.get("bytes") if isinstance(item, Mapping) else item
    if isinstance(data, bytes):
        return data.startswith(_IMAGE_BYTES)
    return looks_like_image(item) and not names_gif(item)


NOT_IN_A_VIDEO = (
    "a video is read whole, by its path or its frames with 'fps'; take out what else it says, and where that names a "
    "piece of the video, cut the piece out before, into a file of its own (ffmpeg -ss)"
)


def video_of(frames: Any, fps: Any, name: str, options: FormatOptions) -> dict[str, Any]:
    """The canonical item of a list of frames."""
    if not isinstance(frames, list | tuple) or not frames:
        raise fault("videos", f"{name} must have a list of images as its frames, got {shown(frames)}")
    return {"frames": read_images(frames, name, options).items, **({} if fps is None else {"fps": fps})}


def _video(item: Any, name: str, options: FormatOptions) -> Any:
    if isinstance(item, str) and item.strip():
        if item.startswith("data:"):
            raise fault("video", f"{name} is written out in a data: URL; save it as a file, and give its path")
        return _path_after(local_file(item), options.image_after)
    if isinstance(item, list | tuple):
        return video_of(item, None, name, options)
    given = without_none(item)
    if given.keys() == {"path"} and isinstance(given["path"], str):
        return _video(given["path"], name, options)
    if "frames" in given and given.keys() <= {"frames", "fps"}:
        return video_of(given["frames"], given.get("fps"), name, options)
    if isinstance(item, bytes) or "bytes" in given:
        raise fault("video", f"{name} is an embedded video; save it as a file, and give its path")
    known = {"frames", "fps"} if "frames" in given else {"path"} if "path" in given else set(given)
    if more := sorted(given.keys() - known):
        raise fault("video", f"{name} has {', '.join(map(repr, more))}: {NOT_IN_A_VIDEO}")
    reason = "video" if isinstance(item, Mapping | int) and not isinstance(item, bool) else "videos"
    raise fault(reason, f"{name} must be the path of a whole video or a list of its frames, got {shown(item)}")


def _base64(data: str, name: str) -> str:
    try:
        base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise fault("images", f"{name} is not base64: {error}") from error
    return data


def _path_after(path: str, folder: str) -> str:
    if not folder:
        return path
    wanted = [part for part in folder.split("/") if part]
    parts = [part for part in path.replace("\\", "/").split("/") if part]
    for start in range(len(parts) - len(wanted)):
        if parts[start : start + len(wanted)] == wanted:
            return "/".join(parts[start + len(wanted) :])
    raise fault("image_path", f"the image path {path[:200]!r} has no folder {folder!r} to cut after")


def image_of_id(image_id: Any, options: FormatOptions) -> str:
    """The path of an image that the row names by its number or name only."""
    if isinstance(image_id, bool) or not isinstance(image_id, str | int) or not str(image_id).strip():
        raise fault("images", f"'image_id' must be text or a whole number, got {shown(image_id)}")
    known = options.image_index.get(str(image_id))
    return known if known is not None else options.image_template.replace("{image_id}", str(image_id))


def number(value: Any, name: str) -> float | None:
    """A score, strictly: no text, no truth value, nothing that is not finite. None where there is none."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise fault("score", f"{name!r} must be a number, got {shown(value)}")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise fault("score", f"{name!r} must be finite, got {shown(value)}")
    return found
