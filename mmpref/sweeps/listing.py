"""What a sweep would do: its cells, what each changes, what is done, and about how long the rest takes."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from mmpref.recipe.sections import Recipe
from mmpref.rundir.folder import RunDir, is_run_folder
from mmpref.sweeps.cell import COMPLETE, FAILED, is_done
from mmpref.sweeps.claims import Share, holder_of
from mmpref.sweeps.folder import Sweep
from mmpref.sweeps.grid import Cell, is_recipe_key


def listed(sweep: Sweep, recipes: Mapping[str, Recipe], share: Share) -> tuple[list[list[str]], list[str]]:
    """A row for each cell of a share (name, what it changes, state), and what is left as sentences.

    Args:
        recipes: of the cells.
    """
    cells = [cell for place, cell in enumerate(sweep.cells()) if share.has(place)]
    states = {cell.name: _state(sweep, cell, recipes[cell.name]) for cell in cells}
    rows = [[cell.name, _changes(sweep, cell), states[cell.name]] for cell in cells]
    left = sum(state != COMPLETE for state in states.values())
    notes = [f"{len(cells)} cells, {len(cells) - left} complete, {left} left"]
    if share.total > 1:
        notes[0] += f" (share {share} of {len(sweep.cells())})"
    if left:
        notes.append(_estimate(sweep, left))
    return rows, notes


def _changes(sweep: Sweep, cell: Cell) -> str:
    """What makes a cell another than the others: the changes of its arm, and its values."""
    of_arm = cell.changes[len(sweep.changes) : len(cell.changes) - sum(map(is_recipe_key, cell.values))]
    return " ".join([*of_arm, *(f"{key}={value}" for key, value in cell.values.items())]) or "the recipe as it is"


def _state(sweep: Sweep, cell: Cell, recipe: Recipe) -> str:
    if (holder := holder_of(sweep.folder(cell))) is not None:
        return f"under way ({holder})"
    if is_done(sweep, cell, recipe):
        return COMPLETE
    run = sweep.folder(cell)
    if sweep.outcome(cell).get("state") == FAILED:
        return FAILED
    if not is_run_folder(run):
        return "not begun"
    return "trained, not evaluated" if RunDir(run).manifest().get("state") == "complete" else "begun"


def _estimate(sweep: Sweep, left: int) -> str:
    found = [sweep.outcome(cell) for cell in sweep.cells()]
    seconds = [float(outcome["seconds"]) for outcome in found if outcome.get("state") == COMPLETE]
    if not seconds:
        return "how long a cell takes is known once one is complete"
    each = median(seconds)
    return f"about {_text(each * left)} of one worker: {_text(each)} a cell, the median of {len(seconds)} complete ones"


def _text(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
