"""What one image becomes in a model: tokens of the decoder and patches of the vision tower, by arithmetic."""

from __future__ import annotations

from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from mmpref.errors import ConfigError
from mmpref.image_tokens import gemma4, glm4v, llava_1_5, llava_next, llava_onevision, pixtral_grid, qwen
from mmpref.models.folder.config_values import AGAIN
from mmpref.models.load import family_of_config, load_config, load_processor
from mmpref.processing.encode import PairEncoder
from mmpref.processing.pixels import blank, num_pixels
from mmpref.recipe.sections import Recipe
from mmpref.records import ImageRef, user_turn


def image_shape(config: PretrainedConfig, recipe: Recipe, image_size: tuple[int, int]) -> tuple[int, int]:
    """(image tokens, patches of the vision tower) of one image; zeros for a model that takes text only.

    By arithmetic where that is known for the family; else the folder's own processor is asked, as training does.

    Raises:
        ConfigError: a model type whose image tokens cannot be counted without its processor, and no folder with one; or
            a size in the config that is none.
    """
    family = family_of_config(config)
    if not family.has_vision or family.no_images:
        return 0, 0
    vision: Any = config.vision_config
    width, height = image_size
    if config.model_type in _BUDGETS:
        return _in_budget(config.model_type, vision, recipe, image_size)
    if vision.model_type == "pixtral":
        (patch, _), (largest, _) = vision_sides(vision, "patch_size"), vision_sides(vision, "image_size")
        merge = getattr(config, "spatial_merge_size", 1)
        rows, columns = pixtral_grid(width, height, step=patch * merge, longest=largest)
        return rows * (columns + 1), rows * columns * merge**2  # each row ends with a token of its own
    if config.model_type == "gemma4":
        pool, _ = vision_sides(vision, "pooling_kernel_size")
        tokens = gemma4(width, height, side=pool * vision_sides(vision, "patch_size")[0])
        tokens = _not_too_thin(tokens, image_size)
        return tokens, tokens * pool**2
    if family.name in _COUNTED:
        size = vision_sides(vision, "image_size")
        per_tile = prod(side // patch for side, patch in zip(size, vision_sides(vision, "patch_size"), strict=True))
        if family.name == "llava":
            return (llava_1_5(width, height) if per_tile == 576 else per_tile), per_tile + 1
        if family.name == "llava_next" and size == (336, 336):
            return llava_next(width, height), 5 * (per_tile + 1)
        if family.name == "llava_onevision" and size == (384, 384):
            tiles = -(-width // 384) * -(-height // 384) + 1
            return llava_onevision(width, height), tiles * per_tile
    return _by_processor(recipe.model.path, image_size, recipe.processing.min_pixels, recipe.processing.max_pixels)


_COUNTED = ("llava", "llava_next", "llava_onevision")
_BUDGETS = {"qwen2_vl": 56 * 56, "qwen2_5_vl": 56 * 56, "glm4v": 112 * 112, "glm4v_moe": 112 * 112} | dict.fromkeys(
    ("qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe"), 256 * 256
)
"""Model type -> the fewest pixels of an image, as the published processors have it, where they resize to a budget."""


_TWICE = ("glm4v", "glm4v_moe", "glm46v", "glm_ocr")
"""Model types for whose budget an image is two frames."""


def pixels_for(config: PretrainedConfig, tokens: int) -> int:
    """The ``processing.max_pixels`` that makes of an image so many tokens at most; of a family with a pixel budget."""
    vision: Any = config.vision_config
    side = vision_sides(vision, "patch_size")[0] * vision_sides(vision, "spatial_merge_size")[0]
    return tokens * side**2 * (2 if config.model_type in _TWICE else 1)


def _in_budget(kind: str, vision: Any, recipe: Recipe, image_size: tuple[int, int]) -> tuple[int, int]:
    merge, _ = vision_sides(vision, "spatial_merge_size")
    step, (width, height) = vision_sides(vision, "patch_size")[0] * merge, image_size
    low, high = recipe.processing.min_pixels or _BUDGETS[kind], recipe.processing.max_pixels
    if kind in _TWICE:
        tokens = glm4v(width, height, min_pixels=low, **({} if high is None else {"max_pixels": high}))
    else:
        tokens = qwen(width, height, step=step, min_pixels=low, max_pixels=high or 16384 * step * step)
    tokens = _not_too_thin(tokens, image_size)
    return tokens, tokens * merge**2


def _not_too_thin(tokens: int | None, image_size: tuple[int, int]) -> int:
    if tokens is None:
        width, height = image_size
        raise ConfigError(f"an image of {width} x {height} is too long and thin for this model")
    return tokens


def vision_sides(vision: Any, key: str) -> tuple[int, int]:
    """Two sides that a vision config says, in pixels or patches: one number for both, or a list.

    Raises:
        ConfigError: a value that is none.
    """
    value = getattr(vision, key, None)
    sides = tuple(value) if isinstance(value, list | tuple) else (value,)
    first, last = (sides[0], sides[-1]) if len(sides) in (1, 2) else (None, None)
    if type(first) is int and type(last) is int and first > 0 and last > 0:
        return first, last
    raise ConfigError(
        f"the model's config says vision_config.{key}: {str(value)[:80]!a}, and a number of pixels (or two) is "
        f"expected; {AGAIN}"
    )


@cache
def _by_processor(
    path: str, image_size: tuple[int, int], min_pixels: int | None, max_pixels: int | None
) -> tuple[int, int]:
    """What the folder's processor makes of one blank image."""
    config = load_config(path) if Path(path).is_dir() else None
    if config is None or not any(Path(path).glob("*processor*.json")):
        raise ConfigError(
            f"how many image tokens an image has in {path} is not known without the model's processor: give a local "
            "folder of the model that has its processor and tokenizer files (the weights need not be there)"
        )
    family = family_of_config(config)
    encoder = PairEncoder(load_processor(path, min_pixels=min_pixels, max_pixels=max_pixels), family)
    shown = blank(*image_size)
    image = ImageRef(path="image_size")
    seen, unseen = (
        encoder.encode_prompt("image_size", user_turn("What?", num_images=len(images)), images, lambda _: shown)
        for images in ((image,), ())
    )
    patches = num_pixels(seen.vision) // prod(vision_sides(config.vision_config, "patch_size"))
    return len(seen) - len(unseen), patches
