"""``train.extra``: the names of ``transformers.TrainingArguments`` that this trainer reads; the others are refused.

transformers takes every name that it has and says nothing where nobody reads it, so what is taken here is a list: a
name is read as it stands, or under a condition, or refused with the reason. One that a later transformers adds is
refused until somebody has looked whether this trainer reads it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from mmpref.errors import ConfigError
from mmpref.recipe.sections import TrainSection
from mmpref.yaml_text import did_you_mean


@dataclass(frozen=True, slots=True)
class Needs:
    """A name that is read only under a condition.

    Attributes:
        what: the condition in words: "it belongs to ...".
        holds: whether a section fulfils it.
        so: overrides that make any recipe fulfil it.
    """

    what: str
    holds: Callable[[TrainSection], bool]
    so: tuple[str, ...] = ()


def _tracked(section: TrainSection) -> bool:
    return any(name != "none" for name in section.report_to)


_COMPILED = Needs("train.torch_compile", lambda section: section.torch_compile, ("train.torch_compile=true",))
_RECOMPUTED = Needs(
    "train.gradient_checkpointing",
    lambda section: section.gradient_checkpointing,
    ("train.gradient_checkpointing=true",),
)
_TRACKIO = Needs(
    "the tracker trackio (train.report_to)", lambda section: bool({"trackio", "all"} & {*section.report_to})
)

READ = frozenset(
    {
        # the optimizer is asked whether it reads these (mmpref.training.trainer.optimizer_arguments)
        "adam_epsilon", "optim_args",
        # computing
        "tf32", "neftune_noise_alpha", "torch_empty_cache_steps", "full_determinism", "debug",
        # reading pairs; without worker processes transformers refuses a prefetch factor itself
        "data_seed", "dataloader_pin_memory", "dataloader_prefetch_factor",
        # what is logged
        "logging_first_step", "log_level", "log_level_replica", "log_on_each_node", "skip_memory_metrics",
        # several processes; a recipe does not know in how many it will run
        "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend",
        "ddp_timeout", "fsdp", "deepspeed",
    }
)  # fmt: skip
"""Names that are read whatever else the recipe says."""

UNDER: Mapping[str, Needs] = {
    "torch_compile_backend": _COMPILED,
    "torch_compile_mode": _COMPILED,
    "gradient_checkpointing_kwargs": _RECOMPUTED,
    "activation_checkpointing_kwargs": _RECOMPUTED,
    "dataloader_persistent_workers": Needs(
        "worker processes (train.dataloader_num_workers)",
        lambda section: section.dataloader_num_workers > 0,
        ("train.dataloader_num_workers=2",),
    ),
    "eval_delay": Needs("train.eval_steps", lambda section: section.eval_steps is not None),
    "optim_target_modules": Needs(
        "GaLore and APOLLO (train.optim)", lambda section: section.optim.startswith(("galore", "apollo"))
    ),
    "metric_for_best_model": Needs(
        "a schedule that looks at evaluations (train.lr_scheduler_type reduce_lr_on_plateau or greedy)",
        lambda section: section.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"),
    ),
    "run_name": Needs("a tracker (train.report_to)", _tracked),
    "project": _TRACKIO,
    "trackio_space_id": _TRACKIO,
    "trackio_bucket_id": _TRACKIO,
    "trackio_static_space_id": _TRACKIO,
    "hub_private_repo": _TRACKIO,
    "fsdp_config": Needs("train.extra.fsdp", lambda section: bool(section.extra.get("fsdp"))),
}
"""Names that are read under a condition."""

MOVES_NO_WEIGHT = frozenset(
    {
        "ddp_timeout", "log_level", "log_level_replica", "log_on_each_node", "logging_first_step", "run_name",
        "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id", "hub_private_repo",
        "dataloader_pin_memory", "dataloader_prefetch_factor", "dataloader_persistent_workers", "skip_memory_metrics",
        "torch_empty_cache_steps", "eval_delay",
    }
)  # fmt: skip
"""Names that a resumed run may change: they say how long is waited, what is logged, and how batches are brought."""

FORMER: Mapping[str, str] = {"warmup_ratio": "train.warmup_steps"}
"""Names that older releases of transformers had."""

ELSEWHERE: Mapping[str, str] = {
    "output_dir": "output",
    "seed": "seed",
    "activation_checkpointing": "train.gradient_checkpointing",
}
"""Names that a key of the recipe sets under another name; those of its ``train`` section are set there as well."""

_UPLOADS = "nothing is uploaded while a run trains; upload the model folder when the run is complete"
_EVERY_PAIR = "an evaluation always gives the statistics of every pair"
_NO_COLUMNS = "rows are pairs and have no columns to choose"
_TRAINS = "mmpref train trains, and evaluates where there are held-out pairs"
_KERNELS = "it would put other layers into the model after the start-up checks, which would have proven nothing"

NOT_HERE: Mapping[str, str] = {
    "label_smoothing_factor": "set loss.label_smoothing",
    "load_best_model_at_end": "compare checkpoints yourself: the stock reload silently finds nothing in many VLMs",
    "greater_is_better": "no best checkpoint is looked for; a schedule on a plateau has train.lr_scheduler_kwargs.mode",
    "auto_find_batch_size": "mmpref plan says which train.per_device_train_batch_size fits",
    "save_only_model": "a checkpoint without optimizer cannot be resumed exactly",
    "save_on_each_node": "a checkpoint is one folder, which every node must see",
    "ignore_data_skip": "a resumed run would train on pairs twice",
    "enable_jit_checkpoint": "SIGTERM and Ctrl-C save a checkpoint already",
    "restore_callback_states_from_checkpoint": "a resumed run takes its callbacks from the recipe",
    "resume_from_checkpoint": "--resume goes on from the newest checkpoint",
    "include_num_input_tokens_seen": "tokens are not counted by this trainer",
    "average_tokens_across_devices": "an update is always divided by the pairs of all processes",
    "accelerator_config": "pairs are dealt out by this trainer, and train.gradient_accumulation_steps says how many "
    "batches make an update",
    "parallelism_config": "several processes share the work as --launch says",
    "local_rank": "the launcher gives each process its number",
    "use_cache": "training keeps no keys and values",
    "use_liger_kernel": _KERNELS,
    "liger_kernel_config": _KERNELS,
    "do_train": _TRAINS,
    "do_eval": _TRAINS,
    "do_predict": _TRAINS,
    # logging and saving
    "logging_strategy": "set train.logging_steps",
    "logging_nan_inf_filter": "a loss that is not a number is never replaced in the log",
    "disable_tqdm": "mmpref has a display of its own",
    "save_strategy": "set train.save_steps",
    # evaluation
    "eval_strategy": "set train.eval_steps",
    "eval_on_start": "held-out pairs are evaluated before the first step anyway",
    "prediction_loss_only": _EVERY_PAIR,
    "include_for_metrics": _EVERY_PAIR,
    "batch_eval_metrics": _EVERY_PAIR,
    "eval_accumulation_steps": _EVERY_PAIR,
    "eval_do_concat_batches": _EVERY_PAIR,
    "eval_use_gather_object": _EVERY_PAIR,
    "fp16_full_eval": "an evaluation computes as training does",
    "bf16_full_eval": "an evaluation computes as training does",
    # reading pairs
    "remove_unused_columns": _NO_COLUMNS,
    "label_names": _NO_COLUMNS,
    "length_column_name": _NO_COLUMNS,
    "train_sampling_strategy": "pairs are drawn at random",
    "dataloader_drop_last": "every pair of an epoch is trained on, and an uneven last batch is weighed rightly",
    "dataloader_in_order": "batches always come in the order that was drawn",
    "dataloader_multiprocessing_context": "worker processes are started in Python's own way",
    # the hub
    "push_to_hub": _UPLOADS,
    "hub_model_id": _UPLOADS,
    "hub_strategy": _UPLOADS,
    "hub_token": _UPLOADS,
    "hub_always_push": _UPLOADS,
    "hub_revision": _UPLOADS,
}
"""Names that this trainer would ignore, or that would undo what it promises, and what there is in their place."""

_UNTYPED = frozenset({"fsdp"})  # takes true and a list as well, whatever its annotation says
_PLAIN = (bool, int, float, str, list, dict, NoneType)


def check_extra(section: TrainSection, fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Every name of ``train.extra`` one that this trainer reads and no other key says, with a value of the right type.

    Args:
        section: the recipe's ``train`` section.
        fields: the names that this transformers has, with their types.
        defaults: what they are where nothing is said, as far as that is known.

    Raises:
        ConfigError: every name that is not, with the reason.
    """
    found = list(_problems(section, fields, defaults))
    if not found:
        return
    out = ", ".join(dict.fromkeys(f"`{problem.name}`" for problem in found))
    add = [text for problem in found for text in problem.instead]
    write = f" and write `{shlex.join(add)}`" if add else ""
    so = list(dict.fromkeys(text for problem in found for text in problem.so))
    keep = f"; or write `{shlex.join(so)}`" if all(problem.so for problem in found) else ""
    raise ConfigError(f"{'; '.join(problem.says for problem in found)}; leave {out} out{write}{keep}")


