"""Refusals of an output folder: it would lose other files, cannot be written, or its own files are damaged."""

from __future__ import annotations

import json
import os
import shlex
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from mmpref.errors import CheckpointError, ConfigError, MMPrefError
from mmpref.files.reading import home_path, kind_of_file, parse_json, read_text, without_links
from mmpref.files.writing import writing_to
from mmpref.recipe.loading import load_recipe
from mmpref.recipe.sections import Recipe, SourceSection
from mmpref.rundir.content import (
    CHECKPOINTS,
    COMPLETE,
    FILES,
    FOLDERS,
    LOCK,
    MANIFEST,
    MODEL,
    MOST_BYTES,
    RECIPE,
    STEP,
    described,
    others_in,
    others_in_model,
    run_around,
)
from mmpref.rundir.folder import State
from mmpref.rundir.locking import refuse_second
from mmpref.version import __version__


def refuse_unwritable(path: Path) -> None:
    """Refuse a folder that cannot be created or written.

    Raises:
        CheckpointError: with the reason.
    """
    place = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not place.is_dir():
        raise CheckpointError(f"cannot write to {path}: {place} is a file; give another folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise CheckpointError(f"cannot write to {path}: no permission to write into {place}; choose another folder")


def refuse_in_another_run(path: Path) -> None:
    """Refuse a folder inside ``checkpoints/``, ``model/`` or the like of another run, which that run deletes.

    Raises:
        ConfigError: names that run.
    """
    if (found := run_around(path)) is not None:
        run, name = found
        raise ConfigError(
            f"output {path} lies in {run / name}, which the run in {run} writes and deletes itself; choose another "
            "folder with output=... (and move there what lies here already)"
        )


def refuse_special_files(run: Path, *, overwrite: bool) -> None:
    """Refuse a run folder in which a pipe, device or folder has the name of a file of the run, or a file of a folder.

    A pipe would block the run, and a folder would be lost.

    Args:
        run: the run folder.
        overwrite: everything but the lock is deleted anyway.

    Raises:
        CheckpointError: names it and the command that helps.
    """
    if not any(os.path.lexists(run / name) for name in (RECIPE, MANIFEST, LOCK)):
        return
    for name in (LOCK,) if overwrite else (LOCK, *FILES, *FOLDERS):
        place = run / name
        try:
            mode = place.stat().st_mode
        except OSError:  # nothing, or a link to what is not there yet
            continue
        is_folder = name in FOLDERS
        if stat.S_ISDIR(mode) if is_folder else stat.S_ISREG(mode):
            continue
        kind = "a file" if stat.S_ISREG(mode) else kind_of_file(mode).partition(",")[0]
        remove = ["mv", str(place), _free(run, name)] if stat.S_ISDIR(mode) else ["rm", str(place)]
        then = f"put {name} back from a copy and " if name == MANIFEST else ""
        raise CheckpointError(
            f"{place} is {kind}, and a run has {'a folder' if is_folder else 'a file'} there; take it away "
            f"(`{shlex.join(remove)}`), {then}start the command again"
        )


def _free(run: Path, name: str) -> str:
    """An unused name beside the run folder."""
    place, number = run.with_name(f"{run.name}.{name.lstrip('.')}"), 1
    while os.path.lexists(place):
        place, number = run.with_name(f"{run.name}.{name.lstrip('.')}.{number}"), number + 1
    return str(place)


def load_to_train(recipe: str, overrides: Sequence[str]) -> Recipe:
    """The recipe with its overrides, as ``mmpref train`` reads it.

    Raises:
        ConfigError: it cannot be read, or a key or value is wrong; for a missing or damaged recipe of a run folder it
            says how that run can be resumed.
    """
    file = home_path(recipe)
    try:
        return load_recipe(recipe, overrides)
    except ConfigError as err:
        if file.name != RECIPE or not _is_of_run(file.parent) or _is_well(recipe):
            raise
        again = shlex.join(["mmpref", "train", "RECIPE", f"output={file.parent}", "--resume"])
        raise ConfigError(
            f"{err}; it is the recipe of the run in {file.parent}: put it back from a copy, or go on with the RECIPE "
            f"that the run was begun with: `{again}`"
        ) from err


def _is_well(recipe: str) -> bool:
    try:
        load_recipe(recipe)
    except ConfigError:
        return False
    return True


def _is_of_run(folder: Path) -> bool:
    return os.path.lexists(folder / MANIFEST) or (folder / CHECKPOINTS).is_dir()


def refuse_moved(recipe: str, overrides: Sequence[str], output: Path) -> None:
    """Refuse to resume with the recipe in a run folder that was copied or moved: its output is the earlier folder.

    Args:
        recipe: as given on the command line.
        overrides: likewise; an output among them is taken as intended.
        output: that of the recipe.

    Raises:
        ConfigError: with the command that resumes the run in the folder that the recipe is in.
    """
    file = home_path(recipe)
    folder = without_links(file).parent
    is_run = file.is_file() and without_links(file).name == RECIPE and _is_of_run(folder)
    if not is_run or folder == without_links(output) or any(each.startswith("output=") for each in overrides):
        return
    place = file.parent if without_links(file.parent) == folder else folder
    again = shlex.join(["mmpref", "train", recipe, *overrides, f"output={place}", "--resume"])
    raise ConfigError(
        f"{recipe} is the recipe of the run in {place}, and its output is {output}, where that run was once; `{again}` "
        f"resumes the run in {place}, and output={shlex.quote(str(output))} the one in the other folder"
    )


def refuse_damaged(path: Path) -> None:
    """Refuse a run folder whose ``manifest.json`` or ``recipe.yaml`` is missing or damaged; any other folder passes.

    Raises:
        ConfigError: with the file, and how its run can be resumed.
    """
    manifest, recipe = path / MANIFEST, path / RECIPE
    content, fault = _content(manifest)
    checkpoints = _sealed(path)
    is_ours = (
        isinstance(content, dict) and isinstance(content.get("mmpref"), str) and content.get("state") in get_args(State)
    )
    if is_ours and not recipe.is_file():
        raise ConfigError(
            f"{path} contains a run whose {recipe} is missing; put it back from a copy (or copy the recipe there that "
            "the run was begun with), and start the command again"
        )
    begun = any((path / name).exists() for name in (*FILES[2:], *FOLDERS)) and os.path.lexists(recipe)
    if is_ours or not (checkpoints or begun):
        return
    if not fault:
        fault = "is damaged: it has no 'mmpref' with the version that wrote it, or no 'state' of a run"
    if not checkpoints:
        raise ConfigError(
            f"{path} contains a run whose {manifest} {fault}; put it back from a copy, or move the folder away: it has "
            "no whole checkpoint to go on from"
        )
    written = {"mmpref": __version__, "state": "stopped", **_name_in(checkpoints[-1])}
    write = f"printf %s {shlex.quote(json.dumps(written))} > {shlex.quote(str(manifest))}"
    raise ConfigError(
        f"{path} contains a run whose {manifest} {fault}; put it back from a copy, or, where there is none, write "
        f"a new one (`{write}`), with which --resume goes on from {checkpoints[-1]}"
    )


def _content(manifest: Path) -> tuple[Any, str]:
    """The content of a manifest, and what is wrong with it; "" where it can be read."""
    if not os.path.lexists(manifest):
        return None, "is missing"
    try:
        text = read_text(manifest, ConfigError, most=MOST_BYTES)
        return (parse_json(text, ConfigError, "it"), "") if text.strip() else (None, "is empty")
    except MMPrefError as err:
        return None, f"is damaged ({str(err).removeprefix(f'{manifest} ').partition(';')[0]})"


def _sealed(run: Path) -> list[Path]:
    """Checkpoints with a list of their files, by step; whether the files are complete is not checked."""
    try:
        found = [file.parent for file in (run / CHECKPOINTS).glob(f"*/{COMPLETE}") if STEP.fullmatch(file.parent.name)]
    except OSError:
        return []
    return sorted(found, key=lambda folder: int(folder.name.removeprefix("step-")))


def _name_in(checkpoint: Path) -> dict[str, str]:
    """The run id in a checkpoint; those of earlier versions have none."""
    try:
        name = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))["facts"]["run"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return {"run": name} if isinstance(name, str) else {}


def refuse_to_delete(recipe: Recipe, manifest: Mapping[str, Any]) -> None:
    """Refuse to replace a run whose folder has input of the new run, files that another process writes, or files that
    no training wrote.

    Raises:
        ConfigError: with the names of these files.
    """
    path = recipe.output
    inside = [str(entry) for entry in _inputs(recipe) if _is_inside(entry, path)]
    if inside:
        raise ConfigError(
            f"--overwrite would delete what this run reads: {', '.join(inside)} lies in {path}; choose another folder "
            "with output=..."
        )
    with writing_to(path):
        for lock in sorted(path.rglob(LOCK)):
            if lock.parent != path:
                refuse_second(lock.parent)
        others = others_in(path, manifest)
    if others:
        raise ConfigError(
            f"--overwrite would delete what mmpref train did not write: {described(others, path)} in {path}; move "
            f"{'it' if len(others) == 1 else 'them'} away, or choose another folder with output=..."
        )


def refuse_to_lose_from_model(path: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse to resume a run whose ``model/`` has files that no training wrote, because resuming deletes the folder.

    Raises:
        ConfigError: with the names of these files.
    """
    with writing_to(path):
        others = others_in_model(path, manifest)
    if others:
        raise ConfigError(
            f"--resume writes {path / MODEL} anew, and mmpref train did not write {described(others, path)} in {path}; "
            f"move {'it' if len(others) == 1 else 'them'} away"
        )


def _inputs(recipe: Recipe) -> list[str]:
    """Every path that a run reads."""
    data = recipe.data
    entries = [entry for entry in (*data.train, *data.eval) if isinstance(entry, SourceSection)]
    places = (recipe.adapter.path, data.root, data.manifest, recipe.reference.cache, *(entry.root for entry in entries))
    roots = [str(root) for root in places if root is not None]
    return [recipe.model.path, *data.train_paths, *data.eval_paths, *roots]


def _is_inside(entry: Path | str, folder: Path) -> bool:
    place = home_path(entry)
    return place.exists() and without_links(place).is_relative_to(without_links(folder))
