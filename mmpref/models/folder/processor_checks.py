"""Whether a loaded processor fits its model: its settings, its patches and what it makes of one image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig

from mmpref.errors import ConfigError, library_errors
from mmpref.models.folder.contents import AGAIN, read_object
from mmpref.models.folder.processors import small_file
from mmpref.processing.image_settings import odd_setting
from mmpref.processing.pixels import blank

_ONE_SIZE = frozenset({"llava", "vipllava", "llava_next"})
"""Model types whose images, or tiles of them, have the size of the vision tower."""


def complete_processor(processor: Any, config: PretrainedConfig, path: str | Path) -> None:
    """Check sizes, fill in what old folders of LLaVA do not say, and process one image.

    Raises:
        ConfigError: the processor cannot be used, with the reason.
    """
    _refuse_odd_settings(path)
    _fill_in(processor, config, path)
    _count_one_image(processor, config, path)
    _name_templates(processor, path)
    images = getattr(processor, "image_processor", None)
    if images is None:
        raise ConfigError(f"the processor of {path} has no image processor; {AGAIN}")
    with library_errors(ConfigError, f"the image processor of {path} cannot process an image", AGAIN):
        try:
            found = images(images=[blank(64, 48)], return_tensors="pt")
        except MemoryError as err:
            raise ConfigError(
                f"the image processor of {path} needs more memory than there is for one small image: look at the sizes "
                "in its preprocessor_config.json or processor_config.json"
            ) from err
    _refuse_defaults(path)
    if isinstance(found, Tensor):  # IDEFICS
        found = {"pixel_values": found}
    floats = [value for value in found.values() if isinstance(value, Tensor) and value.is_floating_point()]
    if not all(value.numel() and math.isfinite(float(value.float().sum())) for value in floats):
        raise ConfigError(
            f"the image processor of {path} makes no finite numbers of an image: look at image_mean, image_std and "
            "rescale_factor in its preprocessor_config.json or processor_config.json"
        )
    _refuse_other_patches(images, config, path)
    pixels, taken = found.get("pixel_values"), getattr(getattr(config, "vision_config", None), "image_size", None)
    is_fixed = config.model_type in _ONE_SIZE and "clip" in _tower(config) and isinstance(taken, int)
    if is_fixed and isinstance(pixels, Tensor) and list(pixels.shape[-2:]) != [taken, taken]:
        height, width = pixels.shape[-2:]
        raise ConfigError(
            f"the image processor of {path} makes images of {width} x {height}, and its config.json says that the "
            f"vision tower takes {taken} x {taken}: use files of one model"
        )


def _count_one_image(processor: Any, config: PretrainedConfig, path: str | Path) -> None:
    """LLaVA-OneVision's first folders left it to the code how many tokens one tile of an image has."""
    if getattr(processor, "num_image_tokens", 0) is not None:
        return
    vision: Any = getattr(config, "vision_config", None)
    size, patch = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    if not isinstance(size, int) or not isinstance(patch, int) or patch < 1 or "siglip" not in _tower(config):
        raise ConfigError(
            f"the processor of {path} has no num_image_tokens, and config.json does not say how many image tokens its "
            "tower makes: write it into processor_config.json"
        )
    processor.num_image_tokens = (size // patch) ** 2


def _name_templates(processor: Any, path: str | Path) -> None:
    """Several templates as a list of names and texts, as a tokenizer_config.json may have them, by their names."""
    found = getattr(processor, "chat_template", None)
    if not isinstance(found, list):
        return
    if not all(isinstance(one, dict) and {"name", "template"} <= one.keys() for one in found):
        raise ConfigError(f"the chat_template of {path} is a list, and not of names and templates; {AGAIN}")
    processor.chat_template = {str(one["name"]): one["template"] for one in found}


def _refuse_other_patches(images: Any, config: PretrainedConfig, path: str | Path) -> None:
    """Refuse patches other than those that a tower of Qwen's kind takes: it would fail, or see scattered pixels."""
    vision: Any = getattr(config, "vision_config", None)
    if not hasattr(images, "merge_size") or not hasattr(vision, "spatial_merge_size"):
        return
    for ours, theirs in (
        ("patch_size", "patch_size"),
        ("merge_size", "spatial_merge_size"),
        ("temporal_patch_size", "temporal_patch_size"),
    ):
        made, taken = getattr(images, ours, None), getattr(vision, theirs, None)
        if isinstance(made, int) and isinstance(taken, int) and made != taken:
            raise ConfigError(
                f"the image processor of {path} has {ours} {made}, and its config.json has {theirs} {taken}: the "
                "vision tower would be given other patches than it takes; use files of one model"
            )


def _tower(config: PretrainedConfig) -> str:
    return str(getattr(getattr(config, "vision_config", None), "model_type", ""))


def _refuse_defaults(path: str | Path) -> None:
    """Refuse settings of images that are no settings: transformers takes those of some other model instead.

    Raises:
        ConfigError: with the file.
    """
    settings: Any = None
    file = small_file(path, "processor_config.json")
    if file is not None:
        settings = read_object(file).get("image_processor")
    if settings is None:
        file = small_file(path, "preprocessor_config.json")
        settings = {} if file is None else read_object(file)
    known = ("image_processor_type", "feature_extractor_type", "size", "image_mean")
    if not isinstance(settings, dict) or not any(settings.get(key) for key in known):
        raise ConfigError(
            f"{file or path} says nothing of how images are processed (no image_processor_type): the settings of some "
            f"other model would be taken; {AGAIN}"
        )


def _refuse_odd_settings(path: str | Path) -> None:
    """Refuse numbers that cannot be meant, in the files that say how images are processed.

    Raises:
        ConfigError: with file and key.
    """
    for name in ("processor_config.json", "preprocessor_config.json"):
        file = small_file(path, name)
        if file is None:
            continue
        settings = read_object(file)
        images = settings.get("image_processor")
        odd = odd_setting(settings) or (odd_setting(images) if isinstance(images, Mapping) else "")
        if odd:
            raise ConfigError(f"{file} {odd}; {AGAIN}")


def _fill_in(processor: Any, config: PretrainedConfig, path: str | Path) -> None:
    """LLaVA's processors before 2024 did not say how an image is cut; the model's config does."""
    if not hasattr(processor, "patch_size") or not hasattr(processor, "vision_feature_select_strategy"):
        return
    vision: Any = getattr(config, "vision_config", None)
    known = {
        "patch_size": getattr(vision, "patch_size", None),
        "vision_feature_select_strategy": getattr(config, "vision_feature_select_strategy", None),
    }
    missing = [key for key in known if getattr(processor, key) is None]
    for key in missing:
        if known[key] is None:
            raise ConfigError(
                f"the processor of {path} has no {key}, and config.json does not say it either: write it into "
                "processor_config.json"
            )
        setattr(processor, key, known[key])
    if missing and hasattr(processor, "num_additional_image_tokens"):
        # the class token of CLIP's tower, which the strategy "default" takes off again
        processor.num_additional_image_tokens = int("clip" in str(getattr(vision, "model_type", "")))
    layers, chosen = getattr(vision, "num_hidden_layers", None), getattr(config, "vision_feature_layer", None)
    for layer in chosen if isinstance(chosen, list | tuple) else [chosen]:
        if layer is not None and isinstance(layers, int) and not (layer and -layers <= layer <= layers):
            raise ConfigError(
                f"config.json of {path} takes image features from layer {layer} (vision_feature_layer), and its vision "
                f"tower has the layers 1 to {layers}; {AGAIN}"
            )
    patch, strategy = processor.patch_size, processor.vision_feature_select_strategy
    if not isinstance(patch, int) or patch < 1 or strategy not in ("default", "full"):
        raise ConfigError(
            f"the processor of {path} has patch_size {str(patch)[:40]!a} and vision_feature_select_strategy "
            f"{str(strategy)[:40]!a}; a number of pixels, and 'default' or 'full', are expected"
        )
    for key, value in known.items():
        if value is not None and getattr(processor, key) != value:
            raise ConfigError(
                f"the processor of {path} says {key}: {getattr(processor, key)}, and its config.json {value}: prompts "
                "would have another number of image tokens than the model makes features; use files of one model"
            )