@dataclass(frozen=True, slots=True)
class _Problem:
    says: str
    name: str
    instead: tuple[str, ...] = ()
    """Overrides that say the same where it is read."""
    so: tuple[str, ...] = ()
    """Overrides under which it would be read."""


def _problems(section: TrainSection, fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[_Problem]:
    of_section = type(section).model_fields
    for key, value in section.extra.items():
        name = f"train.extra.{key}"
        if key in FORMER:
            says = f"'{name}' is {FORMER[key]} in a recipe, below 1 a share of all steps"
            yield _Problem(says, name, (f"{FORMER[key]}={json.dumps(value)}",))
        elif key not in fields:
            near = did_you_mean(key, sorted(fields.keys() & (READ | UNDER.keys())), prefix=("train", "extra"))
            yield _Problem(f"'{name}' is not a name of transformers.TrainingArguments{near}", name)
        elif key in ELSEWHERE or key in of_section:
            there = ELSEWHERE.get(key, f"train.{key}")
            instead = _in_its_place(section, key, value) if key in of_section else (f"{there}={json.dumps(value)}",)
            where = "" if instead else f", by {there}, which takes no {json.dumps(value)}"
            yield _Problem(f"'{name}' is set elsewhere in the recipe{where}", name, instead)
        elif key in NOT_HERE:
            yield _Problem(f"'{name}' is not for this trainer: {NOT_HERE[key]}", name)
        elif key in READ or key in UNDER:
            _check_type(key, value, fields[key])
            needs = UNDER.get(key)
            if needs is not None and value != defaults.get(key) and not needs.holds(section):
                yield _Problem(f"'{name}' would do nothing: it belongs to {needs.what}", name, so=needs.so)
        else:
            yield _Problem(
                f"'{name}' is newer than this version of mmpref, which does not know whether its trainer would read it",
                name,
            )
    yield from _two_names(section)
    yield from _checkpointing_of_fsdp(section)


def _in_its_place(section: TrainSection, key: str, value: Any) -> tuple[str, ...]:
    """The override that says the same in the ``train`` section; nothing where the section does not take the value."""
    if key == "report_to" and isinstance(value, str):
        value = [] if value == "none" else [value]
    try:
        type(section).model_validate({"learning_rate": section.learning_rate, key: value})
    except ValueError:
        return ()
    return (f"train.{key}={json.dumps(value)}",)


def _two_names(section: TrainSection) -> Iterator[_Problem]:
    """transformers has a newer name for one setting, and takes it without a word where both are given."""
    if {"gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"} <= section.extra.keys():
        yield _Problem(
            "'train.extra.activation_checkpointing_kwargs' is the newer name of 'gradient_checkpointing_kwargs', and "
            "both are given",
            "train.extra.activation_checkpointing_kwargs",
        )


def _checkpointing_of_fsdp(section: TrainSection) -> Iterator[_Problem]:
    config = section.extra.get("fsdp_config")
    for key in ("activation_checkpointing", "fsdp_activation_checkpointing"):
        if isinstance(config, Mapping) and key in config:
            name = f"train.extra.fsdp_config.{key}"
            instead = f"train.gradient_checkpointing={json.dumps(config[key])}"
            yield _Problem(f"'{name}' is set elsewhere in the recipe, which knows the model", name, (instead,))


def _check_type(key: str, value: Any, annotation: Any) -> None:
    """transformers keeps whatever it is given, and trips over it when it is used."""
    is_union = isinstance(annotation, UnionType) or get_origin(annotation) is Union
    wanted = [get_origin(part) or part for part in (get_args(annotation) if is_union else (annotation,))]
    if key in _UNTYPED or not all(one in _PLAIN for one in wanted):
        return
    if isinstance(value, bool):
        fits = bool in wanted
    else:
        fits = isinstance(value, tuple(wanted)) or (float in wanted and isinstance(value, int))
    if not fits:
        words = " or ".join("null" if one is NoneType else str(one.__name__) for one in wanted)
        raise ConfigError(f"'train.extra.{key}' must be {words}, got {value!r}")
