"""The processor that a model folder asks for, without torchvision and without its video part.

Which class it is, is the folder's to say (``processor_class``), and transformers' where the folder is silent. A class
that was not made for such a model would write other image tokens than the model reads, and say nothing.
"""

from __future__ import annotations

import importlib
import math
import sys
import types
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import transformers
from torch import Tensor
from transformers import PretrainedConfig
from transformers.models.auto import processing_auto
from transformers.processing_utils import ProcessorMixin

from mmpref.errors import ConfigError, library_errors
from mmpref.models.folder.contents import AGAIN, read_object
from mmpref.processing.image_settings import odd_setting
from mmpref.processing.pixels import blank

_SAY_THE_CLASS = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
)
"""In the order in which AutoProcessor of transformers looks at them."""
_ONE_SIZE = frozenset({"llava", "vipllava", "llava_next"})
"""Model types whose images, or tiles of them, have the size of the vision tower."""


def refuse_kind(config: PretrainedConfig, path: str | Path) -> None:
    """Refuse kinds of models that would load and go wrong later.

    Raises:
        ConfigError: with the reason.
    """
    inner = [getattr(config, key, None) for key in ("text_config", "vision_config")]
    if config.model_type == "florence2" or any(getattr(one, "is_encoder_decoder", False) for one in (config, *inner)):
        raise ConfigError(
            f"{path} is a model of type '{config.model_type}', which reads its prompt with an encoder of its own "
            "(encoder-decoder), and only models that are one decoder are trained here; use another model"
        )


def processor_class(config: PretrainedConfig, path: str | Path) -> type[ProcessorMixin]:
    """The class of a folder's processor.

    Raises:
        ConfigError: transformers has none of that name or for that model, or the one that the folder names was not made
            for such a model.
    """
    known = _names_for(str(config.model_type))
    named, file = _named_class(path)
    named = named or getattr(config, "processor_class", None)
    name = named or next(iter(known), None)
    if name is None:
        raise ConfigError(
            f"transformers {transformers.__version__} has no processor for model type '{config.model_type}', and "
            f"{path} names none (processor_class in processor_config.json); update transformers or use another model"
        )
    found = _class_of(str(name))
    if found is None:
        raise ConfigError(
            f"{file or path} asks for the processor {str(name)[:60]!a}, which transformers {transformers.__version__} "
            "does not have; update transformers, or write the right processor_class"
        )
    parts = [getattr(config, key, None) for key in ("vision_config", "text_config")]
    fitting = {*known, *(name for part in parts for name in _names_for(str(getattr(part, "model_type", ""))))}
    if known and name not in fitting:
        raise ConfigError(
            f"{file or path} asks for the processor '{name}', and a model of type '{config.model_type}' has "
            f"'{next(iter(known))}': its image tokens would not be those that the model reads; use the processor files "
            "that belong to this model"
        )
    return found


def has_own_processor(config: PretrainedConfig) -> bool:
    """Whether transformers knows by itself which processor such a model has; else the folder's word is all there is."""
    return bool(_names_for(str(config.model_type)))


def _names_for(model_type: str) -> list[str]:
    """Processors that transformers has for a model type."""
    name = processing_auto.PROCESSOR_MAPPING_NAMES.get(model_type)
    names = name if isinstance(name, tuple | list) else [name]
    return [str(one) for one in names if one]


def _named_class(path: str | Path) -> tuple[str | None, Path | None]:
    """The processor that the folder names, and the file that does."""
    for name in _SAY_THE_CLASS:
        file = small_file(path, name)
        if file is None or (name.startswith("video") and small_file(path, "preprocessor_config.json") is not None):
            continue
        found = read_object(file).get("processor_class")
        if found is not None:
            if not isinstance(found, str):
                raise ConfigError(f"{file} has the processor_class {str(found)[:60]!a}, which is no name; {AGAIN}")
            return found, file
    return None, None


