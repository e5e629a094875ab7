"""What a plan is about: the model's config wherever it is, what a picture becomes in it, and its sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from mmpref.config import Recipe
from mmpref.data.audit.image_tokens import llava_1_5, llava_next, llava_onevision, qwen
from mmpref.errors import ConfigError
from mmpref.models.load import family_of_config, load_config
from mmpref.processing.layout import LayoutName
from mmpref.training.architecture import Architecture, describe
from mmpref.training.known_models import known_config
from mmpref.training.spread import ALONE, Spread


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
    if vision.model_type == "pixtral":
        patch = vision.patch_size
        scale = max(width / vision.image_size, height / vision.image_size, 1.0)
        columns, rows = (-(-int(side / scale) // patch) for side in (width, height))
        return rows * (columns + 1), rows * columns  # each row of patches ends with a token of its own
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


def layout_of(recipe: Recipe, config: PretrainedConfig) -> LayoutName:
    """The layout that training would take."""
    if recipe.model.attention != "auto":
        return recipe.model.attention
    return "shared_prefix" if family_of_config(config).shared_prefix else "plain"


_KNOWN_SHAPES: dict[str, Architecture] = {}
_STORAGE = frozenset({"kind", "quantization", "double_quant", "compute_dtype"})  # no sizes depend on it


def described(config: PretrainedConfig, recipe: Recipe, layout: LayoutName, spread: Spread = ALONE) -> Architecture:
    """:func:`describe`, once for everything that it looks at."""
    train, adapter = recipe.train, recipe.adapter
    looked_at = [config.to_json_string(), layout, train.bf16, train.fp16, adapter.kind != "none"]
    looked_at += [spread.splits_weights, spread.is_deepspeed]
    looked_at += [recipe.model.model_dump_json(), recipe.tune.model_dump_json()]
    key = repr([*looked_at, adapter.model_dump_json(exclude=set(_STORAGE))])
    if key not in _KNOWN_SHAPES:
        _KNOWN_SHAPES[key] = describe(config, recipe, layout, spread)
    return _KNOWN_SHAPES[key]
