"""Which pairs each rank takes: the same order of data for any number of ranks, and shares of about equal cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, SupportsFloat

import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import TrainingArguments

from mmpref.process.children import begin_loader_worker, starting_workers


class GlobalBatches(Sampler[list[int]]):
    """The batches of one rank, which are its shares of global batches.

    The order is a permutation drawn from seed and epoch alone, so the pairs of an update do not depend on the number of
    ranks, only on ``batch_size * size``. Within a global batch, pairs are divided so that ranks have about the same
    work; the last batch of an epoch is divided as far as it goes, and a rank may get none of it: its batch is ``[]``.

    Args:
        count: pairs in all.
        batch_size: the most pairs of one rank in one batch.
        rank, size: of the world.
        seed: of the order.
        costs: of each pair, in any unit; all alike by default.
        shuffle: False keeps the pairs in their order.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        *,
        rank: int = 0,
        size: int = 1,
        seed: int = 0,
        costs: Sequence[SupportsFloat] | None = None,
        shuffle: bool = True,
    ) -> None:
        self.count, self.batch_size = count, batch_size
        self.rank, self.size = rank, size
        self.seed, self.shuffle = seed, shuffle
        self.costs = costs
        self.epoch = 0
        self.imbalance: list[float] = []
        """For each global batch that was divided: the work of the busiest rank over the mean of all, minus one."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order is drawn next."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches of an epoch, the same on every rank."""
        return -(-self.count // (self.batch_size * self.size))

    def __iter__(self) -> Iterator[list[int]]:
        order = self._order()
        width = self.batch_size * self.size
        for begin in range(0, self.count, width):
            yield self._share(order[begin : begin + width])

    def _order(self) -> list[int]:
        if not self.shuffle:
            return list(range(self.count))
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        return [int(index) for index in torch.randperm(self.count, generator=generator).tolist()]

    def _share(self, together: list[int]) -> list[int]:
        if self.size == 1:
            return together
        shares = deal_by_cost(together, self.size, self.batch_size, self.costs)
        if self.costs is not None:
            loads = [sum(float(self.costs[index]) for index in share) for share in shares]
            self.imbalance.append(imbalance_of(loads))
        return shares[self.rank]

    def take_imbalance(self) -> float | None:
        """Mean imbalance since the last call."""
        found, self.imbalance = self.imbalance, []
        return sum(found) / len(found) if found else None


def imbalance_of(loads: Sequence[float]) -> float:
    """The work of the busiest rank over the mean of all, minus one."""
    mean = sum(loads) / len(loads)
    return max(loads) / mean - 1 if mean else 0.0


def deal_by_cost(
    indexes: Sequence[int], ranks: int, most: int, costs: Sequence[SupportsFloat] | None = None
) -> list[list[int]]:
    """Indexes to ranks, at most ``most`` each, the costliest first and always to the rank with the least work so far.

    Every rank's share keeps the order that the indexes came in.
    """
    cost = (lambda index: 1.0) if costs is None else (lambda index: float(costs[index]))
    loads, members = [0.0] * ranks, [set[int]() for _ in range(ranks)]
    for place in sorted(range(len(indexes)), key=lambda place: (-cost(indexes[place]), place)):
        rank = min((r for r in range(ranks) if len(members[r]) < most), key=lambda r: (loads[r], r))
        members[rank].add(place)
        loads[rank] += cost(indexes[place])
    return [[indexes[place] for place in sorted(places)] for places in members]


class WithEpoch(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index): so the number of the epoch reaches loader workers with the pairs, also those that live
    on from one epoch to the next, and the one that a resumed training is in."""

    def __init__(self, batches: GlobalBatches) -> None:
        self.batches = batches

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order is drawn next."""
        self.batches.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.batches:
            yield [(self.batches.epoch, index) for index in batch]


class InEpochs(Dataset[tuple[int, Any]]):
    """A data set asked for (epoch, index), which it answers with (epoch, item)."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # ours has a length

    def __getitem__(self, index: tuple[int, int]) -> tuple[int, Any]:
        epoch, place = index
        return epoch, self.dataset[place]


class EpochLoader(DataLoader[Any]):
    """A DataLoader that passes the epoch on to its batch sampler, as the Trainer expects."""

    def __iter__(self) -> Any:
        with starting_workers():
            return super().__iter__()

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch whose order is drawn next."""
        self.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]


def loader_of(
    dataset: Dataset[Any],
    batches: GlobalBatches | WithEpoch,
    collate: Callable[[list[Any]], Any],
    args: TrainingArguments,
) -> EpochLoader:
    """A loader as ``TrainingArguments`` want it; accelerate's own trains on some pairs twice to fill up a batch."""
    workers = args.dataloader_num_workers
    return EpochLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=args.dataloader_pin_memory and args.device.type == "cuda",
        persistent_workers=bool(workers) and args.dataloader_persistent_workers,
        prefetch_factor=args.dataloader_prefetch_factor if workers else None,
        generator=torch.Generator(),  # the run's own random state is not touched
        worker_init_fn=begin_loader_worker,
    )
