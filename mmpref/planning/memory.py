"""Peak memory of a training step, part by part, from a recipe and the model's config.

What a layer keeps is counted by running the model's own code without weights (``planning.meta_model``); the rest are
sizes of tensors. ``scripts/bench_memory.py`` compares the sum with measured runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mmpref.losses.logps import TILE_BYTES
from mmpref.models.reference_rule import ReferenceChoice, reference_of
from mmpref.planning.architecture import Architecture
from mmpref.planning.parallelism import ALONE, BUCKET, LIVE, SUB_GROUP, ParallelPlan, Precision, precision_of
from mmpref.processing.family import PartName
from mmpref.processing.layout import LayoutName
from mmpref.recipe.sections import AdapterSection, Recipe
from mmpref.training.loss_settings import objective_of

_SIDES: tuple[PartName, PartName] = ("language", "vision")
# Bytes a weight of linear layers: 4 bits and one float32 scale for 64 weights, or with double quantisation one byte for
# 64 and a float32 for 64 * 256 (QLoRA, arXiv 2305.14314, section 3); 8 bits and a scale for each row.
_STORED = {("nf4", True): 0.5 + 1 / 64 + 4 / (64 * 256), ("nf4", False): 0.5 + 4 / 64, ("int8", True): 1.0}
_STATES = {"sgd": 0.0, "adafactor": 0.1, "lion": 1.0, "adam": 2.0}  # numbers kept for each trained weight
_NIBBLE = 0.5  # bytes of a 4-bit weight, without its share of the scales
_EMBEDDINGS_IN_32 = 4  # 8-bit optimizers keep the states of embeddings whole
TRANSIENT_INNER, TRANSIENT_HIDDEN = 2.5, 4.0
"""Gradients of activations alive at once in the backward pass of a layer, in MLP widths and hidden states a token."""
TILE_COLUMNS, HEAD_STATES = 256, 4.0
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

    def seen(self, layout: LayoutName) -> float:
        """Places that are looked at, summed over the tokens of one pair: triangles."""
        before = self.prompt + self.image
        if layout == "shared_prefix":
            return (before + self.chosen) ** 2 / 2 + self.rejected * (before + self.rejected / 2)
        return float((before + max(self.chosen, self.rejected)) ** 2)

    @property
    def answers(self) -> int:
        return self.chosen + self.rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes by part, on one GPU. ``before`` is there when training starts, ``step`` comes and goes with it.

    Not all of a step's parts are there at once: ``moments`` are the sums of those that are.
    """

    before: Mapping[str, int]
    step: Mapping[str, int]
    moments: Mapping[str, int]
    tokens: int
    layout: LayoutName = "shared_prefix"

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


def estimate(
    model: Architecture,
    recipe: Recipe,
    shape: Shape,
    *,
    layout: LayoutName = "shared_prefix",
    dtype: torch.dtype | None = None,
    parallel: ParallelPlan = ALONE,
) -> Memory:
    """Peak memory of one update on one GPU.

    Args:
        model: what ``architecture.describe`` found.
        recipe: batch size, optimizer, checkpointing, reference.
        shape: the pairs of a micro-batch, all alike.
        layout: both answers behind one prompt, or a row for each answer.
        dtype: that all weights which are not quantised are loaded in; None takes what the model was described with.
        parallel: over which GPUs, and what they split.
    """
    section, mixed = recipe.train, recipe.train.bf16 or recipe.train.fp16
    loaded = {part: (dtype or of_part).itemsize for part, of_part in model.dtypes.items()}
    kept, precision = model.kept, precision_of(recipe, loaded, parallel)
    size, tower_size = (precision.computed if parallel.splits_weights else loaded[part] for part in _SIDES)
    pairs = section.per_device_train_batch_size
    tokens, answers = pairs * shape.tokens(layout), pairs * shape.answers
    patches = pairs * shape.patches * (1 if layout == "shared_prefix" else 2)
    one_layer = kept.fixed + tokens * kept.per_layer + pairs * shape.read_twice(layout) * kept.keys_and_values
    outside_layers = tokens * max(kept.outside_layers, 0.0)
    # autocast computes with copies in half precision of float32 weights, and backward wants them again; of what trains
    # they are all kept until the forward pass is over, checkpointing or not
    casts = mixed and not parallel.splits_weights
    copies = 2 * model.in_layers if casts and size == 4 else 0
    beside = 2 * (model.trained["vision"] + model.trained["projector"]) if casts and precision.trained == 4 else 0
    until_backward = (copies if model.trained["language"] else 0) + beside
    if section.gradient_checkpointing:
        hidden = kept.hidden
        if recipe.adapter.stored_as == "int8":  # its layers hold on to their inputs, where checkpointing cannot see it
            hidden = 4 * kept.hidden + model.inner * size
        activations, recomputed = kept.layers * tokens * hidden + outside_layers, one_layer + copies / kept.layers
    else:
        activations, recomputed = kept.layers * one_layer + outside_layers + copies + beside, 0.0
        until_backward = 0
    tower_kept, tower_once = _vision(model, patches, tower_size, checkpointing=section.gradient_checkpointing)
    work = tokens * (TRANSIENT_INNER * model.inner + TRANSIENT_HIDDEN * model.hidden) * size
    if recipe.adapter.stored_as is not None:
        work += 2 * model.largest_layer * size  # one layer at a time is unpacked
    trained = _trained_bytes(model, precision)
    gradients = _Gradients.of(model, recipe, precision, parallel)
    step = {
        "gradients": gradients.at_step,
        "optimizer": int(_optimizer_bytes(model, recipe, precision) / parallel.state_parts),
        "activations": int(activations + tower_kept),
        "recomputed layer": int(recomputed),
        "autocast's copies": until_backward,
        "gathered": _gathered(model, recipe, precision, parallel),
        "head": int(_head(model, recipe, answers, size)),
        "vision": int(tower_once),
        "work space": int(work),
        "optimizer's work space": int(_optimizer_work(model, recipe, trained, precision, parallel)),
    }
    return Memory(
        before=_before(model, recipe, precision, parallel),
        step=step,
        moments=_moments(model, step, gradients),
        tokens=tokens,
        layout=layout,
    )


