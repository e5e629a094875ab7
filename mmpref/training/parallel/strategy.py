"""How several processes share the work, as the launcher and ``TrainingArguments`` say, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from transformers import TrainingArguments

from mmpref.errors import DistributedError
from mmpref.files.reading import read_json
from mmpref.recipe.sections import Recipe
from mmpref.training.loss_settings import reference_for
from mmpref.yaml_text import short

SharedStrategy = Literal["ddp", "fsdp2", "zero2", "zero3"]
"""How several processes share the work; ``--launch`` and ``--strategy`` take these names."""
Strategy = Literal["single", SharedStrategy]
STRATEGIES: tuple[SharedStrategy, ...] = get_args(SharedStrategy)
RESTARTS = "MMPREF_RESTARTS"
"""Environment variable in which ``mmpref train --launch`` counts how often it has started the processes again."""
ASKED = "MMPREF_LAUNCH"
"""Environment variable in which ``mmpref train --launch`` passes on which strategy and how many processes it starts."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchedRecipe:
    """A recipe and the environment that a launcher gave its processes."""

    recipe: Recipe
    environ: Mapping[str, str]

    @property
    def size(self) -> str:
        """``WORLD_SIZE``: how many processes there are."""
        return self.environ.get("WORLD_SIZE", "1")

    @property
    def missing(self) -> list[str]:
        """What torchrun sets and is not there."""
        return [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in self.environ]

    @property
    def recipe_precision(self) -> str:
        """Mixed precision of the recipe, in the words of a launch profile."""
        return "bf16" if self.recipe.train.bf16 else "fp16" if self.recipe.train.fp16 else "no"

    @property
    def precision(self) -> str:
        """``mixed_precision`` of the launch profile."""
        return self.environ.get("ACCELERATE_MIXED_PRECISION", "no")

    @property
    def accumulation(self) -> str:
        """``gradient_accumulation_steps`` of the launch profile; "" where it has none."""
        return self.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "")

    @property
    def clipping(self) -> str:
        """``gradient_clipping`` of the launch profile."""
        return self.environ.get("ACCELERATE_GRADIENT_CLIPPING", "auto")

    @property
    def sharding(self) -> str:
        """The library that will divide weights or optimizer states; "" where none does."""
        if self.flag("ACCELERATE_USE_FSDP"):
            return "FSDP2"
        return "DeepSpeed ZeRO" if self.flag("ACCELERATE_USE_DEEPSPEED") else ""

    def flag(self, name: str) -> bool:
        """Whether a variable is set to true."""
        return _flag(name, self.environ)


T = TypeVar("T")
Rule = tuple[Callable[[T], bool], Callable[[T], str]]
"""A condition under which something is refused, and the message that says why and what to change."""


def _processes_of_another_launcher(at: LaunchedRecipe) -> bool:
    return bool(at.missing) and at.size.isdigit() and int(at.size) > 1


