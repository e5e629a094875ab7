"""A file of another tool's settings as a recipe: whose it is, what becomes of its keys, and the text of both."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from mmpref.errors import ConfigError
from mmpref.migration import llama_factory, ms_swift, ms_swift_table, trl, trl_table
from mmpref.migration.contract import Draft, Fate, Finding, Key, Migration, nested
from mmpref.migration.reading import read_settings
from mmpref.recipe.key_rules import BELONGS
from mmpref.recipe.loading import build_recipe, dump_tree
from mmpref.recipe.sections import Recipe
from mmpref.version import __version__
from mmpref.yaml_text import did_you_mean, short


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """Another tool, as a fact: its keys, and the function that reads those which need more than a row."""

    name: str
    table: Mapping[str, Key]
    migrate: Callable[[Draft], None]


TOOLS: Final[Mapping[str, Tool]] = {
    "llama_factory": Tool(name=llama_factory.NAME, table=llama_factory.TABLE, migrate=llama_factory.migrate),
    "trl": Tool(name=trl.NAME, table=trl_table.TABLE, migrate=trl.migrate),
    "ms_swift": Tool(name=ms_swift.NAME, table=ms_swift_table.TABLE, migrate=ms_swift.migrate),
}
"""``--format`` -> the tool."""


def migrate(path: Path, tool: str | None = None) -> Migration:
    """What a config file of another tool becomes.

    Args:
        path: the file.
        tool: whose it is, a key of ``TOOLS``; None tells it from the command or from the keys.

    Raises:
        ConfigError: a file that cannot be read, that could be of several tools or of none, a value of the wrong kind,
            or a task that is no training on preferences.
    """
    if tool is not None and tool not in TOOLS:
        raise ConfigError(f"--format {tool} is not known{did_you_mean(tool, [*TOOLS])}; known: {', '.join(TOOLS)}")
    settings = read_settings(path)
    chosen = TOOLS[tool or settings.tool or recognised(settings.values, str(path))]
    return migrated(settings.values, chosen, str(path))


def migrated(values: Mapping[str, Any], tool: Tool, where: str) -> Migration:
    """What settings of a tool become; see :func:`migrate`."""
    draft = Draft(values, tool.table, tool=tool.name, where=where)
    tool.migrate(draft)
    draft.by_the_table()
    take_back_idle(draft)
    found = draft.finish()
    build_recipe(found.tree, where=f"the recipe from {where}")
    return found


def recognised(values: Mapping[str, Any], where: str) -> str:
    """The tool that has these keys: one of them has keys here that no other has.

    Raises:
        ConfigError: several have, or none.
    """
    own: dict[str, list[str]] = {}
    for name, tool in TOOLS.items():
        others = {key for other, entry in TOOLS.items() if other != name for key in entry.table}
        own[name] = [key for key in values if key in tool.table and key not in others]
    telling = [name for name, keys in own.items() if keys]
    if len(telling) == 1:
        return telling[0]
    known = ", ".join(TOOLS)
    if not telling:
        raise ConfigError(f"{where}: no key tells whose settings these are; add --format, one of {known}")
    said = "; ".join(f"{name} has {', '.join(own[name][:3])}" for name in telling)
    raise ConfigError(f"{where} could be of several tools ({said}); add --format, one of {known}")


def take_back_idle(draft: Draft) -> None:
    """Take back keys of ours that would do nothing beside the others, as a recipe with them would be refused."""
    for _ in BELONGS:
        recipe = _unchecked(draft.values, draft.where)
        idle = [(key, rule.to) for rule in BELONGS if not rule.holds(recipe) for key in rule.keys]
        idle = [(key, to) for key, to in idle if key in draft.values]
        for key, to in idle:
            draft.take_back(key, f"it belongs to {to}")
        if not idle:
            return


def _unchecked(values: Mapping[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(nested(values), context={"unchecked": True})
    except ValidationError:
        build_recipe(nested(values), where=f"the recipe from {where}")  # says what is wrong, by our keys
        raise


def lines_of(found: Migration, command: str | None = None) -> Iterator[str]:
    """The account for a reader: what to set, what is not carried, what means something else, what was carried."""
    yield f"From {found.source} ({found.tool}); made by mmpref {__version__}."
    if command is not None:
        yield f"  {command}"
    if found.to_set:
        yield "To set before it trains:"
        yield from (f"- {text}" for text in found.to_set)
    for title, wanted in (
        ("Not carried, and it may change what is learned:", lambda one: _is_lost(one) and one.matters),
        ("Unknown:", lambda one: one.fate is Fate.UNKNOWN),
        ("Carried, and it means something else here:", lambda one: one.fate is Fate.CARRIED and one.note),
        ("Not carried, and nothing is learned differently:", lambda one: _is_lost(one) and not one.matters),
        ("Nothing to carry, it is so here:", lambda one: one.fate is Fate.SAME),
        ("Carried:", lambda one: one.fate is Fate.CARRIED and not one.note),
    ):
        if chosen := [one for one in found.findings if wanted(one)]:
            yield title
            yield from (f"- {_line(one)}" for one in chosen)
    if found.assumed:
        yield f"Written out, as {found.tool} has them where nothing is said:"
        yield from (
            f"- {one.ours}: {_shown(one.value)}" + (f" ({one.note})" if one.note else "") for one in found.assumed
        )
    kinds = [sum(one.fate is fate for one in found.findings) for fate in Fate]
    said = ", ".join(f"{number} {fate}" for number, fate in zip(kinds, Fate, strict=True))
    yield f"{len(found.findings)} keys read: {said}."


def _is_lost(finding: Finding) -> bool:
    return finding.fate is Fate.NOT_CARRIED


def _line(finding: Finding) -> str:
    ours = ", ".join(f"{key}: {_shown(value)}" for key, value in finding.ours.items())
    start = f"{finding.key}: {_shown(finding.value)}"
    return start + (f" -> {ours}" if ours else "") + (f" ({finding.note})" if finding.note else "")


def _shown(value: Any) -> str:
    return short(value if isinstance(value, str) else json.dumps(value, default=str))


def recipe_text(found: Migration, file: str = "recipe.yaml") -> str:
    """The recipe as YAML, with the account as its header.

    Args:
        found: what the file became.
        file: the name that its command is written with.
    """
    launch = "" if found.launch is None else f" --launch {found.launch}"
    processes = "" if found.processes is None or not launch else f" --processes {found.processes}"
    head = [
        *lines_of(found, f"mmpref train {file}{launch}{processes}"),
        "Memory: see mmpref plan.",
        "Result: not measured.",
    ]
    return (
        "".join(f"# {line}".rstrip() + "\n" for line in head)
        + "\n"
        + dump_tree({section: found.tree[section] for section in Recipe.model_fields if section in found.tree})
    )
