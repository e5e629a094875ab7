"""Entries of the reference cache: which answers are missing, and their log-probs from the policy.

An answer that stands in several pairs is one entry, and the answers of one prompt are run together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
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
from mmpref.processing.encoded import EncodedPair, answer_keys
from mmpref.processing.pixels import num_pixels
from mmpref.records import ImageRef, PreferencePair, PromptKey, VideoRef
from mmpref.training.parallel.world import World
from mmpref.training.trainer.memory_errors import (
    MemorySituation,
    Where,
    explain_oom,
    is_out_of_memory,
    remedies,
)
from mmpref.training.trainer.update_watch import describe_batch

_BATCH = 8
"""Answers whose log-probs are computed together."""
_IMAGE, _VIDEO = 2_000, 16_000
"""Characters of text that cost the model about as much as one image, or one video."""
Group = Sequence[PreferencePair]
"""Pairs of one prompt."""


def shares_of(pairs: Sequence[PreferencePair], size: int, *, need_other: bool = False) -> list[list[Group]]:
    """``size`` shares of about equal cost, made of whole groups: the same on every rank.

    What a group costs is not known before its images are opened: texts and images are counted, each distinct one once.
    With ``need_other`` every chosen answer comes once more, under another image.
    """
    groups: dict[PromptKey, list[PreferencePair]] = {}
    for pair in pairs:
        groups.setdefault(pair.prompt_key, []).append(pair)
    if size == 1:
        return [list(groups.values())]
    costs = {key: _cost(group, need_other) for key, group in groups.items()}
    dealt: dict[PromptKey, int] = {}
    sums = [0] * size
    for key in sorted(groups, key=lambda key: -costs[key]):  # the largest first; equal ones stay in their order
        rank = sums.index(min(sums))
        dealt[key] = rank
        sums[rank] += costs[key]
    return [[group for key, group in groups.items() if dealt[key] == rank] for rank in range(size)]


def _cost(group: Group, need_other: bool) -> int:
    shown: dict[tuple[tuple[ImageRef, ...], tuple[VideoRef, ...]], set[str]] = {}
    for pair in group:
        shown.setdefault((pair.images, pair.videos), set()).add(pair.chosen)
        if pair.mismatched is not None:
            shown[pair.images, pair.videos].add(pair.mismatched)
        if pair.rejected is not None:
            images = pair.images if pair.rejected_images is None else pair.rejected_images
            shown.setdefault((images, pair.videos), set()).add(pair.rejected)
    asked = sum(len(message.text) for message in group[0].prompt)
    again = [len(pair.chosen) for pair in group if need_other and pair.images]
    of_others = sum(asked + _IMAGE * len(group[0].images) + length for length in again)
    return of_others + sum(
        asked + _IMAGE * len(images) + _VIDEO * len(videos) + sum(map(len, answers))
        for (images, videos), answers in shown.items()
    )


def missing_batches(
    collator: PairCollator, groups: Sequence[Group], have: Set[str], seen: set[str], workers: int
) -> Iterator[PairBatch]:
    """Batches of the answers that are not in the cache yet, each once, without a rejected side.

    Args:
        collator: of both answers, or of the chosen one only.
        groups: the pairs.
        have: keys of the answers that are there; it may grow meanwhile.
        seen: takes the key of every answer of the pairs.
        workers: processes that encode meanwhile.
    """
    chunks = list(_chunks(groups, need_other=collator.need_other))
    find = _Missing(collator, frozenset(have))
    loader: DataLoader[Any] = DataLoader(
        chunks,  # type: ignore[arg-type]  # torch takes any sequence for a dataset; its types do not say so
        batch_size=None,
        collate_fn=find.or_nothing,
        num_workers=workers,
        generator=torch.Generator(),  # the run's own random state is not touched
        worker_init_fn=begin_loader_worker,
    )
    for chunk, in_worker in zip(chunks, loader, strict=True):
        found = in_worker or find(chunk)  # an error is raised once more, where it is no traceback of a worker
        seen.update(found.keys)
        # the same image may lie in two files: then two groups have the same answers
        yield from (batch for batch in found.batches if not have >= set(batch.keys[: batch.counted]))


def _chunks(groups: Sequence[Group], *, need_other: bool) -> Iterator[list[PreferencePair]]:
    """Whole groups, as many as make a batch of answers; a larger group is a chunk of its own."""
    chunk: list[PreferencePair] = []
    answers = 0
    for group in groups:
        more = len({pair.chosen for pair in group} | {pair.rejected for pair in group})
        more += len(group) if need_other else 0
        if chunk and answers + more > _BATCH:
            yield chunk
            chunk, answers = [], 0
        chunk = [*chunk, *group]
        answers += more
    if chunk:
        yield chunk


@dataclass(frozen=True, slots=True)
class _Found:
    """The answers of some pairs: those that are missing, in batches, and the keys of all."""

    batches: tuple[PairBatch, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Missing:
    """Collates the answers that are missing, in a worker: only these are sent to the process with the model."""

    collator: PairCollator
    have: frozenset[str]

    def __call__(self, pairs: Sequence[PreferencePair]) -> _Found:
        alone = distinct_answers(self.collator, pairs)
        missing = [answer for key, answer in alone.items() if key not in self.have]
        parts = [missing[begin : begin + _BATCH] for begin in range(0, len(missing), _BATCH)]
        chosen_only = self.collator.of_chosen()
        return _Found(tuple(batch for part in parts for batch in chosen_only.rows_of(part)), tuple(alone))

    def or_nothing(self, pairs: Sequence[PreferencePair]) -> _Found | None:
        """The same; None for a row that cannot be used."""
        try:
            return self(pairs)
        except MMPrefError:
            return None


def distinct_answers(collator: PairCollator, pairs: Sequence[PreferencePair]) -> dict[str, EncodedPair]:
    """Every distinct answer of some pairs by its key, as a demonstration."""
    needs = {
        "rejected": collator.need_rejected,
        "other": collator.need_other,
        "mismatched": collator.need_mismatched,
    }
    alone = [answer for pair in collator.encoded(pairs) for answer in pair.answers_alone(**needs)]
    found: dict[str, EncodedPair] = {}
    for key, answer in zip(answer_keys(alone, rejected=False), alone, strict=True):
        found.setdefault(key, answer)
    return found


def keep_ranks_in_step(batches: Iterator[PairBatch], collator: PairCollator, world: World) -> Iterator[PairBatch]:
    """The batches; where weights are sharded, followed by dummy batches until every rank has finished its own."""
    if not world.is_sharded:
        yield from batches
        return
    dummies = collator.of_chosen()
    while True:
        batch = next(batches, None)
        [more] = world.max_over_ranks([batch is not None])
        if not more:
            return
        if batch is not None:
            yield batch
        else:
            yield from dummies.rows([])


def entries_of(
    policy: nn.Module,
    collator: PairCollator,
    batch: PairBatch,
    pairs: Mapping[str, PreferencePair],
    device: torch.device,
    *,
    may_split: bool,
) -> dict[str, Tensor]:
    """Log-probs of the tokens of every answer of a batch without a rejected side, by key.

    Answer by answer where they do not fit together, but not where weights are sharded (``may_split``): every rank must
    then run as many batches.
    """
    may_split = may_split and batch.counted > 1
    if may_split:
        try:
            return _entries(policy, batch.to(device))
        except (RuntimeError, MemoryError) as err:
            if not is_out_of_memory(err):
                raise
    singles = _one_by_one(collator, batch, pairs) if may_split else [batch]
    return {
        key: entry for one in singles for key, entry in _entries_or_explained(policy, collator, one, device).items()
    }


def _one_by_one(collator: PairCollator, batch: PairBatch, pairs: Mapping[str, PreferencePair]) -> Iterator[PairBatch]:
    """The answers of a batch alone. Their pairs are encoded again, one at a time: memory is short."""
    chosen_only, waiting = collator.of_chosen(), set(batch.keys[: batch.counted])
    for name in dict.fromkeys(batch.counted_ids):
        for key, answer in distinct_answers(collator, [pairs[name]]).items():
            if key in waiting:
                waiting.discard(key)
                yield from chosen_only.rows_of([answer])


def _entries_or_explained(
    policy: nn.Module, collator: PairCollator, batch: PairBatch, device: torch.device
) -> dict[str, Tensor]:
    def helps() -> list[str]:
        pixels, frames = num_pixels(batch.vision, of_videos=False), sum(batch.video_frames)
        return remedies(MemorySituation.of(Where.FORWARD, policy, None, collator.encoder, pixels=pixels, frames=frames))

    with explain_oom(lambda: f"computing reference log-probs of {describe_batch(batch)}", helps):
        return _entries(policy, batch.to(device))


def _entries(policy: nn.Module, batch: PairBatch) -> dict[str, Tensor]:
    rows = batch.by_answer(answer_logps(policy, batch)).float().cpu()
    lengths = batch.answer_lens.tolist()
    answers = (row[:length].clone() for row, length in zip(rows, lengths, strict=True))
    return dict(list(zip(batch.keys, answers, strict=True))[: batch.counted])
