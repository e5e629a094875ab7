"""Every command with its arguments and options, from the command line's own tree."""

from __future__ import annotations

import inspect
import pathlib
import types
import typing
from collections.abc import Iterator
from typing import Any

import typer.main

from mmpref.cli.main import app
from site_pages.markdown import code, fenced, label, page, prose, table

_TYPES = {str: "text", int: "whole number", float: "number", pathlib.Path: "path", bool: "yes or no"}


def pages() -> dict[str, str]:
    """File below ``docs/`` -> its text."""
    return {"reference/commands.md": commands()}


def every_command(path: str = "mmpref", command: Any = None) -> Iterator[tuple[str, Any]]:
    """``mmpref data check`` and the like with their commands, groups left out."""
    command = typer.main.get_command(app) if command is None else command
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, inner in command.commands.items():
        yield from every_command(f"{path} {name}", inner)


def anchor(path: str) -> str:
    """The anchor of a command on the page."""
    return "command-" + path.replace(" ", "-")


def commands() -> str:
    """The page of all commands."""
    every = sorted(every_command())
    rows = [[f"[{code(path)}](#{anchor(path)})", prose(_about(command)[0])] for path, command in every]
    intro = (
        "`mmpref COMMAND --help` prints what stands here; `mmpref --version` the version. Errors are one line and an "
        "exit code: [errors and exit codes](errors.md). `KEY=VALUE` changes a recipe, by the names of "
        "[its keys](recipe_keys.md)."
    )
    return page("Commands", intro, table(["command", "what it does"], rows), *(_section(*one) for one in every))


def _about(command: Any) -> list[str]:
    """What the help says: the first paragraph, then the others."""
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    return [" ".join(paragraph.split()) for paragraph in paragraphs]


def _section(path: str, command: Any) -> str:
    shown = [one for one in command.params if one.name != "help" and not one.hidden]
    arguments = [one for one in shown if not one.opts[0].startswith("-")]
    options = [one for one in shown if one.opts[0].startswith("-")]
    hints = typing.get_type_hints(command.callback)
    parts = [f"{label(anchor(path))}## {code(path)}\n", *(prose(text) + "\n" for text in _about(command))]
    parts.append(fenced(" ".join([path, *map(_metavar, arguments), *map(_needed, _required(options)), "[OPTIONS]"])))
    if arguments:
        rows = [[code(_metavar(one)), _help(one)] for one in arguments]
        parts.append(table(["argument", "meaning"], rows))
    if options:
        rows = [[_names(one), _kind(one, hints), _default(one), _help(one)] for one in options]
        parts.append(table(["option", "takes", "default", "meaning"], rows))
    return "\n".join(parts)


def _required(options: list[Any]) -> list[Any]:
    return [one for one in options if one.required]


def _needed(option: Any) -> str:
    return f"{option.opts[0]} {option.name.upper()}"


def _metavar(argument: Any) -> str:
    name = argument.metavar or argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _names(option: Any) -> str:
    return " ".join(map(code, [*option.opts, *option.secondary_opts]))


def _kind(option: Any, hints: dict[str, Any]) -> str:
    if option.is_flag:
        return "nothing"
    hint, many = hints[option.name], ""
    while typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = parts[0]
    if typing.get_origin(hint) in (list, tuple):
        hint, many = typing.get_args(hint)[0], ", more than once"
    return _TYPES.get(hint, getattr(hint, "__name__", "text")) + many


def _default(option: Any) -> str:
    if option.required:
        return "**required**"
    value = option.default
    if value is None or callable(value) or (option.is_flag and value is False):
        return ""
    if isinstance(value, (list, tuple)):
        return ", ".join(code(str(one)) for one in value)
    return code(str(value))


def _help(parameter: Any) -> str:
    text = prose(" ".join((parameter.help or "").replace("\\[", "[").split()))
    low, high = parameter.min, parameter.max
    if low is not None and high is not None:
        return f"{text} From {low:g} to {high:g}."
    if low is not None:
        return f"{text} At least {low:g}."
    return f"{text} At most {high:g}." if high is not None else text
