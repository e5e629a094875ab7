"""Checkpoints that survive: written beside, synced, renamed, and whole only when their manifest says so.

A checkpoint is ``checkpoints/step-N/``: the weights that train (safetensors, by the names they have in memory, so that
loading cannot miss one), optimizer, schedule, random states, the Trainer's state, the per-pair log so far, and
``COMPLETE.json``, written last: every file with its size and sha256, the step, and the facts that must not change
before a resume. Nothing else may be in the folder.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from mmpref.errors import CheckpointError, one_line
from mmpref.files.hashes import sha256
from mmpref.files.writing import write_json
from mmpref.rundir.content import COMPLETE, OF_THE_SYSTEM, others_in_checkpoint
from mmpref.training.parallel.sharded import copy_into, trained_weights

WEIGHTS = "trained.safetensors"
FORMAT = 2
"""Of ``COMPLETE.json``: 1 had no number, no step, no check of itself, and hashes of the ends of the model's files."""
_STATE = "trainer_state.json"
_BACK = "put it back from a copy"
_NAME = re.compile(r"step-(0|[1-9][0-9]*)")


@dataclass(frozen=True, slots=True)
class Sealed:
    """What a checkpoint's manifest says.

    Attributes:
        files: name -> (bytes, sha256).
        step: None in a checkpoint of format 1.
    """

    files: Mapping[str, tuple[int, str]]
    facts: dict[str, Any]
    step: int | None
    format: int


