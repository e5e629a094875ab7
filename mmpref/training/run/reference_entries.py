"""Entries of the reference cache: which batches are missing, and their log-probs from the policy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mmpref.errors import MMPrefError
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.process.children import begin_loader_worker
from mmpref.processing.batch import PairBatch
from mmpref.processing.collate import PairCollator
from mmpref.processing.pixels import num_pixels
from mmpref.records import PreferencePair
from mmpref.training.parallel.world import World
from mmpref.training.trainer.memory_errors import (
    MemorySituation,
    Where,
    explain_oom,
    is_out_of_memory,
    remedies,
)
from mmpref.training.trainer.update_watch import describe_batch

_BATCH = 4
"""Pairs whose log-probs are computed together."""
Entry = tuple[Tensor, Tensor | None]
"""Log-probs of the tokens of the chosen answer and of the rejected one."""


def missing_batches(
    collator: PairCollator, pairs: Sequence[PreferencePair], have: Mapping[str, Entry], workers: int
) -> Iterator[PairBatch]:
    """Batches with a pair that is not in the cache yet."""
    chunks = [pairs[begin : begin + _BATCH] for begin in range(0, len(pairs), _BATCH)]
    loader: DataLoader[Any] = DataLoader(
        chunks,  # type: ignore[arg-type]  # torch takes any sequence for a dataset; its types do not say so
        batch_size=None,
        collate_fn=_MissingRows(collator, frozenset(have)),
        num_workers=workers,
        generator=torch.Generator(),  # the run's own random state is not touched
        worker_init_fn=begin_loader_worker,
    )
    for chunk, batches in zip(chunks, loader, strict=True):
        yield from collator.rows(chunk) if batches is None else batches


@dataclass(frozen=True, slots=True)
class _MissingRows:
    """Collates some pairs in a worker: only batches that are missing are sent to the process with the model."""

    collator: PairCollator
    have: frozenset[str]

    def __call__(self, pairs: Sequence[PreferencePair]) -> tuple[PairBatch, ...] | None:
        try:
            return tuple(batch for batch in self.collator.rows(pairs) if not self.have.issuperset(batch.keys))
        except MMPrefError:  # raised once more where it is no traceback of a worker but one sentence
            return None


def keep_ranks_in_step(batches: Iterator[PairBatch], collator: PairCollator, world: World) -> Iterator[PairBatch]:
    """The batches; where weights are sharded, followed by dummy batches until every rank has finished its own."""
    if not world.is_sharded:
        yield from batches
        return
    while True:
        batch = next(batches, None)
        [more] = world.max_over_ranks([batch is not None])
        if not more:
            return
        if batch is not None:
            yield batch
        else:
            yield from collator.rows([])


def entries_of(
    policy: nn.Module,
    collator: PairCollator,
    batch: PairBatch,
    pairs: Mapping[str, PreferencePair],
    device: torch.device,
    *,
    may_split: bool,
) -> dict[str, Entry]:
    """The entries of a batch; pair by pair where they do not fit together, as training may well run them.

    Not where weights are sharded (``may_split``): every rank must then run as many batches.
    """
    may_split = may_split and len(batch) > 1
    if may_split:
        try:
            return _entries(policy, batch.to(device))
        except (RuntimeError, MemoryError) as err:
            if not is_out_of_memory(err):
                raise
    singles = [part for name in batch.pair_ids for part in collator.rows([pairs[name]])] if may_split else [batch]
    return {
        key: entry for one in singles for key, entry in _entries_or_explained(policy, collator, one, device).items()
    }


def _entries_or_explained(
    policy: nn.Module, collator: PairCollator, batch: PairBatch, device: torch.device
) -> dict[str, Entry]:
    def helps() -> list[str]:
        pixels, frames = num_pixels(batch.vision, of_videos=False), sum(batch.video_frames)
        return remedies(MemorySituation.of(Where.FORWARD, policy, None, collator.encoder, pixels=pixels, frames=frames))

    with explain_oom(lambda: f"computing reference log-probs of {describe_batch(batch)}", helps):
        return _entries(policy, batch.to(device))


def _entries(policy: nn.Module, batch: PairBatch) -> dict[str, Entry]:
    rows = batch.by_answer(answer_logps(policy, batch)).float().cpu()
    lengths = batch.answer_lens.tolist()
    answers = [row[:length].clone() for row, length in zip(rows, lengths, strict=True)]
    count = len(batch)
    rejected: list[Tensor | None] = [*answers[count:]] if batch.has_rejected else [None] * count
    entries = zip(batch.keys, zip(answers[:count], rejected, strict=True), strict=True)
    return dict(list(entries)[: batch.counted])
