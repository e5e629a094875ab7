"""``mmpref sweep``: a grid over a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from mmpref.cli.options import RecipeArguments, with_options
from mmpref.errors import EvalIncompleteError, stopped_by_ctrl_c


@dataclass(frozen=True, slots=True, kw_only=True)
class _Grid:
    """What is varied, and where it goes."""

    grid: Annotated[list[str] | None, typer.Option(help="KEY=VALUE,VALUE,...: a recipe key and its values.")] = None
    arm: Annotated[
        list[str] | None, typer.Option(help="'NAME: KEY=VALUE ...': a method that is compared with the others.")
    ] = None
    out: Annotated[Path, typer.Option(help="Folder of the sweep; goes on where it stopped.")]


@stopped_by_ctrl_c
@with_options
def sweep(given: RecipeArguments, asked: _Grid) -> None:
    """Train and evaluate every cell of a grid over a recipe."""
    from mmpref.sweeps.grid import parse_arm, parse_axis
    from mmpref.sweeps.run import Sweep, evaluate_all, run_cell, start_models

    found = Sweep(
        recipe=str(given.recipe),
        changes=tuple(given.overrides or []),
        arms=tuple(map(parse_arm, asked.arm or [])),
        axes=tuple(map(parse_axis, asked.grid or [])),
        out=asked.out,
    )
    recipes = found.check()
    found.begin()
    for recipe, folder in start_models(found, recipes):
        evaluate_all(recipe, recipe.model.path, folder)
    failed = 0
    for number, cell in enumerate(found.cells(), 1):
        outcome = run_cell(found, cell, typer.echo)
        failed += outcome["state"] != "complete"
        what = outcome.get("error", "complete")
        typer.echo(f"{number} of {len(recipes)}: {cell.name}: {what} ({outcome['seconds']:.0f} s)")
    if failed:
        raise EvalIncompleteError(f"{failed} of {len(recipes)} cells failed; the same command tries them again")
