"""What is made of an opened image: a fingerprint that finds it again, a small copy to show."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

FINGERPRINT_BITS = 128


def fingerprint(image: Image.Image) -> int | None:
    """A number of 128 bits that survives rescaling and recompression: for each cell of a coarse grid of grey values, is
    it brighter than its neighbour to the left (64 bits) and above (64 bits). Two shots of one scene differ in few bits.

    None for an image too even to be told by its shape: all such images would look alike.
    """
    grid = np.asarray(image.convert("L").resize((9, 9), Image.Resampling.BOX), dtype=np.int16)
    if float(grid.std()) < 3.0:
        return None
    brighter = np.concatenate([(grid[:8, 1:] > grid[:8, :-1]).ravel(), (grid[1:, :8] > grid[:-1, :8]).ravel()])
    return int.from_bytes(np.packbits(brighter).tobytes(), "big")


def thumbnail(image: Image.Image, *, side: int) -> tuple[str, bytes]:
    """The image with no side longer than ``side``, as (media type, encoded bytes); it is never enlarged.

    PNG for what is small or drawn in few colours, so that it stays sharp; JPEG otherwise.
    """
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    out = io.BytesIO()
    if max(small.size) <= 128 or small.getcolors(256) is not None:
        small.save(out, "PNG", optimize=True)
        return "image/png", out.getvalue()
    small.save(out, "JPEG", quality=80, optimize=True)
    return "image/jpeg", out.getvalue()
