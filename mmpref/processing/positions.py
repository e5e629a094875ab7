"""Where each token of a prompt stands, for models that must be given positions because a second answer starts again.

Shapes: T prompt tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


def in_sequence(length: int) -> Tensor:
    """0, 1, 2, ...: [T]."""
    return torch.arange(length)


class Grid(NamedTuple):
    """The tokens of an image, of a video, or of one temporal patch of a video, which lie side by side in the text."""

    start: int  # the first of them
    rows: int
    columns: int
    patches: int = 1  # temporal patches, one behind the other
    interval: float = 1.0  # from one temporal patch to the next, in positions

    @property
    def num_tokens(self) -> int:
        """Tokens in all."""
        return self.patches * self.rows * self.columns


def multimodal(length: int, grids: Sequence[Grid]) -> Tensor:
    """Positions in time, height and width of Qwen-VL's M-RoPE (arXiv 2409.12191, section 2.1): [3, T].

    Text moves all three on by one a token. An image stands still in time and counts its rows and columns; the text
    after it goes on from the larger of them. So it does after a video, whose patches move on in time by ``interval``:
    that is how the releases of transformers count whose models run here.

    Args:
        length: T, image and video tokens counted.
        grids: images and videos, in order.
    """
    parts: list[Tensor] = []
    read = at = 0  # tokens placed so far, and the next free position
    for grid in grids:
        text = torch.arange(at, at + grid.start - read)
        parts.append(text.expand(3, -1))
        at += grid.start - read
        area = grid.rows * grid.columns
        time = (torch.arange(grid.patches) * grid.interval).long().repeat_interleave(area) + at
        height = torch.arange(at, at + grid.rows).repeat_interleave(grid.columns).repeat(grid.patches)
        width = torch.arange(at, at + grid.columns).repeat(grid.patches * grid.rows)
        parts.append(torch.stack([time, height, width]))
        at += max(grid.rows, grid.columns)
        read = grid.start + grid.num_tokens
    parts.append(torch.arange(at, at + length - read).expand(3, -1))
    return torch.cat(parts, dim=1)


def continued(positions: Tensor, length: int, *, skip: int = 0) -> Tensor:
    """Positions of text that follows: [length] or [3, length], ``skip`` tokens after the end.

    They go on from the last token and not from the largest position, which may be that of a long video before it.
    """
    start = int(positions[..., -1].max()) + 1 + skip
    following = torch.arange(start, start + length)
    return following if positions.dim() == 1 else following.expand(3, -1)
