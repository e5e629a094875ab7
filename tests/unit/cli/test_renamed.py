"""Former names of options are refused, with the name of now; and every name of now is an option of its command."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from mmpref.cli.arguments import RENAMED, renamed_option
from mmpref.cli.main import app, main

CASES = [(command, former, now) for command, names in RENAMED.items() for former, now in names.items()]


def options_of(command: str) -> set[str]:
    """The options of a command, as they are written."""
    found: Any = typer.main.get_command(app)
    for name in command.split():
        found = found.commands[name]
    return {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize(("command", "former", "now"), CASES)
def test_a_former_name_is_refused_with_the_name_of_now(
    command: str, former: str, now: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert now in options_of(command)
    assert former not in options_of(command)
    assert main([*command.split(), "x", former, "y"]) == 2
    assert f"mmpref: {former} is called {now} now\n" in capsys.readouterr().err
    assert main([*command.split(), "x", f"{former}=y"]) == 2
    assert f"mmpref: {former} is called {now} now\n" in capsys.readouterr().err


def test_the_same_name_elsewhere_is_no_former_name() -> None:
    assert renamed_option(["data", "list", "--root", "x"]) is None
    assert renamed_option(["train", "data", "check", "--root", "x"]) is None
    assert renamed_option(["data", "check", "--root.y", "x"]) is None
