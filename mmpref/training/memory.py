"""Peak memory of a training step, part by part, from a recipe and the model's config.

What a layer keeps is counted by running the model's own code without weights (``models.skeleton``); the rest are sizes
of tensors. ``scripts/bench_memory.py`` holds the sum against measured runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from transformers import PretrainedConfig

from mmpref.config import AdapterSection, Recipe
from mmpref.losses import build_objective
from mmpref.models.adapter import AdapterSettings, Tuning, lora_layers, prepare
from mmpref.models.skeleton import Kept, kept_by_decoder, skeleton
from mmpref.processing.family import PartName
from mmpref.processing.layout import LayoutName

TILE_BYTES = 32 * 2**20
# Bytes a weight of linear layers: 4 bits and one float32 scale for 64 weights, or with double quantisation one byte for
# 64 and a float32 for 64 * 256 (QLoRA, arXiv 2305.14314, section 3); 8 bits and a scale for each row.
_STORED = {("nf4", True): 0.5 + 1 / 64 + 4 / (64 * 256), ("nf4", False): 0.5 + 4 / 64, ("int8", True): 1.0}
_STATES = {"sgd": 0.0, "adafactor": 0.1, "lion": 1.0, "adam": 2.0}  # numbers kept for each trained weight
_EMBEDDINGS_IN_32 = 4  # 8-bit optimizers keep the states of embeddings whole
TRANSIENT_INNER, TRANSIENT_HIDDEN = 2.5, 4.0
"""Gradients of activations alive at once in the backward pass of a layer, in MLP widths and hidden states a token."""
HEAD_TILES, HEAD_STATES = 2.0, 4.0
TOWER_HIDDEN, TOWER_INNER = 11.0, 2.5
"""Hidden states and MLP widths that one tower layer makes for each patch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One pair as the model sees it, in tokens; ``patches`` are what the vision tower runs over."""

    prompt: int = 100
    image: int = 0
    patches: int = 0
    chosen: int = 250
    rejected: int = 250

    def tokens(self, layout: LayoutName) -> int:
        """Tokens that the decoder runs over for one pair."""
        before = self.prompt + self.image
        if layout == "shared_prefix":
            return before + self.chosen + self.rejected
        return 2 * (before + max(self.chosen, self.rejected))

    def read_twice(self, layout: LayoutName) -> int:
        """Tokens whose keys and values the second answer's attention copies."""
        return self.prompt + self.image + self.rejected if layout == "shared_prefix" else 0

    @property
    def answers(self) -> int:
        return self.chosen + self.rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What the estimate needs to know of a model under a recipe's adapter."""

    parameters: Mapping[PartName, int]
    trained: Mapping[PartName, int]
    """Weights that train themselves."""
    lora: int
    quantizable: int
    """Weights of the language model's linear layers without the head."""
    embeddings: int
    untied: bool
    """The head has weights of its own."""
    vocabulary: int
    hidden: int
    inner: int
    largest_layer: int
    largest_trained: int
    kept: Kept
    tower: tuple[int, int, int]
    """Layers, width and MLP width of the vision tower; zeros without one."""
    tower_trains: bool
    head_trains: bool
    changes_base: bool
    """The adapter switched off is not the start model, so that a reference is a copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes by part. ``before`` is there when training starts, ``step`` comes and goes with it.

    Not all of a step's parts are there at once: ``moments`` are the sums of those that are.
    """

    before: Mapping[str, int]
    step: Mapping[str, int]
    moments: Mapping[str, int]
    tokens: int
    layout: LayoutName = "shared_prefix"
    notes: tuple[str, ...] = field(default=())

    @property
    def resting(self) -> int:
        return sum(self.before.values())

    @property
    def over_rest(self) -> int:
        """The largest moment of an update."""
        return max(self.moments.values())

    @property
    def peak(self) -> int:
        return self.resting + self.over_rest


