"""Equal work for all ranks: each runs the model as often as the others, and the same parts of it, whatever its pairs.

Where weights are sharded every forward is a collective, and where they are not every backward is: if a rank skipped the
vision tower because its pairs have no image, or had no pair left, the others would wait forever.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import SupportsFloat

from accelerate import Accelerator
from torch import nn

from mmpref.errors import ConfigError
from mmpref.models.adapters.weights import plain_name
from mmpref.models.unwrap import unwrap
from mmpref.processing.batch import PairBatch
from mmpref.processing.collate import PairCollator
from mmpref.records import PreferencePair
from mmpref.training.parallel.world import World
from mmpref.training.parallel.zero import no_update_yet


@dataclass(slots=True)
class DummyBatches:
    """Batches of a pair with weight 0, for ranks that have fewer batches than others."""

    world: World
    collator: PairCollator
    _spare: PairBatch | None = field(default=None, init=False)

    def pad_to_longest_rank(
        self, batches: Sequence[Sequence[PairBatch]], *, uneven: bool = False
    ) -> list[tuple[PairBatch, ...]]:
        """Batches, each in as many parts as the rank that has most; all ranks must call it together.

        Args:
            batches: of this rank, in parts.
            uneven: a rank may have no part of a batch. One of which no rank has any stays without.
        """
        own = [tuple(parts) for parts in batches]
        if self.world.size == 1 or not own or not (uneven or self.collator.row_tokens is not None):
            return own
        most = self.world.max_over_ranks([len(parts) for parts in own])
        return [
            parts + (self._dummy_batch(),) * (int(count) - len(parts)) for parts, count in zip(own, most, strict=True)
        ]

    def _dummy_batch(self) -> PairBatch:
        if self._spare is None:
            [self._spare] = self.collator.rows([])
        return self._spare

    def no_sync_except_last(
        self, accelerator: Accelerator, model: nn.Module, *, is_last: bool
    ) -> AbstractContextManager[object]:
        """All parts but the last need no exchange of gradients yet where they are whole, and never an update."""
        if self.world.is_deepspeed and not is_last:
            return no_update_yet(accelerator)
        if is_last or self.world.strategy != "ddp":
            return nullcontext()
        found: AbstractContextManager[object] = accelerator.no_sync(model)
        return found


def dummy_batches_for(
    world: World,
    model: nn.Module,
    collator: PairCollator,
    pairs: Sequence[PreferencePair],
    held_out: Sequence[PreferencePair],
    costs: Sequence[SupportsFloat] | None = None,
) -> DummyBatches:
    """Dummy batches of the cheapest pair, with an image or video where every rank must run the vision tower or
    projector.

    Raises:
        ConfigError: a divided model and rows of which some have images and others videos.
    """
    if world.size == 1:
        return DummyBatches(world, collator)
    cost = dict(zip((pair.id for pair in pairs), costs, strict=True)) if costs is not None else {}
    kinds = {(bool(pair.images), bool(pair.videos)) for pair in (*pairs, *held_out)} - {(False, False)}
    if world.is_sharded and len(kinds) > 1 and any(videos for _, videos in kinds):
        # the tower runs once for all images and once for all videos of a batch, and ranks wait for each other in it
        raise ConfigError(
            "with a divided model (FSDP, ZeRO-3) rows with images and rows with videos cannot train together: the "
            "ranks would run the vision tower a different number of times and wait for each other for ever; train "
            "them in two runs, or without dividing the model"
        )
    always_images = bool(kinds) and (world.is_sharded or _sees_and_trains(model, collator))
    usable = [pair for pair in (*pairs, *held_out) if pair.images or pair.videos or not always_images]

    def price(pair: PreferencePair) -> tuple[bool, float]:
        work = cost.get(pair.id, len(pair.chosen) + len(pair.rejected or ""))
        return pair.rejected is None, float(work)  # one with both answers serves demonstrations too

    dummy = min(usable, key=price)
    return DummyBatches(world, collator.filled(dummy, always_images=always_images))


def _sees_and_trains(model: nn.Module, collator: PairCollator) -> bool:
    family = collator.encoder.family
    return any(
        parameter.requires_grad and family.part_of(plain_name(name)) in ("vision", "projector")
        for name, parameter in unwrap(model).named_parameters()
    )
