"""Which weights train, and LoRA on them. The only module that imports peft.

A part of the model (vision tower, projector, language model) is frozen, trained itself, or given a LoRA adapter. With
LoRA anywhere, a part that trains fully is a copy kept by the adapter: the base stays as it was, so that switching the
adapter off gives the reference model, and one adapter folder holds everything that was trained.
"""

from __future__ import annotations

import dataclasses
import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mmpref.errors import ConfigError, library_errors
from mmpref.models.adapters.casts import leave_casts_to_autocast
from mmpref.models.adapters.checks import refuse_unfit
from mmpref.models.adapters.pissa import keep_start
from mmpref.models.adapters.saved import CONFIG, WEIGHTS, adapter_settings
from mmpref.models.adapters.targets import exact_pattern, lora_layers, modules_to_save
from mmpref.models.adapters.weights import count_parameters, is_adapter_weight, plain_name
from mmpref.models.adapters.whole_copies import take_arguments_by_name
from mmpref.models.folder.contents import AGAIN, read_header
from mmpref.models.frozen_tower import keep_frozen_tower_out_of_graph
from mmpref.models.parts import with_parts
from mmpref.models.precision import keep_in, part_dtypes, saved_dtype
from mmpref.models.tower_windows import attend_by_length
from mmpref.models.tuning import PARTS, AdapterSettings, Tuning
from mmpref.processing.family import Family, PartName

if TYPE_CHECKING:
    from mmpref.models.loaded import LoadedModel

_PEFTS = "base_model.model."
"""What peft puts before the names of a model."""


def prepare(
    loaded: LoadedModel,
    tuning: Tuning,
    adapter: AdapterSettings | None = None,
    *,
    start: Path | None = None,
    autocast: torch.dtype | None = None,
) -> LoadedModel:
    """The same model with gradients where they are wanted, LoRA attached where it is asked for, in training mode.

    Its parts are looked up in the model itself (``parts.with_parts``). Weights that train themselves are then float32,
    unless the model was loaded in a dtype that was asked for (``models.precision``).

    Args:
        loaded: a model without an adapter.
        tuning: what happens to each part.
        adapter: LoRA settings; None where no part has LoRA.
        start: folder of a saved adapter that training starts from. Of ``adapter`` only the dropout counts then, and
            ``freeze`` leaves what the adapter has on a part as it is.
        autocast: the half precision that training will compute in; None where it computes in that of the weights.

    Raises:
        ConfigError: parts the model does not have, LoRA settings without a part for them (or the other way round),
            quantised weights that should train themselves, an adapter that does not fit, nothing left to train.
    """
    model = loaded.model
    family = with_parts(loaded.family, model, dict(loaded.family.named))
    refuse_unfit(tuning, adapter, family, model)
    model.requires_grad_(False)
    if loaded.dtype == "auto":
        dtypes = part_dtypes(saved_dtype(model), tuning, family, autocast=autocast)
        if dtypes is not None:
            keep_in(model, family, dtypes)
    if adapter is not None and start is not None:
        model = attach(model, start, trainable=True, dropout=adapter.dropout)
        for name, parameter in model.named_parameters():
            frozen = tuning.of(family.part_of(plain_name(name))) == "freeze"
            parameter.requires_grad_(is_adapter_weight(name) and not frozen)
    elif adapter is not None:
        model = _with_lora(model, family, tuning, adapter)
    else:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(tuning.of(family.part_of(name)) == "full")
    trained, _ = count_parameters(model)
    if not trained:
        raise ConfigError(
            "nothing would train: set at least one of tune.vision, tune.projector, tune.language to full or lora"
        )
    for part in PARTS if start is None else ():
        asked = tuning.of(part)
        if asked != "freeze" and not any(
            value.requires_grad and family.part_of(plain_name(name)) == part for name, value in model.named_parameters()
        ):
            reason = "has no linear layer" if asked == "lora" else "has single tensors only, which no adapter can copy"
            raise ConfigError(f"tune.{part} is {asked}, and it {reason}: nothing of it would train; set it to freeze")
    if family.has_vision and tuning.vision == "freeze" and not _adapted(model, family, "vision"):
        keep_frozen_tower_out_of_graph(model, family)
    if adapter is not None:
        leave_casts_to_autocast(model)
    attend_by_length(model, family)
    model.train()
    return dataclasses.replace(loaded, model=model, family=family)


def attach(model: PreTrainedModel, folder: Path, *, trainable: bool, dropout: float | None = None) -> Any:
    """Put a saved adapter on its base model.

    Args:
        model: the base.
        folder: of the adapter.
        trainable: its weights require gradients.
        dropout: of its layers; None takes what the adapter was trained with.

    Raises:
        ConfigError: there is no adapter in the folder, or it does not fit the model.
    """
    peft = _peft()
    settings = adapter_settings(folder)
    named = settings.get("base_model_name_or_path")
    of = f" (its {CONFIG} names {str(named)[:80]} as its base)" if named else ""
    with library_errors(ConfigError, f"{folder / CONFIG} cannot be used", AGAIN):
        config = peft.PeftConfig.from_pretrained(str(folder))
    if dropout is not None:
        config.lora_dropout = dropout
    with (
        library_errors(ConfigError, f"the adapter in {folder} does not fit this model{of}", "give its own base model"),
        warnings.catch_warnings(),  # peft only warns, and goes on with layers that learnt nothing
        _names_kept(_has_own_names(model, folder)),
    ):
        warnings.filterwarnings("error", message="Found missing adapter keys")
        found = peft.PeftModel.from_pretrained(
            model, str(folder), config=config, is_trainable=trainable, local_files_only=True
        )
    _refuse_left_over(peft, found, folder, of)
    take_arguments_by_name(found)
    config.base_model_name_or_path = model.name_or_path or named  # what it is saved with when it was trained further
    return found


