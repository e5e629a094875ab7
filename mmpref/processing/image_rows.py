"""The images of one row, named by what the vision tower is given of them: the key of features that are kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_PIXELS, _GRIDS = "pixel_values", "image_grid_thw"


class ImageRow(NamedTuple):
    """All images of one prompt, in order."""

    key: str
    """Hash of their processed tensors: another image, budget or image processor gives another key."""
    units: int
    """How many of what the tower takes one by one they are: patches of a grid, or whole images and tiles."""


LoadFeatures = Callable[[Sequence[ImageRow]], Mapping[str, Tensor]]
"""What a tower made of the images of some rows, joined in their order; {} where it is not there for all of them."""


def image_row(vision: Mapping[str, Tensor]) -> ImageRow | None:
    """Key and size of a row's images; None for a row without images, or whose inputs are of a form not known here.

    Args:
        vision: the processor's outputs for this row alone, without videos: ``pixel_values`` are patches [P, D] with
            grids, whole images or tiles [I, 3, H, W], or tiles of each image [I, tiles, 3, H, W].
    """
    pixels = vision.get(_PIXELS)
    if pixels is None:
        return None
    if pixels.dim() == (2 if _GRIDS in vision else 4):
        units = pixels.shape[0]
    elif pixels.dim() == 5:
        units = _tiles(pixels)
    else:
        return None
    return ImageRow(_hash(vision), units)


def _tiles(pixels: Tensor) -> int:
    """Tiles of all images, without the zeros behind those of an image that has fewer than another: the model cuts them
    off. A tile of nothing but zeros would count too few, which is seen where features are divided among rows."""
    real = pixels.flatten(2).any(dim=-1)  # [I, tiles]
    last = torch.arange(1, real.shape[1] + 1) * real
    return int(last.amax(dim=1).sum())


def _hash(vision: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(vision):
        value = vision[name].contiguous()
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:40]