def describe(config: PretrainedConfig, recipe: Recipe, layout: LayoutName = "shared_prefix") -> Architecture:
    """Look at a model without weights under a recipe's ``tune`` and ``adapter``.

    Raises:
        ConfigError: what training would refuse as well, and models whose decoder cannot be run alone.
    """
    dtype = weight_dtype(config, recipe)
    whole = skeleton(config, recipe.model.path, dtype)
    model, family = whole.model, whole.family
    tune = recipe.tune
    tuning = Tuning(vision=tune.vision, projector=tune.projector, language=tune.language)
    parameters: dict[PartName, int] = {"vision": 0, "projector": 0, "language": 0}
    trained: dict[PartName, int] = {"vision": 0, "projector": 0, "language": 0}
    largest_trained = 0
    for name, parameter in model.named_parameters():
        part = family.part_of(name)
        parameters[part] += parameter.numel()
        if tuning.of(part) == "full":
            trained[part] += parameter.numel()
            largest_trained = max(largest_trained, parameter.numel())
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    linear = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head]
    in_language = [m.weight.numel() for name, m in linear if family.part_of(name) == "language"]
    lora = 0
    if recipe.adapter.kind != "none":
        wanted = set(lora_layers(model, family, tuning))
        sizes = [(m.in_features, m.out_features) for name, m in linear if name in wanted]
        rank, dora = recipe.adapter.rank, recipe.adapter.use_dora
        lora = sum(rank * (a + b) + (b if dora else 0) for a, b in sizes)
    text = config.get_text_config()
    autocast = (recipe.train.bf16 or recipe.train.fp16) and not recipe.train.use_cpu
    return Architecture(
        parameters=parameters,
        trained=trained,
        lora=lora,
        quantizable=sum(in_language),
        embeddings=table.weight.numel(),
        untied=head is not None and head.weight is not table.weight,
        vocabulary=text.vocab_size,
        hidden=text.hidden_size,
        inner=getattr(text, "intermediate_size", 4 * text.hidden_size),
        largest_layer=max(in_language, default=0),
        largest_trained=largest_trained,
        kept=_kept(config, recipe, tuning, dtype, layout, autocast=autocast),
        tower=_tower(config),
        tower_trains=tuning.vision != "freeze",
        head_trains=tuning.language == "full",
        changes_base=recipe.adapter.kind == "none" or recipe.adapter.init != "zero",
    )


def weight_dtype(config: PretrainedConfig, recipe: Recipe) -> torch.dtype:
    """The dtype that the recipe loads weights in; ``auto`` means the config's, bfloat16 where it names none."""
    if recipe.model.dtype != "auto":
        found: torch.dtype = getattr(torch, recipe.model.dtype)
        return found
    named = getattr(config, "dtype", None)
    return named if isinstance(named, torch.dtype) else torch.bfloat16


def estimate(
    model: Architecture, recipe: Recipe, shape: Shape, *, layout: LayoutName = "shared_prefix", dtype: torch.dtype
) -> Memory:
    """Peak memory of one update.

    Args:
        model: what :func:`describe` found.
        recipe: batch size, optimizer, checkpointing, reference.
        shape: the pairs of a micro-batch, all alike.
        layout: both answers behind one prompt, or a row for each answer.
        dtype: of weights that are not quantised.
    """
    size, section = dtype.itemsize, recipe.train
    pairs = section.per_device_train_batch_size
    tokens, answers = pairs * shape.tokens(layout), pairs * shape.answers
    patches = pairs * shape.patches * (1 if layout == "shared_prefix" else 2)
    parameters, full = sum(model.parameters.values()), sum(model.trained.values())
    stored = _stored(recipe.adapter)
    in_linear = 0 if stored is None else model.quantizable
    adapted = recipe.adapter.kind != "none"
    trained_bytes = model.lora * 4 + full * size  # peft keeps adapters in float32
    before = {
        "weights, not quantised": (parameters - in_linear) * size,
        "weights, quantised": int(in_linear * (stored or 0)),
        "adapter": model.lora * 4 + (full * size if adapted else 0),  # a part that trains fully beside LoRA is a copy
        "reference": _reference(model, recipe, (parameters - in_linear) * size + int(in_linear * (stored or 0))),
    }
    states = _states(section.optim)
    kept = model.kept
    one_layer = tokens * kept.per_layer + pairs * shape.read_twice(layout) * kept.keys_and_values
    around = tokens * max(kept.around, 0.0)
    if section.gradient_checkpointing:
        activations, recomputed = kept.layers * tokens * kept.hidden + around, one_layer
    else:
        activations, recomputed = kept.layers * one_layer + around, 0.0
    tower_kept, tower_once = _vision(model, patches, size, checkpointing=section.gradient_checkpointing)
    work = tokens * (TRANSIENT_INNER * model.inner + TRANSIENT_HIDDEN * model.hidden) * size
    if stored is not None:
        work += 2 * model.largest_layer * size  # one layer at a time is unpacked
    step = {
        "gradients": trained_bytes,
        "optimizer": int(_optimizer_bytes(model, section.optim, states, size)),
        "activations": int(activations + tower_kept),
        "recomputed layer": int(recomputed),
        "head": int(_head(model, answers, size)),
        "vision": int(tower_once),
        "work space": int(work),
        "optimizer's work space": int(_optimizer_work(model, recipe, trained_bytes, size)),
    }
    moments = _moments(model, step, size, gradients_stay=section.gradient_accumulation_steps > 1)
    return Memory(before=before, step=step, moments=moments, tokens=tokens, layout=layout)


