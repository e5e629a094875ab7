"""``TrainingArguments`` as this trainer needs them, made from a caller's without changing those."""

from __future__ import annotations

import copy
import warnings

from transformers import TrainingArguments

from mmpref.training.parallel.sharded import let_cpus_shard
from mmpref.training.parallel.world import World
from mmpref.training.parallel.zero import let_recipe_decide


def own_arguments(args: TrainingArguments) -> TrainingArguments:
    """A copy with the settings that preference training has no choice about.

    DeepSpeed's own config, which accelerate and the copy share, gets accumulation and clipping of ``args``.
    """
    own = copy.copy(args)
    # rows carry no model arguments to filter by, and a NaN must never be replaced in the log
    own.remove_unused_columns = False
    own.logging_nan_inf_filter = False
    if own.ddp_find_unused_parameters is None:  # an expert without tokens, the last layer of LLaVA's tower
        own.ddp_find_unused_parameters = True
    if own.ddp_broadcast_buffers is None:  # they are constants
        own.ddp_broadcast_buffers = False
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")  # until accelerate renames it
    world = World.of(own)
    if world.strategy == "fsdp2":
        let_cpus_shard()
        # gradients that wait for the last micro-batch would be whole on every rank
        own.accelerator_config = copy.copy(own.accelerator_config)
        own.accelerator_config.gradient_accumulation_kwargs = {"sync_each_batch": True}
    if world.is_deepspeed:
        let_recipe_decide(own)
    return own