def seal(folder: Path, facts: Mapping[str, Any], *, step: int | None = None) -> None:
    """Write the manifest of a checkpoint whose other files are all there."""
    files = {
        name: {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for name, file in sorted(_entries(folder).items())
        if name != COMPLETE
    }
    content = {"format": FORMAT, "step": step, "files": files, "facts": dict(facts)}
    write_json(folder / COMPLETE, {**content, "check": _check(content)})


def verify(folder: Path) -> dict[str, Any]:
    """Check every file of a checkpoint against its manifest, and return the facts stored in it.

    Raises:
        CheckpointError: not complete; a file missing, cut short, changed or too many; or the folder has the name of
            another step. What is wrong is named.
    """
    sealed = sealed_in(folder)
    there = _entries(folder)
    there.pop(COMPLETE, None)
    if missing := next((name for name in sealed.files if name not in there), None):
        raise CheckpointError(f"{folder}: {missing} is missing; {_BACK}")
    if unknown := sorted(there.keys() - sealed.files.keys()):
        raise CheckpointError(
            f"{folder}: {', '.join(unknown[:5])} {'is' if len(unknown) == 1 else 'are'} not of this checkpoint; take "
            f"{'it' if len(unknown) == 1 else 'them'} away to resume from it"
        )
    for name, (size, digest) in sealed.files.items():
        file = there[name]
        try:
            found = file.lstat()
            if not stat.S_ISREG(found.st_mode):
                what = "a link" if stat.S_ISLNK(found.st_mode) else "no file"
                raise CheckpointError(f"{folder}: {name} is {what} and was written as a file; put the file back")
            if found.st_size != size:
                raise CheckpointError(f"{folder}: {name} has {found.st_size} bytes, and {size} were written; {_BACK}")
            if sha256(file) != digest:
                raise CheckpointError(f"{folder}: {name} is not what was written (sha256 differs); {_BACK}")
        except OSError as err:
            raise CheckpointError(f"{folder}: {name} cannot be read: {one_line(err)}; check its permissions") from err
    step = sealed.step if sealed.format > 1 else _step_of_state(folder)
    if step is not None and (named := _NAME.fullmatch(folder.name)) and int(named[1]) != step:
        raise CheckpointError(f"{folder} holds step {step}: it was renamed; give it its name step-{step} back")
    return sealed.facts


def stored_facts(folder: Path) -> dict[str, Any]:
    """The facts of a checkpoint, without a look at its other files.

    Raises:
        CheckpointError: it has none.
    """
    return sealed_in(folder).facts


def sealed_in(folder: Path) -> Sealed:
    """The manifest of a checkpoint, which is checked in itself.

    Raises:
        CheckpointError: there is none, it is damaged, or a later version wrote it.
    """
    manifest = folder / COMPLETE
    if not manifest.is_file() or manifest.is_symlink():
        raise CheckpointError(f"{folder} is not complete: it has no {COMPLETE}; {_BACK}")
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        files, facts = content["files"], dict(content["facts"])
        version, check = content.get("format", 1), content.pop("check", None)
        named = {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
        step = content.get("step")
        if not isinstance(version, int) or (step is not None and not isinstance(step, int)):
            raise TypeError("its format or its step is no number")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise CheckpointError(f"{manifest} is damaged: {one_line(err)}; {_BACK}") from err
    if version > FORMAT:
        raise CheckpointError(f"{folder} was written by a later version of mmpref (format {version}); update mmpref")
    if check != (_check(content) if version > 1 else None):
        raise CheckpointError(f"{manifest} is damaged: it is not what was written; {_BACK}")
    return Sealed(named, facts, step, version)


def _check(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _entries(folder: Path) -> dict[str, Path]:
    """Everything below a checkpoint folder that is no folder with something in it, by name; links are not followed."""
    found: dict[str, Path] = {}

    def cannot(err: OSError) -> None:
        raise CheckpointError(f"{err.filename} cannot be looked into: {one_line(err)}; check its permissions")

    for place, folders, files in os.walk(folder, onerror=cannot):
        inside = [name for name in files if not any(fnmatch(name, pattern) for pattern in OF_THE_SYSTEM)]
        inside += [name for name in folders if (Path(place) / name).is_symlink()]
        if not files and not folders and Path(place) != folder:
            found[f"{Path(place).relative_to(folder).as_posix()}/"] = Path(place)
        for name in inside:
            found[(Path(place) / name).relative_to(folder).as_posix()] = Path(place) / name
    return found


def _step_of_state(folder: Path) -> int | None:
    """The step of a checkpoint of format 1: its files were compared, and the Trainer's state is one."""
    try:
        return int(json.loads((folder / _STATE).read_text(encoding="utf-8"))["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_complete(folder: Path) -> bool:
    """Whether a checkpoint is there and whole."""
    try:
        verify(folder)
    except CheckpointError:
        return False
    return True


def newest_complete(root: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, and why newer ones, and folders that look like one, were passed over."""
    skipped = [
        f"{entry} holds a checkpoint and has no name of one (step-N); give it its name back, or take it away"
        for entry in _others(root)
    ]
    for folder in reversed(in_order(root)):
        try:
            verify(folder)
        except CheckpointError as err:
            skipped.append(str(err))
            continue
        return folder, skipped
    return None, skipped


def anything_in(root: Path) -> bool:
    """Whether there is a checkpoint, whole or not, under its own name or another."""
    return bool(_others(root)) or any(entry.is_file() for folder in in_order(root) for entry in folder.rglob("*"))


def in_order(root: Path) -> list[Path]:
    """Checkpoint folders by step, oldest first."""
    if not root.is_dir():
        return []
    numbered = [(int(match[1]), entry) for entry in root.iterdir() if (match := _NAME.fullmatch(entry.name))]
    return [entry for _, entry in sorted(numbered)]


def _others(root: Path) -> list[Path]:
    """Folders with a checkpoint in them under another name. A name with a dot is of a save that was killed."""
    entries = sorted(root.iterdir()) if root.is_dir() else []
    return [
        entry
        for entry in entries
        if not _NAME.fullmatch(entry.name) and not entry.name.startswith(".") and (entry / COMPLETE).is_file()
    ]


def prune(root: Path, keep: int, *, newest: int) -> None:
    """Delete the oldest checkpoints until ``keep`` are left. A folder that cannot be deleted is left for next time.

    A folder with anything in it that is not of a checkpoint stays, and does not count.

    Args:
        newest: the step that was just written. Those of later steps, which a resume passed over, do not count: they
            must not take the place of a whole one.
    """
    earlier = [folder for folder in in_order(root) if int(folder.name.removeprefix("step-")) <= newest]
    written = [folder for folder in earlier if (folder / COMPLETE).is_file() or not others_in_checkpoint(folder)]
    for folder in written[:-keep]:
        if not others_in_checkpoint(folder):
            shutil.rmtree(folder, ignore_errors=True)


def keep_others(folder: Path) -> Path | None:
    """A checkpoint is about to take this name: what lies there and is of no checkpoint gets another one, which is
    returned."""
    if not folder.is_dir() or folder.is_symlink() or not others_in_checkpoint(folder):
        return None
    names = (folder.with_name(f"{folder.name}-kept-{number}") for number in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    folder.rename(aside)
    return aside


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What changed between the facts of a checkpoint and those of the run that wants to resume from it."""
    names = sorted({*then, *now})
    return [
        f"{name}: {then.get(name)!r} then, {now.get(name)!r} now" for name in names if then.get(name) != now.get(name)
    ]


def save_trained(model: nn.Module, file: Path) -> None:
    """Write every weight that trains, under its own name."""
    save_file(trained_weights(model), file)


def load_trained(model: nn.Module, file: Path) -> None:
    """Copy the stored weights into the model; every weight that trains must be there, and no other.

    Raises:
        CheckpointError: names or shapes differ, or the file is damaged.
    """
    try:
        stored = load_file(file)
    except (OSError, SafetensorError) as err:
        raise CheckpointError(f"{file} cannot be read: {err}") from err
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if stored.keys() != trained.keys():
        missing, extra = sorted(trained.keys() - stored.keys()), sorted(stored.keys() - trained.keys())
        raise CheckpointError(
            f"{file} holds other weights than those that train now: {len(missing)} missing {missing[:3]}, "
            f"{len(extra)} unknown {extra[:3]}; the recipe's tune or adapter section has changed"
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            if stored[name].shape != getattr(parameter, "ds_shape", parameter.shape):
                raise CheckpointError(f"{file}: {name} is {tuple(stored[name].shape)}, want {tuple(parameter.shape)}")
            copy_into(parameter, stored[name])
