"""What can be wrong with a command line whichever command it is for: arguments that are empty or can be no path, former
names of options, ``--key value``."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Mapping, Sequence

import typer

from mmpref.errors import ConfigError

_OF_RECIPES = ("overrides", "options")
"""Parameters of commands that take ``key=value``: changes to a recipe, options of a benchmark."""
RENAMED: Mapping[str, Mapping[str, str]] = {
    "demo": {"--threads": "--cpu-threads"},
    "eval": {"--images": "--image-root", "--threads": "--cpu-threads"},
    "plan": {"--picture": "--image-size"},
    "report": {"--images": "--image-root"},
    "data check": {"--root": "--image-root"},
    "data verify": {"--root": "--image-root"},
    "data convert": {"--root": "--image-root", "--images": "--image-folder"},
    "data audit": {"--root": "--image-root", "--images": "--with-images", "--no-images": "--without-images"},
    "data view": {"--root": "--image-root"},
    "data fetch": {"--root": "--image-root"},
}
"""Command (``eval``, ``data check``) -> the former names of its options -> what they are called now."""


def refuse_empty(arguments: Sequence[str]) -> None:
    """Refuse an empty argument: as a path it would be the working directory.

    Raises:
        ConfigError: names the option, or the number of the argument.
    """
    for place, argument in enumerate(arguments):
        before = arguments[place - 1] if place else ""
        empty = re.fullmatch(r"(--[\w-]+)=", argument)
        if argument.strip() and not empty:
            continue
        name = empty[1] if empty else before if before.startswith("-") else f"argument {place + 1}"
        folder = "" if name in _NAMES_AND_TEXTS else ", or write . for the working directory"
        raise ConfigError(f"{name} is empty (a shell variable that is not set?); leave it out{folder}")


_ODD = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_TEXTS = ("--title", "--template-kwargs", "--columns")
"""Options whose values are texts and no names of files."""
_NAMES_AND_TEXTS = (*_TEXTS, "--benchmark", "--protocol", "--setting", "--table", "--to")


def refuse_no_path(arguments: Sequence[str]) -> None:
    """Refuse an argument that no file can be called, or that no message and no file of ours could name: bytes that are
    not UTF-8, a line break, a name of more than 255 bytes.

    Raises:
        ConfigError: names the option, or the number of the argument.
    """
    for place, argument in enumerate(arguments):
        if len(argument) < 60 and not _ODD.search(argument):
            continue
        from mmpref.files.reading import why_no_path

        option = re.match(r"(--[\w-]+)=", argument)
        before = arguments[place - 1] if place else ""
        name = option[1] if option else before if before.startswith("-") else f"argument {place + 1}"
        setting = not option and re.match(r"[\w.]+=", argument)  # its own reader looks at the value
        if setting or name in _TEXTS:
            argument = "".join(letter for letter in argument if "\ud800" <= letter <= "\udfff")
        if why := why_no_path(argument[option.end() :] if option and not setting else argument):
            raise ConfigError(f"{name} {why}")


def renamed_option(arguments: Sequence[str]) -> str | None:
    """What an option that the command line uses under its former name is called now."""
    command = next((name for name in RENAMED if list(arguments[: name.count(" ") + 1]) == name.split()), None)
    for word in arguments if command is not None else ():
        former = word.partition("=")[0]
        if (name := RENAMED[command or ""].get(former)) is not None:
            return f"{former} is called {name} now"
    return None


def hint_for(app: typer.Typer, arguments: Sequence[str]) -> str | None:
    """What to write in place of an option that a command does not have: its new name, the recipe as an argument, or
    ``key=value`` where the command takes that.

    Args:
        app: its commands know their options.
        arguments: of a command line that typer refused.
    """
    if (renamed := renamed_option(arguments)) is not None:
        return renamed
    commands = {info.name or getattr(info.callback, "__name__", ""): info.callback for info in app.registered_commands}
    name = next((word for word in arguments if not word.startswith("-")), "")  # not the second word of `sample score`
    command = commands.get(name)
    if command is None:
        return None
    known = inspect.signature(command).parameters
    if not set(_OF_RECIPES) & set(known):
        return None
    for place, word in enumerate(arguments):
        found = re.fullmatch(r"--([A-Za-z][\w.-]*)(?:=(.*))?", word, re.DOTALL)
        if found is None or (found[1] != "recipe" and found[1].replace("-", "_") in {*known, "help", "version"}):
            continue
        after = arguments[place + 1] if place + 1 < len(arguments) else ""
        value = found[2] if found[2] is not None else after if after and not after.startswith("--") else "VALUE"
        if found[1] == "recipe" and "recipe" in known:
            return f"the recipe is the first argument of {name}: `{shlex.join(['mmpref', name, value])}`"
        if "overrides" not in known:
            return f"options of a benchmark are written key=value: `{shlex.quote(f'{found[1]}={value}')}`"
        return f"keys of the recipe are written key=value: {_written(found[1], value)}"
    return None


def _written(name: str, value: str) -> str:
    """The key that is meant, with its section where that was left out."""
    from mmpref.recipe.keys import described
    from mmpref.recipe.sections import Recipe

    name = name.replace("-", "_")
    keys = [key.name for key in described(Recipe) if "[]" not in key.name]
    fits = [key for key in keys if key == name or key.endswith(f".{name}")] or [name]
    return " or ".join(f"`{shlex.quote(f'{key}={value}')}`" for key in fits[:3])
