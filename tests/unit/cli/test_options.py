"""Groups of options: expanded into a command's own, and put together again when it runs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from mmpref.cli import evals
from mmpref.cli.main import app, main
from mmpref.cli.options import RequestOptions, with_options
from mmpref.errors import stopped_by_ctrl_c
from mmpref.evals import EvalSettings
from mmpref.generation import AnswerSettings
from mmpref.generation.api_server import Server


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    most: Annotated[int, typer.Option(min=1, help="At most so many.")] = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    source: Annotated[str, typer.Argument(help="Where it is.")]
    image_root: Annotated[Path | None, typer.Option(help="Folder.")] = None
    limits: Limits
    check: Annotated[bool, typer.Option("--check/--no-check", help="Look at it.")] = True


SEEN: list[Any] = []


@stopped_by_ctrl_c
@with_options
def show(rows: Source, out: Annotated[Path, typer.Option(help="The file.")]) -> None:
    """Show rows."""
    SEEN.append((rows, out))


@pytest.fixture
def command() -> typer.Typer:
    made = typer.Typer()
    made.command()(show)
    SEEN.clear()
    return made


def test_a_command_gets_its_groups(command: typer.Typer) -> None:
    result = CliRunner().invoke(command, ["here", "--out", "o", "--image-root", "images", "--most", "3", "--no-check"])
    assert result.exit_code == 0, result.output
    want = Source(source="here", image_root=Path("images"), limits=Limits(most=3), check=False)
    assert [(want, Path("o"))] == SEEN


def test_defaults_are_those_of_the_groups(command: typer.Typer) -> None:
    assert CliRunner().invoke(command, ["here", "--out", "o"]).exit_code == 0
    assert [(Source(source="here", limits=Limits()), Path("o"))] == SEEN


def test_options_are_in_the_order_of_fields_and_bounds_hold(command: typer.Typer) -> None:
    shown = CliRunner().invoke(command, ["--help"], env={"COLUMNS": "200"}).output
    places = [shown.index(text) for text in ("--image-root", "--most", "--check", "--out")]
    assert places == sorted(places)
    assert "Show rows." in shown
    assert "At most so many." in shown
    assert CliRunner().invoke(command, ["here", "--out", "o", "--most", "0"]).exit_code == 2
    assert CliRunner().invoke(command, ["here"]).exit_code == 2  # --out is required
    assert SEEN == []


def test_two_options_of_one_name_are_refused_when_the_command_is_made() -> None:
    def twice(one: Limits, most: int = 1) -> None: ...

    with pytest.raises(TypeError, match="two options are called 'most'"):
        with_options(twice)


@pytest.mark.parametrize(
    ("group", "settings", "names"),
    [
        (evals._Answering, AnswerSettings, {"batch_size": "batch_size", "tokens_per_batch": "tokens_per_batch"}),
        (evals._Answering, EvalSettings, {"limit": "limit", "processes": "processes", "cpu_threads": "cpu_threads"}),
        (evals._Asked, EvalSettings, {"protocol": "protocol"}),
        (RequestOptions, Server, {"concurrency": "concurrency", "timeout": "timeout"}),
    ],
)
def test_defaults_are_those_of_python(group: type[Any], settings: type[Any], names: dict[str, str]) -> None:
    """The command line repeats them, so that its help loads nothing."""
    options = {field.name: field.default for field in dataclasses.fields(group)}
    python = {field.name: field.default for field in dataclasses.fields(settings)}
    assert {name: options[name] for name in names} == {name: python[own] for name, own in names.items()}


@pytest.mark.parametrize(
    "words", [["eval", "--images", "x", "--model", "m"], ["eval", "--images=x"], ["report", "a", "--images", "x"]]
)
def test_a_former_name_is_refused_with_the_new_one(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "mmpref: --images is called --image-root now" in capsys.readouterr().err


def test_every_command_that_has_options_can_be_described() -> None:
    """The options of every command are read by typer, whatever groups they come from."""
    names = {info.name or info.callback.__name__ for info in app.registered_commands if info.callback is not None}
    assert {"eval", "judge", "report"} <= names
