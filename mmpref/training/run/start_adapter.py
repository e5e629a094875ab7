"""Training that starts from an adapter (``adapter.path``): the recipe takes rank, alpha and parts from that adapter."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError
from mmpref.models.adapters.saved import AdapterFolder, adapter_fingerprint, read_adapter
from mmpref.models.find_config import find_config
from mmpref.models.load import family_of_config, family_with_parts, load_config
from mmpref.models.tuning import PARTS
from mmpref.recipe.sections import Recipe
from mmpref.rundir.folder import model_of
from mmpref.training.run.start_model import model_fingerprint

_ITS_OWN = ("rank", "alpha", "use_rslora", "use_dora")


def with_start_adapter(recipe: Recipe) -> Recipe:
    """The recipe with rank, alpha, dropout and the tuned parts of the adapter that it starts from.

    A recipe without ``adapter.path`` is returned as it is, and a second call changes nothing. No weight is read.

    Raises:
        ConfigError: there is no such adapter, it is not for this model, or a key that the recipe gives contradicts it
            or would have no effect.
    """
    if recipe.adapter.path is None:
        return recipe
    found = start_adapter(recipe)
    _refuse_other_model(recipe, found)
    section = recipe.adapter
    for key in _ITS_OWN:
        theirs = getattr(found, key)
        if key in section.model_fields_set and getattr(section, key) != theirs:
            raise ConfigError(
                f"adapter.{key} is {getattr(section, key)!r}, and the adapter in {section.path} has {theirs!r}: "
                f"training goes on with the adapter as it is; write `adapter.{key}={json.dumps(theirs)}`"
            )
    own: dict[str, Any] = {key: getattr(found, key) for key in _ITS_OWN}
    if "dropout" not in section.model_fields_set:
        own["dropout"] = found.dropout
    tuned = _tuned(recipe, found)
    for part in PARTS:
        if getattr(recipe.train.learning_rates, part) is not None and tuned[part] == "freeze":
            none = found.on(part) == "freeze"
            why = f"the adapter in {section.path} is not on it" if none else f"tune.{part} is freeze"
            raise ConfigError(
                f"train.learning_rates.{part} is given, and nothing in {part} trains ({why}); write "
                f"`train.learning_rates.{part}=null`"
            )
    return recipe.model_copy(
        update={
            "adapter": section.model_copy(update=own),
            "tune": recipe.tune.model_copy(update=tuned),
        }
    )


def start_adapter(recipe: Recipe) -> AdapterFolder:
    """The adapter that a recipe with ``adapter.path`` starts from.

    Raises:
        ConfigError: there is none, or it cannot be trained further.
    """
    config, _ = find_config(recipe.model.path)
    family = family_of_config(config)
    if family.finds_parts:
        family = family_with_parts(config, recipe.model.parts)
    return read_adapter(adapter_folder(recipe), family)


def adapter_folder(recipe: Recipe) -> Path:
    """The folder of the adapter: ``adapter.path`` itself, or the result of the run that it names.

    Raises:
        ConfigError: a run that has no result yet, or whose result is a whole model.
    """
    path = recipe.adapter.path
    assert path is not None
    folder = Path(model_of(path))
    if (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        instead = shlex.join(["adapter={kind: none}", f"model.path={folder}"])
        raise ConfigError(f"adapter.path {path} is a whole model and no adapter; write `{instead}`")
    return folder


def start_facts(recipe: Recipe) -> dict[str, str]:
    """What identifies the start adapter; empty without one."""
    return {} if recipe.adapter.path is None else {"adapter.files": adapter_fingerprint(adapter_folder(recipe))}


def describe_start(recipe: Recipe) -> str:
    """One line for the terminal about the adapter that training starts from."""
    found = start_adapter(recipe)
    line = f"starts from the adapter in {recipe.adapter.path} ({found.describe()})"
    if found.base is not None and not _same_model(found.base, recipe.model.path):
        line += (
            f"; it was trained on {found.base}, and this run's model is {recipe.model.path}: their shapes agree, and "
            "whether their weights do is not known"
        )
    return line


def _tuned(recipe: Recipe, found: AdapterFolder) -> dict[str, str]:
    """Each part as the adapter has it; a part that the recipe freezes stays as the adapter has it."""
    tuned: dict[str, str] = {}
    for part in PARTS:
        theirs = found.on(part)
        asked = getattr(recipe.tune, part) if part in recipe.tune.model_fields_set else theirs
        if asked not in (theirs, "freeze"):
            has = {"lora": "LoRA", "full": "whole weights", "freeze": "nothing"}[theirs]
            raise ConfigError(
                f"tune.{part} is {asked}, and the adapter in {recipe.adapter.path} has {has} there; write "
                f"`tune.{part}={theirs}` to train what it has"
            )
        tuned[part] = asked
    return tuned


def _refuse_other_model(recipe: Recipe, found: AdapterFolder) -> None:
    """Refuse an adapter of another architecture, before any weight is loaded."""
    if found.base is None or not (Path(found.base) / "config.json").is_file():
        return
    ours, theirs = find_config(recipe.model.path)[0], load_config(found.base)
    if ours.model_type != theirs.model_type:
        raise ConfigError(
            f"the adapter in {recipe.adapter.path} is for {found.base}, a '{theirs.model_type}' model, and model.path "
            f"{recipe.model.path} is a '{ours.model_type}' model; write `{shlex.join([f'model.path={found.base}'])}`"
        )


def _same_model(one: str, other: str) -> bool:
    if one == other:
        return True
    both_here = Path(one).is_dir() and Path(other).is_dir()
    return both_here and model_fingerprint(one) == model_fingerprint(other)
