"""The processor that a model folder asks for, without torchvision and without its video part.

Which class it is, is the folder's to say (``processor_class``), and transformers' where the folder is silent. A class
that was not made for such a model would write other image tokens than the model reads, and say nothing.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any, cast

import transformers
from transformers import PretrainedConfig
from transformers.models.auto import processing_auto
from transformers.processing_utils import ProcessorMixin

from mmpref.errors import ConfigError, library_errors, one_line
from mmpref.models.folder.contents import AGAIN, read_object

_SAY_THE_CLASS = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "tokenizer_config.json",
)
"""In the order in which AutoProcessor of transformers looks at them."""


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
    if found is None and file is not None and "AutoProcessor" in (read_object(file).get("auto_map") or ()):
        raise ConfigError(
            f"{file}: the processor {str(name)[:60]!a} is code that comes with the folder (auto_map), and mmpref runs "
            "no code of model folders: give a folder of a type that transformers has; many such models are published "
            "once more in that form"
        )
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


def refuse_without_images(path: str | Path) -> None:
    """Refuse a folder that has nothing on how images are processed, or names a class for it that is not there.

    Raises:
        ConfigError: with what is missing.
    """
    whole, alone = small_file(path, "processor_config.json"), small_file(path, "preprocessor_config.json")
    settings = None if whole is None else read_object(whole).get("image_processor")
    file = whole if settings is not None else alone
    if file is None:
        raise ConfigError(
            f"{path} has no preprocessor_config.json, and no image_processor in a processor_config.json: nothing there "
            "says how images are processed; copy the processor files of the model that it was made from into it"
        )
    settings = read_object(file) if settings is None else settings
    named = settings.get("image_processor_type") if isinstance(settings, dict) else None
    if isinstance(named, str) and "auto_map" not in settings and not _has_image_processor(named):
        raise ConfigError(
            f"{file} asks for the image processor {named[:60]!a}, which transformers {transformers.__version__} does "
            "not have; update transformers, or write the right image_processor_type"
        )


def _has_image_processor(name: str) -> bool:
    """Whether transformers has one of that name, with or without the endings of its backends."""
    plain = name.removesuffix("Fast").removesuffix("Pil")
    # not getattr, which logs what one lacks; not dir(), which compares every name with every other for some 0.4 s
    return not {plain, f"{plain}Pil", name}.isdisjoint(transformers.__all__)


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
    try:
        found: Any = processing_auto.processor_class_from_name(name)
    except ImportError as err:  # older releases import torchvision where newer ones have a placeholder
        found = _without_torchvision(name)
        if found is None:
            missing = one_line(err.__cause__ or err)
            raise ConfigError(
                f"the processor {name[:60]!a} of transformers {transformers.__version__} needs what is not installed "
                f"({missing}); install that, or update transformers"
            ) from err
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