def _one_process_of_several_asked(at: LaunchedRecipe) -> bool:
    return {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= at.environ.keys() and "WORLD_SIZE" not in at.environ


def _other_accumulation(at: LaunchedRecipe) -> bool:
    return at.accumulation.isdigit() and int(at.accumulation) not in (1, at.recipe.train.gradient_accumulation_steps)


def _other_clipping(at: LaunchedRecipe) -> bool:
    norm = at.recipe.train.max_grad_norm
    return at.flag("ACCELERATE_USE_DEEPSPEED") and at.clipping not in ("auto", str(norm), f"{norm:g}")


_LAUNCH_RULES: tuple[Rule[LaunchedRecipe], ...] = (
    (
        _processes_of_another_launcher,
        lambda at: (
            f"WORLD_SIZE={at.size} is set without {', '.join(at.missing)}: this is one of several processes that "
            "torchrun did not start; use mmpref train --launch ddp, or unset WORLD_SIZE"
        ),
    ),
    (
        _one_process_of_several_asked,
        lambda at: (
            "accelerate launch was asked for several processes and started one, as it does with --cpu; use "
            "mmpref train --launch ddp, or torchrun --nproc_per_node N -m mmpref train"
        ),
    ),
    (
        lambda at: at.precision not in ("no", at.recipe_precision),
        lambda at: (
            f"the launch profile says mixed_precision: {at.precision} and the recipe {at.recipe_precision}, and the "
            f"recipe would win; write `train.{at.precision}=true"
            f"{'' if at.recipe_precision == 'no' else f' train.{at.recipe_precision}=false'}`, or mixed_precision: "
            "'no' in the profile"
        ),
    ),
    (
        _other_accumulation,
        lambda at: (
            f"the launch profile accumulates over {at.accumulation} steps and the recipe over "
            f"{at.recipe.train.gradient_accumulation_steps}; write "
            f"`train.gradient_accumulation_steps={at.accumulation}`, or take gradient_accumulation_steps out of the "
            "profile"
        ),
    ),
    (
        _other_clipping,
        lambda at: (
            f"the launch profile clips gradients at {at.clipping} and the recipe at "
            f"{at.recipe.train.max_grad_norm:g}; write `train.max_grad_norm={at.clipping}`, or gradient_clipping: "
            "auto in the profile"
        ),
    ),
    (
        lambda at: at.flag("ACCELERATE_USE_FSDP") and at.flag("FSDP_ACTIVATION_CHECKPOINTING"),
        lambda at: (
            "the launch profile has fsdp_activation_checkpointing: true; leave that to the recipe, which knows the "
            "model: set it to false in the profile and train.gradient_checkpointing=true"
        ),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedRecipe:
    """A recipe and the library that will divide its weights."""

    recipe: Recipe
    library: str
    """``FSDP2`` or ``DeepSpeed ZeRO``."""


_SHARDING_RULES: tuple[Rule[ShardedRecipe], ...] = (
    (
        lambda at: at.recipe.adapter.stored_as == "int8",
        lambda at: (
            f"an 8-bit base cannot be sharded by {at.library}; write `adapter.kind=qlora adapter.quantization=nf4` (4 "
            "bits) with --launch fsdp2, or --launch ddp, which keeps the whole base on every GPU"
        ),
    ),
    (
        lambda at: at.recipe.adapter.stored_as is not None and at.library != "FSDP2",
        lambda at: (
            f"a base in 4 bits cannot be sharded by {at.library}; use --launch fsdp2, or --launch ddp, which keeps the "
            "whole base on every GPU"
        ),
    ),
    (
        lambda at: "8bit" in at.recipe.train.optim or "paged" in at.recipe.train.optim,
        lambda at: (
            f"train.optim={at.recipe.train.optim} of bitsandbytes cannot use sharded weights; with {at.library} use "
            "`train.optim=adamw_torch_fused`, whose state is sharded"
        ),
    ),
    (
        lambda at: at.recipe.train.torch_compile,
        lambda at: f"train.torch_compile is not for {at.library} here; write `train.torch_compile=false`",
    ),
    (
        lambda at: at.recipe.train.samples is not None,
        lambda at: (
            f"train.samples is not for {at.library}: ranks that share the weights would have to write their answers "
            "token by token in step; write `train.samples=null`, and ask the result with mmpref eval"
        ),
    ),
)


def refuse_launch_contradictions(recipe: Recipe, environ: Mapping[str, str] = os.environ) -> None:
    """Refuse what the launcher was asked for and the recipe cannot have, before anything is loaded.

    Raises:
        DistributedError: the first contradiction, with the change that resolves it.
    """
    launched = LaunchedRecipe(recipe=recipe, environ=environ)
    _refuse_by(_LAUNCH_RULES, launched)
    if launched.sharding:
        _refuse_by(_SHARDING_RULES, ShardedRecipe(recipe=recipe, library=launched.sharding))


def _refuse_by(rules: Sequence[Rule[T]], subject: T) -> None:
    for applies, message in rules:
        if applies(subject):
            raise DistributedError(message(subject))


def restarted(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether these processes were started again, by us or by torchrun, after some of them failed."""
    return any(int(environ.get(name, "0")) > 0 for name in (RESTARTS, "TORCHELASTIC_RESTART_COUNT"))


def refuse_other_than_asked(strategy: Strategy, size: int, environ: Mapping[str, str] = os.environ) -> None:
    """Refuse to train in another way than ``mmpref train --launch`` was asked for.

    Raises:
        DistributedError: another strategy, or another number of processes.
    """
    if (asked := environ.get(ASKED)) and asked != f"{strategy}:{size}":
        wanted, _, number = asked.partition(":")
        raise DistributedError(
            f"--launch asked for {wanted} with {number} processes, and it became {strategy} with {size}; "
            "something between (a profile, an environment variable, a scheduler) changed it"
        )


def refuse_what_cannot_shard(recipe: Recipe, strategy: Strategy) -> None:
    """Refuse what a strategy cannot do, also one that the recipe itself asks for (``train.extra.fsdp``).

    Raises:
        ConfigError: the reference cannot be what the recipe asks for.
        DistributedError: with the change that resolves it.
    """
    if strategy in ("fsdp2", "zero2", "zero3"):
        library = "FSDP2" if strategy == "fsdp2" else "DeepSpeed ZeRO"
        _refuse_by(_SHARDING_RULES, ShardedRecipe(recipe=recipe, library=library))
    reference_for(recipe, strategy=strategy)


def _zero_stage(arguments: TrainingArguments) -> int:
    given: Any = getattr(arguments, "deepspeed", None)
    if isinstance(given, Mapping):
        return _stage_in(given, "the deepspeed configuration")
    for file in (given, os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")):
        if isinstance(file, str) and Path(file).exists():
            return _stage_in(read_json(file, DistributedError, "the deepspeed configuration", most=2**20), file)
    return _whole(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2"), "ACCELERATE_DEEPSPEED_ZERO_STAGE")


def _stage_in(config: Any, where: str) -> int:
    """The stage of ZeRO that a configuration of DeepSpeed asks for; 0 where it names none."""
    section = config.get("zero_optimization", {}) if isinstance(config, Mapping) else None
    if not isinstance(section, Mapping):
        raise DistributedError(f"{where} is no configuration of DeepSpeed: zero_optimization must have keys and values")
    return _whole(section.get("stage", 0), f"{where}: zero_optimization.stage")


def _whole(value: Any, where: str) -> int:
    if isinstance(value, bool) or str(value) not in ("0", "1", "2", "3"):
        raise DistributedError(f"{where} must be 0, 1, 2 or 3, got {short(repr(value))}")
    return int(value)


def _flag(name: str, environ: Mapping[str, str] = os.environ) -> bool:
    return environ.get(name, "false").lower() == "true"
