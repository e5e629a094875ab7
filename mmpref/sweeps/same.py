"""Whether two recipes are the same training, and what differs where they are not."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Mapping
from typing import Any

from mmpref.errors import ConfigError
from mmpref.losses import resolve
from mmpref.losses.settings import idle_keys
from mmpref.recipe.loading import load_recipe
from mmpref.recipe.sections import Recipe
from mmpref.recipe.unused_keys import without_left_over
from mmpref.rundir.folder import RunDir
from mmpref.training.run.facts import flatten

Flat = dict[str, Any]

_WHERE = ("output", "loss.name")
"""Keys that say where a run goes and what it is called."""
_HOW = (
    "reference.kind", "reference.cache", "processing.feature_cache", "processing.pixel_cache_mib", "preflight",
    "train.dataloader_num_workers", "train.report_to", "train.samples", "train.eval_image_lift",
)  # fmt: skip
"""Keys that say how numbers are come by, not which."""
_BESIDE = ("evals", "sample")
"""Sections that a training does not read."""
_LEFT_TO_THE_MACHINE = ("train.bf16",)
"""Keys that are null until a run settles them."""


def refuse_equal_cells(recipes: Mapping[str, Recipe]) -> None:
    """Refuse two cells that would train and be evaluated the same.

    Args:
        recipes: name of a cell -> its recipe.

    Raises:
        ConfigError: two are equal but for their output and for keys that do nothing in them, which are named.
    """
    seen: dict[str, str] = {}
    for name, recipe in recipes.items():
        text = json.dumps(_flat(recipe), sort_keys=True, default=str)
        if (other := seen.setdefault(text, name)) != name:
            idle = _idle_differences(recipes[other], recipe)
            why = f" ({'; '.join(idle)})" if idle else ""
            raise ConfigError(
                f"cells {other} and {name} are the same training: what differs between them does nothing{why}; leave "
                "one of the values out, or give the arms that do not read it a sweep of their own"
            )


def differences_from_run(recipe: Recipe, run: RunDir) -> list[str]:
    """What a run was begun with and the recipe says otherwise, as ``key: A then, B now``; empty where all that moves
    weights is the same.

    Raises:
        ConfigError: the recipe of the run cannot be read.
    """
    then, now = _flat(load_recipe(run.recipe_file)), _flat(recipe)
    left_open = {key for key in _LEFT_TO_THE_MACHINE if now.get(key) is None}
    if isinstance(now.get("loss.uni.tau_good"), str):  # a quantile, which the run has written as a number
        left_open.add("loss.uni.tau_good")
    if recipe.adapter.path is not None:  # the run has written what that adapter is
        left_open |= {key for key in {*then, *now} if key.startswith(("adapter.", "tune.")) and key != "adapter.path"}
    ignored = {*_BESIDE, *_HOW, *left_open}
    return [
        f"{key}: {_brief(then.get(key))} then, {_brief(now.get(key))} now"
        for key in sorted({*then, *now})
        if not _is_below(key, ignored) and then.get(key) != now.get(key)
    ]


def _is_below(key: str, sections: Collection[str]) -> bool:
    return any(f"{key}.".startswith(f"{section}.") for section in sections)


def _flat(recipe: Recipe) -> Flat:
    """Every key that does something, by its dotted name."""
    tree = without_left_over(recipe, recipe.model_dump(mode="json"))
    settings = _resolved(recipe)
    tree["loss"] = settings
    found = flatten(tree)
    for key in idle_keys(settings):
        found.pop(f"loss.{key}", None)
    if recipe.train.max_steps > 0:
        found.pop("train.num_train_epochs", None)
    return {key: value for key, value in found.items() if key not in _WHERE}


def _resolved(recipe: Recipe) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the training warns
        return resolve(recipe.loss.as_mapping())


def _idle_differences(one: Recipe, other: Recipe) -> list[str]:
    """The keys in which the two losses differ and that do nothing, each with the reason."""
    first, second = flatten({"loss": _resolved(one)}), flatten({"loss": _resolved(other)})
    idle = {f"loss.{key}": why for key, why in idle_keys(_resolved(other)).items()}
    return [f"{key} does nothing with {why}" for key, why in idle.items() if first.get(key) != second.get(key)]


def _brief(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:80]}..."
