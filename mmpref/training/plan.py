"""``mmpref plan``: will it fit, how fast may it be, and what to change; from the recipe and the config alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from mmpref.config import Recipe
from mmpref.data.audit.image_tokens import llava_1_5, llava_next, llava_onevision, qwen
from mmpref.errors import ConfigError
from mmpref.losses import build_objective
from mmpref.models.load import family_of_config, load_config
from mmpref.processing.layout import LayoutName
from mmpref.training.known_models import known_config
from mmpref.training.architecture import Architecture, describe, weight_dtype
from mmpref.training.memory import Memory, Shape, estimate, with_changes

GIB = 2**30
FIXED = int(1.0 * GIB)
"""CUDA's own context and kernels; not measured here."""
SLACK = 0.05
"""Share of the card that its allocator loses to rounding; not measured here."""
UTILISATION = 0.35
"""Share of a card's peak rate that a training step reaches; an assumption, not measured here."""
# card -> (GiB, dense half-precision TFLOP/s with float32 sums), from the makers' data sheets
GPUS: Mapping[str, tuple[int, float]] = {
    "RTX 3060": (12, 25.6), "RTX 4070": (12, 58.0), "T4": (16, 65.0), "RTX 4060 Ti 16GB": (16, 44.0),
    "RTX 4080": (16, 97.0), "RTX 3090": (24, 71.0), "RTX 4090": (24, 165.0), "L4": (24, 121.0), "A10": (24, 125.0),
    "A6000": (48, 155.0), "L40S": (48, 362.0), "A100 40GB": (40, 312.0), "A100 80GB": (80, 312.0),
    "H100": (80, 989.0), "H200": (141, 989.0),
}  # fmt: skip
_LONGEST = 32768


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What :func:`make_plan` found.

    Attributes:
        memory: with the recipe as it is.
        other_checkpointing: the same with gradient checkpointing switched.
        needed: bytes on the card: peak, context and slack.
        fits: whether that is within the card; None without one.
        longest: tokens of each of two equal answers that still fit; 0 where none do, None without a card.
        most_pairs: pairs in a micro-batch that still fit; as ``longest``.
        pairs_per_hour: on a named card; None without one.
        changes: what would make it fit, the least harmful first: (keys, GiB needed then).
        source: where the architecture was read.
    """

    recipe: Recipe
    shape: Shape
    memory: Memory
    other_checkpointing: Memory
    needed: int
    fits: bool | None
    longest: int | None
    most_pairs: int | None
    flops_per_pair: float
    pairs_per_hour: float | None
    changes: tuple[tuple[str, float], ...]
    source: str


def make_plan(
    recipe: Recipe,
    *,
    gpu_memory: int | None = None,
    gpu: str | None = None,
    picture: tuple[int, int] = (640, 480),
    prompt_tokens: int = 100,
    answer_tokens: int = 250,
    layout: LayoutName | None = None,
) -> Plan:
    """Estimate a recipe's need. Nothing is downloaded but a config that is neither here nor in the built-in table.

    Args:
        recipe: as it would be trained.
        gpu_memory: bytes of the card; None takes the named card's, or makes no statement about fitting.
        gpu: a name of :data:`GPUS`, for the rate.
        picture: width and height of the one picture of a pair, before the processor.
        prompt_tokens: of the prompt's text.
        answer_tokens: of each answer.
        layout: None takes the recipe's, shared prefix where the family can.

    Raises:
        ConfigError: an unknown card, a model whose config cannot be had, a recipe that training would refuse.
    """
    card = None if gpu is None else _card(gpu)
    if gpu_memory is None and card is not None:
        gpu_memory = card[0] * GIB
    config, source = find_config(recipe.model.path)
    layout = layout or _layout(recipe, config)
    image, patches = image_shape(config, recipe, picture)
    rejected = answer_tokens if build_objective(recipe.loss.as_mapping()).needs_rejected else 0
    shape = Shape(prompt=prompt_tokens, image=image, patches=patches, chosen=answer_tokens, rejected=rejected)
    dtype = weight_dtype(config, recipe)
    model = _described(config, recipe, layout)

    def memory_of(changed: Recipe, pair: Shape = shape, looked_at: Architecture = model) -> Memory:
        return estimate(looked_at, changed, pair, layout=layout, dtype=dtype)

    memory = memory_of(recipe)
    flipped = with_changes(recipe, train={"gradient_checkpointing": not recipe.train.gradient_checkpointing})
    needed = on_card(memory.peak)
    flops = flops_per_pair(model, recipe, shape, layout)
    longest = most_pairs = None
    changes: tuple[tuple[str, float], ...] = ()
    if gpu_memory is not None:
        room = gpu_memory
        longest = _largest(lambda n: on_card(memory_of(recipe, replace(shape, chosen=n, rejected=n)).peak) <= room)
        batch = "per_device_train_batch_size"
        most_pairs = _largest(lambda n: on_card(memory_of(with_changes(recipe, train={batch: n})).peak) <= room)
        if needed > room:
            changes = tuple(_changes(recipe, config, shape, layout, picture, room))
    return Plan(
        recipe=recipe,
        shape=shape,
        memory=memory,
        other_checkpointing=memory_of(flipped),
        needed=needed,
        fits=None if gpu_memory is None else needed <= gpu_memory,
        longest=longest,
        most_pairs=most_pairs,
        flops_per_pair=flops,
        pairs_per_hour=None if card is None else 3600 * card[1] * 1e12 * UTILISATION / flops,
        changes=changes,
        source=source,
    )


def find_config(path: str) -> tuple[PretrainedConfig, str]:
    """A model's config and where it was found: a local folder, the built-in table, or the hub (its config only)."""
    if not Path(path).exists() and (known := known_config(path)) is not None:
        return known, "the table of architectures that comes with mmpref"
    return load_config(path), "its config.json"


