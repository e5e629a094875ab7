"""The recipe's ``train`` section as ``transformers.TrainingArguments``, and everything in it that can be refused early.

transformers looks at many values only when they are used, some of them hours later or after a model was loaded. What
can be tried on something small is tried here, and what this trainer does not do is refused rather than ignored.
"""

from __future__ import annotations

import copy
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from transformers import Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.utils import is_torch_bf16_gpu_available

from mmpref.errors import ConfigError, MMPrefError
from mmpref.recipe.sections import Recipe
from mmpref.rundir.folder import RunDir
from mmpref.training.trainer.extra_arguments import check_extra
from mmpref.training.trainer.memory_errors import is_out_of_memory
from mmpref.training.trainer.optimizer_arguments import refuse_idle_settings

# tracker -> package, where the two have different names
_PACKAGES = {"azure_ml": "azureml-core", "comet_ml": "comet-ml", "flyte": "flytekit", "tensorboard": "tensorboard"}


def training_arguments(recipe: Recipe) -> TrainingArguments:
    """The recipe's ``train`` section as ``TrainingArguments``.

    Raises:
        ConfigError: a key of ``train.extra`` that this trainer does not read, a value that transformers refuses, a
            tracker that is not there, or float16 without a GPU.
    """
    section = recipe.train
    known = {field.name: field for field in fields(TrainingArguments)}
    check_extra(
        section,
        {name: field.type for name, field in known.items()},
        {name: field.default for name, field in known.items()},
    )
    _check_trackers(section.report_to)
    given: dict[str, Any] = section.model_dump(exclude={"extra", "save_steps", "eval_steps", *_OWN_KEYS})
    given["bf16"] = bool(section.bf16)
    given["report_to"] = section.report_to or "none"
    given["save_strategy"] = "no" if section.save_steps is None else "steps"
    if section.save_steps is not None:
        given["save_steps"] = section.save_steps
    given["eval_strategy"] = "no" if section.eval_steps is None else "steps"
    if section.eval_steps is not None:
        given["eval_steps"] = section.eval_steps
    if "activation_checkpointing" in known:  # the name that newer releases of transformers give it
        given["activation_checkpointing"] = given.pop("gradient_checkpointing")
    # a copy: transformers moves keys about in mappings that it is given, and this one is what the recipe says
    settings = {"disable_tqdm": True, **given, **copy.deepcopy(section.extra)}
    if "activation_checkpointing_kwargs" in known and "gradient_checkpointing_kwargs" in settings:
        settings["activation_checkpointing_kwargs"] = settings.pop("gradient_checkpointing_kwargs")
    if os.environ.get("WORLD_SIZE", "1") == "1":
        settings.pop("ddp_backend", None)  # a process alone would look for others to talk to
    _refuse_bf16_without_hardware(section.bf16, use_cpu=section.use_cpu)
    with refused_by_transformers():
        arguments = TrainingArguments(output_dir=str(RunDir(recipe.output).checkpoints), seed=recipe.seed, **settings)
        arguments.get_process_log_level()
    _refuse_half_on_cpu(arguments)
    refuse_idle_settings(arguments, section)
    _try_schedule(arguments)
    return arguments


# keys of the train section that are not names of TrainingArguments
_OWN_KEYS = frozenset(
    {"skip_nonfinite_steps", "learning_rates", "group_pairs", "eval_image_lift", "pair_log", "samples"}
)


def _refuse_bf16_without_hardware(bf16: bool | None, *, use_cpu: bool) -> None:
    """What transformers says in words that name none of our keys."""
    if not bf16 or use_cpu or is_torch_bf16_gpu_available():
        return
    here = "its GPU has none" if torch.cuda.is_available() else "it has no GPU"
    raise ConfigError(
        f"train.bf16=true needs a GPU with bfloat16, and this machine cannot: {here}; write `train.bf16=null`, which "
        "takes bfloat16 wherever there is some, or `train.use_cpu=true` for bfloat16 on the CPU"
    )


def _refuse_half_on_cpu(arguments: TrainingArguments) -> None:
    """accelerate silently leaves float16 out on a CPU, and the run would report an autocast that it does not do."""
    if arguments.fp16 and arguments.device.type == "cpu":
        bf16 = ["train.fp16=false", "train.bf16=true", "train.use_cpu=true"]
        raise ConfigError(
            "train.fp16 does nothing on a CPU, and this run would be on one; write `train.fp16=false`; or write "
            f"`{shlex.join(bf16)}`"
        )


@contextmanager
def refused_by_transformers() -> Iterator[None]:
    """Whatever transformers raises about settings, as our own error; it has no error of its own for them."""
    try:
        yield
    except MMPrefError:
        raise
    except Exception as err:
        if is_out_of_memory(err):
            raise
        text = " ".join(str(err).split()) or type(err).__name__
        if isinstance(err, KeyError):
            text = f"unknown value {text}"
        raise ConfigError(f"train: transformers refuses these settings: {text[:500]}") from err


def dry_run_optimizer_and_loader(trainer: Trainer) -> None:
    """Try what ``train()`` would build first: optimizer, schedule and loader, on one small weight.

    Raises:
        ConfigError: one of them cannot be built as the settings say.
    """
    with refused_by_transformers():
        kind, settings = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
        if isinstance(kind, type) and not {"params", "model", "optimizer_dict"} & settings.keys():
            kind([torch.nn.Parameter(torch.zeros(1))], **settings)
        trainer.get_train_dataloader()


def _try_schedule(arguments: TrainingArguments) -> None:
    name = str(getattr(arguments.lr_scheduler_type, "value", arguments.lr_scheduler_type))
    settings = dict(arguments.lr_scheduler_kwargs or {})
    problem = _schedule_problem(name, arguments, settings)
    if problem is None:
        return
    if settings and _schedule_problem(name, arguments, {}) is None:
        advice = ["train.lr_scheduler_kwargs={}"]
    else:
        advice = ["train.lr_scheduler_type=cosine", *(["train.lr_scheduler_kwargs={}"] if settings else [])]
    raise ConfigError(
        f"train.lr_scheduler_type '{name}' does not go with train.lr_scheduler_kwargs {settings}: {problem}; write "
        f"`{shlex.join(advice)}`"
    )


def _schedule_problem(name: str, arguments: TrainingArguments, settings: Mapping[str, Any]) -> str | None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=arguments.learning_rate)
    try:
        get_scheduler(
            name,
            optimizer=optimizer,
            num_warmup_steps=arguments.get_warmup_steps(100),
            num_training_steps=100,
            scheduler_specific_kwargs=dict(settings),
        )
    except Exception as err:
        return " ".join(str(err).split()) or type(err).__name__
    return None


def _check_trackers(names: list[str]) -> None:
    """Every tracker by a name that transformers knows, and installed."""
    for name in names:
        if name in ("all", "none"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise ConfigError(f"train.report_to: no tracker '{name}'; known: {known}")
        package = _PACKAGES.get(name, name)
        if name not in get_available_reporting_integrations() and not _installed(package):
            raise ConfigError(f"train.report_to: {name} is not installed: pip install {package}")


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
