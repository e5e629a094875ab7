"""Every command's help, as typer prints it, holds the words it was given: square brackets are not taken for markup."""

from __future__ import annotations

import re

import click
import pytest
from typer.main import get_command

from mmpref.cli.main import app, main


def commands(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    found = [(path, command)]
    for name, inner in getattr(command, "commands", {}).items():
        found += commands(inner, (*path, name))
    return found


def words(text: str) -> str:
    return re.sub(r"[\s│╭╮╰╯─]+", " ", text)


@pytest.mark.parametrize(
    ("path", "command"),
    commands(get_command(app)),
    ids=lambda value: " ".join(value or ["mmpref"]) if isinstance(value, tuple) else "",
)
def test_help_shows_every_word(
    path: tuple[str, ...], command: click.Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 400)
    assert main([*path, "--help"]) == 0
    shown = words(capsys.readouterr().out)
    for option in command.params:
        if text := getattr(option, "help", None):
            assert words(text).replace("\\[", "[") in shown