def image_shape(config: PretrainedConfig, recipe: Recipe, picture: tuple[int, int]) -> tuple[int, int]:
    """(image tokens, patches of the vision tower) of one picture; zeros for a text-only model.

    Raises:
        ConfigError: a model type whose image tokens cannot be counted without its processor.
    """
    family = family_of_config(config)
    if not family.has_vision:
        return 0, 0
    vision: Any = config.vision_config
    width, height = picture
    if family.has_pixel_budget:
        merge = vision.spatial_merge_size
        step = vision.patch_size * merge
        third = family.name == "qwen3_vl"
        low = recipe.processing.min_pixels or (256 * 256 if third else 56 * 56)
        high = recipe.processing.max_pixels or 16384 * step * step
        tokens = qwen(width, height, step=step, min_pixels=low, max_pixels=high)
        if tokens is None:
            raise ConfigError(f"a picture of {width} x {height} is too long and thin for this model")
        return tokens, tokens * merge**2
    per_tile = (vision.image_size // vision.patch_size) ** 2
    if family.name == "llava":
        return (llava_1_5(width, height) if per_tile == 576 else per_tile), per_tile + 1
    if family.name == "llava_next" and vision.image_size == 336:
        return llava_next(width, height), 5 * (per_tile + 1)
    if family.name == "llava_onevision" and vision.image_size == 384:
        tiles = -(-width // 384) * -(-height // 384) + 1
        return llava_onevision(width, height), tiles * per_tile
    raise ConfigError(
        f"the image tokens of a '{config.model_type}' model of this size are not known without its processor"
    )


def on_card(peak: int) -> int:
    """Bytes that a card must have for a peak: its context and what its allocator loses come on top."""
    return int((peak + FIXED) * (1 + SLACK))


def flops_per_pair(model: Architecture, recipe: Recipe, shape: Shape, layout: LayoutName) -> float:
    """Floating-point operations of one pair: two for each weight and token, forward; attention as its triangle.

    Backward costs one forward for the gradient of the activations, and one for the weights that train; checkpointing
    runs the layers' forward again; a reference that is run costs a forward.
    """
    tokens = shape.tokens(layout)
    body = model.parameters["language"] - 2 * model.embeddings if model.untied else (
        model.parameters["language"] - model.embeddings)  # fmt: skip
    attention = 2 * model.kept.layers * tokens * tokens * model.hidden  # half of 4 T^2 H: the causal triangle
    layers = 2.0 * body * tokens + attention
    head = 2.0 * model.embeddings * shape.answers
    tower = 2.0 * model.parameters["vision"] * shape.patches
    trains = sum(model.trained[part] for part in ("language",)) > 0
    backward = layers * (2 if trains else 1)
    again = layers if recipe.train.gradient_checkpointing else 0.0
    reference = layers + head + tower if build_objective(recipe.loss.as_mapping()).needs_reference else 0.0
    tower_back = 2 * tower if model.tower_trains else 0.0
    return layers + backward + again + 2 * head + tower + tower_back + reference


def parse_memory(text: str) -> int:
    """``24GiB``, ``24GB`` or ``24`` as bytes; GB is taken as GiB, as card makers mean it.

    Raises:
        ConfigError: anything else.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(GiB|GB|G|MiB|MB|M)?\s*", text, flags=re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise ConfigError(f"'{text}' is not a size of memory; write 24GiB")
    unit = 2**20 if (found[2] or "G").upper().startswith("M") else GIB
    return int(float(found[1]) * unit)


_KNOWN_SHAPES: dict[str, Architecture] = {}


def _described(config: PretrainedConfig, recipe: Recipe, layout: LayoutName) -> Architecture:
    """:func:`describe`, once for everything that it looks at."""
    train = recipe.train
    looked_at = [config.to_json_string(), layout, train.bf16, train.fp16, train.use_cpu]
    looked_at += [section.model_dump_json() for section in (recipe.model, recipe.tune, recipe.adapter)]
    key = repr(looked_at)
    if key not in _KNOWN_SHAPES:
        _KNOWN_SHAPES[key] = describe(config, recipe, layout)
    return _KNOWN_SHAPES[key]


def _card(name: str) -> tuple[int, float]:
    for known, facts in GPUS.items():
        if known.lower().replace(" ", "") == name.lower().replace(" ", "").removeprefix("nvidia"):
            return facts
    raise ConfigError(f"no card '{name}' in the table; known: {', '.join(GPUS)}; or give --gpu-memory alone")


def _layout(recipe: Recipe, config: PretrainedConfig) -> LayoutName:
    if recipe.model.attention != "auto":
        return recipe.model.attention
    return "shared_prefix" if family_of_config(config).shared_prefix else "plain"


def _largest(fits: Any) -> int:
    """The largest number up to :data:`_LONGEST` that fits; 0 where 1 does not."""
    low, high = 0, _LONGEST
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _changes(
    recipe: Recipe, config: PretrainedConfig, shape: Shape, layout: LayoutName, picture: tuple[int, int], room: int
) -> Iterator[tuple[str, float]]:
    """One change on top of the other, the least harmful first, until it fits; each with the GiB needed then."""
    train = recipe.train
    steps: list[tuple[str, dict[str, dict[str, Any]]]] = []
    if not train.gradient_checkpointing:
        steps.append(("train.gradient_checkpointing=true", {"train": {"gradient_checkpointing": True}}))
    if train.per_device_train_batch_size > 1:
        total = train.per_device_train_batch_size * train.gradient_accumulation_steps
        one = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": total}
        steps.append((" ".join(f"train.{key}={value}" for key, value in one.items()), {"train": one}))
    if recipe.adapter.kind == "none":
        tune = {"vision": "freeze", "projector": "freeze", "language": "lora"}
        steps.append(("adapter.kind=lora with tune.language=lora", {"adapter": {"kind": "lora"}, "tune": tune}))
    if "8bit" not in train.optim:
        steps.append(("train.optim=adamw_8bit", {"train": {"optim": "adamw_8bit"}}))
    if recipe.adapter.stored_as is None:
        steps.append(("adapter.kind=qlora", {"adapter": {"kind": "qlora", "quantization": None}}))
    if family_of_config(config).has_pixel_budget and shape.image > 256:
        half = 256 * (config.vision_config.patch_size * config.vision_config.spatial_merge_size) ** 2
        steps.append((f"processing.max_pixels={half}", {"processing": {"max_pixels": half}}))
    changed = recipe
    for words, keys in steps:
        changed = with_changes(changed, **keys)
        image, patches = image_shape(config, changed, picture)
        pair = replace(shape, image=image, patches=patches)
        dtype = weight_dtype(config, changed)
        needed = on_card(estimate(_described(config, changed, layout), changed, pair, layout=layout, dtype=dtype).peak)
        yield words, needed / GIB
        if needed <= room:
            return
