"""Images that tokens see through layers of their own (Llama 3.2 Vision), and not as tokens of the text.

The processor says which token sees which tiles of which image, for the prompt alone: ``cross_attention_mask``. Whatever
follows a prompt sees what its last token sees. Inputs of such models have a row for each row of text, with as many
images in each: rows with fewer have empty ones behind.

Shapes: N rows, T tokens, I images of a row, F tiles of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

SEEN = "cross_attention_mask"
"""What the processor and the model call it: [1, T, I, F] of a prompt."""
_FIRST_TILE = "aspect_ratio_mask"
"""Which tiles an image has: [1, I, F]; an empty image has one, or the tower would attend to nothing."""


class Crossing(NamedTuple):
    """Tokens that may see images, and which: ``[start, end)`` of a row see ``[first, last)`` of its images.

    Where ``first == last`` they have none. Tokens that none of these names are padding.
    """

    row: int
    start: int
    end: int
    first: int
    last: int


def num_images(vision: Mapping[str, Tensor]) -> int:
    """Images of one prompt that are seen in this way."""
    return vision[SEEN].shape[2] if SEEN in vision else 0


def side_by_side(
    rows: Sequence[Mapping[str, Tensor]], lengths: Sequence[int]
) -> tuple[dict[str, Tensor], Tensor, tuple[Crossing, ...]]:
    """Prompts of one packed row, each with what follows it: one row that has the images of all.

    Args:
        rows: vision inputs of each prompt; {} for text.
        lengths: tokens of each with all that follows.

    Returns:
        The vision inputs [1, I, ...], what every token sees of its own images [1, T, most images of a prompt, F], and
        which images are whose.
    """
    crossings, at, before = [], 0, 0
    for row, length in zip(rows, lengths, strict=True):
        crossings.append(Crossing(0, at, at + length, before, before + num_images(row)))
        at, before = at + length, before + num_images(row)
    with_images = [row for row in rows if row]
    vision = {name: torch.cat([row[name] for row in with_images], dim=1) for name in with_images[0] if name != SEEN}
    most = max(map(num_images, rows))
    return vision, torch.cat(_followed(rows, lengths, most))[None], tuple(crossings)


def row_by_row(
    rows: Sequence[Mapping[str, Tensor]], lengths: Sequence[int], width: int, *, left: bool = False
) -> tuple[dict[str, Tensor], Tensor, tuple[Crossing, ...]]:
    """Padded rows, each with its own images and empty ones behind them.

    Args:
        width: T, tokens of a padded row.
        left: padding stands before the tokens.

    Returns:
        The vision inputs [N, I, ...], what every token sees of its own images [N, T, I, F], and which images are whose.
    """
    most = max(map(num_images, rows))
    missing = [width - length for length in lengths]
    seen = [
        pad(plane, (0, 0, 0, 0, gap, 0) if left else (0, 0, 0, 0, 0, gap))
        for plane, gap in zip(_followed(rows, lengths, most), missing, strict=True)
    ]
    starts = missing if left else [0] * len(rows)
    crossings = [
        Crossing(index, start, start + length, 0, num_images(row))
        for index, (row, start, length) in enumerate(zip(rows, starts, lengths, strict=True))
    ]
    example = next(row for row in rows if row)
    vision = {}
    for name in example:
        if name == SEEN:
            continue
        none = example[name][:, :0]
        vision[name] = torch.cat([_filled(row.get(name, none), most, name) for row in rows])
    return vision, torch.stack(seen), tuple(crossings)


def _filled(images: Tensor, most: int, name: str) -> Tensor:
    """[1, most, ...]: with empty images behind."""
    empty = images.new_zeros(1, most - images.shape[1], *images.shape[2:])
    if name == _FIRST_TILE:
        empty[:, :, :1] = 1
    return torch.cat([images, empty], dim=1)


def _followed(rows: Sequence[Mapping[str, Tensor]], lengths: Sequence[int], most: int) -> list[Tensor]:
    """What each token sees of its own prompt's images, what follows the prompt like its last token: [T, most, F]."""
    example = next(row[SEEN][0] for row in rows if row).bool()
    found = []
    for row, length in zip(rows, lengths, strict=True):
        seen = row[SEEN][0].bool() if row else example[:1, :0]
        after = seen[-1:].expand(length - seen.shape[0], -1, -1)
        found.append(pad(torch.cat([seen, after]), (0, 0, 0, most - seen.shape[1])))
    return found
