"""What DeepSpeed ZeRO needs beyond the Trainer: settings, single steps, and its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import TrainingArguments

from mmpref.errors import CheckpointError, DistributedError
from mmpref.models.unwrap import is_engine
from mmpref.training.parallel.world import World


def let_recipe_decide(arguments: TrainingArguments) -> None:
    """Use the recipe's accumulation and clipping, where the launcher sets none.

    ``accelerate launch`` passes 1 step where a profile has none, which DeepSpeed obeys; and without a key for it
    nothing is clipped, whatever ``train.max_grad_norm`` is.
    """
    plugin: Any = arguments.deepspeed_plugin
    if plugin is None:
        return
    config = plugin.hf_ds_config.config
    if str(config.get("gradient_accumulation_steps")) in ("1", "auto", "None"):
        config["gradient_accumulation_steps"] = arguments.gradient_accumulation_steps
    config.setdefault("gradient_clipping", "auto")


@contextmanager
def no_update_yet(accelerator: Accelerator) -> Iterator[None]:
    """A backward that is not the last of its update; with DeepSpeed a backward makes the update too."""
    state = accelerator.gradient_state
    was = state.sync_gradients
    state._set_sync_gradients(False)
    try:
        yield
    finally:
        state._set_sync_gradients(was)


def prove_divided(model: nn.Module, stage: int) -> int:
    """Of how many numbers that train this rank keeps the optimizer's state (and with stage 3 the weights themselves).

    Raises:
        DistributedError: the model is not DeepSpeed's, or of another stage.
    """
    if not is_engine(model) or int(model.zero_optimization_stage()) != stage:  # type: ignore[operator]
        found = f"stage {int(model.zero_optimization_stage())}" if is_engine(model) else type(model).__name__  # type: ignore[operator]
        raise DistributedError(f"DeepSpeed ZeRO-{stage} was asked for, and accelerate made {found}")
    optimizer: Any = model.optimizer
    groups = optimizer.fp16_partitioned_groups_flat if stage == 3 else optimizer.single_partition_of_fp32_groups
    return sum(int(group.numel()) for group in groups)


@contextmanager
def gathered(parameters: list[Tensor], modifier_rank: int | None = None) -> Iterator[None]:
    """Weights that ZeRO-3 divided, whole inside the block; what one rank writes into them there is kept by all."""
    from deepspeed.runtime.zero.partition_parameters import (  # type: ignore[import-not-found, unused-ignore]
        GatheredParameters,
    )

    with GatheredParameters(parameters, modifier_rank=modifier_rank):
        yield


# ---- checkpoints --------------------------------------------------------------------------------------------------


def is_zero_checkpoint(folder: Path) -> bool:
    """Whether DeepSpeed wrote the weights and the optimizer's states."""
    return (folder / "latest").is_file()


def refuse_other_way(folder: Path, world: World) -> None:
    """DeepSpeed's checkpoints and those of all others do not go into each other.

    Raises:
        CheckpointError: the checkpoint was written in another way, or by another number of processes.
    """
    if not is_zero_checkpoint(folder):
        if world.is_deepspeed:
            raise CheckpointError(
                f"{folder} was not written by DeepSpeed, which cannot read its optimizer; go on with --launch fsdp2 or "
                "ddp, or in one process"
            )
        return
    way, ranks = _written_by(folder)
    if (world.strategy, world.size) != (way, ranks):
        raise CheckpointError(
            f"{folder} was written by DeepSpeed {way} with {ranks} processes, and this is {world.strategy} with "
            f"{world.size}; go on with --launch {way} and {ranks} processes"
        )


def load_zero_weights(model: nn.Module, folder: Path) -> None:
    """The trained weights of one of DeepSpeed's checkpoints, into a model before it is DeepSpeed's.

    Raises:
        CheckpointError: it has other weights, or cannot be read.
    """
    try:
        from deepspeed.utils.zero_to_fp32 import (  # type: ignore[import-not-found, unused-ignore]
            get_fp32_state_dict_from_zero_checkpoint,
        )

        stored = get_fp32_state_dict_from_zero_checkpoint(str(folder))
    except (OSError, RuntimeError, ValueError, ImportError) as err:
        raise CheckpointError(f"{folder} cannot be read: {' '.join(str(err).split())}") from err
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if missing := sorted(trained.keys() - stored.keys()):
        raise CheckpointError(
            f"{folder} has other weights than those that train now: {len(missing)} missing {missing[:3]}; the "
            "recipe's tune or adapter section has changed"
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            value = stored[name]
            with gathered([parameter], modifier_rank=0) if hasattr(parameter, "ds_id") else nullcontext():
                parameter.copy_(value)


def make_whole(model: nn.Module) -> None:
    """Every weight on every rank, of a model that was divided when it was loaded and will not be trained."""
    divided: list[Any] = [parameter for parameter in model.parameters() if hasattr(parameter, "ds_id")]
    if divided:
        divided[0].all_gather(divided)


def _written_by(folder: Path) -> tuple[str, int]:
    """(strategy, number of processes) of a checkpoint of DeepSpeed."""
    parts = folder / (folder / "latest").read_text(encoding="utf-8").strip()
    way = "zero3" if any(parts.glob("zero_pp_rank_*_model_states.pt")) else "zero2"
    return way, len(list(parts.glob("*_optim_states.pt")))
