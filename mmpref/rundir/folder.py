"""The folder of one run: its files, its manifest and state.

A run folder has ``recipe.yaml`` (resolved), ``manifest.json`` (versions, hashes, seeds, state), ``metrics.jsonl``,
``pairs.parquet`` and ``pairs_eval.parquet`` (statistics of every trained and held-out pair), ``quarantine.jsonl``,
``train.log`` (every line that the run printed), ``logs/`` (of trackers), ``checkpoints/`` and ``model/`` (the result).
``manifest.json`` says in ``state`` whether the run is ``running``, ``complete``, ``stopped`` or ``failed``; only a
complete run has ``model/``.

While a run is written its folder also has ``.mmpref.lock``, and one such file for each further rank
(``.mmpref.lock.1``, ...), which name the process and machine that train there.
"""

from __future__ import annotations

import functools
import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

from mmpref.errors import ConfigError
from mmpref.files.reading import read_json
from mmpref.files.writing import write_json, write_text, writing_to
from mmpref.recipe.loading import dump_recipe
from mmpref.recipe.sections import Recipe
from mmpref.rundir.content import (
    BESIDE,
    DUMP,
    MANIFEST,
    MODEL,
    MOST_BYTES,
    PAIR_TEXTS,
    RECIPE,
    SAMPLES,
    STEP,
)
from mmpref.version import __version__

State = Literal["running", "complete", "stopped", "failed"]
_REPORTED_PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "pillow", "bitsandbytes", "tokenizers")
_BEFORE_STEP_1 = re.compile(r'\{"step": 0[,}]')
"""How a line of ``metrics.jsonl`` begins that was written before the first step."""
_WRITTEN: dict[Path, tuple[str, dict[str, Any]]] = {}
"""Recipe and manifest of the runs that this process writes, as it wrote them last."""


