"""The cells of a sweep: every combination of the values of its grid, for every arm.

An axis is a recipe key with its values (``train.learning_rate=3e-5,6e-5``). An arm is a name with changes to the
recipe that belong together (``Uni-DPO: loss.name=uni_dpo loss.uni.tau_good=2.5``): methods that are compared need
other keys each. A text of the recipe or of a change may name the key of an axis, or ``arm``, in braces, and gets the
cell's value there: ``model.path: demos/seed_{seed}/runs/habit/model``. An axis whose key is not the recipe's is a
name of that kind only (``noise=0,20,40`` with ``data.train=pairs_{noise}.jsonl``).
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmpref.errors import ConfigError
from mmpref.recipe.keys import described
from mmpref.recipe.loading import load_recipe, with_names
from mmpref.recipe.sections import Recipe
from mmpref.yaml_text import did_you_mean, short

ARM = "arm"
_MOST_CELLS = 10_000
_LONGEST_NAME = 120  # characters of a cell's folder; checkpoints and results below it have long names of their own
_CLOSING = {"[": "]", "{": "}", "(": ")", '"': '"', "'": "'"}
_IN_BRACES = re.compile(r"\{([\w.-]+)\}")
_KEY = re.compile(r"[\w.-]+")
_QUOTES = "\"'"
_BEFORE_A_VALUE = " =,:[{("
"""A quotation mark behind one of these, or first of all, opens a text; elsewhere it is an apostrophe."""
_OF_FILES = (".json", ".yaml")
"""Endings of the files beside the folders of cells."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A recipe key and the values that it takes, as they were written."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Arm:
    """A name and the changes to the recipe that it stands for."""

    name: str
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One training.

    Attributes:
        name: of its folder.
        arm: name of its arm; "" where the sweep has none.
        values: key of each axis -> value as it was written.
        changes: to the recipe, as ``key=value``.
    """

    name: str
    arm: str
    values: Mapping[str, str]
    changes: tuple[str, ...]

    @property
    def names(self) -> dict[str, str]:
        """What stands for a name in braces."""
        return {**self.values, **({ARM: self.arm} if self.arm else {})}

    def recipe(self, recipe: str | Path, output: Path) -> Recipe:
        """The recipe with this cell's changes.

        Raises:
            ConfigError: a key or a value is not the recipe's; the message names the cell.
        """
        try:
            return load_recipe(recipe, [*self.changes, f"output={output}"], names=self.names)
        except ConfigError as err:
            raise ConfigError(f"cell {self.name}: {err}") from err


def parse_axis(text: str) -> Axis:
    """``key=a,b,c``; commas in brackets and quotes do not divide.

    Raises:
        ConfigError: there is no key or no value, or a value stands twice.
    """
    key, equals, given = text.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"--grid {text}: write KEY=VALUE,VALUE,... as in --grid train.learning_rate=3e-5,6e-5")
    values = tuple(value.strip() for value in _divided(given, f"--grid {text}"))
    if not all(values):
        raise ConfigError(f"--grid {text}: one of the values of {key} is empty")
    if double := sorted({value for value in values if values.count(value) > 1}):
        raise ConfigError(f"--grid {text}: {double[0]} is given twice; leave one out")
    return Axis(key, values)


def parse_seeds(text: str) -> Axis:
    """``0,1,2``: an axis ``seed`` of whole numbers.

    Raises:
        ConfigError: one of them is none, or stands twice.
    """
    if bad := [part for part in text.split(",") if not re.fullmatch(r"\s*[0-9]{1,10}\s*", part)]:
        raise ConfigError(f"--seeds {text}: '{bad[0].strip()}' is no seed; write whole numbers, as --seeds 0,1,2")
    return parse_axis(f"seed={text}")


def parse_arm(text: str) -> Arm:
    """``NAME: key=value key=value``; a name alone is a ``loss.name``.

    Raises:
        ConfigError: the name is empty, or a change is none.
    """
    name, colon, changes = text.partition(":")
    name = name.strip()
    if not name:
        raise ConfigError(f"--arm {text}: write NAME: KEY=VALUE ..., as in --arm 'DPO: loss.name=dpo loss.beta=0.1'")
    if not colon:
        return Arm(name, (f"loss.name={name}",))
    words = tuple(_divided(changes, f"--arm {text}", at=" "))
    given = tuple(word for word in words if word)
    if bad := [word for word in given if "=" not in word]:
        raise ConfigError(f"--arm {text}: '{bad[0]}' is no KEY=VALUE")
    return Arm(name, given)


def cells_of(changes: Sequence[str], arms: Sequence[Arm], axes: Sequence[Axis]) -> tuple[Cell, ...]:
    """All cells: arms outermost, then the axes in the order given, the last one changing fastest.

    Raises:
        ConfigError: there is nothing to vary, a key is varied twice or both changed and varied, two arms have one name,
            or there are too many cells.
    """
    _refuse_ambiguous(changes, arms, axes)
    count = len(arms or [None])
    for axis in axes:
        count *= len(axis.values)
    if count > _MOST_CELLS:
        raise ConfigError(f"this grid has {count:,} cells; {_MOST_CELLS:,} are the most: vary fewer keys at once")
    cells = []
    for arm in arms or [Arm("", ())]:
        for values in itertools.product(*(axis.values for axis in axes)):
            own = {axis.key: value for axis, value in zip(axes, values, strict=True)}
            filled = {**own, **({ARM: arm.name} if arm.name else {})}
            texts = (*changes, *arm.changes, *(f"{key}={value}" for key, value in own.items() if is_recipe_key(key)))
            cells.append(Cell(_name(arm.name, own), arm.name, own, tuple(with_names(text, filled) for text in texts)))
    return _with_own_names(cells)


def is_recipe_key(key: str) -> bool:
    """Whether an axis varies the recipe itself; else its key is only a name in braces."""
    return "." in key or key in Recipe.model_fields


def refuse_unused_names(axes: Sequence[Axis], texts: Sequence[str]) -> None:
    """Refuse an axis that is neither a recipe key nor named in braces anywhere.

    Args:
        texts: the recipe's text and all changes.

    Raises:
        ConfigError: there is one; the message has the nearest key.
    """
    for axis in axes:
        if not is_recipe_key(axis.key) and not any(f"{{{axis.key}}}" in text for text in texts):
            known = [key.name for key in described(Recipe)]
            deeper = [name for name in known if name.rpartition(".")[2] == axis.key]
            near = f", did you mean '{deeper[0]}'?" if deeper else did_you_mean(axis.key, known)
            raise ConfigError(
                f"--grid {axis.key}: unknown key{near}; a name of your own has to stand in braces in the recipe or a "
                f"change, as {{{axis.key}}} (mmpref config --keys lists the keys)"
            )


def unknown_names(texts: Sequence[str], known: Sequence[str]) -> list[str]:
    """What stands in braces and is nearly a known name, each with the one that is meant: ``{sed}`` for ``{seed}``."""
    found = dict.fromkeys(name for text in texts for name in _IN_BRACES.findall(text) if name not in known)
    hints = {name: did_you_mean(f"{name}", known) for name in found}
    return [f"{{{name}}} is the name of no axis{hint}" for name, hint in hints.items() if hint]


def _refuse_ambiguous(changes: Sequence[str], arms: Sequence[Arm], axes: Sequence[Axis]) -> None:
    if not arms and not axes:
        raise ConfigError("a sweep needs something to vary: --grid KEY=VALUE,VALUE,... or --arm 'NAME: KEY=VALUE ...'")
    keys = [axis.key for axis in axes]
    if double := sorted({key for key in keys if keys.count(key) > 1}):
        raise ConfigError(f"--grid {double[0]} is given twice; give all its values in one")
    names = [arm.name for arm in arms]
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two arms are called '{double[0]}'; give each a name of its own")
    if arms and ARM in keys:
        raise ConfigError(f"--grid {ARM}: that is the name of the arms; give the axis another name")
    if bad := [key for key in keys if not _KEY.fullmatch(key)]:
        raise ConfigError(f"--grid {short(bad[0])}: a key has letters, digits, _, - and dots; write it without others")
    fixed = {text.partition("=")[0].strip(): "the changes" for text in changes}
    fixed |= {text.partition("=")[0].strip(): f"arm '{arm.name}'" for arm in arms for text in arm.changes}
    if "output" in {*keys, *fixed}:
        raise ConfigError("output is the cell's own folder in a sweep; choose the sweep's folder with --out")
    for key in keys:
        if key in fixed:
            raise ConfigError(f"{key} is in --grid and in {fixed[key]}; leave it out of one of them")


def _divided(text: str, where: str, *, at: str = ",") -> list[str]:
    """The parts of a text between separators that are in no bracket and no quotation.

    Raises:
        ConfigError: a bracket or quotation is not closed.
    """
    parts: list[str] = []
    depth: list[str] = []
    start = 0
    for place, char in enumerate(text):
        in_quotes = bool(depth) and depth[-1] in _QUOTES
        if depth and char == depth[-1]:
            depth.pop()
        elif char in _QUOTES and not in_quotes:
            if place == start or text[place - 1] in _BEFORE_A_VALUE:
                depth.append(char)
        elif char in _CLOSING and not in_quotes:
            depth.append(_CLOSING[char])
        elif char == at and not depth:
            parts.append(text[start:place])
            start = place + 1
    if depth:
        raise ConfigError(f"{short(where)}: {depth[-1]} is missing; close every bracket and quotation")
    return [*parts, text[start:]]


def _name(arm: str, values: Mapping[str, str]) -> str:
    parts = [arm] if arm else []
    parts += [f"{key.rpartition('.')[2]}={value}" for key, value in values.items()]
    name = re.sub(r"[^A-Za-z0-9._=+-]+", "_", "\0".join(parts)).strip("._") or "cell"
    return f"{name}_" if name.lower().endswith(_OF_FILES) else name


def _with_own_names(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """Short names, and no two the same: a hash of what a cell changes stands behind those that would not be."""
    count = Counter(cell.name.lower() for cell in cells)  # some file systems do not tell capitals from small letters
    done = []
    for cell in cells:
        name = cell.name
        if count[name.lower()] > 1 or len(name) > _LONGEST_NAME:
            digest = hashlib.sha256("\n".join([cell.arm, *cell.changes, *cell.values.values()]).encode()).hexdigest()[
                :10
            ]
            name = f"{name[: _LONGEST_NAME - 11]}_{digest}"
        done.append(Cell(name, cell.arm, cell.values, cell.changes))
    return tuple(done)
