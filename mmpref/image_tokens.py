"""How many image tokens an image becomes, per model family, by arithmetic: no processor, no download.

Each rule follows the paper and the processor of transformers, and each is tested against that processor. The numbers
hold for the image settings of the published checkpoints, named below; a recipe that changes the pixel budget changes
them.

==================  ===================================================================================================
LLaVA-1.5           336 px / 14 px patches = 24 x 24 = 576, whatever the size.
LLaVA-NeXT          576 for the whole image, and the anyres grid: of 672x336, 336x672, 672x672, 1008x336 and 336x1008
                    the one that keeps most pixels; 24 tokens per 336 px side, padding cut off, one newline per row.
LLaVA-OneVision     729 for the whole image (384 px / 14 px = 27 x 27), and the grid of 1..6 x 1..6 tiles of 384 px
                    with padding cut off, shrunk to about 9 tiles (``anyres_max_9``), one newline per row.
Qwen2-VL, 2.5-VL    sides rounded to 28 px (14 px patches merged 2 x 2), scaled into 3,136..12,845,056 pixels, one token
                    per 28 x 28 px.
Qwen3-VL            the same with 32 px (16 px patches merged 2 x 2) and 65,536..16,777,216 pixels; Qwen3.5 as well.
GLM-4.1V            as Qwen2-VL, and every image counts as two frames in a budget of 12,544..9,633,792 pixels.
Gemma 4             the largest sides of whole 48 px (16 px patches pooled 3 x 3) that give 280 tokens at most.
Mistral Small 3     1,540 px on the longer side at most, one token per 28 x 28 px (14 px patches merged 2 x 2) begun,
                    and one more behind every row.
==================  ===================================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

_NEXT_GRID = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))  # tiles (high, wide), in the order that decides a draw
_ONEVISION_GRID = tuple((high, wide) for high in range(1, 7) for wide in range(1, 7))


def llava_1_5(width: int, height: int) -> int:
    """576: every image is scaled and cropped to one 336 px square."""
    del width, height
    return 24 * 24


def llava_next(width: int, height: int) -> int:
    """The whole image, and the anyres grid without its padding, with one newline per row."""
    rows, columns = _unpadded(width, height, tile=336, side=24, grid=_NEXT_GRID)
    return 24 * 24 + rows * columns + rows


def llava_onevision(width: int, height: int) -> int:
    """As LLaVA-NeXT with 384 px tiles of 27 x 27 tokens, shrunk when it is well over nine tiles."""
    rows, columns = _unpadded(width, height, tile=384, side=27, grid=_ONEVISION_GRID)
    ratio = math.sqrt(rows * columns / (9 * 27**2))
    if ratio > 1.1:
        rows, columns = int(rows // ratio), int(columns // ratio)
    return 27 * 27 + rows * columns + rows


def qwen(width: int, height: int, *, step: int, min_pixels: int, max_pixels: int) -> int | None:
    """Sides rounded to ``step``, scaled into the pixel budget; one token per step x step. None above 200 to 1."""
    if max(width, height) > 200 * min(width, height):
        return None
    high, wide = round(height / step), round(width / step)
    pixels = high * wide * step**2
    if pixels > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        high, wide = (max(1, math.floor(side / shrink / step)) for side in (height, width))
    elif pixels < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        high, wide = (math.ceil(side * grow / step) for side in (height, width))
    return high * wide


def glm4v(width: int, height: int, *, min_pixels: int = 112 * 112, max_pixels: int = 9633792) -> int | None:
    """As :func:`qwen` in steps of 28 px; an image is two frames of the budget, and no side is below one step."""
    if min(width, height) < 28:
        scale = max(28 / height, 28 / width)
        width, height = int(width * scale), int(height * scale)
    if max(width, height) > 200 * min(width, height):
        return None
    high, wide = round(height / 28), round(width / 28)
    if 2 * high * wide * 28**2 > max_pixels:
        shrink = math.sqrt(2 * height * width / max_pixels)
        high, wide = (max(1, math.floor(side / shrink / 28)) for side in (height, width))
    elif 2 * high * wide * 28**2 < min_pixels:
        grow = math.sqrt(min_pixels / (2 * height * width))
        high, wide = (math.ceil(side * grow / 28) for side in (height, width))
    return high * wide


def gemma4(width: int, height: int, *, side: int = 48, most: int = 280) -> int | None:
    """The image scaled to the area of ``most`` squares of ``side`` px, both sides rounded down to whole squares.

    A side below one square is one, and the other then follows the image's shape. None for what has no area left.
    """
    scale = math.sqrt(most * side**2 / (width * height))
    high, wide = math.floor(scale * height / side), math.floor(scale * width / side)
    if not high:
        high, wide = 1, min(width // height, most)
    elif not wide:
        high, wide = min(height // width, most), 1
    return high * wide or None


def pixtral_grid(width: int, height: int, *, step: int = 28, longest: int = 1540) -> tuple[int, int]:
    """Rows and columns of squares of ``step`` px that are begun, of an image shrunk to ``longest`` px."""
    ratio = max(width / longest, height / longest, 1.0)
    rows, columns = (-(-max(1, math.floor(side / ratio)) // step) for side in (height, width))
    return rows, columns


def mistral3(width: int, height: int) -> int:
    """One token for each square of :func:`pixtral_grid`, and one more behind every row."""
    rows, columns = pixtral_grid(width, height)
    return rows * (columns + 1)


def _qwen2(width: int, height: int) -> int | None:
    return qwen(width, height, step=28, min_pixels=56 * 56, max_pixels=16384 * 28 * 28)


def _qwen3(width: int, height: int) -> int | None:
    return qwen(width, height, step=32, min_pixels=256 * 256, max_pixels=16384 * 32 * 32)


IMAGE_TOKENS: Mapping[str, Callable[[int, int], int | None]] = MappingProxyType(
    {
        "LLaVA-1.5": llava_1_5,
        "LLaVA-NeXT": llava_next,
        "LLaVA-OneVision": llava_onevision,
        "Qwen2-VL, Qwen2.5-VL": _qwen2,
        "Qwen3-VL": _qwen3,
        "GLM-4.1V": glm4v,
        "Gemma 4": gemma4,
        "Mistral Small 3": mistral3,
    }
)
"""Family -> tokens of an image of (width, height), upright; None where the family refuses the image."""

RULES: Mapping[str, str] = MappingProxyType(
    {
        "LLaVA-1.5": "(336 / 14)^2 = 576 for every image",
        "LLaVA-NeXT": "576 + unpadded anyres grid of 336 px tiles (24 per side) + 1 per row",
        "LLaVA-OneVision": "729 + unpadded grid of 384 px tiles (27 per side), about 9 tiles at most, + 1 per row",
        "Qwen2-VL, Qwen2.5-VL": "one per 28 x 28 px after resizing into 3,136..12,845,056 px",
        "Qwen3-VL": "one per 32 x 32 px after resizing into 65,536..16,777,216 px",
        "GLM-4.1V": "one per 28 x 28 px after resizing two frames of it into 12,544..9,633,792 px",
        "Gemma 4": "as many squares of 48 px as 280 tokens allow, in the image's shape",
        "Mistral Small 3": "one per 28 x 28 px begun, 1,540 px at most, + 1 per row",
    }
)


def _unpadded(width: int, height: int, *, tile: int, side: int, grid: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """Rows and columns of tokens that show image, after the best grid is chosen and its padding cut off."""

    def kept_and_wasted(tiles: tuple[int, int]) -> tuple[int, int]:
        high, wide = tiles[0] * tile, tiles[1] * tile
        scale = min(wide / width, high / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - high * wide

    high, wide = max(grid, key=kept_and_wasted)  # the first of equals
    rows, columns = high * side, wide * side
    if width / height > columns / rows:
        rows -= 2 * ((rows - int(round(height * columns / width, 7))) // 2)
    else:
        columns -= 2 * ((columns - int(round(width * rows / height, 7))) // 2)
    return rows, columns
