"""A recipe read from YAML with changes over it, checked, and written out again.

YAML is read by the rules of YAML 1.2: ``5e-7`` is a number, and ``yes``, ``no``, ``on``, ``None`` are plain text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mmpref.errors import ConfigError
from mmpref.recipe.key_rules import Cure, Problem
from mmpref.recipe.keys import explain
from mmpref.recipe.overrides import Grammar, Place, as_texts, layer_of, merge
from mmpref.recipe.sections import LossSection, Recipe
from mmpref.recipe.shipped import read_recipe_text
from mmpref.recipe.unused_keys import After, problems_of, without_left_over
from mmpref.yaml_text import parse_yaml

_MOST_PROBLEMS = 8
"""That one error lists."""
_GRAMMAR = Grammar(
    names={("loss",): "name"},
    switches={
        *(("loss", key) for key in ("uni", "ada", "image", "anchor", "kto", "token_weights")),
        ("train", "samples"),
    },
    counts={("train", "samples"): "count"},
)


def load_recipe(
    recipe: str | Path, overrides: Sequence[str] | Mapping[str, Any] = (), *, names: Mapping[str, str] | None = None
) -> Recipe:
    """Read a recipe (a file, or the name of a shipped one) and put changes over it.

    Args:
        recipe: the file or the name.
        overrides: ``key.sub=value`` texts, or a nested mapping as a second file would hold. All of them are one layer
            (:mod:`mmpref.recipe.overrides`): ``loss.name`` replaces the whole loss but for keys that are given with it.
        names: what stands for ``{name}`` in the texts of the file.

    Raises:
        ConfigError: unknown or mistyped keys (all of them, each by its dotted name), missing files, broken YAML, keys
            that would be ignored.
    """
    text, where = read_recipe_text(recipe)
    tree = parse_yaml(text, where=where)
    if not isinstance(tree, dict):
        raise ConfigError(f"{where} must be a mapping of sections, got {type(tree).__name__}")
    tree = _counts_as_sections(_named(tree, names or {}))
    merged, changed = merge(tree, layer_of(overrides, tree, _GRAMMAR), _GRAMMAR)

    def after(cure: Cure) -> list[Problem]:
        layer = layer_of([*as_texts(overrides), *cure.add], tree, _GRAMMAR, leave_out=cure.leave_out)
        cured, also = merge(tree, layer, _GRAMMAR)
        return problems_of(Recipe.model_validate(cured, context={"unchecked": True}), later=also)

    return build_recipe(merged, where=where, later=changed, after=after)


def with_names(text: str, names: Mapping[str, str]) -> str:
    """The text with each ``{name}`` replaced by what it stands for; braces in a value stay as they are."""
    if not names or "{" not in text:
        return text
    return re.sub("|".join(re.escape(f"{{{name}}}") for name in names), lambda found: names[found[0][1:-1]], text)


def _counts_as_sections(tree: Mapping[str, Any], place: Place = ()) -> dict[str, Any]:
    """A recipe whose sections are sections where a number stands for one, so that changes can be made in them."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        at, count = _GRAMMAR.counted((*place, str(key)), value)
        if len(at) > len(place) + 1:
            found[key] = {at[-1]: count}
        else:
            found[key] = _counts_as_sections(value, at) if isinstance(value, Mapping) else value
    return found


def _named(node: Any, names: Mapping[str, str]) -> Any:
    """The tree with ``{name}`` in its texts replaced by what it stands for."""
    if isinstance(node, str):
        return with_names(node, names)
    if isinstance(node, dict):
        return {key: _named(value, names) for key, value in node.items()}
    return [_named(value, names) for value in node] if isinstance(node, list) else node


def build_recipe(
    tree: Mapping[str, Any], *, where: str, later: Mapping[str, bool] | None = None, after: After | None = None
) -> Recipe:
    """A nested mapping as a checked recipe; every problem is listed by its dotted key.

    Args:
        tree: the mapping.
        where: names it in errors.
        later: dotted keys that were changed last, and whether they had a value before
            (:func:`mmpref.recipe.unused_keys.refuse_left_over`).
        after: what a cure leaves wrong, where that can be tried.
    """
    try:
        return Recipe.model_validate(tree, context={"later": later, "after": after})
    except ValidationError as err:
        problems = list(dict.fromkeys(explain(problem, Recipe) for problem in err.errors()[:_MOST_PROBLEMS]))
        more = err.error_count() - _MOST_PROBLEMS
        raise ConfigError(f"{where}: " + "; ".join(problems) + (f"; and {more} more" if more > 0 else "")) from None
    except ConfigError as err:
        raise ConfigError(f"{where}: {err}") from None


def with_loss(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """The recipe with another loss section, for example every key of its own (``mmpref.losses.resolve``)."""
    return recipe.model_copy(update={"loss": LossSection.model_validate(settings)})


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML that :func:`load_recipe` reads back as an equal one: every key that does something in it."""
    tree = without_left_over(recipe, recipe.model_dump(mode="json"))
    tree["loss"] = recipe.loss.model_dump(mode="json", exclude_unset=True)
    return dump_tree(tree)


def dump_tree(tree: Mapping[str, Any]) -> str:
    """A nested mapping as YAML that :func:`mmpref.yaml_text.parse_yaml` reads back."""
    return yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True, width=120)