def _has_own_names(model: nn.Module, folder: Path) -> bool:
    """Whether an adapter names layers as this model does; one saved before transformers 5 may not."""
    here = {name for name, _ in model.named_modules()}
    stored = read_header(folder / WEIGHTS)
    return {name.partition(".lora_")[0].removeprefix(_PEFTS) for name in stored if ".lora_" in name} <= here


@contextmanager
def _names_kept(are_own: bool = True) -> Iterator[None]:
    """Inside, peft leaves the names of layers as they are, where they are the model's own.

    It takes them for those of the published checkpoint, and renames what is right already: in an adapter's weights
    (``mlp.shared_experts`` of Mistral Large 4 becomes ``mlp.mlp.shared_experts``), and peft 0.19 in the settings too,
    where it takes a pattern for a list of letters.
    """
    try:
        renaming: Any = importlib.import_module("peft.utils.transformers_weight_conversion")
    except ImportError:  # a release of peft that renames nothing, or elsewhere
        renaming = None
    instead: dict[str, Any] = {
        "convert_peft_adapter_state_dict_for_transformers": lambda *, adapter_state_dict, **_: adapter_state_dict,
        "convert_peft_config_for_transformers": lambda *_args, **_kwargs: None,
    }
    stock = {name: getattr(renaming, name) for name in instead if are_own and hasattr(renaming, name)}
    for name in stock:
        setattr(renaming, name, instead[name])
    try:
        yield
    finally:
        for name, function in stock.items():
            setattr(renaming, name, function)


def _refuse_left_over(peft: Any, model: Any, folder: Path, of: str) -> None:
    """Weights for layers that the model does not have: peft leaves them out and says nothing."""
    stored = [name for name in read_header(folder / WEIGHTS) if ".lora_" in name]
    placed = sum(".lora_" in name for name in peft.get_peft_model_state_dict(model, save_embedding_layers=False))
    if len(stored) > placed:
        raise ConfigError(
            f"the adapter in {folder} does not fit this model{of}: it holds {len(stored)} LoRA tensors, and this model "
            f"has a place for {placed} of them; give its own base model"
        )


def merged(model: Any) -> PreTrainedModel:
    """The base model with a peft adapter added to its weights, as one plain model.

    Raises:
        ConfigError: the base is quantised: merging would round the adapter away.
    """
    base: PreTrainedModel = model.get_base_model()
    if getattr(base, "is_quantized", False):
        raise ConfigError("an adapter is merged into the base as it was published, not into quantised weights")
    whole: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    return whole


def _with_lora(model: PreTrainedModel, family: Family, tuning: Tuning, adapter: AdapterSettings) -> Any:
    peft = _peft()
    layers = lora_layers(model, family, tuning)
    if not layers:
        raise ConfigError("the parts tuned by LoRA have no linear layers to put it on")
    if adapter.init != "zero" and (adapter.use_dora or getattr(model, "is_quantized", False)):
        raise ConfigError(
            f"adapter.init: {adapter.init} splits the base's own weights: it needs them whole and without DoRA; use "
            "adapter.kind: lora without quantization and use_dora, or adapter.init: zero"
        )
    config = peft.LoraConfig(
        r=adapter.rank,
        init_lora_weights=True if adapter.init == "zero" else adapter.init,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_rslora=adapter.use_rslora,
        use_dora=adapter.use_dora,
        target_modules=exact_pattern(layers, model),
        modules_to_save=modules_to_save(model, family, tuning) or None,
        bias="none",
        fan_in_fan_out=all(isinstance(model.get_submodule(name), Conv1D) for name in layers),
    )
    with _names_kept():
        adapted = peft.get_peft_model(model, config)
    take_arguments_by_name(adapted)
    if adapter.init != "zero":
        keep_start(adapted)
    for name, parameter in adapted.named_parameters():
        if ".modules_to_save." in name:  # a copied tower holds its projector too, which may have to stay frozen
            parameter.requires_grad_(tuning.of(family.part_of(plain_name(name))) == "full")
    return adapted


def _adapted(model: nn.Module, family: Family, part: PartName) -> bool:
    """Whether an adapter has anything on a part."""
    return any(
        is_adapter_weight(name) and family.part_of(plain_name(name)) == part for name, _ in model.named_parameters()
    )


def _peft() -> Any:
    try:
        import peft
    except ImportError as err:
        raise ConfigError("LoRA needs peft: pip install peft") from err
    return peft
