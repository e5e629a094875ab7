"""Where each token of a prompt stands, for models that must be given positions because a second answer starts again.

Shapes: T prompt tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def in_sequence(length: int) -> Tensor:
    """0, 1, 2, ...: [T]."""
    return torch.arange(length)


def multimodal(length: int, image_starts: Sequence[int], grids: Sequence[tuple[int, int]]) -> Tensor:
    """Positions in time, height and width of Qwen-VL's M-RoPE (arXiv 2409.12191, section 2.1): [3, T].

    Text moves all three on by one a token. An image stands still in time and counts its rows and columns; the text
    after it goes on from the largest of them.

    Args:
        length: T, image tokens counted.
        image_starts: where each image's tokens begin, ascending.
        grids: (rows, columns) of tokens of each image.
    """
    parts: list[Tensor] = []
    read = at = 0  # tokens placed so far, and the next free position
    for start, (rows, columns) in zip(image_starts, grids, strict=True):
        text = torch.arange(at, at + start - read)
        parts.append(text.expand(3, -1))
        at += start - read
        time = torch.full((rows * columns,), at)
        height = torch.arange(at, at + rows).repeat_interleave(columns)
        width = torch.arange(at, at + columns).repeat(rows)
        parts.append(torch.stack([time, height, width]))
        at += max(rows, columns)
        read = start + rows * columns
    parts.append(torch.arange(at, at + length - read).expand(3, -1))
    return torch.cat(parts, dim=1)


def continued(positions: Tensor, length: int, *, skip: int = 0) -> Tensor:
    """Positions of text that follows: [length] or [3, length], ``skip`` tokens after the end."""
    start = int(positions.max()) + 1 + skip
    following = torch.arange(start, start + length)
    return following if positions.dim() == 1 else following.expand(3, -1)
