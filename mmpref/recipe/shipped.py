"""Recipes by name: the shipped ones, and files."""

from __future__ import annotations

import difflib
import os
import re
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from mmpref.errors import ConfigError
from mmpref.files.reading import read_text
from mmpref.yaml_text import MOST_BYTES, short


def _recipe_folder() -> Traversable:
    return resources.files("mmpref").joinpath("recipes")


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with mmpref."""
    names = (entry.name for entry in _recipe_folder().iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def read_recipe_text(recipe: str | Path) -> tuple[str, str]:
    """The text of a recipe and the name to use in messages: a file's path, or a shipped recipe's name."""
    path = Path(recipe)
    if os.path.lexists(path) and not (path.is_dir() and str(recipe) in shipped_recipes()):
        return read_text(path, ConfigError, "the recipe", most=MOST_BYTES), str(path)
    if not str(recipe):
        raise ConfigError("the recipe is empty; give a file, or a name that mmpref recipes lists")
    name = str(recipe).removesuffix(".yaml")
    shipped = shipped_recipes()
    if name in shipped:
        return _recipe_folder().joinpath(f"{name}.yaml").read_text(encoding="utf-8"), f"recipe {name}"
    former = re.fullmatch(r"(.+_qlora)_([0-9]+)gb", path.name.removesuffix(".yaml"))
    if former is not None and former[1] in shipped:
        raise ConfigError(
            f"recipe '{name}' is {former[1]} now, for cards of any size; find its settings for that card with "
            f"`mmpref plan {former[1]} --fit {former[2]}GiB`, which writes them as a recipe with --write FILE"
        )
    near = difflib.get_close_matches(path.name.removesuffix(".yaml"), shipped, n=3)
    others = f" (or {', '.join(map(repr, near[1:]))})" if near[1:] else ""
    hint = f"did you mean '{near[0]}'?{others} " if near else ""
    raise ConfigError(
        f"no recipe file '{short(str(recipe))}', and no shipped recipe of that name; {hint}mmpref recipes lists them"
    )
