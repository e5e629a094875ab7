"""How an image is called in rows of other tools: by a path, a file name, a number, or a number filled up with zeros.

``COCO_val2014_000000002239.jpg``, ``val2014/COCO_val2014_000000002239.jpg``, ``000000002239.png``, ``2239`` and
``"2239"`` are one image; so are MME's ``artwork/images/14777.jpg``, ``artwork/14777.jpg`` and its ``14777.txt``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mmpref.errors import ConfigError, one_line

IMAGE_KEYS = (
    "image_id",
    "image",
    "image_path",
    "image_file",
    "image_name",
    "image_source",
    "img",
    "img_path",
    "img_id",
    "file_name",
    "filename",
)
_LONGEST_NAME = 300
_ENDING = re.compile(r"\.(?:jpe?g|png|webp|bmp|gif|txt)$")
_COCO = re.compile(r"(?:coco_(?:train|val|test)\d{4}_)?0*(\d+)")
_FOLDERS = re.compile(r"(?:^|/)(?:images|questions_answers_yn)/")


def image_names(image: str, category: str = "") -> list[str]:
    """How an image may be called, the fullest first: ``ocr/0001``, ``0001``, and ``1`` as COCO counts."""
    path = _ENDING.sub("", image.split("?", 1)[0].replace("\\", "/").lower())
    path = _FOLDERS.sub(lambda found: "/" if found[0].startswith("/") else "", path)
    short = path.rsplit("/", 1)[-1]
    folder = path.split("/")[-2:-1]
    names = [
        path,
        *("/".join([*folder, short]) for _ in folder),
        *([f"{category.lower()}/{short}"] if category else []),
    ]
    coco = _COCO.fullmatch(short)
    return list(dict.fromkeys([*names, short, *([coco[1]] if coco else [])]))


def image_of(row: Mapping[str, Any], *, keys: Iterable[str] = IMAGE_KEYS) -> dict[str, str]:
    """What a row says about its image, by key: names and numbers, but no image that is in the row itself."""
    found: dict[str, str] = {}
    for key in keys:
        if (value := row.get(key)) is not None and (name := _name(value)) is not None:
            found[key] = name
    several = row.get("images")
    if isinstance(several, list) and len(several) == 1:
        only = several[0].get("path") if isinstance(several[0], Mapping) else several[0]
        if (name := _name(only)) is not None:
            found["images"] = name
    return found


def _name(value: object) -> str | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value)
    return text if 0 < len(text) <= _LONGEST_NAME and "\n" not in text and not text.startswith("data:") else None


def filled(pattern: str, what: str, advice: str, **fields: str | int) -> str:
    """The name of an image's file from a pattern with its fields in braces.

    Raises:
        ConfigError: the pattern does not fit the fields of ``what``; ``advice`` says what to pass.
    """
    try:
        return pattern.format(**fields)
    except (ValueError, LookupError, AttributeError, TypeError) as err:
        raise ConfigError(f"image_name {pattern!r} does not fit {what} ({one_line(err)}); {advice}") from err


class ImageIndex:
    """Things by the names of their images; a name that several images have finds none of them."""

    def __init__(self, images: Iterable[tuple[str, str]]) -> None:
        """``images``: a name of an image, and what it is to be found for."""
        self._found: dict[str, str] = {}
        unclear: set[str] = set()
        for image, what in images:
            for name in image_names(image):
                if self._found.setdefault(name, what) != what:
                    unclear.add(name)
        for name in unclear:
            del self._found[name]

    def find(self, image: str, category: str = "") -> str | None:
        """What belongs to the image of this name, None when there is none or it is not clear."""
        return next((self._found[name] for name in image_names(image, category) if name in self._found), None)
