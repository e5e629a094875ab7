"""What a value of a row is by its look: nothing, media, or a name of images that were read already."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmpref.data.row_values import local_file

_IMAGE_ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif", ".svg")


_VIDEO_ENDINGS = (".mp4", ".webm", ".avi", ".mov", ".mkv", ".m4v", ".mpg", ".mpeg")


_AUDIO_ENDINGS = (".mp3", ".wav", ".flac", ".ogg", ".m4a", ".opus", ".aac")


_ENDINGS = (*_IMAGE_ENDINGS, *_VIDEO_ENDINGS, *_AUDIO_ENDINGS)


_ENCODED = ("data:image/", "data:video/", "data:audio/", "iVBORw0KGgo", "/9j/4", "R0lGOD", "UklGR")


_MEDIA_KEYS = frozenset({"bytes", "path", "url", "array", "sampling_rate"})


_MEDIA_BYTES = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"ID3", b"\x1aE\xdf\xa3", b"OggS")


def is_empty(value: Any) -> bool:
    """Whether a value says nothing: None, blanks, NaN, and lists and mappings of nothing else."""
    kind = type(value)
    if value is None or kind is bool or kind is int:
        return value is None
    if kind is str:
        return not value or value.isspace()
    if kind is list or isinstance(value, list | tuple):
        for item in value:  # noqa: SIM110  faster than all(), and asked for every row
            if not is_empty(item):
                return False
        return True
    if kind is dict or isinstance(value, Mapping):
        for item in value.values():  # noqa: SIM110
            if not is_empty(item):
                return False
        return True
    return kind is float and math.isnan(value)


def as_list(value: Any) -> Sequence[Any]:
    """The value itself where it is a list, else a list of it."""
    return value if isinstance(value, list | tuple) else [value]


def looks_like_image(item: Any) -> bool:
    """Whether a value is an image by its look: bytes, a data URI, a path with the ending of one."""
    if isinstance(item, Mapping):
        item = item.get("path") or item.get("bytes")
    if isinstance(item, str):
        return item.startswith("data:image/") or _path_of(item).endswith(_IMAGE_ENDINGS)
    return isinstance(item, bytes)


def names_gif(item: Any) -> bool:
    """Whether a path, or a mapping with one, ends like a GIF: as an image it is one frame, among videos a whole one."""
    path = item.get("path") if isinstance(item, Mapping) else item
    return isinstance(path, str) and _path_of(path).endswith(".gif")


def _path_of(text: str) -> str:
    """A path or URL in lower case without a query."""
    return text.partition("?")[0].partition("#")[0].lower()


def looks_like_media(value: Any) -> bool:
    """A path or URL with the ending of an image, video or sound, encoded media, or a list of those."""
    if isinstance(value, str):
        if "." not in value[-40:] and "?" not in value and "#" not in value and value[:1] not in "dRiU/":
            return False
        if len(value) <= 2048 and _path_of(value).endswith(_ENDINGS):
            return "\n" not in value
        return value.startswith(_ENCODED)
    if isinstance(value, bytes):
        return value.startswith(_MEDIA_BYTES)
    if isinstance(value, Mapping):
        return value.keys() <= _MEDIA_KEYS and not is_empty(value)
    return isinstance(value, list | tuple) and any(looks_like_media(item) for item in value[:100])


def medium_of(value: Any) -> str:
    """``image``, ``video`` or ``audio``: what the first of a value's media is, by its name or its bytes."""
    if isinstance(value, list | tuple):
        return next((medium_of(item) for item in value if looks_like_media(item)), "image")
    if isinstance(value, Mapping):
        value = next((value[key] for key in ("path", "url") if isinstance(value.get(key), str)), value.get("bytes"))
    if isinstance(value, bytes):
        is_sound, is_video = value.startswith((b"ID3", b"OggS")), value.startswith(b"\x1aE\xdf\xa3")
    else:
        name = _path_of(value) if isinstance(value, str) else ""
        is_sound, is_video = name.endswith(_AUDIO_ENDINGS), name.endswith(_VIDEO_ENDINGS)
        is_sound, is_video = is_sound or name.startswith("data:audio/"), is_video or name.startswith("data:video/")
    return "audio" if is_sound else "video" if is_video else "image"


def ends_like_an_image(value: Any) -> bool:
    """A text with the ending of an image file."""
    if type(value) is not str or ("." not in value[-8:] and "?" not in value and "#" not in value):
        return False
    return len(value) <= 2048 and "\n" not in value and _path_of(value).rstrip().endswith(_IMAGE_ENDINGS)


def names_the_same(value: Any, images: Sequence[Any]) -> bool:
    """Whether a column names the images that were read: the same files, or names for embedded ones."""
    given = value if isinstance(value, list | tuple) else [value]
    if not images or len(given) != len(images):
        return False
    return all(
        isinstance(name, str) and (not isinstance(image, str) or _same_file(name, image))
        for name, image in zip(given, images, strict=True)
    )


def _same_file(one: str, two: str) -> bool:
    """Whether two paths may be one file: one is the end of the other, folder by folder (``1.jpg``, ``orig/1.jpg``).

    Of an address and a local copy only the file names are compared: the folders of the two have nothing in common.
    """
    if one == two:
        return True
    first, second = _folders(one), _folders(two)
    num_same = 1 if ("://" in local_file(one)) != ("://" in local_file(two)) else min(len(first), len(second))
    return bool(num_same) and first[-num_same:] == second[-num_same:]


def _folders(path: str) -> list[str]:
    """The folders of a path or an address, and the file's name."""
    path = re.split(r"[?#]", local_file(path))[0].partition("://")[2] or re.split(r"[?#]", local_file(path))[0]
    return [piece for piece in path.replace("\\", "/").split("/") if piece not in ("", ".")]
