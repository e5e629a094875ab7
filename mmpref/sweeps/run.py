"""All cells of a sweep, by a pool of processes: claimed one by one, tried again where they failed, and told at the end.

What is complete is not run again, so the same command goes on where the last one ended, and several at once share the
work: a cell belongs to the process that has its lock.
"""

from __future__ import annotations

import shlex
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmpref.errors import CheckpointError, ConfigError, EvalIncompleteError, NonFiniteError
from mmpref.files.writing import replacing
from mmpref.recipe.sections import Recipe
from mmpref.sweeps.cell import COMPLETE, CellWork, Outcome, has_results, is_done
from mmpref.sweeps.claims import ALL, Share, holder_of
from mmpref.sweeps.folder import Sweep, start_folders
from mmpref.sweeps.grid import Cell
from mmpref.sweeps.workers import BUSY, StartWork, Work, Workers, folder_of, name_of

Say = Callable[[str], None]

_LOOK_AGAIN = 1.0
"""Seconds between two looks at what other processes do."""
_WOULD_FAIL_AGAIN = (ConfigError.exit_code, NonFiniteError.exit_code)
"""Exit codes of errors that come back as they were: nothing in them is chance."""
_ROOM = 2**20
"""Bytes that a disk must have room for, after an error of writing, before another cell is begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """How the cells are run.

    Args:
        devices: of each worker, as :class:`mmpref.sweeps.workers.Workers` has them.
        share: which cells.
        retries: how often a failed cell is tried again, after all others.
        train_options: of ``mmpref train``, where a training takes several processes.
    """

    devices: Sequence[str | None] = (None,)
    share: Share = ALL
    retries: int = 1
    train_options: tuple[str, ...] = ()


@dataclass(slots=True)
class _State:
    """What is known of the work under way."""

    waiting: deque[Work] = field(default_factory=deque)
    elsewhere: list[Work] = field(default_factory=list)
    """Work that other processes have."""
    tries: dict[str, int] = field(default_factory=dict)
    failed: dict[str, tuple[Work, Outcome]] = field(default_factory=dict)
    done: int = 0


def run_sweep(sweep: Sweep, recipes: Mapping[str, Recipe], pool: Pool, say: Say) -> dict[str, Outcome]:
    """Train and evaluate all cells of a share that are not done, and their start models.

    Args:
        recipes: of the cells (:func:`mmpref.sweeps.check.check`).
        say: called with a line for people.

    Returns:
        The cells and start models that failed, by name, with what became of them; those of other processes too.

    Raises:
        CheckpointError: the disk is full.
        KeyboardInterrupt, Terminated: a signal, which the workers have heard too.
    """
    cells = [cell for place, cell in enumerate(sweep.cells()) if pool.share.has(place)]
    starts = start_folders(sweep, recipes)
    state = _State(waiting=deque(_to_do(sweep, recipes, cells, starts, pool)))
    total = len(cells)
    state.done = sum(is_done(sweep, cell, recipes[cell.name]) for cell in cells)
    if state.done:
        say(f"{state.done} of {total} cells are complete already")
    if not state.waiting:
        return {}
    with Workers(sweep, pool.devices) as workers:
        for attempt in range(pool.retries + 1):
            _run_all(sweep, recipes, state, workers, total, say)
            again = [found for found in state.failed.values() if found[1].get("exit_code") not in _WOULD_FAIL_AGAIN]
            if not again or attempt == pool.retries:
                break
            say(f"{len(again)} failed; trying {'it' if len(again) == 1 else 'them'} once more")
            for work, _ in again:
                del state.failed[name_of(work)]
                state.waiting.append(work)
    return {name: outcome for name, (_, outcome) in state.failed.items()}


def _to_do(
    sweep: Sweep, recipes: Mapping[str, Recipe], cells: Sequence[Cell], starts: Mapping[str, Path], pool: Pool
) -> list[Work]:
    work: list[Work] = []
    seen: set[Path] = set()
    for cell in cells:
        recipe, folder = recipes[cell.name], starts.get(cell.name)
        if folder is not None and folder not in seen and not has_results(recipe, folder):
            work.append(StartWork(recipe, folder))
        if folder is not None:
            seen.add(folder)
    todo = [cell for cell in cells if not is_done(sweep, cell, recipes[cell.name])]
    return [*work, *(CellWork(cell, starts.get(cell.name), pool.train_options) for cell in todo)]


def _run_all(
    sweep: Sweep, recipes: Mapping[str, Recipe], state: _State, workers: Workers, total: int, say: Say
) -> None:
    """Give out all work that waits, and wait for all that was given out, here and elsewhere."""
    said: set[str] = set()
    while state.waiting or state.elsewhere or not workers.is_idle:
        while state.waiting and workers.is_free:
            work = state.waiting.popleft()
            if (holder := holder_of(folder_of(sweep, work))) is not None:
                _note_elsewhere(state, work, holder, said, say)
                continue
            say(f"{name_of(work)}: begun")
            workers.give(work)
        for work, outcome in workers.wait(_LOOK_AGAIN if state.elsewhere else None) if not workers.is_idle else ():
            if outcome["state"] == BUSY:
                _note_elsewhere(state, work, outcome["error"], said, say)
                continue
            _note(state, work, outcome, total, say)
            _refuse_full_disk(sweep, outcome, state)
        if workers.is_idle and state.elsewhere and not state.waiting:
            time.sleep(_LOOK_AGAIN)
        _take_back(sweep, recipes, state, total, say)


def _note_elsewhere(state: _State, work: Work, holder: str, said: set[str], say: Say) -> None:
    state.elsewhere.append(work)
    if name_of(work) not in said:
        said.add(name_of(work))
        say(f"{name_of(work)}: {holder} works on it; it is waited for")


def _take_back(sweep: Sweep, recipes: Mapping[str, Recipe], state: _State, total: int, say: Say) -> None:
    """Look at what other processes had: what they completed is done, and what they left is done here."""
    for work in list(state.elsewhere):
        if holder_of(folder_of(sweep, work)) is not None:
            continue
        state.elsewhere.remove(work)
        if isinstance(work, CellWork) and is_done(sweep, work.cell, recipes[work.cell.name]):
            state.done += 1
            say(f"{state.done} of {total}: {name_of(work)}: complete, by another process")
        elif isinstance(work, CellWork) or not has_results(work.recipe, work.folder):
            state.waiting.append(work)


def _note(state: _State, work: Work, outcome: Outcome, total: int, say: Say) -> None:
    name, seconds = name_of(work), outcome.get("seconds", 0.0)
    if outcome["state"] == COMPLETE:
        state.failed.pop(name, None)
        if isinstance(work, CellWork):
            state.done += 1
            say(f"{state.done} of {total}: {name}: complete ({seconds:.0f} s)")
        else:
            say(f"{name}: complete ({seconds:.0f} s)")
        return
    state.failed[name] = (work, outcome)
    say(f"{name}: failed ({seconds:.0f} s): {outcome['error']}")
    if "traceback" in outcome:
        say(outcome["traceback"].rstrip())


def _refuse_full_disk(sweep: Sweep, outcome: Outcome, state: _State) -> None:
    """End the sweep where every further cell would train for nothing."""
    if outcome.get("exit_code") != CheckpointError.exit_code:
        return
    probe = sweep.out / ".room"
    try:
        with replacing(probe) as stream:
            stream.write(b"\0" * _ROOM)
    except CheckpointError as err:
        raise CheckpointError(
            f"{outcome['error']}; {sweep.out} cannot be written any more ({err}), and {len(state.waiting)} cells are "
            "left: give it room, and the same command goes on"
        ) from None
    probe.unlink(missing_ok=True)


def tell(sweep: Sweep, failed: Mapping[str, Outcome], total: int, say: Say) -> None:
    """List what failed, with the reason and the command that trains that cell alone.

    Raises:
        EvalIncompleteError: something did.
    """
    if not failed:
        return
    files = {cell.name: sweep.recipe_file(cell) for cell in sweep.cells()}
    for name, outcome in failed.items():
        say(f"failed: {name}: {outcome['error']}")
        if (file := files.get(name)) is not None and file.is_file():
            say(f"  alone: {command_of(file, there=(file.parent / name).is_dir())}")
    cells = sum(name in files for name in failed)
    others = len(failed) - cells
    models = [f"{others} start {'model' if others == 1 else 'models'}"] if others else []
    what = " and ".join([f"{cells} of {total} cells", *models])
    raise EvalIncompleteError(f"{what} failed; the same command tries them again")


def command_of(file: Path, *, there: bool) -> str:
    """The command that trains one cell alone.

    Args:
        file: its recipe.
        there: whether its run folder is.
    """
    return shlex.join(["mmpref", "train", str(file), *(("--resume",) if there else ())])
