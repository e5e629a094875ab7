"""How a run is divided over GPUs: what each strategy splits between them, and in which precision it keeps things.

What is written here about libraries is what accelerate 1.15, transformers 5.23 and DeepSpeed 0.19 do, read in their
source, and how mmpref's launch profiles drive them. None of it was run on more than one GPU by us; that FSDP2
fails with bitsandbytes' optimizers and with int8 layers was seen with two processes on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mmpref.errors import ConfigError, DistributedError
from mmpref.models.tuning import PARTS
from mmpref.processing.family import PartName
from mmpref.recipe.sections import Recipe
from mmpref.training.parallel.strategy import STRATEGIES, SharedStrategy, refuse_what_cannot_shard

BUCKET = 500_000_000
"""Weights in one of DeepSpeed's buckets (``reduce_bucket_size``, ``allgather_bucket_size``); its default."""
LIVE = 1_000_000_000
"""Weights that ZeRO-3 keeps gathered before it lets go of some (``stage3_max_live_parameters``); its default."""

SUB_GROUP = 1_000_000_000
"""Weights that ZeRO-3's optimizer updates at once (``sub_group_size``); its default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelPlan:
    """GPUs and what they do together.

    Attributes:
        gpus: on each node.
        nodes: machines.
        strategy: ``ddp`` keeps everything everywhere; ``zero2`` splits gradients and optimizer; ``zero3`` and ``fsdp2``
            split the weights as well.
    """

    gpus: int = 1
    nodes: int = 1
    strategy: SharedStrategy = "ddp"

    @property
    def world(self) -> int:
        """GPUs on all nodes."""
        return self.gpus * self.nodes

    @property
    def is_alone(self) -> bool:
        """One GPU, whatever the strategy is called."""
        return self.world == 1

    @property
    def splits_weights(self) -> bool:
        """Whether each GPU keeps only its part of the weights."""
        return not self.is_alone and self.strategy in ("fsdp2", "zero3")

    @property
    def weight_parts(self) -> int:
        """Between how many GPUs the weights are split."""
        return self.world if self.splits_weights else 1

    @property
    def state_parts(self) -> int:
        """Between how many GPUs gradients and optimizer are split."""
        return 1 if self.is_alone or self.strategy == "ddp" else self.world

    @property
    def is_deepspeed(self) -> bool:
        """Whether DeepSpeed's engine trains."""
        return not self.is_alone and self.strategy in ("zero2", "zero3")


ALONE = ParallelPlan()


def parse_parallelism(gpus: int, nodes: int, strategy: str | None) -> ParallelPlan:
    """A plan of parallelism from what was typed; without a strategy DDP, which is right for one GPU as well.

    Raises:
        ConfigError: a strategy that does not exist, or one for a single GPU.
    """
    if strategy is None:
        return ParallelPlan(gpus=gpus, nodes=nodes)
    if strategy not in STRATEGIES:
        raise ConfigError(f"no strategy '{strategy}'; known: {', '.join(STRATEGIES)}")
    if gpus * nodes == 1:
        raise ConfigError(
            f"--strategy {strategy} is given for one GPU, which has nothing to split; give --gpus as well"
        )
    return ParallelPlan(gpus=gpus, nodes=nodes, strategy=strategy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Bytes of one weight in each place."""

    frozen: Mapping[PartName, int]
    """Of each part, as it is loaded."""
    trained: int
    """Of weights that train themselves, as the optimizer sees them."""
    adapter: int
    computed: int
    """As layers compute with them, and as they travel between GPUs."""
    master: int
    """Of a second copy beside the optimizer; 0 without one."""
    state: int
    """Of one number that the optimizer keeps."""


def precision_of(recipe: Recipe, loaded: Mapping[PartName, int], parallel: ParallelPlan) -> Precision:
    """Who keeps what in which precision.

    Alone and under DDP, autocast leaves weights as they were loaded: bfloat16 weights that were asked for are updated
    in bfloat16. FSDP2 in mixed precision turns what trains into float32 (not beside 4-bit weights), DeepSpeed keeps a
    float32 copy of it.

    Args:
        recipe: its ``train.bf16`` and ``train.fp16``.
        loaded: bytes of a weight of each part as it is loaded.
        parallel: over which GPUs.
    """
    mixed = recipe.train.bf16 or recipe.train.fp16
    if parallel.is_deepspeed and mixed:
        return Precision(frozen=dict.fromkeys(loaded, 2), trained=2, adapter=2, computed=2, master=4, state=4)
    computed = 2 if mixed else loaded["language"]
    tune = recipe.tune
    whole = [loaded[part] for part in PARTS if getattr(tune, part) == "full"]
    raised = mixed and not parallel.is_alone and parallel.strategy == "fsdp2" and recipe.adapter.stored_as is None
    trained = 4 if raised else max(whole, default=loaded["language"])
    return Precision(frozen=loaded, trained=trained, adapter=4, computed=computed, master=0, state=trained)


def batches_reduced(recipe: Recipe, parallel: ParallelPlan) -> int:
    """How often gradients travel in an update: once under DDP, after every micro-batch where they are split."""
    return 1 if parallel.is_alone or parallel.strategy == "ddp" else recipe.train.gradient_accumulation_steps


def refuse_impossible(recipe: Recipe, parallel: ParallelPlan, *, dtype_bytes: int, pairs: int | None) -> None:
    """Raises ConfigError, with the fix, for what the strategy cannot do."""
    if parallel.is_alone:
        return
    strategy, train = parallel.strategy, recipe.train
    if train.use_cpu:
        raise ConfigError("train.use_cpu is set and GPUs are asked for; take one of the two out")
    try:
        refuse_what_cannot_shard(recipe, strategy)
    except DistributedError as err:
        raise ConfigError(str(err)) from err
    if parallel.is_deepspeed and dtype_bytes == 2 and not (train.bf16 or train.fp16):
        raise ConfigError(
            f"{strategy} takes its precision from train.bf16 or train.fp16, and neither is set while weights are "
            "loaded in half precision; set train.bf16=true"
        )
    at_once = train.per_device_train_batch_size * parallel.world
    if pairs is not None and at_once * train.gradient_accumulation_steps > pairs:
        most = max(1, pairs // at_once)
        fix = (
            f"set train.gradient_accumulation_steps={most}"
            if at_once <= pairs
            else f"use at most {pairs // train.per_device_train_batch_size or 1} GPUs with this micro-batch"
        )
        raise ConfigError(
            f"one update would take {at_once * train.gradient_accumulation_steps:,} pairs ({parallel.world} GPUs x "
            f"{train.per_device_train_batch_size} x {train.gradient_accumulation_steps}) and there are {pairs:,}; {fix}"
        )
