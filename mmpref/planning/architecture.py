"""What the estimates need to know of a model: its sizes, read off the model's own code without weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mmpref.errors import ConfigError, library_errors
from mmpref.models.adapters.lora import prepare
from mmpref.models.adapters.saved import AdapterFolder, read_adapter
from mmpref.models.adapters.targets import lora_layers, modules_to_save
from mmpref.models.loaded import LoadedModel
from mmpref.models.part_counts import ORDER, PartCount, count_parts
from mmpref.models.tuning import AdapterSettings, Tuning
from mmpref.planning.meta_model import NOT_COUNTED, ActivationBytes, decoder_activations, skeleton, with_plain_positions
from mmpref.planning.parallelism import ALONE, ParallelPlan
from mmpref.processing.family import PartName
from mmpref.processing.layout import LayoutName
from mmpref.recipe.sections import Recipe
from mmpref.rundir.folder import model_of
from mmpref.training.precision import autocast_dtype, planned_dtypes


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What the estimate needs to know of a model under a recipe's adapter."""

    parameters: Mapping[PartName, int]
    parts: Mapping[PartName, PartCount]
    """What trains of each part, adapters counted, as a run tells it."""
    trained: Mapping[PartName, int]
    """Weights that train themselves."""
    lora: int
    quantizable: int
    """Weights of the language model's linear layers without the head."""
    layer: int
    """Weights of one decoder layer, all of them."""
    in_layers: int
    """Weights of linear layers inside all decoder layers."""
    embeddings: int
    untied: bool
    """The head has weights of its own."""
    vocabulary: int
    hidden: int
    inner: int
    largest_layer: int
    largest_trained: int
    kept: ActivationBytes
    tower: tuple[int, int, int]
    """Layers, width and MLP width of the vision tower; zeros without one."""
    tower_trains: bool
    head_trains: bool
    dtypes: Mapping[PartName, torch.dtype]
    """What the weights of each part are loaded in."""


def describe(
    config: PretrainedConfig, recipe: Recipe, layout: LayoutName = "shared_prefix", parallel: ParallelPlan = ALONE
) -> Architecture:
    """Look at a model without weights under a recipe's ``tune`` and ``adapter``; what ``adapter.path`` holds trains.

    Args:
        parallel: says what layers compute in, where it is not what their weights are stored in.

    Raises:
        ConfigError: what training would refuse as well, and models whose decoder cannot be run alone.
    """
    dtypes = planned_dtypes(config, recipe, is_deepspeed=parallel.is_deepspeed)
    half = autocast_dtype(recipe)
    dtype = half if half is not None and parallel.splits_weights else dtypes["language"]
    whole = skeleton(config, recipe.model.path, dtype, parts=recipe.model.parts)
    model, family = whole.model, whole.family
    tune = recipe.tune
    tuning = Tuning(vision=tune.vision, projector=tune.projector, language=tune.language)
    parameters, trained, largest_trained = _weights(whole, tuning)
    head, table = _embeddings(model, config)
    linear = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D) and m is not head]
    in_language = [m.weight.numel() for name, m in linear if family.part_of(name) == "language"]
    path = recipe.adapter.path
    start = None if path is None else _with_ties(read_adapter(Path(model_of(path)), family), model)
    adapted = _adapter(whole, tuning, recipe, linear)
    if start is not None:
        adapted = {part: start.lora.get(part, 0) if tuning.of(part) != "freeze" else 0 for part in ORDER}
        going_on = (part for part in ORDER if tuning.of(part) != "freeze")
        trained |= {part: sum(start.copies.get(part, {}).values()) for part in going_on}
    # whole modules beside the LoRA layers of a part are kept, updated and saved as the adapter is
    beside = sum(trained[part] for part in ORDER if tuning.of(part) == "lora")
    lora = sum(adapted.values()) + beside
    text = config.get_text_config()
    untied, layers = head is not None and head.weight is not table.weight, text.num_hidden_layers
    return Architecture(
        parameters=parameters,
        parts=_parts(whole, tuning, adapted) if start is None else _going_on(whole, tuning, start),
        trained={part: 0 if tuning.of(part) == "lora" else size for part, size in trained.items()},
        lora=lora,
        quantizable=sum(in_language),
        layer=(parameters["language"] - table.weight.numel() * (2 if untied else 1)) // layers,
        in_layers=sum(in_language),
        embeddings=table.weight.numel(),
        untied=untied,
        vocabulary=text.vocab_size,
        hidden=text.hidden_size,
        inner=getattr(text, "intermediate_size", 4 * text.hidden_size),
        largest_layer=max(in_language, default=0),
        largest_trained=largest_trained,
        kept=_kept(config, recipe, tuning, dtype, layout, autocast=half is not None),
        tower=_tower(config),
        tower_trains=tuning.vision != "freeze",
        head_trains=tuning.language == "full" or (start is not None and _holds_the_head(start, model, tuning)),
        dtypes=dtypes,
    )