def _before(model: Architecture, recipe: Recipe, precision: Precision, parallel: ParallelPlan) -> dict[str, int]:
    """What is there when training starts; the scales of packed weights and buckets are never split."""
    stored = _stored(recipe.adapter)
    in_linear = 0 if stored is None else model.quantizable
    full, parts = sum(model.trained.values()), parallel.weight_parts
    adapted = recipe.adapter.kind != "none"
    own = 0 if adapted else full  # a part that trains fully beside LoRA is a copy
    held = {part: count - (0 if adapted else model.trained[part]) for part, count in model.parameters.items()}
    held["language"] -= in_linear
    frozen = sum(count * precision.frozen[part] for part, count in held.items())
    before = {
        "weights, not quantised": (frozen + own * precision.trained) // parts,
        "weights, quantised": int(in_linear * _packed(stored, parts)),
        "adapter": (model.lora * precision.adapter + (full - own) * precision.trained) // parts,
        "reference": _reference(model, recipe, precision) // parts,
    }
    if not parallel.is_alone and parallel.strategy == "ddp":
        before["buckets"] = _trained_bytes(model, precision)  # DDP holds every gradient a second time, to send it
    elif parallel.is_deepspeed:
        before["buckets"] = 2 * min(BUCKET, model.lora + full) * precision.computed  # one fills while one travels
    return before


def _trained_bytes(model: Architecture, precision: Precision) -> int:
    return model.lora * precision.adapter + sum(model.trained.values()) * precision.trained


@dataclass(frozen=True, slots=True)
class _Gradients:
    """Bytes of gradients at the points of an update."""

    between: int
    """From one micro-batch to the next; 0 without accumulation."""
    at_step: int
    """When the optimizer runs."""
    fresh_head: int
    """Of a head that trains, as backward makes it: whole, whatever is split afterwards."""
    fresh_last: int
    """Of the embeddings that train: the last that backward makes, whole."""

    @classmethod
    def of(cls, model: Architecture, recipe: Recipe, precision: Precision, parallel: ParallelPlan) -> _Gradients:
        size = precision.computed if parallel.splits_weights or parallel.is_deepspeed else precision.trained
        split = _trained_bytes(model, precision) // parallel.state_parts
        table = model.embeddings * size if model.head_trains else 0
        accumulates = recipe.train.gradient_accumulation_steps > 1
        again = accumulates or not model.untied  # a gradient that is there already is added to, not written over
        return cls(split if accumulates else 0, split, table, table if again or parallel.splits_weights else 0)


