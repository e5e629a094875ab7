"""Which way several processes share the work, as the launcher and ``TrainingArguments`` say, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from transformers import TrainingArguments

from mmpref.errors import DistributedError
from mmpref.files.reading import read_json
from mmpref.models.reference_rule import reference_of
from mmpref.recipe.sections import Recipe
from mmpref.training.loss_settings import objective_of
from mmpref.yaml_text import short

SharedStrategy = Literal["ddp", "fsdp2", "zero2", "zero3"]
"""How several processes share the work; ``--launch`` and ``--strategy`` take these names."""
Strategy = Literal["single", SharedStrategy]
STRATEGIES: tuple[SharedStrategy, ...] = get_args(SharedStrategy)
RESTARTS = "MMPREF_RESTARTS"
"""Environment variable in which ``mmpref train --launch`` says how often it has started the processes again."""
ASKED = "MMPREF_LAUNCH"
"""Environment variable in which ``mmpref train --launch`` says what was asked for, so that nothing else can happen."""


def strategy_of(arguments: TrainingArguments) -> Strategy:
    """What the processes do with weights and gradients.

    Raises:
        DistributedError: FSDP1, or a DeepSpeed stage that is not 2 or 3.
    """
    if _flag("ACCELERATE_USE_DEEPSPEED") or getattr(arguments, "deepspeed", None):
        stage = _zero_stage(arguments)
        if stage not in (2, 3):
            raise DistributedError(f"DeepSpeed ZeRO stage {stage} is not for this trainer; use stage 2 or 3")
        return "zero2" if stage == 2 else "zero3"
    if _flag("ACCELERATE_USE_FSDP") or arguments.fsdp:
        asked = os.environ.get("FSDP_VERSION") if _flag("ACCELERATE_USE_FSDP") else None
        version = (arguments.fsdp_config or {}).get("version", 2) if asked is None else asked
        if int(version) != 2:
            raise DistributedError("FSDP1 was asked for, which torch is giving up; set fsdp_version: 2 in the profile")
        return "fsdp2"
    return "ddp" if arguments.world_size > 1 else "single"


def refuse_contradictions(recipe: Recipe, environ: Mapping[str, str] = os.environ) -> None:
    """What the launcher was asked for and the recipe cannot have, before anything is loaded.

    Raises:
        DistributedError: each contradiction, with the change that resolves it.
    """
    if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in environ]:
        size = environ.get("WORLD_SIZE", "1")
        if size.isdigit() and int(size) > 1:
            raise DistributedError(
                f"WORLD_SIZE={size} is set without {', '.join(missing)}: this is one of several processes that "
                "torchrun did not start; use mmpref train --launch ddp, or unset WORLD_SIZE"
            )
    asked_for_more = "ACCELERATE_MIXED_PRECISION" in environ and "MASTER_PORT" in environ
    if asked_for_more and "WORLD_SIZE" not in environ:
        raise DistributedError(
            "accelerate launch was asked for several processes and started one, as it does with --cpu; use "
            "mmpref train --launch ddp, or torchrun --nproc_per_node N -m mmpref train"
        )
    ours = "bf16" if recipe.train.bf16 else "fp16" if recipe.train.fp16 else "no"
    profile = environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if profile not in ("no", ours):
        off = "" if ours == "no" else f" train.{ours}=false"
        raise DistributedError(
            f"the launch profile says mixed_precision: {profile} and the recipe {ours}, and the recipe would win; "
            f"write `train.{profile}=true{off}`, or mixed_precision: 'no' in the profile"
        )
    steps = environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "")
    if steps.isdigit() and int(steps) not in (1, recipe.train.gradient_accumulation_steps):
        raise DistributedError(
            f"the launch profile accumulates over {steps} steps and the recipe over "
            f"{recipe.train.gradient_accumulation_steps}; write `train.gradient_accumulation_steps={steps}`, or take "
            "gradient_accumulation_steps out of the profile"
        )
    fsdp = environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    deepspeed = environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"
    clipping = environ.get("ACCELERATE_GRADIENT_CLIPPING", "auto")
    if deepspeed and clipping not in ("auto", str(recipe.train.max_grad_norm), f"{recipe.train.max_grad_norm:g}"):
        raise DistributedError(
            f"the launch profile clips gradients at {clipping} and the recipe at {recipe.train.max_grad_norm:g}; write "
            f"`train.max_grad_norm={clipping}`, or gradient_clipping: auto in the profile"
        )
    if fsdp and environ.get("FSDP_ACTIVATION_CHECKPOINTING", "").lower() == "true":
        raise DistributedError(
            "the launch profile has fsdp_activation_checkpointing: true; leave that to the recipe, which knows the "
            "model: set it to false in the profile and train.gradient_checkpointing=true"
        )
    if fsdp or deepspeed:
        _refuse_for_sharding(recipe, "FSDP2" if fsdp else "DeepSpeed ZeRO")


def restarted(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether these processes were started again, by us or by torchrun, after some of them failed."""
    return any(int(environ.get(name, "0")) > 0 for name in (RESTARTS, "TORCHELASTIC_RESTART_COUNT"))


