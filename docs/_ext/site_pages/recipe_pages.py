"""Every key that a recipe may have, and every shipped recipe."""

from __future__ import annotations

import itertools
import re
import textwrap
from dataclasses import dataclass

from mmpref.cli.recipes import described_keys
from mmpref.recipe.keys import Key
from mmpref.recipe.shipped import read_recipe_text, shipped_recipes
from site_pages.markdown import code, fenced, label, page, prose, table

_SECTIONS = {
    "": "The top of the file",
    "model": "The model",
    "data": "The data",
    "processing": "From pairs to tokens",
    "loss": "The loss",
    "reference": "The reference model",
    "adapter": "Adapters",
    "tune": "Which parts learn",
    "train": "Training",
    "evals[]": "Benchmarks after training",
    "sample": "Rounds of on-policy pairs",
}


def pages() -> dict[str, str]:
    """File below ``docs/`` -> its text."""
    return {"reference/recipe_keys.md": recipe_keys(), "reference/recipes.md": recipes()}


def key_anchor(name: str) -> str:
    """The anchor of a key on the page."""
    return "key-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def recipe_keys() -> str:
    """The page of all keys, section by section in the order of the file."""
    keys = described_keys()
    parts = [
        f"A recipe is a YAML file of these {len(keys)} keys. Any of them can be changed on the command line by its "
        "dotted name (`train.learning_rate=1e-5`); an unknown one is refused with the nearest known name. The same "
        "list in a terminal: `mmpref config --keys`, or `mmpref config --keys loss.uni` for one section. How recipes "
        "are read and combined: [recipes](../recipes.md).",
        "`NAME` stands for a name that the recipe gives, and `[]` for a place in a list. A *research switch* changes "
        "what a method is; it is there for [studies of the losses](../research_switches.md).",
    ]
    sections: dict[str, list[Key]] = {}
    for key in keys:
        sections.setdefault(_section(key), []).append(key)
    for section in sorted(sections, key=lambda name: list(sections).index(name.partition(".")[0])):
        group = sections[section]
        title = f"`{section}`" if section else _SECTIONS[""]
        if section and "." not in section and section in _SECTIONS:
            title += f": {_SECTIONS[section][0].lower()}{_SECTIONS[section][1:]}"
        level = "##" if "." not in section else "###"
        parts += [f"{level} {title}\n", "\n".join(map(_entry, group))]
    return page("Recipe keys", *parts)


def _section(key: Key) -> str:
    return key.name.rpartition(".")[0]


def _entry(key: Key) -> str:
    notes = f"{code(key.takes)} · default {code(key.default)}" if key.default != "required" else code(key.takes)
    if key.default == "required":
        notes += " · **required**"
    if key.research:
        notes += " · *research switch*"
    meaning = prose(key.meaning)
    lines = [f"{label(key_anchor(key.name))}{code(key.name)}", f": {notes}"]
    return "\n".join([*lines, *([textwrap.indent(f"\n{meaning}", "  ")] if meaning else []), ""])


def recipes() -> str:
    """The page of the shipped recipes: what each is for, its command, memory and result, and the file."""
    names = shipped_recipes()
    rows, parts = [], []
    for name in names:
        text = read_recipe_text(name)[0]
        head = header(text)
        rows.append([f"[{code(name)}](#{name.replace('_', '-')})", prose(head.about)])
        parts += [f"{label(name.replace('_', '-'))}## {code(name)}\n", prose(head.about) + "\n"]
        parts += [
            fenced("\n".join(head.commands), "bash"),
            f"- Memory: {prose(head.memory)}\n- Result: {prose(head.result)}\n",
        ]
        parts.append(
            f"<details><summary>The recipe <code>{name}</code></summary>\n\n{fenced(text, 'yaml')}\n</details>\n"
        )
    intro = (
        f"The {len(names)} recipes that come with mmpref: `mmpref train NAME`. One recipe a model and method; "
        '`mmpref plan NAME --fit "RTX 4090"` finds its settings for a card. In a terminal: `mmpref recipes`, and '
        "`mmpref recipes NAME` for one of them. What their keys mean: [recipe keys](recipe_keys.md)."
    )
    return page("Shipped recipes", intro, table(["recipe", "what it is for"], rows), *parts)


@dataclass(frozen=True, slots=True)
class Header:
    """What the comment at the top of a recipe says before its sources."""

    about: str
    commands: tuple[str, ...]
    memory: str
    result: str


def header(text: str) -> Header:
    """The header of a recipe; its later paragraphs stay in the file."""
    lines = [line[1:] for line in itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())]
    found: dict[str, list[str]] = {"about": [], "Memory": [], "Result": []}
    commands, current = [], "about"
    for line in lines:
        fact = re.match(r" (Memory|Result): (.*)", line)
        if fact:
            current = fact[1]
            found[current].append(fact[2])
        elif re.match(r" {3}mmpref ", line) and current == "about":
            commands.append(line.strip())
        elif not line.strip():
            current = ""
        elif current:
            found[current].append(line.strip())
    about, memory, result = (" ".join(found[name]) for name in ("about", "Memory", "Result"))
    return Header(about=about, commands=tuple(commands), memory=memory, result=result)