def _weights(whole: LoadedModel, tuning: Tuning) -> tuple[dict[PartName, int], dict[PartName, int], int]:
    """Of each part all weights and those that train themselves, and the largest tensor of those."""
    parameters: dict[PartName, int] = dict.fromkeys(ORDER, 0)
    trained: dict[PartName, int] = dict.fromkeys(ORDER, 0)
    largest_trained = 0
    for name, parameter in whole.model.named_parameters():
        part = whole.family.part_of(name)
        parameters[part] += parameter.numel()
        if tuning.of(part) == "full":
            trained[part] += parameter.numel()
            largest_trained = max(largest_trained, parameter.numel())
    return parameters, trained, largest_trained


def _adapter(
    whole: LoadedModel, tuning: Tuning, recipe: Recipe, linear: list[tuple[str, nn.Linear | Conv1D]]
) -> dict[PartName, int]:
    """Weights of a fresh LoRA adapter on each part; zeros without one, or where training goes on with a saved one."""
    adapted: dict[PartName, int] = dict.fromkeys(ORDER, 0)
    section = recipe.adapter
    if section.kind == "none" or section.path is not None:
        return adapted
    wanted = set(lora_layers(whole.model, whole.family, tuning))
    for name, layer in linear:
        if name in wanted:
            out = layer.weight.shape[1 if isinstance(layer, Conv1D) else 0]
            added = section.rank * sum(layer.weight.shape)
            adapted[whole.family.part_of(name)] += added + (out if section.use_dora else 0)
    return adapted


def _parts(whole: LoadedModel, tuning: Tuning, adapted: Mapping[PartName, int]) -> dict[PartName, PartCount]:
    """As ``part_counts.count_parts`` counts the model that trains, without putting the adapter on it."""
    model, family = whole.model, whole.family
    copied = tuple(f"{path}." for path in modules_to_save(model, family, tuning))
    beside = any(adapted.values())
    for name, parameter in model.named_parameters():
        trains = tuning.of(family.part_of(name)) == "full"
        parameter.requires_grad_(trains and (not beside or name.startswith(copied)))
    found = count_parts(model, family)
    return {part: replace(count, trained=count.trained + adapted[part]) for part, count in found.items()}


def _going_on(whole: LoadedModel, tuning: Tuning, start: AdapterFolder) -> dict[PartName, PartCount]:
    """As ``part_counts.count_parts`` counts the model with that adapter, without putting it on."""
    model, family = whole.model, whole.family
    model.requires_grad_(False)
    found: dict[PartName, PartCount] = {}
    for part, count in count_parts(model, family).items():
        lora, copies = start.lora.get(part, 0), start.copies.get(part, {})
        replaced = sum(
            parameter.numel()
            for name, parameter in model.named_parameters()
            if any(f".{module}." in f".{name}." for module in copies)
        )
        added, stays = lora + sum(copies.values()), count.frozen - replaced
        frozen = tuning.of(part) == "freeze"
        found[part] = PartCount(0, stays + added) if frozen else PartCount(added, stays)
    return found


