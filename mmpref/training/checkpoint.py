"""Checkpoints that survive: written beside, synced, renamed, and whole only when their manifest says so.

A checkpoint is ``checkpoints/step-N/``: the weights that train (safetensors, by the names they have in memory, so that
loading cannot miss one), optimizer, schedule, random states, the Trainer's state, the per-pair log so far, and
``COMPLETE.json``, written last, with every file's size and sha256 and the facts that must not change before a resume.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from mmpref.errors import CheckpointError
from mmpref.files import sha256, write_json
from mmpref.training.parallel.sharded import copy_into, trained_weights

COMPLETE = "COMPLETE.json"
WEIGHTS = "trained.safetensors"
_NAME = re.compile(r"step-(\d+)")
_SAMPLE = 1 << 20


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest of a checkpoint whose other files are all there."""
    files = {
        str(file.relative_to(folder)): {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    write_json(folder / COMPLETE, {"files": files, "facts": dict(facts)})


def verify(folder: Path) -> dict[str, Any]:
    """Check every file of a checkpoint against its manifest, and return the facts stored in it.

    Raises:
        CheckpointError: not complete, a file missing, cut short or changed; the file is named.
    """
    expected, facts = _manifest(folder)
    for name, (size, digest) in expected.items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{folder}: {name} is missing")
        if file.stat().st_size != size:
            raise CheckpointError(f"{folder}: {name} has {file.stat().st_size} bytes, and {size} were written")
        if sha256(file) != digest:
            raise CheckpointError(f"{folder}: {name} is not what was written (sha256 differs)")
    return facts


def stored_facts(folder: Path) -> dict[str, Any]:
    """The facts of a checkpoint, without a look at its other files.

    Raises:
        CheckpointError: it has none.
    """
    return _manifest(folder)[1]


def _manifest(folder: Path) -> tuple[dict[str, tuple[int, str]], dict[str, Any]]:
    """(file -> size and sha256, facts)."""
    manifest = folder / COMPLETE
    if not manifest.is_file():
        raise CheckpointError(f"{folder} is not complete: it has no {COMPLETE}")
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        files, facts = content["files"], dict(content["facts"])
        return {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items()}, facts
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise CheckpointError(f"{manifest} is damaged: {err}") from err


def is_complete(folder: Path) -> bool:
    """Whether a checkpoint is there and whole."""
    try:
        verify(folder)
    except CheckpointError:
        return False
    return True


def newest_complete(root: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, and why newer ones were passed over."""
    skipped: list[str] = []
    for folder in reversed(in_order(root)):
        try:
            verify(folder)
        except CheckpointError as err:
            skipped.append(str(err))
            continue
        return folder, skipped
    return None, skipped


def in_order(root: Path) -> list[Path]:
    """Checkpoint folders by step, oldest first."""
    if not root.is_dir():
        return []
    numbered = [(int(match[1]), entry) for entry in root.iterdir() if (match := _NAME.fullmatch(entry.name))]
    return [entry for _, entry in sorted(numbered)]


def prune(root: Path, keep: int) -> None:
    """Delete the oldest checkpoints until ``keep`` are left. A folder that cannot be deleted is left for next time."""
    for folder in in_order(root)[:-keep]:
        shutil.rmtree(folder, ignore_errors=True)


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


def model_fingerprint(path: str) -> dict[str, str]:
    """What identifies a local start model without reading it whole: per weight file its size, head and tail hashed.

    A hub id is its own fingerprint: the hub's cache holds one revision under it.
    """
    folder = Path(path)
    if not folder.is_dir():
        return {"id": path}
    found = {}
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("config.json")]):
        size = file.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_SAMPLE))
            stream.seek(max(0, size - _SAMPLE))
            digest.update(stream.read(_SAMPLE))
        found[file.name] = digest.hexdigest()
    return found
