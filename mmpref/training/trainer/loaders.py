"""The batches of one process: which pairs, collated how, and in as many parts as the other ranks have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import TrainingArguments

from mmpref.errors import ConfigError
from mmpref.processing.batch import PairBatch
from mmpref.processing.collate import PairCollator
from mmpref.records import PreferencePair
from mmpref.training.parallel.batches import GlobalBatches, InEpochs, WithEpoch, loader_of
from mmpref.training.parallel.groups import GroupedBatches, PromptGroups
from mmpref.training.parallel.lockstep import dummy_batches_for
from mmpref.training.parallel.world import World
from mmpref.training.trainer.inputs import TrainerInputs
from mmpref.training.trainer.options import TrainerOptions


class Pairs(Dataset[PreferencePair]):
    """Pairs as a torch dataset. Rows are references; images are opened by the collator, in the worker."""

    def __init__(self, pairs: Sequence[PreferencePair]) -> None:
        self.pairs = list(pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> PreferencePair:
        return self.pairs[index]


@dataclass(frozen=True, slots=True)
class _RowsOrNone:
    """Collates no pairs to no batch, and not to one of the filler: whoever must run something gets it afterwards."""

    collator: PairCollator

    def __call__(self, pairs: Sequence[PreferencePair]) -> tuple[PairBatch, ...]:
        return self.collator.rows(pairs) if pairs else ()


@dataclass(frozen=True, slots=True)
class _InEpoch:
    """Collates pairs that come with the number of their epoch, which other images may depend on.

    Attributes:
        or_none: as :class:`_RowsOrNone`.
    """

    collator: PairCollator
    or_none: bool

    def __call__(self, found: Sequence[tuple[int, PreferencePair]]) -> tuple[PairBatch, ...]:
        if not found:
            return () if self.or_none else self.collator.rows([])
        return self.collator.in_epoch(found[0][0]).rows([pair for _, pair in found])


class Loaders:
    """Makes the loaders of training and of evaluations, and keeps the ranks in step in both.

    Args:
        inputs: what is trained and on what.
        args: batch sizes count pairs of one process.
        world: the ranks that take the pairs together.
        options: with the work of each pair, and whether pairs of one prompt travel together.

    Attributes:
        collator: makes the batches; on several ranks it pads too.

    Raises:
        ConfigError: costs of more or fewer pairs than train; or what ``dummy_batches_for`` refuses.
    """

    def __init__(self, inputs: TrainerInputs, args: TrainingArguments, world: World, options: TrainerOptions) -> None:
        costs = options.costs
        if costs is not None and len(costs) != len(inputs.train_pairs):
            raise ConfigError(
                f"costs are of {len(costs)} pairs, and {len(inputs.train_pairs)} train: give one for each, in their "
                "order, or none"
            )
        self._args, self._world, self._costs = args, world, costs
        self._grouped = options.group_pairs == "prompt"
        self._eval_other_image = options.eval_other_image
        self._needs_rejected = inputs.objective.needs_rejected
        self._dummies = dummy_batches_for(
            world, inputs.model, inputs.collator, inputs.train_pairs, inputs.eval_pairs, costs
        )
        self.collator: PairCollator = self._dummies.collator
        self._batches: GlobalBatches | None = None
        self._groups: tuple[Dataset[PreferencePair], PromptGroups] | None = None

    def training(self, dataset: Dataset[PreferencePair]) -> DataLoader[tuple[PairBatch, ...]]:
        """This process's batches; all processes together take the batches that one would (``GlobalBatches``)."""
        args = self._args
        size, seed = args.per_device_train_batch_size, args.seed if args.data_seed is None else args.data_seed
        if self._grouped:
            self._batches = GroupedBatches(
                self.groups_of(dataset),
                size,
                accumulation=args.gradient_accumulation_steps,
                world=self._world,
                seed=seed,
            )
            return self._loader(dataset, self._batches, _RowsOrNone(self.collator))
        self._batches = GlobalBatches(
            len(dataset),  # type: ignore[arg-type]  # ours has a length
            size,
            rank=self._world.rank,
            size=self._world.size,
            seed=seed,
            costs=self._costs,
        )
        return self._loader(dataset, self._batches, self.collator.rows)

    def _loader(
        self,
        dataset: Dataset[PreferencePair],
        batches: GlobalBatches,
        collate: Callable[[list[PreferencePair]], tuple[PairBatch, ...]],
    ) -> DataLoader[tuple[PairBatch, ...]]:
        settings = self.collator.encoder.other_image
        if settings is None or not settings.changes_with_epoch:
            return loader_of(dataset, batches, collate, self._args)
        in_epoch = _InEpoch(self.collator, or_none=self._grouped)
        return loader_of(InEpochs(dataset), WithEpoch(batches), in_epoch, self._args)

    def groups_of(self, dataset: Dataset[PreferencePair]) -> PromptGroups:
        """The training pairs by prompt."""
        if self._groups is None or self._groups[0] is not dataset:
            self._groups = dataset, PromptGroups(_pairs_of(dataset), self._costs)
        return self._groups[1]

    def evaluation(self, dataset: Any) -> DataLoader[tuple[PairBatch, ...]]:
        """This process's share of held-out pairs, each once: those of a prompt together, prompts in their order.

        Both answers are run whatever the objective reads, so that models trained by different objectives compare; only
        the chosen one where the objective reads no other and some of the pairs are demonstrations.
        """
        pairs = _pairs_of(dataset)
        batches = GroupedBatches(
            PromptGroups(pairs), self._args.per_device_eval_batch_size, world=self._world, shuffle=False
        )
        demonstrated = any(pair.rejected is None for pair in pairs)
        both = self._needs_rejected or not demonstrated
        collator = self.collator.changed(need_rejected=both).lifting(self._eval_other_image)
        return loader_of(dataset, batches, _RowsOrNone(collator), self._args)

    def pad_to_longest_rank(
        self, batches: Sequence[Sequence[PairBatch]], *, training: bool = True
    ) -> list[tuple[PairBatch, ...]]:
        """Batches, each in as many parts as the rank that has most; all ranks must call it together."""
        return self._dummies.pad_to_longest_rank(batches, uneven=self._grouped or not training)

    def no_sync_except_last(
        self, accelerator: Accelerator, model: nn.Module, *, is_last: bool
    ) -> AbstractContextManager[object]:
        """Around the backward of one part of a batch: only the last one exchanges gradients."""
        return self._dummies.no_sync_except_last(accelerator, model, is_last=is_last)

    def take_imbalance(self) -> float | None:
        """The work of the busiest rank over the mean of all, minus one, since the last call; None where not known."""
        return None if self._batches is None else self._batches.take_imbalance()


def _pairs_of(dataset: Any) -> Sequence[PreferencePair]:
    pairs = getattr(dataset, "pairs", None)
    return [dataset[index] for index in range(len(dataset))] if pairs is None else pairs