def _holds_the_head(start: AdapterFolder, model: PreTrainedModel, tuning: Tuning) -> bool:
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    heads = [head, table] if start.ties and head is not None and head.weight is table.weight else [head]
    return tuning.language != "freeze" and any(_copy_of(start, model, module) for module in heads)


def _with_ties(start: AdapterFolder, model: PreTrainedModel) -> AdapterFolder:
    """The adapter without its copy of the head, where that is the one of the embeddings and stored twice."""
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if not start.ties or head is None or head.weight is not table.weight:
        return start
    again = _copy_of(start, model, head)
    if not again or not _copy_of(start, model, table):
        return start
    copies = {part: {name: size for name, size in of.items() if name != again} for part, of in start.copies.items()}
    return replace(start, copies=copies)


def _copy_of(start: AdapterFolder, model: PreTrainedModel, wanted: nn.Module | None) -> str:
    """The name under which an adapter holds a whole module; empty where it does not."""
    path = next((name for name, module in model.named_modules() if module is wanted), "")
    return next((name for of in start.copies.values() for name in of if f".{name}." in f".{path}."), "")


def _embeddings(model: PreTrainedModel, config: PretrainedConfig) -> tuple[Any, Any]:
    """The head (None where there is none) and the table of tokens.

    Raises:
        ConfigError: what is in the place of the language model is none, or has no layers to count.
    """
    text = config.get_text_config()
    try:
        head, table = model.get_output_embeddings(), model.get_input_embeddings()
    except (AttributeError, NotImplementedError):  # as transformers says that there is none
        head, table = None, None
    sizes = [getattr(text, key, None) for key in ("num_hidden_layers", "vocab_size", "hidden_size")]
    if not isinstance(getattr(table, "weight", None), Tensor) or any(type(size) is not int for size in sizes):
        raise ConfigError(
            f"the language model of {config.name_or_path or config.model_type} is of type '{text.model_type}', and "
            "that has no tokens or layers that could be counted; correct model_type in its config.json"
        )
    return head, table


def _kept(
    config: PretrainedConfig, recipe: Recipe, tuning: Tuning, dtype: torch.dtype, layout: LayoutName, *, autocast: bool
) -> ActivationBytes:
    """Counted on the first three layers; every layer of these models is like the next."""
    whole = config.get_text_config().num_hidden_layers
    where = f"the memory of a step of '{config.model_type}' cannot be counted"
    with library_errors(ConfigError, where, NOT_COUNTED):
        short = copy.deepcopy(config)
        text = short.get_text_config()
        text.num_hidden_layers = min(3, whole)
        if getattr(text, "layer_types", None) is not None:
            text.layer_types = text.layer_types[:3]
        with_plain_positions(text)
    cut = skeleton(short, recipe.model.path, dtype, layout, recipe.model.parts)
    section = recipe.adapter
    settings = None
    if section.kind != "none":
        settings = AdapterSettings(rank=section.rank, dropout=section.dropout, use_dora=section.use_dora)
    kept = decoder_activations(prepare(cut, tuning, settings), autocast=autocast)
    return replace(kept, layers=whole)


def _tower(config: PretrainedConfig) -> tuple[int, int, int]:
    vision: Any = getattr(config, "vision_config", None)
    if not isinstance(vision, PretrainedConfig):
        return (0, 0, 0)
    layers = getattr(vision, "num_hidden_layers", None) or getattr(vision, "depth", 0)
    width: Any = getattr(vision, "embed_dim", None) or getattr(vision, "hidden_size", 0)
    inner: Any = getattr(vision, "intermediate_size", None) or int(width * getattr(vision, "mlp_ratio", 4))
    return (int(layers or 0), int(width), int(inner))
