"""What one image becomes in a model: tokens of the decoder and patches of the vision tower, by arithmetic."""

from __future__ import annotations

from functools import cache
from math import prod
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from mmpref.errors import ConfigError
from mmpref.image_tokens import llava_1_5, llava_next, llava_onevision, qwen
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
    if family.has_pixel_budget:
        merge, _ = _sides(vision, "spatial_merge_size")
        step = _sides(vision, "patch_size")[0] * merge
        third = family.name == "qwen3_vl"
        low = recipe.processing.min_pixels or (256 * 256 if third else 56 * 56)
        high = recipe.processing.max_pixels or 16384 * step * step
        tokens = qwen(width, height, step=step, min_pixels=low, max_pixels=high)
        if tokens is None:
            raise ConfigError(f"an image of {width} x {height} is too long and thin for this model")
        return tokens, tokens * merge**2
    if vision.model_type == "pixtral":
        (patch, _), (largest, _) = _sides(vision, "patch_size"), _sides(vision, "image_size")
        scale = max(width / largest, height / largest, 1.0)
        columns, rows = (-(-int(side / scale) // patch) for side in (width, height))
        return rows * (columns + 1), rows * columns  # each row of patches ends with a token of its own
    if family.name in _COUNTED:
        size = _sides(vision, "image_size")
        per_tile = prod(side // patch for side, patch in zip(size, _sides(vision, "patch_size"), strict=True))
        if family.name == "llava":
            return (llava_1_5(width, height) if per_tile == 576 else per_tile), per_tile + 1
        if family.name == "llava_next" and size == (336, 336):
            return llava_next(width, height), 5 * (per_tile + 1)
        if family.name == "llava_onevision" and size == (384, 384):
            tiles = -(-width // 384) * -(-height // 384) + 1
            return llava_onevision(width, height), tiles * per_tile
    return _by_processor(recipe.model.path, image_size, recipe.processing.min_pixels, recipe.processing.max_pixels)


_COUNTED = ("llava", "llava_next", "llava_onevision")


def _sides(vision: Any, key: str) -> tuple[int, int]:
    """Two sides that a vision config says, in pixels or patches: one number for both, or a list."""
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
    patches = num_pixels(seen.vision) // prod(_sides(config.vision_config, "patch_size"))
    return len(seen) - len(unseen), patches
