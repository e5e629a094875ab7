"""Settings that ``mmpref plan --fit`` found, as a command line and as a recipe file."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mmpref.errors import ConfigError
from mmpref.files.locking import only_writer
from mmpref.files.writing import write_text
from mmpref.planning.fit import Fitted
from mmpref.planning.gpus import GIB
from mmpref.recipe.loading import dump_recipe, load_recipe
from mmpref.recipe.sections import Recipe
from mmpref.version import __version__


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitting:
    """A search for settings, from what was typed to what was found.

    Attributes:
        recipe: the file or the name that it started from.
        given: overrides that were given with it.
        card: as it was typed: its memory or its name.
        found: the settings.
        complete: fills in what the loss and a start adapter leave to their defaults.
    """

    recipe: str
    given: tuple[str, ...]
    card: str
    found: Fitted
    complete: Callable[[Recipe], Recipe]

    def lines(self) -> Iterator[str]:
        """What was found, for the terminal."""
        if self.found.overrides:
            yield f"settings for {self.card}: {' '.join(self.found.overrides)}"
        else:
            yield f"settings for {self.card}: the recipe as it is"
        yield f"  {shlex.join(['mmpref', 'train', self.recipe, *self.given, *self.found.overrides])}"
        for why in self.found.other_result:
            yield f"  this trains another model than the recipe as it is: {why}"

    def text(self, file: Path) -> str:
        """A complete recipe, which begins as the shipped ones do: command, memory, result, and where it is from.

        Raises:
            ConfigError: the settings contradict what the recipe says elsewhere, with what to write.
        """
        loaded = load_recipe(self.recipe, [*self.given, *self.found.overrides])
        plan, shape = self.found.plan, self.found.plan.shape
        made_by = ["mmpref", "plan", self.recipe, *self.given, "--fit", self.card, "--write", str(file)]
        head = [
            f"{self.recipe} with settings for {self.card}.",
            f"  {shlex.join(['mmpref', 'train', str(file)])}",
            f"Memory: {plan.needed / GIB:.1f} GiB estimated by mmpref plan ({shape.in_words}); not measured.",
            "Result: not measured.",
            "",
            f"Made by mmpref {__version__}: {shlex.join(made_by)}",
            f"Changed: {' '.join(self.found.overrides) or 'nothing'}",
            *(f"Trains another model than that recipe: {why}." for why in self.found.other_result),
        ]
        comment = "".join(f"# {line}".rstrip() + "\n" for line in head)
        return comment + "\n" + dump_recipe(self.complete(loaded))


def refuse_existing(file: Path) -> None:
    """Raises ConfigError where there is something of that name already."""
    if os.path.lexists(file):
        raise ConfigError(f"{file} is there already; choose another name for --write")


def write_recipe(fitting: Fitting, file: Path) -> None:
    """Write a new recipe file atomically.

    Raises:
        ConfigError: there is a file of that name, or the settings contradict the recipe.
        CheckpointError: it cannot be written.
    """
    text = fitting.text(file)
    with only_writer(file, "choose another --write"):
        refuse_existing(file)
        write_text(file, text)