def refuse_other_than_asked(strategy: Strategy, size: int, environ: Mapping[str, str] = os.environ) -> None:
    """What ``mmpref train --launch`` was asked for, against what came of it.

    Raises:
        DistributedError: another strategy, or another number of processes.
    """
    if (asked := environ.get(ASKED)) and asked != f"{strategy}:{size}":
        wanted, _, number = asked.partition(":")
        raise DistributedError(
            f"--launch asked for {wanted} with {number} processes, and what came of it is {strategy} with {size}; "
            "something between (a profile, an environment variable, a scheduler) changed it"
        )


def refuse_what_cannot_shard(recipe: Recipe, strategy: Strategy) -> None:
    """:func:`refuse_contradictions` for strategies that the recipe itself asks for (``train.extra.fsdp``).

    Raises:
        ConfigError: the reference cannot be what the recipe says.
        DistributedError: with the change that resolves it.
    """
    if strategy in ("fsdp2", "zero2", "zero3"):
        _refuse_for_sharding(recipe, "FSDP2" if strategy == "fsdp2" else "DeepSpeed ZeRO")
    needs_reference = objective_of(recipe).needs_reference
    reference_of(recipe, needs_reference=needs_reference, strategy=strategy)


def _refuse_for_sharding(recipe: Recipe, name: str) -> None:
    stored = recipe.adapter.stored_as
    if stored == "int8":
        raise DistributedError(
            f"an 8-bit base cannot be sharded by {name}; write `adapter.kind=qlora adapter.quantization=nf4` (4 "
            "bits) with --launch fsdp2, or "
            "--launch ddp, which keeps the whole base on every GPU"
        )
    if stored is not None and name != "FSDP2":
        raise DistributedError(
            f"a base in 4 bits cannot be sharded by {name}; use --launch fsdp2, or --launch ddp, which keeps the whole "
            "base on every GPU"
        )
    if "8bit" in recipe.train.optim or "paged" in recipe.train.optim:
        raise DistributedError(
            f"train.optim={recipe.train.optim} of bitsandbytes cannot hold sharded weights; with {name} use "
            "`train.optim=adamw_torch_fused`, whose state is sharded"
        )
    if recipe.train.torch_compile:
        raise DistributedError(f"train.torch_compile is not for {name} here; write `train.torch_compile=false`")


def _zero_stage(arguments: TrainingArguments) -> int:
    given: Any = getattr(arguments, "deepspeed", None)
    if isinstance(given, Mapping):
        return _stage_in(given, "the deepspeed configuration")
    for file in (given, os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")):
        if isinstance(file, str) and Path(file).exists():
            return _stage_in(read_json(file, DistributedError, "the deepspeed configuration", most=2**20), file)
    return _whole(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"), "ACCELERATE_DEEPSPEED_ZERO_STAGE")


def _stage_in(config: Any, where: str) -> int:
    """The stage of ZeRO that a configuration of DeepSpeed asks for; 0 where it says nothing."""
    section = config.get("zero_optimization", {}) if isinstance(config, Mapping) else None
    if not isinstance(section, Mapping):
        raise DistributedError(f"{where} is no configuration of DeepSpeed: zero_optimization must hold keys and values")
    return _whole(section.get("stage", 0), f"{where}: zero_optimization.stage")


def _whole(value: Any, where: str) -> int:
    if isinstance(value, bool) or str(value) not in ("0", "1", "2", "3"):
        raise DistributedError(f"{where} must be 0, 1, 2 or 3, got {short(repr(value))}")
    return int(value)


def _flag(name: str) -> bool:
    return os.environ.get(name, "false").lower() == "true"
