"""Peak memory of a training step, part by part, from a recipe and the model's config.

What a layer keeps is counted by running the model's own code without weights (``planning.meta_model``); the rest are
sizes of tensors. ``scripts/bench_memory.py`` compares the sum with measured runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mmpref.losses.logps import TILE_BYTES
from mmpref.losses.vocab_tiles import MIN_COLUMNS
from mmpref.planning.architecture import Architecture
from mmpref.planning.optimizer_memory import Gradients, optimizer_bytes, optimizer_work, trained_bytes
from mmpref.planning.pair_shape import Shape, at_once
from mmpref.planning.parallelism import ALONE, BUCKET, LIVE, ParallelPlan, Precision, precision_of
from mmpref.processing.family import PartName
from mmpref.processing.layout import LayoutName
from mmpref.recipe.sections import AdapterSection, Recipe
from mmpref.training.loss_settings import reference_for

_SIDES: tuple[PartName, PartName] = ("language", "vision")
# Bytes a weight of linear layers: 4 bits and one float32 scale for 64 weights, or with double quantisation one byte for
# 64 and a float32 for 64 * 256 (QLoRA, arXiv 2305.14314, section 3); 8 bits and a scale for each row.
_STORED = {("nf4", True): 0.5 + 1 / 64 + 4 / (64 * 256), ("nf4", False): 0.5 + 4 / 64, ("int8", True): 1.0}
_NIBBLE = 0.5  # bytes of a 4-bit weight, without its share of the scales
TRANSIENT_INNER, TRANSIENT_HIDDEN = 2.5, 4.0
"""Gradients of activations alive at once in the backward pass of a layer, in MLP widths and hidden states a token."""
HEAD_STATES = 4.0
WHOLE_LOGITS = 5.0
"""Logits of all answers that are there at once where a cap follows the head: its results, and two gradients."""
TOWER_HIDDEN, TOWER_INNER = 11.0, 2.5
"""Hidden states and MLP widths that one tower layer makes for each patch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes by part, on one GPU. ``before`` is there when training starts, ``step`` comes and goes with it.

    ``tokens`` are those of the largest batch that is run at once.
    Not all of a step's parts are there at once: ``moments`` are the sums of those that are.
    """

    before: Mapping[str, int]
    step: Mapping[str, int]
    moments: Mapping[str, int]
    tokens: int
    layout: LayoutName = "shared_prefix"

    @property
    def resting(self) -> int:
        """Bytes that are there when training starts."""
        return sum(self.before.values())

    @property
    def over_rest(self) -> int:
        """The largest moment of an update."""
        return max(self.moments.values())

    @property
    def peak(self) -> int:
        """Bytes at the largest moment of an update."""
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
        shape: the pairs of a micro-batch, all alike, by prompt.
        layout: all answers behind one prompt, or a row for each answer.
        dtype: that all weights which are not quantised are loaded in; None takes what the model was described with.
        parallel: over which GPUs, and what they split.
    """
    section = recipe.train
    loaded = {part: (dtype or of_part).itemsize for part, of_part in model.dtypes.items()}
    kept, precision = model.kept, precision_of(recipe, loaded, parallel)
    size, tower_size = (precision.computed if parallel.splits_weights else loaded[part] for part in _SIDES)
    run = at_once(recipe, shape, layout)
    tokens, answers, patches = run.tokens, run.answer_tokens, run.patches
    one_layer = kept.fixed + tokens * kept.per_layer + run.read_twice * kept.keys_and_values
    casts = (section.bf16 or section.fp16) and not parallel.splits_weights
    largest = one_layer + tokens * max(0.0, kept.largest - kept.per_layer)
    of_layers = _of_layers(
        model, recipe, precision, tokens=tokens, one_layer=one_layer, largest=largest, size=size, casts=bool(casts)
    )
    tower_kept, tower_once = _vision(model, patches, tower_size, checkpointing=section.gradient_checkpointing)
    work = tokens * (TRANSIENT_INNER * model.inner + TRANSIENT_HIDDEN * model.hidden) * size
    if recipe.adapter.stored_as is not None:
        work += 2 * model.largest_layer * size  # one layer at a time is unpacked
    trained = trained_bytes(model, precision)
    gradients = Gradients.of(model, recipe, precision, parallel)
    step = {
        "gradients": gradients.at_step,
        "optimizer": int(optimizer_bytes(model, recipe, precision) / parallel.state_parts),
        "activations": int(of_layers.kept + tower_kept),
        "recomputed layer": int(of_layers.recomputed),
        "autocast's copies": of_layers.until_backward,
        "gathered": _gathered(model, recipe, precision, parallel),
        "head": int(_head(model, recipe, answers, size)),
        "vision": int(tower_once),
        "work space": int(work),
        "optimizer's work space": int(optimizer_work(model, recipe, trained, precision, parallel)),
    }
    return Memory(
        before=_before(model, recipe, precision, parallel),
        step=step,
        moments=_moments(model, step, gradients),
        tokens=tokens,
        layout=layout,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfLayers:
    """Bytes that the decoder's layers keep."""

    kept: float
    """From forward to backward."""
    recomputed: float
    """Of the layer that backward runs again, with checkpointing."""
    until_backward: int
    """Autocast's copies of weights, until the forward pass is over."""


def _of_layers(
    model: Architecture,
    recipe: Recipe,
    precision: Precision,
    *,
    tokens: int,
    one_layer: float,
    largest: float,
    size: int,
    casts: bool,
) -> _OfLayers:
    """What layers keep of a micro-batch.

    Args:
        tokens: in the micro-batch.
        one_layer: bytes that one layer keeps without checkpointing, on average.
        largest: bytes of the layer that keeps most.
        size: bytes of a number that layers compute with.
        casts: whether autocast makes copies of weights.
    """
    kept = model.kept
    outside_layers = tokens * max(kept.outside_layers, 0.0)
    # autocast computes with copies in half precision of float32 weights, and backward wants them again; of what trains
    # they are all kept until the forward pass is over, checkpointing or not
    copies = 2 * model.in_layers if casts and size == 4 else 0
    beside = 2 * (model.trained["vision"] + model.trained["projector"]) if casts and precision.trained == 4 else 0
    until_backward = (copies if model.trained["language"] else 0) + beside
    if recipe.train.gradient_checkpointing:
        hidden = kept.hidden
        if recipe.adapter.stored_as == "int8":  # its layers hold on to their inputs, where checkpointing cannot see it
            hidden = 4 * kept.hidden + model.inner * size
        activations = kept.layers * tokens * hidden + outside_layers
        recomputed = largest + copies / kept.layers
        return _OfLayers(kept=activations, recomputed=recomputed, until_backward=until_backward)
    activations = kept.layers * one_layer + outside_layers + copies + beside
    return _OfLayers(kept=activations, recomputed=0.0, until_backward=0)


def _before(model: Architecture, recipe: Recipe, precision: Precision, parallel: ParallelPlan) -> dict[str, int]:
    """What is there when training starts; the scales of packed weights and buckets are never split."""
    stored = _stored(recipe.adapter)
    in_linear = 0 if stored is None else model.quantizable
    full, parts = sum(model.trained.values()), parallel.weight_parts
    adapted = recipe.adapter.kind != "none"
    own = 0 if adapted else full  # a part that trains fully beside LoRA is a copy
    base = {part: count - (0 if adapted else model.trained[part]) for part, count in model.parameters.items()}
    base["language"] -= in_linear
    frozen = sum(count * precision.frozen[part] for part, count in base.items())
    before = {
        "weights, not quantised": (frozen + own * precision.trained) // parts,
        "weights, quantised": int(in_linear * _packed(stored, parts)),
        "adapter": (model.lora * precision.adapter + (full - own) * precision.trained) // parts,
        "reference": _reference(model, recipe, precision) // parts,
    }
    if not parallel.is_alone and parallel.strategy == "ddp":
        before["buckets"] = trained_bytes(model, precision)  # DDP holds every gradient a second time, to send it
    elif parallel.is_deepspeed:
        before["buckets"] = 2 * min(BUCKET, model.lora + full) * precision.computed  # one fills while one travels
    return before


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


def _moments(model: Architecture, step: Mapping[str, int], gradients: Gradients) -> dict[str, int]:
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


def _reference(model: Architecture, recipe: Recipe, precision: Precision) -> int:
    """Only of what trains, because frozen weights are the same for both."""
    if not reference_for(recipe).is_copy:
        return 0
    copied = sum(count * precision.frozen[part] for part, count in model.trained.items())
    return model.lora * precision.adapter + copied


def _head(model: Architecture, recipe: Recipe, answers: int, size: int) -> float:
    """The output head over the answers' tokens: one tile of logits, its factors, and a few hidden states a token.

    Logits that are changed afterwards are there whole, and several times: :data:`WHOLE_LOGITS`. Half-precision weights
    are widened for a tile on a CPU; on a GPU the tile is a second time there in half precision.
    """
    rows = max(1, min(answers, TILE_BYTES // (4 * MIN_COLUMNS)))
    columns = min(model.vocabulary, max(MIN_COLUMNS, TILE_BYTES // (4 * rows)))
    tile, part = 4 * rows * columns, 4 * columns * model.hidden  # logits, and the weights that make them, in float32
    factors = 0.0
    if recipe.train.use_cpu:
        factors = part * (4 if model.head_trains else 1) if size == 2 else 0
    elif size == 2 or recipe.train.bf16 or recipe.train.fp16:
        factors = tile / 2 + (part / 2 if size == 4 else 0) + (part if model.head_trains else 0)
    states = HEAD_STATES * answers * model.hidden * 4
    if not model.tiled_head:
        return WHOLE_LOGITS * answers * model.vocabulary * size + tile + states
    return tile + factors + states


def _vision(model: Architecture, patches: int, size: int, *, checkpointing: bool) -> tuple[float, float]:
    """What the tower keeps for its backward pass, and what a layer of it needs while it runs."""
    layers, width, inner = model.tower
    one_layer = patches * (TOWER_HIDDEN * width + TOWER_INNER * inner) * size
    if not model.tower_trains:
        return 0.0, one_layer
    return layers * (patches * width * size if checkpointing else one_layer), one_layer
