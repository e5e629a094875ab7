"""The tree of mmpref's commands, built once in a process: tests call ``main`` thousands of times in one."""

from __future__ import annotations

import functools

import typer.main


def build_commands_once() -> None:
    """Keep the command that typer builds of an app, 40 ms of work for each call of ``main``. It holds no state: what a
    command line gives lies in its own context."""
    if not hasattr(typer.main.get_command, "__wrapped__"):
        typer.main.get_command = functools.cache(typer.main.get_command)
