"""The recipe's ``train`` section as ``transformers.TrainingArguments``, and everything in it that can be refused early.

transformers looks at many values only when they are used, some of them hours later or after a model was loaded. What
can be tried on something small is tried here, and what this trainer does not do is refused rather than ignored.
"""

from __future__ import annotations

import json
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

from mmpref.config import Recipe, TrainSection
from mmpref.errors import ConfigError, MMPrefError
from mmpref.rundir import RunDir
from mmpref.training.faults import is_out_of_memory
from mmpref.yaml_text import did_you_mean

# Names that are set here, and the key of the recipe that says it; no key where the recipe has no say.
_SET_BY_US: Mapping[str, str] = {
    "output_dir": "output",
    "seed": "seed",
    "save_strategy": "",
    "remove_unused_columns": "",
    "logging_nan_inf_filter": "",
}
# Names that this trainer would ignore, or that would undo what it promises, and what there is in their place.
_NOT_HERE: Mapping[str, str] = {
    "label_smoothing_factor": "set loss.label_smoothing",
    "load_best_model_at_end": "compare checkpoints yourself: the stock reload silently finds nothing in many VLMs",
    "auto_find_batch_size": "mmpref plan says which train.per_device_train_batch_size fits",
    "save_only_model": "a checkpoint without optimizer cannot be resumed exactly",
    "ignore_data_skip": "a resumed run would train on pairs twice",
    "enable_jit_checkpoint": "SIGTERM and Ctrl-C save a checkpoint already",
    "restore_callback_states_from_checkpoint": "a resumed run takes its callbacks from the recipe",
    "include_num_input_tokens_seen": "tokens are not counted by this trainer",
    "prediction_loss_only": "an evaluation always gives the statistics of every pair",
    "fp16_full_eval": "an evaluation computes as training does",
    "bf16_full_eval": "an evaluation computes as training does",
    "eval_strategy": "set train.eval_steps",
    "push_to_hub": "upload the model folder when the run is complete",
    "dataloader_drop_last": "every pair of an epoch is trained on, and an uneven last batch is weighed rightly",
    "train_sampling_strategy": "pairs are drawn at random",
    "resume_from_checkpoint": "--resume goes on from the newest checkpoint",
}
_PLAIN_TYPES: Mapping[Any, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}
# tracker -> package, where the two have different names
_PACKAGES = {"azure_ml": "azureml-core", "comet_ml": "comet-ml", "flyte": "flytekit", "tensorboard": "tensorboard"}


def training_arguments(recipe: Recipe) -> TrainingArguments:
    """The recipe's ``train`` section as ``TrainingArguments``.

    Raises:
        ConfigError: a key of ``train.extra`` that transformers does not know or this trainer does not do, a value that
            transformers refuses, or a tracker that is not there.
    """
    section = recipe.train
    known = {field.name: field.type for field in fields(TrainingArguments)}
    _check_extra(section, known)
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
    settings = {"disable_tqdm": True, **given, **section.extra}
    with refused_by_transformers():
        arguments = TrainingArguments(output_dir=str(RunDir(recipe.output).checkpoints), seed=recipe.seed, **settings)
        arguments.get_process_log_level()
    _try_schedule(arguments)
    return arguments


# keys of the train section that are not names of TrainingArguments
_OWN_KEYS = frozenset({"skip_nonfinite_steps", "learning_rates"})


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


def rehearse(trainer: Trainer) -> None:
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


def _check_extra(section: TrainSection, known: Mapping[str, Any]) -> None:
    """Every name of ``train.extra`` one that transformers knows, this trainer does, and no other key says."""
    says, out, add = [], [], []
    for key, value in section.extra.items():
        name = f"train.extra.{key}"
        if key not in known:
            near = did_you_mean(key, sorted(known), prefix=("train", "extra"))
            says.append(f"'{name}' is not a name of transformers.TrainingArguments{near}")
        elif key in _SET_BY_US or key in type(section).model_fields:
            says.append(f"'{name}' is set elsewhere in the recipe")
            if there := _SET_BY_US.get(key, f"train.{key}"):
                add.append(f"{there}={json.dumps(value)}")
        elif key in _NOT_HERE:
            says.append(f"'{name}' is not for this trainer: {_NOT_HERE[key]}")
        else:
            _check_type(key, value, known[key])
            continue
        out.append(f"`{name}`")
    if says:
        write = f" and write `{shlex.join(add)}`" if add else ""
        raise ConfigError(f"{'; '.join(says)}; leave {', '.join(out)} out{write}")


def _check_type(key: str, value: Any, wanted: Any) -> None:
    """transformers keeps whatever it is given, and trips over it when it is used."""
    plain = _PLAIN_TYPES.get(wanted)
    if plain is None:
        return
    if not isinstance(value, plain) or (wanted is not bool and isinstance(value, bool)):
        raise ConfigError(f"'train.extra.{key}' must be {wanted.__name__}, got {value!r}")


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
