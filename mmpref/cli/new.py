"""``mmpref new``: a project folder from three questions, each also an option."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from mmpref.errors import ConfigError, MMPrefError, stopped_by_ctrl_c

T = TypeVar("T")


def _answer(question: str, given: str | None, default: str, check: Callable[[str], T]) -> T:
    """What was given, or is answered on the terminal; asked again until it is something that is known."""
    if given is not None:
        return check(given)
    while True:
        try:
            return check(typer.prompt(question, default=default))
        except MMPrefError as err:
            typer.echo(f"mmpref: {err}", err=True)


@stopped_by_ctrl_c
def new(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The project's folder: new, or empty.")],
    model: Annotated[
        str | None,
        typer.Option(help="A shipped recipe or the beginning of its name (qwen2_5_vl_3b), a hub id, or a folder."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="A file of pairs, a data card, example (a few rows to replace) or demo.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="The card, by name (RTX 4090) or memory (24GiB); none, or cpu.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="uni_dpo, adadpo, dpo, mdpo, ...; default: uni_dpo where the data has scores.")
    ] = None,
    image_root: Annotated[
        Path | None, typer.Option(help="Of a file of pairs: its image paths are relative to this folder.")
    ] = None,
) -> None:
    """A project folder: recipe, data, and a README of its own commands. Asks what is not given."""
    from mmpref.project.choices import card_name, find_data, find_method, find_model, refuse_unseen
    from mmpref.project.folder import refuse_used, write_project

    refuse_used(folder)
    asks = sys.stdin.isatty()
    missing = [f"--{name}" for name, value in (("model", model), ("data", data), ("gpu", gpu)) if value is None]
    if missing and not asks:
        raise ConfigError(f"{', '.join(missing)} not given, and there is no terminal to ask on; for example --model "
                          "qwen2_5_vl_3b --data example --gpu none")  # fmt: skip
    chosen = _answer("Which model (shipped recipe, hub id or folder)", model, "qwen2_5_vl_3b",
                     lambda text: find_model(text, method))  # fmt: skip
    pairs = _answer("Which data (file of pairs, data card, example or demo)", data, "example",
                    lambda text: find_data(text, image_root))  # fmt: skip
    card = _answer("Which card (RTX 4090, 24GiB, cpu, or none to leave the recipe as it is)", gpu, "none", card_name)
    refuse_unseen(chosen, pairs)
    loss = find_method(method, pairs)
    if method is None and not pairs.has_scores:
        typer.echo(f"{data or pairs.source} has no judge scores, which Uni-DPO reads: the recipe is for {loss}; mmpref "
                   "sample score gives scores, and --method chooses another loss")  # fmt: skip
    changed = write_project(folder, chosen, pairs, loss, card)
    for line in changed:
        typer.echo(f"for {card}: {line}")
    typer.echo(f"wrote {folder}: recipe.yaml, README.md, data; begin with README.md")
