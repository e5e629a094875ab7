"""A config as transformers reads it: keys that are its code's, what forward returns, whether it can be saved."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FunctionType
from typing import Any

import transformers
from torch import nn
from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from mmpref.errors import ConfigError, library_errors
from mmpref.models.unwrap import base_model
from mmpref.processing.rope_lengths import ROPES, ropes

_OF_THE_CLASS = frozenset({"attribute_map", "sub_configs", "base_config_key"})
"""What a class of configs says of itself; a file that says it changes the names that the code finds its values by."""
_RETURNED = {"output_attentions": False, "output_hidden_states": False, "return_dict": True}
"""Only says what a forward pass returns, which our code asks for by itself."""
_TEXT = ("text_config", "decoder", "generator", "text_encoder")
"""Where transformers looks for the language model's part of a config."""
_VISION = "vision_config"
"""Of a type without a vision tower, a plain object there is left over from another model."""
_CORRECT = "correct it or take it out of the file"


def refuse_keys(config: Mapping[str, Any], file: Path) -> None:
    """Refuse keys that would replace a part of the code that reads the config, and a model type that is code itself.

    Args:
        file: the config.json, for the message.

    Raises:
        ConfigError: with the key.
    """
    kind = config.get("model_type")
    if kind not in CONFIG_MAPPING and "auto_map" in config:
        raise ConfigError(
            f"{file}: the model type '{kind}' is code that comes with the folder (auto_map), and mmpref runs no code "
            "of model folders: give a folder of a type that transformers has; many such models are published once more "
            "in that form"
        )
    if isinstance(kind, str) and kind not in CONFIG_MAPPING:
        raise ConfigError(f"{file} {unknown_type(kind, config)}")
    for part, place in _objects(config):
        found = part.get("model_type")
        owner: Any = CONFIG_MAPPING[found] if isinstance(found, str) and found in CONFIG_MAPPING else PretrainedConfig
        for key, value in part.items():
            if key in _RETURNED:
                continue
            if key.endswith("_implementation") and "/" in str(value):
                raise ConfigError(
                    f"{file} says {place}{key}: {str(value)[:80]!a}, which is code on the hub, and mmpref runs no code "
                    "that a model asks for; take the key out (model.attn_implementation of a recipe chooses another)"
                )
            own = inspect.getattr_static(owner, key, None)
            is_code = isinstance(own, FunctionType | classmethod | staticmethod)
            is_fixed = isinstance(own, property) and own.fset is None
            if is_code or is_fixed or (key in _OF_THE_CLASS and value != getattr(owner, key, None)):
                raise ConfigError(f"{file} has the key {place}{key}, which is no setting of a model; take it out")


def unknown_type(kind: str, config: Mapping[str, Any], place: str = "") -> str:
    """What to say of a model type that the installed transformers does not know, after the name of the file.

    Args:
        config: of the folder; says which release of transformers wrote it.
        place: what the key begins with, for a part of a model.
    """
    saved = str(config.get("transformers_version", ""))
    by = f" ({saved[:20]} wrote the folder)" if saved else ""
    alike = next((known for known in CONFIG_MAPPING if _letters(known) == _letters(kind)), None)
    or_else = f"write '{alike}' if that is meant, " if alike else ""
    return (
        f"has the {place}model_type '{kind[:60]}', which the installed transformers {transformers.__version__} "
        f"does not know{by}: {or_else}update transformers (pip install -U transformers), or give the model in a form "
        "that transformers has; many are published once more as such (their names end in -hf)"
    )


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def explain_unknown_part(config: Mapping[str, Any], file: Path) -> None:
    """Name the part of a model whose type is unknown, where the library that refused it lists all that it knows.

    Raises:
        ConfigError: there is such a part.
    """
    for part, place in _objects(config):
        kind = part.get("model_type")
        if place and isinstance(kind, str) and kind and kind not in CONFIG_MAPPING:
            raise ConfigError(f"{file} {unknown_type(kind, config, place)}")


@contextmanager
def explain_unknown_rope(config: PretrainedConfig, file: str) -> Iterator[None]:
    """Name the way of scaling rotary positions that a model's code looks up and does not find.

    Raises:
        ConfigError: inside, that name was looked up and not found.
    """
    try:
        yield
    except KeyError as err:
        kinds = {rope.get("rope_type") for part in _parts(config) for rope in ropes(getattr(part, ROPES, None))}
        if not err.args or err.args[0] not in kinds or err.args[0] is None:
            raise
        known = ", ".join(sorted(ROPE_INIT_FUNCTIONS))
        raise ConfigError(
            f"{file} says rope_type (or rope_scaling.type): {str(err.args[0])[:60]!a}, which the installed "
            f"transformers {transformers.__version__} does not know for '{config.model_type}': update transformers "
            f"(pip install -U transformers), or write one of {known} where that is meant"
        ) from err


def settle(config: PretrainedConfig, file: str) -> None:
    """Make what a forward pass returns the usual, drop what is left over, and check the values as saving does.

    Args:
        file: where the config was read, for the message.

    Raises:
        ConfigError: a part of another model's config, or a value that transformers would refuse to save.
    """
    for key in _TEXT:
        if isinstance(getattr(config, key, None), Mapping):
            raise ConfigError(
                f"{file} has a {key}, and a model of type '{config.model_type}' has no such part: it was written for "
                "another model_type; write that, or take the part out"
            )
    if isinstance(getattr(config, _VISION, None), Mapping):
        delattr(config, _VISION)
    for part in _parts(config):
        for key, value in _RETURNED.items():
            if getattr(part, key, value) != value:
                setattr(part, key, value)
    for part in _parts(config):
        if callable(check := getattr(part, "validate", None)):
            with library_errors(ConfigError, f"{file} has a value that cannot be used", _CORRECT):
                check()


def refuse_unsavable(model: nn.Module, path: str | Path) -> None:
    """Write a model's settings once without its weights: a run must not find at its end that they cannot be.

    Raises:
        ConfigError: transformers refuses to save them.
    """
    inner: Any = base_model(model)
    if not isinstance(getattr(inner, "config", None), PretrainedConfig):
        return
    with (
        TemporaryDirectory() as folder,
        library_errors(ConfigError, f"a model with the config.json of {path} could be trained and not saved", _CORRECT),
    ):
        copy.deepcopy(inner.config).save_pretrained(folder)


@contextmanager
def warn_if_it_works() -> Iterator[None]:
    """What transformers logs inside is kept back, and shown when the block ends well: before an error of ours it would
    be pages about the same."""
    kept: list[tuple[logging.Handler, logging.LogRecord]] = []
    removers = []
    for handler in logging.getLogger("transformers").handlers:

        def keep(record: logging.LogRecord, handler: logging.Handler = handler) -> bool:
            kept.append((handler, record))
            return False

        handler.addFilter(keep)
        removers.append((handler, keep))
    works = False
    try:
        yield
        works = True
    finally:
        for handler, keep in removers:
            handler.removeFilter(keep)
        if works:
            for handler, record in kept:
                handler.handle(record)


def _objects(config: Mapping[str, Any], place: str = "") -> Iterator[tuple[Mapping[str, Any], str]]:
    """The config and the configs of parts in it, each with what its keys begin with."""
    yield config, place
    for key, value in config.items():
        if isinstance(value, Mapping) and (key.endswith("_config") or "model_type" in value):
            yield from _objects(value, f"{place}{key}.")


def _parts(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    """A config and those inside it."""
    yield config
    for value in list(vars(config).values()):
        if isinstance(value, PretrainedConfig):
            yield from _parts(value)
