"""Numbers in the settings of image processors, as a model folder has them: of the right kind, and of a sane size.

One that is far too large takes all memory with the first image, and one of another kind fails in the middle of a
library; both are found here by key, before any image is processed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

_MOST_SIDE = 8192
_MOST_AREA = 2**26
"""Pixels of one image at most, where small ones stay small."""
_MOST_FIXED = 2**24
"""Pixels that every image is brought to; published processors have up to 5 million."""
_MOST_PATCH = 1024
_MOST_TOKENS = 16_384
"""Of one image or tile."""
_MOST_TILES = 128
_MOST_SHAPES = 1024
_SIZE = re.compile(r"(^|_)(size|resolution)$")
_PATCH = re.compile(r"(patch|merge|kernel)_size$|(^|_)(divisor|divisibility|stride|downsample_factor)$")
_COUNT = re.compile(r"^(num|max|min)_\w*(tokens|patches|crops|nums|images)$|_seq_len(gth)?$")
_TILES = re.compile(r"(^|_)(tiles|slice_nums)$")
_NUMBERS = re.compile(r"(^|_)(mean|std)$|^rescale_factor$")


def odd_setting(settings: Mapping[str, Any]) -> str:
    """The first setting that cannot be meant, with what can; empty where there is none. A setting of None is left out.

    Args:
        settings: of an image processor, or of a processor beside its parts.
    """
    is_area = "merge_size" in settings  # Qwen's image processors keep numbers of pixels under the names of edges
    has_tiles = "crop_to_patches" in settings
    for key, value in settings.items():
        if value is None or not isinstance(key, str):
            continue
        if key.startswith("do_") and not isinstance(value, bool):
            return _said(key, value, "true or false")
        if key == "resample" and not _is_whole(value, 0, 5):
            return _said(key, value, "a whole number from 0 to 5")
        if _NUMBERS.search(key) and not all(map(_is_number, value if isinstance(value, list) else [value])):
            return _said(key, value, "numbers")
        if key == "image_grid_pinpoints":
            found = _odd_shapes(value)
        elif _TILES.search(key) or (has_tiles and key in ("min_patches", "max_patches")):
            found = _odd_number(key, value, 0, _MOST_TILES)
        elif key.endswith("_pixels"):
            found = _odd_number(key, value, 1, _MOST_FIXED if key == "min_pixels" else _MOST_AREA)
        elif _COUNT.search(key):
            found = _odd_number(key, value, 0, _MOST_TOKENS)
        elif _PATCH.search(key) or _SIZE.search(key):
            found = _odd_size(key, value, _MOST_PATCH if _PATCH.search(key) else _MOST_SIDE, is_area=is_area)
        else:
            continue
        if found:
            return found
    return ""


def _odd_size(key: str, value: Any, most: int, *, is_area: bool) -> str:
    """A side, or several by name or place."""
    if not isinstance(value, Mapping | list):
        return _odd_number(key, value, 1, most)
    sides = [(f"{key}.{name}", side) for name, side in _named(value) if side is not None]
    for name, side in sides:
        is_pixels = name.endswith("_pixels") or (is_area and name.endswith("est_edge"))
        area = _MOST_FIXED if name.endswith(("shortest_edge", "min_pixels")) else _MOST_AREA
        if found := _odd_number(name, side, 1, area if is_pixels else most):
            return found
    both = [side for name, side in sides if not name.endswith(("est_edge", "_pixels"))]
    if math.prod(both) > _MOST_FIXED:
        return _said(key, value, f"{_MOST_FIXED:,} pixels at most")
    return ""


def _odd_shapes(value: Any) -> str:
    """Heights and widths that an image may be cut into."""
    name = "image_grid_pinpoints"
    if not isinstance(value, list) or not 0 < len(value) <= _MOST_SHAPES:
        return _said(name, value, f"a list of 1 to {_MOST_SHAPES:,} pairs of height and width")
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2:
            return _said(name, pair, "pairs of height and width")
        if found := _odd_size(name, pair, _MOST_SIDE, is_area=False):
            return found
    return ""


def _named(value: Mapping[str, Any] | list[Any]) -> Iterator[tuple[str, Any]]:
    return iter(value.items()) if isinstance(value, Mapping) else ((str(n), side) for n, side in enumerate(value))


def _odd_number(key: str, value: Any, least: int, most: int) -> str:
    return "" if _is_whole(value, least, most) else _said(key, value, f"a whole number from {least} to {most:,}")


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _said(key: str, value: Any, wanted: str) -> str:
    shown = ascii(value) if not isinstance(value, int) or abs(value) < 10**30 else "a number of many digits"
    return f"says {key}: {shown if len(shown) <= 60 else f'{shown[:60]}...'}, and {wanted} can be used"
