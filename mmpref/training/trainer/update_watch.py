"""What is known of the update that went wrong: which pairs, how large, what they did; as a file and as a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from mmpref.files.writing import write_json
from mmpref.processing.batch import PairBatch
from mmpref.processing.pixels import num_pixels

_NAMED = 8  # pairs that a message names one by one


@dataclass(frozen=True, slots=True)
class _Micro:
    """One micro-batch: what it was made of, and its statistics as far as they were computed."""

    pair_ids: tuple[str, ...]
    tokens: int
    pixels: int
    image_pixels: int = 0
    frames: int = 0
    stats: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UpdateNotes:
    """What is known of the micro-batches of one update. Holds no batch, and reads no tensor until asked."""

    micros: tuple[_Micro, ...]

    @property
    def pair_ids(self) -> tuple[str, ...]:
        """Pairs of the update, in the order they were run."""
        return tuple(name for micro in self.micros for name in micro.pair_ids)

    def dump(self, file: Path, *, step: int, reason: str, gradients: Mapping[str, Any], **facts: Any) -> None:
        """Write what is known as JSON; numbers that are not finite are written as words.

        Args:
            file: where.
            step: the update that was not made.
            reason: what was found.
            gradients: what :func:`gradient_facts` says of them.
            facts: whatever else is worth knowing.
        """
        pairs = []
        for micro in self.micros:
            columns = {name: values.tolist() for name, values in micro.stats.items()}
            for place, name in enumerate(micro.pair_ids):
                stats = {key: _number(values[place]) for key, values in columns.items()}
                pairs.append({"id": name, "batch_tokens": micro.tokens, "batch_pixels": micro.pixels, **stats})
        named = {key: _number(value) for key, value in facts.items()}
        write_json(file, {"step": step, "reason": reason, **named, "gradients": gradients, "pairs": pairs})


class UpdateWatch:
    """Remembers the micro-batches of the update under way."""

    def __init__(self) -> None:
        self._micros: list[_Micro] = []

    def begin(self) -> None:
        """A new update."""
        self._micros.clear()

    def enter(self, batch: PairBatch) -> None:
        """A micro-batch is about to be run."""
        of_all, of_images = num_pixels(batch.vision), num_pixels(batch.vision, of_videos=False)
        frames = sum(batch.video_frames)
        self._micros.append(_Micro(batch.counted_ids, batch.input_ids.numel(), of_all, of_images, frames))

    def note(self, stats: Mapping[str, Tensor]) -> None:
        """Statistics [B] of the micro-batch entered last."""
        if self._micros:
            self._micros[-1].stats.update(stats)

    @property
    def notes(self) -> UpdateNotes:
        """Of the update so far; they stay as they are when the next one begins."""
        return UpdateNotes(tuple(self._micros))

    @property
    def image_pixels(self) -> int:
        """Of the images of the micro-batch entered last."""
        return self._micros[-1].image_pixels if self._micros else 0

    @property
    def frames(self) -> int:
        """Of all videos of the micro-batch entered last."""
        return self._micros[-1].frames if self._micros else 0

    @property
    def divisible_tokens(self) -> int:
        """Of the micro-batch entered last, if it has several pairs; 0 for one pair."""
        several = bool(self._micros) and len(self._micros[-1].pair_ids) > 1
        return self._micros[-1].tokens if several else 0

    def last_described(self) -> str:
        """The micro-batch entered last, in words."""
        if not self._micros:
            return "before the first batch"
        micro = self._micros[-1]
        return _described(micro.pair_ids, micro.tokens, micro.pixels)


def describe_batch(batch: PairBatch) -> str:
    """A batch in words: its first pairs, how many, tokens and pixels."""
    once = tuple(dict.fromkeys(batch.pair_ids))  # a reference cache is computed by answers
    return _described(once, batch.input_ids.numel(), num_pixels(batch.vision))


def _described(pair_ids: Sequence[str], tokens: int, pixels: int) -> str:
    names = ", ".join(pair_ids[:_NAMED]) + (", ..." if len(pair_ids) > _NAMED else "")
    of_pixels = f", {pixels:,} pixels" if pixels else ""
    return f"pairs {names} ({len(pair_ids)} in the batch, {tokens:,} tokens{of_pixels})"


def _number(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.item()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