def small_file(path: str | Path, name: str) -> Path | None:
    """A small file of a folder or hub id, if it is there."""
    folder = Path(path)
    if folder.is_dir():
        return folder / name if (folder / name).exists() else None
    from transformers.utils import cached_file

    with library_errors(ConfigError, f"{name} of {path} cannot be loaded", "check the name and the connection"):
        found = cached_file(
            str(path),
            name,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    return None if found is None else Path(found)


def _class_of(name: str) -> type[ProcessorMixin] | None:
    found: Any = processing_auto.processor_class_from_name(name)
    if getattr(found, "is_dummy", False):
        found = _without_torchvision(name) or found
    if found is None or not isinstance(found, type):
        return None
    is_processor = getattr(found, "is_dummy", False) or issubclass(found, ProcessorMixin)
    return cast(type[ProcessorMixin], found) if is_processor else None


def _without_torchvision(name: str) -> Any:
    """A processor class that asks for torchvision although only its image processor would need it, which has a twin
    that does not; None where it needs more."""
    types_of = [key for key in processing_auto.PROCESSOR_MAPPING_NAMES if name in _names_for(key)]
    for key in types_of:
        of_images = f"transformers.models.{key}.image_processing_{key}"
        if of_images in sys.modules:
            continue
        try:
            sys.modules[of_images] = importlib.import_module(f"transformers.models.{key}.image_processing_pil_{key}")
            return getattr(importlib.import_module(f"transformers.models.{key}.processing_{key}"), name, None)
        except ImportError:
            continue
        finally:
            sys.modules.pop(of_images, None)
    return None


@lru_cache
def image_only(stock: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """The processor class without its video part, which would need torchvision and is never used here.

    The class keeps its name, because transformers compares it with what the folder says; so it says itself how it is
    pickled, which a class made here could not be.
    """
    every = list(stock.get_attributes())
    kept = [name for name in every if "video" not in name]
    if kept == every:
        return stock
    body: dict[str, Any] = {
        "__module__": stock.__module__,
        "__doc__": stock.__doc__,
        "get_attributes": classmethod(lambda _cls: list(kept)),
        # some classes override it to read frame counts from the video part
        "apply_chat_template": ProcessorMixin.apply_chat_template,
        "__reduce__": lambda self: (_rebuild_image_only, (stock, self.__dict__)),
        "__init__": _with_optional_video(stock.__init__),
        "_every": every,
    }
    return cast(type[ProcessorMixin], type(stock.__name__, (stock, _WithoutVideo), body))


class _NoVideo:
    """Stands for the video part where a constructor asks it for its settings."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _WithoutVideo(ProcessorMixin):
    """Between a stock processor and the constructor that it hands its parts to: leaves the video part out."""

    _every: list[str]
    video_processor = _NoVideo()

    @classmethod
    def _get_arguments_from_pretrained(cls, *args: Any, **kwargs: Any) -> list[Any]:
        """The parts in the order in which the stock constructor takes them."""
        found = dict(zip(cls.get_attributes(), super()._get_arguments_from_pretrained(*args, **kwargs), strict=True))
        return [found.get(name) for name in cls._every]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        given = {**dict(zip(self._every, args, strict=False)), **kwargs}
        super().__init__(**{name: part for name, part in given.items() if "video_processor" not in name})


def _with_optional_video(init: Any) -> Any:
    """The same constructor, whose parts may be left out: with the video part gone, what follows is given by name.

    The code stays the original's, because transformers reads the names of its variables to learn what it takes.
    """
    names = init.__code__.co_varnames[1 : init.__code__.co_argcount]
    given = init.__defaults__ or ()
    defaults = (*(None,) * (len(names) - len(given)), *given)
    return types.FunctionType(init.__code__, init.__globals__, init.__name__, defaults, init.__closure__)


def _rebuild_image_only(stock: Any, state: dict[str, Any]) -> ProcessorMixin:
    kind: type[ProcessorMixin] = image_only(stock)
    processor: ProcessorMixin = object.__new__(kind)
    processor.__dict__.update(state)
    return processor


def complete_processor(processor: Any, config: PretrainedConfig, path: str | Path) -> None:
    """Check sizes, fill in what old folders of LLaVA do not say, and process one image.

    Raises:
        ConfigError: the processor cannot be used, with the reason.
    """
    _refuse_odd_settings(path)
    _fill_in(processor, config, path)
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