def _moments(model: Architecture, step: Mapping[str, int], size: int, *, gradients_stay: bool) -> dict[str, int]:
    """What is in memory together, from the second update on, when the optimizer has its state.

    The first gradient is that of a head that trains, whole, while every activation is still there; with accumulation
    the gradients of earlier micro-batches are there as well.
    """
    of_head = model.embeddings * size if model.head_trains else 0
    waiting = step["gradients"] if gradients_stay else 0
    passed = step["optimizer"] + step["activations"]
    layer = step["recomputed layer"] + step["work space"]
    return {
        "tower": passed + waiting + step["vision"],
        "head": passed + waiting + step["head"] + of_head,
        "first layer backward": passed + max(waiting, of_head) + layer,
        "last layer backward": step["optimizer"] + step["gradients"] + layer,
        "optimizer": step["optimizer"] + step["gradients"] + step["optimizer's work space"],
    }


def with_changes(recipe: Recipe, **sections: Mapping[str, object]) -> Recipe:
    """The recipe with some keys of some sections changed."""
    update = {name: getattr(recipe, name).model_copy(update=dict(keys)) for name, keys in sections.items()}
    return recipe.model_copy(update=update)


def _kept(
    config: PretrainedConfig, recipe: Recipe, tuning: Tuning, dtype: torch.dtype, layout: LayoutName, *, autocast: bool
) -> Kept:
    """Counted on the first three layers; every layer of these models is like the next."""
    text = config.get_text_config()
    whole, types = text.num_hidden_layers, getattr(text, "layer_types", None)
    text.num_hidden_layers = min(3, whole)
    if types is not None:
        text.layer_types = types[:3]
    try:
        short = skeleton(config, recipe.model.path, dtype, layout)
    finally:
        text.num_hidden_layers = whole
        if types is not None:
            text.layer_types = types
    section = recipe.adapter
    settings = None
    if section.kind != "none":
        settings = AdapterSettings(rank=section.rank, dropout=section.dropout, use_dora=section.use_dora)
    kept = kept_by_decoder(prepare(short, tuning, settings), autocast=autocast)
    return replace(kept, layers=whole)


def _stored(section: AdapterSection) -> float | None:
    kind = section.stored_as
    if kind is None:
        return None
    return _STORED[("int8", True)] if kind == "int8" else _STORED[("nf4", section.double_quant)]


def _reference(model: Architecture, recipe: Recipe, weights: int) -> int:
    objective = build_objective(recipe.loss.as_mapping())
    copied = recipe.reference.kind == "frozen_copy" or model.changes_base
    return weights if objective.needs_reference and copied else 0


def _states(optim: str) -> float:
    return next((count for name, count in _STATES.items() if name in optim), 2.0)


def _optimizer_bytes(model: Architecture, optim: str, states: float, size: int) -> float:
    full = sum(model.trained.values())
    if "8bit" not in optim:
        return states * (4 * model.lora + size * full)
    table = model.embeddings if model.trained["language"] else 0
    small = states * (model.lora + full - table) * (1 + 4 / 256)  # a byte each, and a float32 for 256 of them
    return small + states * table * _EMBEDDINGS_IN_32


def _optimizer_work(model: Architecture, recipe: Recipe, trained: int, size: int) -> float:
    """On a GPU, torch's optimizers work on all weights at once; on the CPU on one after another."""
    if "8bit" in recipe.train.optim or "fused" in recipe.train.optim:
        return 0.0
    if recipe.train.use_cpu:
        return 2.0 * max(model.largest_trained * size, 0)
    return float(trained)


def _head(model: Architecture, answers: int, size: int) -> float:
    """The output head over the answers' tokens: one tile of logits, its factors, and a few hidden states a token."""
    tile = min(answers * model.vocabulary * 4, TILE_BYTES)
    rows = 0 if size == 4 else TILE_BYTES // 4  # half-precision rows of the head are widened for a tile
    return HEAD_TILES * tile + rows + HEAD_STATES * answers * model.hidden * 4


def _vision(model: Architecture, patches: int, size: int, *, checkpointing: bool) -> tuple[float, float]:
    """What the tower keeps for its backward pass, and what a layer of it needs while it runs."""
    layers, width, inner = model.tower
    one_layer = patches * (TOWER_HIDDEN * width + TOWER_INNER * inner) * size
    if not model.tower_trains:
        return 0.0, one_layer
    return layers * (patches * width * size if checkpointing else one_layer), one_layer


def _tower(config: PretrainedConfig) -> tuple[int, int, int]:
    vision = getattr(config, "vision_config", None)
    if vision is None:
        return (0, 0, 0)
    layers = getattr(vision, "num_hidden_layers", None) or getattr(vision, "depth", 0)
    width = getattr(vision, "embed_dim", None) or vision.hidden_size
    inner = getattr(vision, "intermediate_size", None) or int(width * getattr(vision, "mlp_ratio", 4))
    return (int(layers or 0), int(width), int(inner))
