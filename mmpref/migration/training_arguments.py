"""The keys that all three tools take from ``transformers.TrainingArguments``, which most keys of ``train`` are as well.

Defaults are those of transformers; a tool that has others replaces the row. Names that older releases had are here too:
config files outlive them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from mmpref.migration.contract import Draft, Key
from mmpref.migration.values import Kind, convert

_NUMBER, _WHOLE, _FLAG, _TEXT, _TEXTS = Kind.NUMBER, Kind.WHOLE, Kind.FLAG, Kind.TEXT, Kind.TEXTS
_UPLOADS = "nothing is uploaded while a run trains; upload the model folder when the run is complete"
_EVERY_PAIR = "an evaluation always gives the statistics of every pair"
_TRACKER_ONLY = "train.report_to"


def _train(name: str, kind: Kind, **more: Any) -> Key:
    return Key(to=f"train.{name}", kind=kind, **more)


def _extra(name: str, kind: Kind = Kind.ANY, **more: Any) -> Key:
    return Key(to=f"train.extra.{name}", kind=kind, **more)


def _without(why: str, *same: object, matters: bool = False, kind: Kind = Kind.ANY) -> Key:
    return Key(why=why, same=same, matters=matters, kind=kind)


TRAINING_ARGUMENTS: Final[Mapping[str, Key]] = {
    "output_dir": Key(by="output", to="output", kind=_TEXT),
    "overwrite_output_dir": _without("mmpref train --overwrite replaces a run", False, kind=_FLAG),
    "seed": Key(to="seed", kind=_WHOLE, default=42, note="the same seed draws another order of pairs"),
    # an update
    "learning_rate": _train("learning_rate", _NUMBER, default=5e-5),
    "per_device_train_batch_size": _train("per_device_train_batch_size", _WHOLE, default=8),
    "per_device_eval_batch_size": _train("per_device_eval_batch_size", _WHOLE),
    "gradient_accumulation_steps": _train("gradient_accumulation_steps", _WHOLE, default=1),
    "num_train_epochs": _train("num_train_epochs", _NUMBER, default=3.0),
    "max_steps": Key(by="steps", to="train.max_steps", kind=_WHOLE),
    "lr_scheduler_type": _train("lr_scheduler_type", _TEXT, default="linear"),
    "lr_scheduler_kwargs": _train("lr_scheduler_kwargs", Kind.MAPPING),
    "warmup_steps": Key(by="steps", to="train.warmup_steps", kind=_NUMBER),
    "warmup_ratio": Key(by="steps", to="train.warmup_steps", kind=_NUMBER),
    "weight_decay": _train("weight_decay", _NUMBER),
    "adam_beta1": _train("adam_beta1", _NUMBER),
    "adam_beta2": _train("adam_beta2", _NUMBER),
    "adam_epsilon": _extra("adam_epsilon", _NUMBER, same=(1e-8,)),
    "max_grad_norm": _train("max_grad_norm", _NUMBER),
    "optim": _train("optim", _TEXT, same=("adamw_torch", "adamw_torch_fused", "adamw_hf")),
    "optim_args": _extra("optim_args", _TEXT),
    "adafactor": _without("write train.optim: adafactor", False, matters=True, kind=_FLAG),
    "optim_target_modules": _without("GaLore and APOLLO have settings of their own", matters=True),
    "label_smoothing_factor": _without("it belongs to cross-entropy; loss.label_smoothing smooths a preference", 0.0,
                                       kind=_NUMBER),
    "neftune_noise_alpha": _extra("neftune_noise_alpha", _NUMBER),
    "average_tokens_across_devices": _without("an update is divided by its pairs, on however many devices", True, False,
                                              kind=_FLAG),
    # computing
    "bf16": Key(by="precision", to="train.bf16", kind=_FLAG),
    "fp16": Key(by="precision", to="train.fp16", kind=_FLAG),
    "bf16_full_eval": _without("an evaluation computes as training does", False, kind=_FLAG),
    "fp16_full_eval": _without("an evaluation computes as training does", False, kind=_FLAG),
    "half_precision_backend": _without("torch's own autocast is used", "auto", "cpu_amp"),
    "fp16_opt_level": _without("torch's own autocast is used", "O1"),
    "tf32": _extra("tf32", _FLAG),
    "gradient_checkpointing": _train("gradient_checkpointing", _FLAG),
    "activation_checkpointing": _train("gradient_checkpointing", _FLAG),
    "gradient_checkpointing_kwargs": _extra("gradient_checkpointing_kwargs", Kind.MAPPING,
                                            under="train.gradient_checkpointing"),
    "activation_checkpointing_kwargs": _extra("activation_checkpointing_kwargs", Kind.MAPPING,
                                              under="train.gradient_checkpointing"),
    "torch_compile": _train("torch_compile", _FLAG),
    "torch_compile_backend": _extra("torch_compile_backend", _TEXT, under="train.torch_compile"),
    "torch_compile_mode": _extra("torch_compile_mode", _TEXT, under="train.torch_compile"),
    "torchdynamo": _without("write train.torch_compile"),
    "use_liger_kernel": _without("it would replace layers after the start-up checks", False, kind=_FLAG),
    "liger_kernel_config": _without("it would replace layers after the start-up checks"),
    "use_cache": _without("training keeps no keys and values", False, kind=_FLAG),
    "torch_empty_cache_steps": _extra("torch_empty_cache_steps", _WHOLE),
    "auto_find_batch_size": _without("mmpref plan says which train.per_device_train_batch_size fits", False,
                                     kind=_FLAG, matters=True),
    "full_determinism": _extra("full_determinism", _FLAG, same=(False,)),
    "use_cpu": _train("use_cpu", _FLAG),
    "no_cuda": _train("use_cpu", _FLAG),
    "use_mps_device": _without("torch's own device is taken", False, kind=_FLAG),
    "jit_mode_eval": _without("an evaluation computes as training does", False, kind=_FLAG),
    "use_ipex": _without("it is no longer a part of transformers", False, kind=_FLAG),
    # logging and evaluation
    "logging_dir": _without("everything is logged to the run folder (metrics.jsonl, train.log)"),
    "logging_strategy": _without("train.logging_steps says how often", "steps"),
    "logging_steps": Key(by="logging", to="train.logging_steps", kind=_NUMBER),
    "logging_first_step": _extra("logging_first_step", _FLAG, same=(False,)),
    "logging_nan_inf_filter": _without("a loss that is not a number is never replaced in the log", kind=_FLAG),
    "log_level": _extra("log_level", _TEXT, same=("passive",)),
    "log_level_replica": _extra("log_level_replica", _TEXT, same=("warning",)),
    "log_on_each_node": _extra("log_on_each_node", _FLAG, same=(True,)),
    "include_num_input_tokens_seen": _without("tokens are not counted", False, "no"),
    "include_tokens_per_second": _without("metrics.jsonl has the pairs of a second", False),
    "disable_tqdm": _without("mmpref has a display of its own", False, True, kind=_FLAG),
    "report_to": Key(by="logging", to="train.report_to", kind=_TEXTS),
    "run_name": _extra("run_name", _TEXT, under=_TRACKER_ONLY),
    "project": _without("it belongs to trackio"),
    "trackio_space_id": _without("it belongs to trackio"),
    "trackio_bucket_id": _without("it belongs to trackio"),
    "trackio_static_space_id": _without("it belongs to trackio"),
    "eval_strategy": Key(by="evaluation", to="train.eval_steps", kind=_TEXT),
    "evaluation_strategy": Key(by="evaluation", to="train.eval_steps", kind=_TEXT),
    "eval_steps": Key(by="evaluation", to="train.eval_steps", kind=_NUMBER),
    "eval_delay": _without("held-out pairs are evaluated before the first step as well", 0, kind=_NUMBER),
    "eval_on_start": _without("held-out pairs are evaluated before the first step anyway", False, True, kind=_FLAG),
    "eval_accumulation_steps": _without(_EVERY_PAIR),
    "eval_do_concat_batches": _without(_EVERY_PAIR, True, kind=_FLAG),
    "eval_use_gather_object": _without(_EVERY_PAIR, False, kind=_FLAG),
    "prediction_loss_only": _without(_EVERY_PAIR, False, kind=_FLAG),
    "include_for_metrics": _without(_EVERY_PAIR, []),
    "include_inputs_for_metrics": _without(_EVERY_PAIR, False, kind=_FLAG),
    "batch_eval_metrics": _without(_EVERY_PAIR, False, kind=_FLAG),
    "load_best_model_at_end": _without("the last state is the result; compare checkpoints with mmpref eval", False,
                                       kind=_FLAG, matters=True),
    "metric_for_best_model": _without("no best checkpoint is looked for"),
    "greater_is_better": _without("no best checkpoint is looked for"),
    # saving
    "save_strategy": Key(by="saving", to="train.save_steps", kind=_TEXT),
    "save_steps": Key(by="saving", to="train.save_steps", kind=_NUMBER),
    "save_total_limit": _train("save_total_limit", _WHOLE, under="train.save_steps"),
    "save_only_model": _without("a checkpoint without optimizer cannot be resumed exactly", False, kind=_FLAG),
    "save_safetensors": _without("safetensors is the only format", True, kind=_FLAG),
    "save_on_each_node": _without("a checkpoint is one folder, which every node must see", False, kind=_FLAG),
    "enable_jit_checkpoint": _without("SIGTERM and Ctrl-C save a checkpoint already", False, True, kind=_FLAG),
    "resume_from_checkpoint": _without("mmpref train --resume goes on with a run of mmpref; it reads no other's",
                                       matters=True),
    "ignore_data_skip": _without("a resumed run would train on pairs twice", False, kind=_FLAG),
    "restore_callback_states_from_checkpoint": _without("callbacks come from the recipe", False, kind=_FLAG),
    # reading pairs
    "dataloader_num_workers": _train("dataloader_num_workers", _WHOLE),
    "dataloader_pin_memory": _extra("dataloader_pin_memory", _FLAG, same=(True,)),
    "dataloader_persistent_workers": _extra("dataloader_persistent_workers", _FLAG, same=(False,),
                                            under="train.dataloader_num_workers"),
    "dataloader_prefetch_factor": _extra("dataloader_prefetch_factor", _WHOLE, under="train.dataloader_num_workers"),
    "dataloader_drop_last": _without("every pair of an epoch is trained on", False, kind=_FLAG, matters=True),
    "dataloader_in_order": _without("batches come in the order that was drawn", True, kind=_FLAG),
    "dataloader_multiprocessing_context": _without("worker processes are started in Python's own way"),
    "data_seed": _extra("data_seed", _WHOLE),
    "remove_unused_columns": _without("rows are read by their format", True, False, kind=_FLAG),
    "label_names": _without("rows are read by their format", []),
    "train_sampling_strategy": _without("pairs are drawn at random", "random", matters=True),
    "group_by_length": _without("pairs are drawn at random, and padded to the longest of their batch", False,
                                kind=_FLAG),
    "length_column_name": _without("lengths are counted from the rows", "length"),
    "accelerator_config": _without("pairs are dealt out by mmpref's trainer"),
    "split_batches": _without("pairs are dealt out by mmpref's trainer", False, kind=_FLAG),
    "skip_memory_metrics": _extra("skip_memory_metrics", _FLAG, same=(True,)),
    "debug": _extra("debug", same=("", [])),
    # several devices
    "deepspeed": Key(by="devices"),
    "fsdp": Key(by="devices"),
    "fsdp_config": Key(by="devices"),
    "fsdp_min_num_params": _without("--launch fsdp2 wraps every layer of the model", 0, kind=_WHOLE),
    "fsdp_transformer_layer_cls_to_wrap": _without("--launch fsdp2 wraps every layer of the model"),
    "parallelism_config": _without("several processes share the work as --launch says", matters=True),
    "tp_size": _without("a layer is never divided (tensor parallelism)", 0, 1, kind=_WHOLE),
    "ddp_find_unused_parameters": _extra("ddp_find_unused_parameters", _FLAG),
    "ddp_bucket_cap_mb": _extra("ddp_bucket_cap_mb", _WHOLE),
    "ddp_broadcast_buffers": _extra("ddp_broadcast_buffers", _FLAG),
    "ddp_static_graph": _extra("ddp_static_graph", _FLAG),
    "ddp_backend": _extra("ddp_backend", _TEXT),
    "ddp_timeout": _extra("ddp_timeout", _WHOLE, same=(1800,)),
    "local_rank": _without("the launcher gives each process its number", -1, kind=_WHOLE),
    "tpu_num_cores": _without("there is no training on TPUs"),
    "tpu_metrics_debug": _without("there is no training on TPUs", False, kind=_FLAG),
    "past_index": _without("no model that trains here has such an output", -1, kind=_WHOLE),
    "ray_scope": _without("hyperparameters are searched by mmpref sweep", "last"),
    "mp_parameters": _without("it belongs to SageMaker", ""),
    # what the script does
    "do_train": _without("mmpref train trains", True, False, kind=_FLAG),
    "do_eval": _without("held-out pairs are evaluated where there are some", True, False, kind=_FLAG),
    "do_predict": _without("mmpref eval answers benchmarks", False, kind=_FLAG),
    "push_to_hub": _without(_UPLOADS, False, kind=_FLAG),
    "hub_model_id": _without(_UPLOADS),
    "hub_strategy": _without(_UPLOADS, "every_save"),
    "hub_token": _without(_UPLOADS),
    "hub_private_repo": _without(_UPLOADS),
    "hub_always_push": _without(_UPLOADS, False, kind=_FLAG),
    "hub_revision": _without(_UPLOADS),
    "push_to_hub_model_id": _without(_UPLOADS),
    "push_to_hub_organization": _without(_UPLOADS),
    "push_to_hub_token": _without(_UPLOADS),
}  # fmt: skip
"""Every key that ``TrainingArguments`` has or had."""

PARTS: Final = ("output", "steps", "precision", "logging", "evaluation", "saving", "devices")
"""The parts that :func:`training` reads, but for precision, which each tool means in its own way."""


def carry_model(draft: Draft, key: str, note: str = "") -> None:
    """Carry the model that their ``key`` names; a file without one gets a place to fill in."""
    path = draft.value(key)
    if path is None:
        draft.to_set.append(f"model.path: the file names no {key}")
        path = "to-set"
    draft.carry(key, {"model.path": path}, note)


def training(draft: Draft, *, output: str, logging_steps: float, save_steps: float) -> None:
    """What of ``TrainingArguments`` needs more than a row.

    Args:
        draft: the recipe in the making.
        output: run folder where the file names none.
        logging_steps, save_steps: the tool's defaults.
    """
    draft.carry("output_dir", {"output": draft.value("output_dir") or output})
    _steps(draft)
    _logging(draft, logging_steps)
    _saving(draft, save_steps)
    _evaluation(draft)
    _devices(draft)


def _steps(draft: Draft) -> None:
    steps, warmup, ratio = (draft.value(name) for name in ("max_steps", "warmup_steps", "warmup_ratio"))
    if steps is not None and steps > 0:
        draft.carry("max_steps", {"train.max_steps": steps})
    else:
        draft.same("max_steps", "num_train_epochs says how long")
    if warmup:
        draft.carry("warmup_steps", {"train.warmup_steps": warmup})
        draft.drop("warmup_ratio", "warmup_steps goes before it", matters=False)
    else:
        draft.same("warmup_steps", "no warm-up is the default")
        if ratio:
            draft.carry("warmup_ratio", {"train.warmup_steps": ratio})
        else:
            draft.same("warmup_ratio", "no warm-up is the default")


def _whole_steps(draft: Draft, name: str, value: float, ours: str) -> None:
    if value >= 1:
        draft.carry(name, {ours: int(value)})
    else:
        draft.drop(name, f"a share of all steps; write {ours} as a number of steps", matters=False)


def _logging(draft: Draft, default: float) -> None:
    steps = draft.value("logging_steps")
    _whole_steps(draft, "logging_steps", default if steps is None else steps, "train.logging_steps")
    trackers = [name for name in draft.value("report_to") or [] if name.lower() not in ("none", "null")]
    if trackers:
        draft.carry("report_to", {"train.report_to": trackers})
    else:
        draft.same("report_to", "the run folder has every figure; no tracker is the default")


def _saving(draft: Draft, default: float) -> None:
    strategy, steps = draft.value("save_strategy") or "steps", draft.value("save_steps")
    if strategy == "steps":
        draft.same("save_strategy", "train.save_steps says how often")
        _whole_steps(draft, "save_steps", default if steps is None else steps, "train.save_steps")
        return
    if strategy == "no":
        draft.same("save_strategy", "no checkpoints is the default; the result is always saved")
    else:
        draft.drop("save_strategy", f"checkpoints by {strategy}; write train.save_steps as a number of steps",
                   matters=False)  # fmt: skip
    draft.drop("save_steps", f"save_strategy is {strategy}", matters=False)


def _evaluation(draft: Draft) -> None:
    names = [name for name in ("eval_strategy", "evaluation_strategy") if name in draft.given]
    strategy = next((draft.value(name) for name in names if draft.value(name) is not None), "no")
    steps = draft.value("eval_steps")
    for name in names:
        if strategy == "steps":
            draft.same(name, "train.eval_steps says how often")
        else:
            said = "held-out pairs are evaluated before the first step and after the last"
            draft.same(name, said if strategy == "no" else f"{said}; train.eval_steps evaluates in between")
    if strategy == "steps" and (steps is None or steps >= 1):
        every = steps or draft.values.get("train.logging_steps")
        if every:
            draft.carry("eval_steps", {"train.eval_steps": int(every)})
        else:
            draft.same("eval_steps", "train.eval_steps is to be a number of steps")
    elif strategy == "steps":
        draft.drop("eval_steps", "a share of all steps; write train.eval_steps as a number of steps", matters=False)
    else:
        draft.drop("eval_steps", f"the evaluation strategy is {strategy}", matters=False)


def _devices(draft: Draft) -> None:
    config = draft.value("deepspeed")
    if config:
        stage = _zero_stage(config)
        draft.launch = f"zero{stage}"
        draft.drop("deepspeed", f"start with --launch zero{stage}; its file's own settings are not read", matters=False)
    else:
        draft.same("deepspeed")
    fsdp = draft.value("fsdp")
    if fsdp:
        draft.launch = "fsdp2"
        draft.drop("fsdp", "start with --launch fsdp2", matters=False)
    else:
        draft.same("fsdp")
    draft.drop("fsdp_config", "--launch fsdp2 has settings of its own", matters=False)
    for name in PROFILES:
        profile = draft.given.get(name)
        if isinstance(profile, str):
            sharded = "fsdp2" if "fsdp" in profile.lower() else f"zero{_zero_stage(profile)}"
            draft.launch = sharded if re.search("fsdp|zero|deepspeed|z[123]", profile.lower()) else "ddp"
            draft.drop(name, f"start with --launch {draft.launch}; the file's own settings are not read", matters=False)
    processes(draft)


PROFILES: Final = ("accelerate_config", "launch config_file")
"""Where a command line names a profile of accelerate."""
PROCESSES: Final = ("num_processes", "launch num_processes", "launch nproc_per_node", "env NPROC_PER_NODE")


def processes(draft: Draft) -> None:
    """How many processes a command line starts, and by what."""
    for name in PROCESSES:
        if name not in draft.given:
            continue
        count = convert(draft.given[name], Kind.WHOLE, f"{draft.where}: {name}")
        if count is None or count < 2:
            draft.same(name, "one process is the default")
            continue
        draft.processes, draft.launch = count, draft.launch or "ddp"
        draft.drop(name, f"start with --launch {draft.launch} --processes {count}", matters=False)


def _zero_stage(config: object) -> int:
    """The stage of ZeRO that a DeepSpeed config names in its file's name, or in its own key; 3 otherwise."""
    if isinstance(config, Mapping):
        zero = config.get("zero_optimization")
        stage = zero.get("stage") if isinstance(zero, Mapping) else None
        return 2 if stage in (1, 2) else 3
    text = str(config).lower()
    is_two = any(mark in text for mark in ("z2", "zero2", "zero_2", "stage2", "stage_2", "zero1", "z1"))
    return 2 if is_two else 3
