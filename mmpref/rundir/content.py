"""Names of the files that a training writes into its run folder; all others in it are never deleted."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

RECIPE = "recipe.yaml"
MANIFEST = "manifest.json"
ROUNDS = "rounds.json"
"""Of the folder of ``mmpref sample round``: its runs, and what each round was made of."""
SWEEP = "sweep.json"
CELLS, CACHES, START = "cells", "caches", "start"
"""Of the folder of ``mmpref sweep``."""
PAIR_TEXTS, SAMPLES = "pair_texts.jsonl", "samples.jsonl"
"""Some pairs as they are read (training and held-out), and answers to fixed prompts during training."""
LOCK = ".mmpref.lock"
"""Lock file of the process that writes into a folder; those of its other ranks have a suffix ``.RANK``."""
MOST_BYTES = 256 * 2**20
"""Largest manifest that is read; it names every image of the data."""
CHECKPOINTS, MODEL, LOGS, FAULTS = "checkpoints", "model", "logs", "faults"
FILES = (
    RECIPE, MANIFEST, "metrics.jsonl", "pairs.parquet", "pairs_eval.parquet", "quarantine.jsonl", "train.log",
    PAIR_TEXTS, SAMPLES,
)  # fmt: skip
FOLDERS = (CHECKPOINTS, MODEL, LOGS, FAULTS)
COMPLETE = "COMPLETE.json"
STEP = re.compile(r"step-\d+")
DUMP = re.compile(r"nonfinite-step-\d+(-rank-\d+)?\.json")
BESIDE = re.compile(r"\.(.+)\.[a-z0-9_]{8}(?:\.tmp|\.old)?")
"""Hidden names that ``files.writing`` uses until a file or folder is complete."""
OF_THE_SYSTEM = (".DS_Store", "._*", ".nfs*", "Thumbs.db", "desktop.ini")
"""Files that file managers and network file systems put into any folder; they may be deleted."""
_OF_A_CHECKPOINT = (
    COMPLETE, "trained.safetensors", "optimizer.*", "scheduler.pt", "scaler.pt", "rng_state*.pth", "trainer_state.json",
    "pairs.parquet", "pairs_eval.parquet", "metrics.jsonl", "images.parquet", "images.json", "training_args.bin",
    "anchor_shift.json", SAMPLES,
    "sharded", "global_step*", "latest", "zero_to_fp32.py", "pytorch_model*", "model*.safetensors",
)  # fmt: skip
"""Names in a checkpoint whose list of files is missing, as when its deletion was interrupted."""
_OF_A_MODEL = ("additional_chat_templates",)
"""Folders in a model folder; its files depend on the model, and the manifest lists them."""
_OF_TRACKERS = (
    "tensorboard", "wandb", "trackio", "comet", "mlruns", "neptune", "clearml", "swanlab", "dvclive", "events.out.*",
)  # fmt: skip
_OF_CODECARBON = ("emissions*.csv*", ".codecarbon*")
"""Files that codecarbon writes beside the checkpoints."""
MODEL_FILES = "model_files"
"""Key of the manifest: the files that were written into ``model/``."""
_NAMED = 5
"""Number of entries that a message names before it counts the rest."""


def others_in(run: Path, manifest: Mapping[str, Any]) -> list[Path]:
    """Entries of a run folder that no training of it wrote.

    Folders without a file do not count, and links are not followed.

    Args:
        run: the folder.
        manifest: its manifest, as far as it can be read.

    Raises:
        OSError: the folder cannot be read.
    """
    found = {entry for entry in _others(run, manifest) if not _is_nothing(entry)}
    return sorted(entry for entry in found if found.isdisjoint(entry.parents))


def _others(run: Path, manifest: Mapping[str, Any]) -> Iterator[Path]:
    for entry in run.iterdir():
        if is_own_name(entry.name):
            if entry.name in FILES and entry.is_dir() and not entry.is_symlink():
                yield entry
        elif not (entry.name in FOLDERS and (entry.is_symlink() or entry.is_dir())):
            yield entry
    yield from _other_than(run / CHECKPOINTS, lambda name: bool(STEP.fullmatch(name)) or _fits(name, _OF_CODECARBON))
    for entry in _entries(run / CHECKPOINTS):
        if STEP.fullmatch(entry.name):
            yield from others_in_checkpoint(entry)
    yield from _other_than(run / FAULTS, lambda name: bool(DUMP.fullmatch(name)))
    yield from others_in_model(run, manifest)
    yield from _other_than(run / LOGS, lambda name: _fits(name, _OF_TRACKERS))
    for entry in _entries(run / LOGS):
        yield from _runs_below(entry)


def is_own_name(name: str) -> bool:
    """Whether a training writes a file of this name into its folder, or leaves it there when it is killed."""
    half = BESIDE.fullmatch(name)
    return name in FILES or name.startswith(LOCK) or (half is not None and half[1] in (*FILES, MODEL))


def others_in_checkpoint(folder: Path) -> list[Path]:
    """Files in ``step-N`` that are not of the checkpoint, by its list (``COMPLETE.json``) or else by known names."""
    listed = _listed(folder)
    if listed is None:
        return list(_other_than(folder, lambda name: _fits(name, _OF_A_CHECKPOINT)))
    return [entry for entry in _files_below(folder) if entry.relative_to(folder).as_posix() not in listed]


def others_in_model(run: Path, manifest: Mapping[str, Any]) -> list[Path]:
    """Files in ``model/`` that are not of the model."""
    folder, listed = run / MODEL, manifest.get(MODEL_FILES)
    if isinstance(listed, list):
        return [entry for entry in _files_below(folder) if entry.relative_to(folder).as_posix() not in listed]
    below = [entry for entry in _entries(folder) if entry.is_dir() or entry.is_symlink()]
    found = [entry for entry in below if entry.name not in _OF_A_MODEL]
    return [folder] if (folder / RECIPE).is_file() and (folder / MANIFEST).is_file() else found


def files_of_model(folder: Path) -> list[str]:
    """The files in ``model/``, for the manifest."""
    return sorted(entry.relative_to(folder).as_posix() for entry in _files_below(folder))


def described(entries: list[Path], run: Path) -> str:
    """The first few entries as text, with a remark where one is or contains a run folder."""
    named = []
    for entry in entries[:_NAMED]:
        below = [] if entry.is_symlink() else [entry, *_runs_below(entry)]
        runs = [place for place in below if _looks_like_run(place)]
        kind = "/" if entry.is_dir() and not entry.is_symlink() else ""
        inside = " and ".join("a run folder" if at == entry else f"the run folder {at}" for at in runs[:2])
        remark = f" ({'' if runs[:1] == [entry] else 'with '}{inside})" if inside else ""
        named.append(f"{entry.relative_to(run)}{kind}{remark}")
    more = f" and {len(entries) - _NAMED} more" if len(entries) > _NAMED else ""
    return f"{', '.join(named)}{more}"


def run_around(folder: Path) -> tuple[Path, str] | None:
    """The run whose ``checkpoints/``, ``model/`` or the like a folder would be in, and which of them.

    Args:
        folder: a real path; it need not exist.
    """
    below = folder.absolute()
    for place in below.parents:
        name = below.relative_to(place).parts[0]
        is_own = name in FOLDERS or name in FILES or BESIDE.fullmatch(name)
        if is_own and (place / RECIPE).is_file() and ((place / MANIFEST).exists() or (place / LOCK).exists()):
            return place, name
    return None


def _looks_like_run(folder: Path) -> bool:
    return (folder / RECIPE).is_file() and (folder / MANIFEST).is_file()


def _runs_below(folder: Path) -> Iterator[Path]:
    for place, _, files in os.walk(folder):
        if Path(place) != folder and RECIPE in files and MANIFEST in files:
            yield Path(place)


def _listed(checkpoint: Path) -> set[str] | None:
    try:
        files = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))["files"]
        return {COMPLETE, *map(str, files)} if isinstance(files, dict) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _entries(folder: Path) -> list[Path]:
    return [] if folder.is_symlink() or not folder.is_dir() else sorted(folder.iterdir())


def _other_than(folder: Path, known: Callable[[str], bool]) -> Iterator[Path]:
    for entry in _entries(folder):
        half = BESIDE.fullmatch(entry.name)
        if not known(half[1] if half else entry.name):
            yield entry


def _files_below(folder: Path) -> Iterator[Path]:
    """Every file and link below a folder; none if the folder itself is a link."""
    if folder.is_symlink():
        return
    for place, folders, files in os.walk(folder):
        for name in (*files, *(name for name in folders if (Path(place) / name).is_symlink())):
            if not _fits(name, OF_THE_SYSTEM):
                yield Path(place) / name


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _is_nothing(entry: Path) -> bool:
    """Whether it is a file of the system, or a folder with no file in it."""
    if _fits(entry.name, OF_THE_SYSTEM):
        return True
    if entry.is_symlink() or not entry.is_dir():
        return False
    return next(_files_below(entry), None) is None