def _gathered(model: Architecture, recipe: Recipe, precision: Precision, parallel: ParallelPlan) -> int:
    """Weights that are whole for a while where weights are split: two units, one of them fetched ahead.

    FSDP2 keeps the final norm and the head from forward to backward. ZeRO-3 keeps what it will want again soon.
    Gradients of a unit that trains are whole as well, and once more in the buffer they travel in.
    """
    if not parallel.splits_weights:
        return 0
    packed = recipe.adapter.stored_as is not None
    layer = model.layer - (model.in_layers // model.kept.layers if packed else 0)
    size, trains = precision.computed, sum(model.trained.values()) > 0
    nibbles = int(2 * _NIBBLE * model.in_layers // model.kept.layers) if packed else 0
    table_is_unit = model.untied or parallel.strategy == "zero3"
    unit = max(layer, model.embeddings if table_is_unit else 0)
    weights = 2 * unit + model.embeddings
    if parallel.strategy == "zero3":
        weights = max(weights, min(LIVE, sum(model.parameters.values())))
    return (weights + (2 * unit if trains else 0)) * size + nibbles


def _moments(model: Architecture, step: Mapping[str, int], gradients: _Gradients) -> dict[str, int]:
    """What is in memory together, from the second update on, when the optimizer has its state.

    The first gradient is that of a head that trains, whole, while every activation is still there; with accumulation
    the gradients of earlier micro-batches are there as well. The last is that of the embeddings.
    """
    passed = step["optimizer"] + step["activations"] + step["gathered"] + gradients.between
    layer = step["recomputed layer"] + step["work space"]
    return {
        "tower": passed + step["vision"],
        "end of forward": passed + step["head"] + step["autocast's copies"],
        "head": passed + step["head"] + gradients.fresh_head,
        "first layer backward": passed + (0 if gradients.between else gradients.fresh_head) + layer,
        "last layer backward": step["optimizer"]
        + step["gathered"]
        + step["gradients"]
        + max(layer, gradients.fresh_last),
        "optimizer": step["optimizer"] + gradients.at_step + step["optimizer's work space"],
    }


def with_changes(recipe: Recipe, **sections: Mapping[str, object]) -> Recipe:
    """The recipe with some keys of some sections changed."""
    update = {name: getattr(recipe, name).model_copy(update=dict(keys)) for name, keys in sections.items()}
    return recipe.model_copy(update=update)


def _stored(section: AdapterSection) -> float | None:
    kind = section.stored_as
    if kind is None:
        return None
    return _STORED[("int8", True)] if kind == "int8" else _STORED[("nf4", section.double_quant)]


def _packed(stored: float | None, parts: int) -> float:
    """Bytes of a packed weight on one GPU: FSDP2 splits the 4 bits themselves and none of their scales."""
    if stored is None or parts == 1:
        return stored or 0.0
    return _NIBBLE / parts + stored - _NIBBLE


def reference_for(recipe: Recipe) -> ReferenceChoice:
    """Who the reference will be.

    Raises:
        ConfigError: the recipe asks for one that cannot be.
    """
    return reference_of(recipe, needs_reference=objective_of(recipe).needs_reference)


def _reference(model: Architecture, recipe: Recipe, precision: Precision) -> int:
    """Only of what trains, because frozen weights are the same for both."""
    if not reference_for(recipe).is_copy:
        return 0
    copied = sum(count * precision.frozen[part] for part, count in model.trained.items())
    return model.lora * precision.adapter + copied


def _states(optim: str) -> float:
    return next((count for name, count in _STATES.items() if name in optim), 2.0)


def _optimizer_bytes(model: Architecture, recipe: Recipe, precision: Precision) -> float:
    full, optim = sum(model.trained.values()), recipe.train.optim
    states, master = _states(optim), precision.master * (model.lora + full)
    if "8bit" not in optim:
        return states * (max(4, precision.state) * model.lora + precision.state * full) + master
    table = model.embeddings if model.trained["language"] else 0
    small = states * (model.lora + full - table) * (1 + 4 / 256)  # a byte each, and a float32 for 256 of them
    return small + states * table * _EMBEDDINGS_IN_32 + master


def _optimizer_work(
    model: Architecture, recipe: Recipe, trained: int, precision: Precision, parallel: ParallelPlan
) -> float:
    """On a GPU, torch's optimizers work on all weights at once; on the CPU on one after another.

    DeepSpeed first turns its slice of the gradients into float32, ZeRO-3 a part of it after the other.
    """
    slice_of = trained / precision.trained / parallel.state_parts
    widened = 4 * (min(slice_of, SUB_GROUP) if parallel.strategy == "zero3" else slice_of) if precision.master else 0.0
    if "8bit" in recipe.train.optim or "fused" in recipe.train.optim:
        return widened
    if recipe.train.use_cpu:
        return 2.0 * max(model.largest_trained * precision.trained, 0)
    return 2 * widened if precision.master else trained / parallel.state_parts


def _head(model: Architecture, recipe: Recipe, answers: int, size: int) -> float:
    """The output head over the answers' tokens: one tile of logits, its factors, and a few hidden states a token.

    Half-precision weights are widened for a tile on a CPU; on a GPU the tile is a second time there in half precision.
    """
    rows = max(1, min(answers, TILE_BYTES // (4 * TILE_COLUMNS)))
    columns = min(model.vocabulary, max(TILE_COLUMNS, TILE_BYTES // (4 * rows)))
    tile, part = 4 * rows * columns, 4 * columns * model.hidden  # logits, and the weights that make them, in float32
    factors = 0.0
    if recipe.train.use_cpu:
        factors = part * (4 if model.head_trains else 1) if size == 2 else 0
    elif size == 2 or recipe.train.bf16 or recipe.train.fp16:
        factors = tile / 2 + (part / 2 if size == 4 else 0) + (part if model.head_trains else 0)
    return tile + factors + HEAD_STATES * answers * model.hidden * 4


def _vision(model: Architecture, patches: int, size: int, *, checkpointing: bool) -> tuple[float, float]:
    """What the tower keeps for its backward pass, and what a layer of it needs while it runs."""
    layers, width, inner = model.tower
    one_layer = patches * (TOWER_HIDDEN * width + TOWER_INNER * inner) * size
    if not model.tower_trains:
        return 0.0, one_layer
    return layers * (patches * width * size if checkpointing else one_layer), one_layer