@dataclass(frozen=True, slots=True)
class RunDir:
    """The folder of one run."""

    path: Path

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe."""
        return self.path / RECIPE

    @property
    def metrics_file(self) -> Path:
        """One JSON object per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def log_file(self) -> Path:
        """Every line that the run printed, with its time."""
        return self.path / "train.log"

    @property
    def logs(self) -> Path:
        """What trackers write."""
        return self.path / "logs"

    @property
    def pairs_file(self) -> Path:
        """Statistics of every trained pair."""
        return self.path / "pairs.parquet"

    @property
    def eval_pairs_file(self) -> Path:
        """Statistics of every held-out pair."""
        return self.path / "pairs_eval.parquet"

    @property
    def quarantine_file(self) -> Path:
        """Rows that were not used, each with the reason."""
        return self.path / "quarantine.jsonl"

    @property
    def checkpoints(self) -> Path:
        """One folder ``step-N`` per checkpoint."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The trained model or adapter; only of a complete run."""
        return self.path / MODEL

    @property
    def faults(self) -> Path:
        """Dumps of batches whose loss or gradient was not finite."""
        return self.path / "faults"

    def manifest(self) -> dict[str, Any]:
        """The content of ``manifest.json``.

        Raises:
            ConfigError: the folder is not a run folder, or its manifest is damaged.
        """
        file = self.path / MANIFEST
        try:
            content = read_json(file, ConfigError, most=MOST_BYTES)
        except ConfigError as err:
            if isinstance(err.__cause__, FileNotFoundError):
                raise ConfigError(f"{self.path} is not a run folder: it has no {MANIFEST}") from None
            raise
        if not isinstance(content, dict):
            raise ConfigError(f"{file} is damaged: expected a JSON object")
        return content

    def remove_leftovers(self) -> None:
        """Delete what a killed run had begun to write beside its files and checkpoints, and nothing else."""
        for entry, made in self._leftovers():
            if made in self._written or STEP.fullmatch(made) or DUMP.fullmatch(made):
                remove(entry)

    @property
    def _written(self) -> set[str]:
        files = (self.metrics_file, self.pairs_file, self.eval_pairs_file, self.quarantine_file, self.model)
        return {RECIPE, MANIFEST, PAIR_TEXTS, SAMPLES, *(file.name for file in files)}

    def _leftovers(self) -> list[tuple[Path, str]]:
        """Files under hidden names, which ``files.writing`` uses until they are complete, each with its final name."""
        folders = [folder for folder in (self.path, self.checkpoints, self.faults) if folder.is_dir()]
        entries = [entry for folder in folders for entry in folder.iterdir()]
        return [(entry, made[1]) for entry in entries if (made := BESIDE.fullmatch(entry.name))]

    def has_trained(self) -> bool:
        """Whether a step was made, by a checkpoint or result (complete or not) or a line of ``metrics.jsonl``."""
        results = {self.pairs_file.name, self.eval_pairs_file.name, self.model.name}
        begun = {made for _, made in self._leftovers()}
        if any((self.path / name).exists() or name in begun for name in results):
            return True
        steps = begun | ({entry.name for entry in self.checkpoints.iterdir()} if self.checkpoints.is_dir() else set())
        if any(STEP.fullmatch(name) for name in steps):
            return True
        if not self.metrics_file.is_file():
            return False
        lines = self.metrics_file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        return any(
            line.endswith("\n") and not _BEFORE_STEP_1.match(line) for line in lines
        )  # an incomplete line proves nothing

    def set_state(self, state: State, **facts: Any) -> None:
        """Write the state into the manifest, with further facts about the run.

        A manifest or recipe that was deleted or damaged since this process started the run is written again.

        Raises:
            ConfigError: the folder is not a run folder, or its manifest is damaged.
            CheckpointError: it cannot be written.
        """
        text, known = _WRITTEN.get(self.path, ("", None))
        try:
            content = self.manifest()
        except ConfigError:
            if known is None:
                raise
            content = dict(known)
        content.update(facts)
        content["state"] = state
        if known is not None and not self.recipe_file.is_file():
            write_text(self.recipe_file, text)
        write_json(self.path / MANIFEST, content)
        if state != "running":
            _WRITTEN.pop(self.path, None)
        elif known is not None:
            _WRITTEN[self.path] = text, content

    def write_start(self, recipe: Recipe, facts: Mapping[str, Any]) -> None:
        """Write ``recipe.yaml`` and a new ``manifest.json``.

        Raises:
            CheckpointError: they cannot be written.
        """
        text, content = dump_recipe(recipe), dict(facts)
        write_text(self.recipe_file, text)
        write_json(self.path / MANIFEST, content)
        _WRITTEN[self.path] = text, content

    def write_recipe(self, recipe: Recipe) -> None:
        """Write ``recipe.yaml`` of a run that has started.

        Raises:
            CheckpointError: it cannot be written.
        """
        text = dump_recipe(recipe)
        write_text(self.recipe_file, text)
        if self.path in _WRITTEN:
            _WRITTEN[self.path] = text, _WRITTEN[self.path][1]

    def recreate_in(self, place: Path) -> RunDir:
        """The run in another folder, which gets the recipe and the manifest of this one where it has none.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        again, (text, content) = RunDir(place), _WRITTEN[self.path]
        with writing_to(place):
            place.mkdir(parents=True, exist_ok=True)
            if not again.recipe_file.is_file():
                write_text(again.recipe_file, text)
            if not (place / MANIFEST).is_file():
                write_json(place / MANIFEST, content)
        _WRITTEN[place] = text, content
        return again


def is_run_folder(path: Path) -> bool:
    """Whether mmpref made this folder for a run: a recipe, and a manifest with the version that wrote it and a state.

    A ``manifest.json`` alone proves nothing: many programs write one.
    """
    if not (path / MANIFEST).is_file() or not (path / RECIPE).is_file():
        return False
    try:
        content = RunDir(path).manifest()
    except ConfigError:
        return False
    return isinstance(content.get("mmpref"), str) and content.get("state") in get_args(State)


def model_of(path: str | Path) -> str | Path:
    """The model that a path refers to: of a run folder its result, anything else is returned as it is.

    Raises:
        ConfigError: a run that is not complete, which has no model.
    """
    folder = Path(path)
    if not is_run_folder(folder):
        return path
    run = RunDir(folder)
    state = run.manifest().get("state")
    if state != "complete" or not run.model.is_dir():
        raise ConfigError(
            f"the run in {folder} has no model yet (state: {state}); finish it with mmpref train --resume"
        )
    return run.model


def versions() -> dict[str, str]:
    """Versions that a result depends on; read from package metadata, so nothing heavy is imported."""
    found = {"python": platform.python_version(), "mmpref": __version__}
    for package in _REPORTED_PACKAGES:
        if (installed := _version_of(package)) is not None:
            found[package] = installed
    return found


@functools.cache
def _version_of(package: str) -> str | None:
    """Read once: a run writes versions in several places, and what it has loaded stays what it is."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def remove(entry: Path) -> None:
    """Delete a file, a folder with everything in it, or a link but not its target; a missing entry is no error."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)
