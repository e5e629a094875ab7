"""Several sources as one stream: weights, a seeded order, a share per process; and images that lie below several roots.

Everything is a function of what is given and the seed: the same on every machine, process and run.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from mmpref.data.images.loader import ImageLoader
from mmpref.data.videos.loader import VideoLoader
from mmpref.records import ImageRef, PreferencePair, VideoFrames, VideoRef, VideoShape

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")


class _Rooted(Protocol):
    @property
    def root(self) -> Path | None: ...


L = TypeVar("L", bound=_Rooted)


@dataclass(frozen=True, slots=True)
class Weighted:
    """The pairs of one source and how often each appears: 2 is twice, 0.25 takes a seeded quarter of them."""

    pairs: Sequence[PreferencePair]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"weight must be a finite number above 0, got {self.weight}")


def repeat(pairs: Sequence[PreferencePair], weight: float, *, seed: int) -> list[PreferencePair]:
    """Each pair as often as its weight says, in the order given.

    Each appears ``floor(weight)`` times, and a seeded choice of them once more, so that there are
    ``round(weight * len(pairs))`` in all. Who is chosen depends on the seed and the pair's id alone.
    """
    whole = math.floor(weight)
    extra = round(weight * len(pairs)) - whole * len(pairs)
    ranked = sorted(range(len(pairs)), key=lambda place: (_draw(seed, pairs[place].id), place))
    chosen = set(ranked[:extra])
    return [pair for place, pair in enumerate(pairs) for _ in range(whole + (place in chosen))]


def mix(sources: Sequence[Weighted], *, seed: int, epoch: int = 0) -> list[PreferencePair]:
    """All sources in one seeded order, each pair as often as its source's weight says.

    Args:
        sources: in any number; the order of the result depends on their order.
        seed: another seed, another order and another choice for the fractions of weights.
        epoch: each epoch has an order of its own over the same pairs.
    """
    mixed = [pair for source in sources for pair in repeat(source.pairs, source.weight, seed=seed)]
    random.Random(f"{seed}/{epoch}").shuffle(mixed)
    return mixed


def rank_share(items: Sequence[T], *, rank: int, world_size: int) -> list[T]:
    """What one of ``world_size`` processes takes: no item twice, none left out, sizes at most one apart."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in [0, {world_size}), got {rank}")
    return list(items[rank::world_size])


@dataclass(frozen=True)
class RootedImages:
    """Opens images by absolute path, each through the loader of the root that it lies below."""

    loaders: tuple[ImageLoader, ...]

    def open(self, ref: ImageRef) -> Image:
        """As :meth:`ImageLoader.open`."""
        return self._loader(ref).open(ref)

    def size(self, ref: ImageRef) -> tuple[int, int]:
        """As :meth:`ImageLoader.size`."""
        return self._loader(ref).size(ref)

    def num_bytes(self, ref: ImageRef) -> int:
        """As :meth:`ImageLoader.num_bytes`."""
        return self._loader(ref).num_bytes(ref)

    def has_one_colour(self, ref: ImageRef) -> bool:
        """As :meth:`ImageLoader.has_one_colour`."""
        return self._loader(ref).has_one_colour(ref)

    def digest(self, ref: ImageRef) -> str:
        """As :meth:`ImageLoader.digest`."""
        return self._loader(ref).digest(ref)

    def _loader(self, ref: ImageRef) -> ImageLoader:
        return _of_root(self.loaders, ref.path)


@dataclass(frozen=True)
class RootedVideos:
    """Opens videos by absolute path, each through the loader of the root that it lies below."""

    loaders: tuple[VideoLoader, ...]

    def __call__(self, ref: VideoRef) -> VideoFrames:
        """As :meth:`VideoLoader.__call__`."""
        return self._loader(ref)(ref)

    def shape(self, ref: VideoRef) -> VideoShape:
        """As :meth:`VideoLoader.shape`."""
        return self._loader(ref).shape(ref)

    def _loader(self, ref: VideoRef) -> VideoLoader:
        return _of_root(self.loaders, ref.path if ref.path is not None else ref.frames[0].path)


def _of_root(loaders: Sequence[L], path: str | None) -> L:
    """The loader of the deepest root that a path lies below; the first one for what is embedded."""
    best, depth = loaders[0], -1
    if path is not None:
        for loader in loaders:
            root = loader.root
            if root is not None and len(root.parts) > depth and Path(path).is_relative_to(root):
                best, depth = loader, len(root.parts)
    return best


def _draw(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
