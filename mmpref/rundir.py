"""One run = one folder: what is in it, and who may write it.

A run folder holds ``recipe.yaml`` (resolved), ``manifest.json`` (versions, hashes, seeds, state), ``metrics.jsonl``,
``pairs.parquet`` and ``pairs_eval.parquet`` (statistics of every trained and held-out pair), ``quarantine.jsonl``,
``checkpoints/`` and ``model/`` (the result). ``manifest.json`` says in ``state`` whether the run is ``running``,
``complete``, ``stopped`` or ``failed``; only a complete run has ``model/``.
"""

from __future__ import annotations

import contextlib
import json
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

from mmpref.config import Recipe, dump_recipe
from mmpref.errors import ConfigError
from mmpref.files import home_path, real_path, write_json, write_text, writing_to
from mmpref.version import __version__

State = Literal["running", "complete", "stopped", "failed"]
MANIFEST = "manifest.json"
RECIPE = "recipe.yaml"
_REPORTED_PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "pillow", "bitsandbytes", "tokenizers")
_BESIDE = re.compile(r"\.(.+)\.[a-z0-9_]{8}(?:\.tmp|\.old)?")
"""What ``replacing`` and ``replacing_folder`` write into, and a folder that is being replaced."""
_STEP = re.compile(r"step-\d+")


@dataclass(frozen=True, slots=True)
class RunDir:
    """The folder of one run."""

    path: Path

    @property
    def recipe_file(self) -> Path:
        return self.path / RECIPE

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def pairs_file(self) -> Path:
        return self.path / "pairs.parquet"

    @property
    def eval_pairs_file(self) -> Path:
        return self.path / "pairs_eval.parquet"

    @property
    def quarantine_file(self) -> Path:
        return self.path / "quarantine.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    def manifest(self) -> dict[str, Any]:
        """The manifest as it stands.

        Raises:
            ConfigError: the folder is not a run folder, or its manifest is damaged.
        """
        file = self.path / MANIFEST
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{self.path} is not a run folder: it has no {MANIFEST}") from None
        except (OSError, ValueError) as err:
            raise ConfigError(f"{file} cannot be read: {err}") from err
        if not isinstance(content, dict):
            raise ConfigError(f"{file} is damaged: expected a JSON object")
        return content

    def remove_leftovers(self) -> None:
        """Delete what a killed run had begun to write beside its files and checkpoints, and nothing else."""
        names = {RECIPE, MANIFEST, *(file.name for file in (self.metrics_file, self.pairs_file, self.eval_pairs_file))}
        names |= {self.quarantine_file.name, self.model.name}
        for folder in (self.path, self.checkpoints):
            for entry in folder.iterdir() if folder.is_dir() else ():
                made = _BESIDE.fullmatch(entry.name)
                if made is None or not (made[1] in names or _STEP.fullmatch(made[1])):
                    continue
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()

    def set_state(self, state: State, **facts: Any) -> None:
        """Record how far the run is, with further facts about it."""
        content = self.manifest()
        content.update(facts)
        content["state"] = state
        write_json(self.path / MANIFEST, content)


def is_run_folder(path: Path) -> bool:
    """Whether mmpref made this folder for a run: a recipe, and a manifest with the version that wrote it and a state.

    A ``manifest.json`` alone says nothing: many programs write one.
    """
    if not (path / MANIFEST).is_file() or not (path / RECIPE).is_file():
        return False
    try:
        content = RunDir(path).manifest()
    except ConfigError:
        return False
    return isinstance(content.get("mmpref"), str) and content.get("state") in get_args(State)


@dataclass(frozen=True, slots=True)
class Claim:
    """Leave to write a run into a folder. Nothing is touched before :meth:`begin`."""

    recipe: Recipe
    replaces: bool
    """A run is there that ``begin`` deletes."""
    continues: bool
    """A run is there that ``begin`` goes on with."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Told in the manifest beside the usual ones."""

    @property
    def run(self) -> RunDir:
        return RunDir(self.recipe.output)

    def begin(self) -> RunDir:
        """Make the folder anew, or take up the one that is there, and set its manifest to ``running``.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        path = self.recipe.output
        with writing_to(path):
            if self.replaces:
                shutil.rmtree(real_path(path))  # a symbolic link stays
            if self.run.model.exists():  # of a run killed before it could say that it was complete
                shutil.rmtree(self.run.model)
            path.mkdir(parents=True, exist_ok=True)
            self.run.remove_leftovers()
            write_text(self.run.recipe_file, dump_recipe(self.recipe))
            facts = {"mmpref": __version__, "state": "running", "seed": self.recipe.seed, "versions": versions()}
            write_json(path / MANIFEST, {**facts, **self.facts})
        return self.run

    def tell(self) -> RunDir:
        """Write recipe and facts into a run that has begun.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        with writing_to(self.recipe.output):
            write_text(self.run.recipe_file, dump_recipe(self.recipe))
            self.run.set_state("running", **self.facts)
        return self.run


def claim_output(
    recipe: Recipe, *, overwrite: bool = False, resume: bool = False, inputs: Sequence[Path | str] = ()
) -> Claim:
    """Look whether a run may be written to the recipe's ``output``; nothing is written or deleted yet.

    Args:
        recipe: its ``output`` is the folder.
        overwrite: a run that is in the folder may be replaced.
        resume: what is in the folder is kept; a run that is complete is refused.
        inputs: files and folders that the run reads; none may lie in a folder that would be deleted.

    Raises:
        ConfigError: the folder holds a run, or other files, and neither option allows it, or an input lies in it.
        CheckpointError: the folder cannot be looked into.
    """
    path = recipe.output
    with writing_to(path):
        if path.exists() and not path.is_dir():
            raise ConfigError(f"output {path} is a file; give a folder")
        if not path.is_dir() or all(_is_first_file(entry) for entry in path.iterdir()):
            return Claim(recipe, replaces=False, continues=False)
    if not is_run_folder(path):
        raise ConfigError(f"output {path} is not empty and is not a run folder; choose another with output=...")
    state = RunDir(path).manifest()["state"]
    if resume and state == "complete":
        raise ConfigError(f"the run in {path} is complete; there is nothing to resume")
    if not (overwrite or resume):
        raise ConfigError(
            f"output {path} holds a run already (state: {state}); choose another with output=..., "
            "go on with --resume, or replace it with --overwrite"
        )
    inside = [] if resume else [str(entry) for entry in inputs if _is_inside(entry, path)]
    if inside:
        raise ConfigError(
            f"--overwrite would delete what this run reads: {', '.join(inside)} lies in {path}; choose another folder "
            "with output=..."
        )
    return Claim(recipe, replaces=not resume, continues=resume)


def start_run(recipe: Recipe, *, overwrite: bool = False, resume: bool = False) -> RunDir:
    """:func:`claim_output` and :meth:`Claim.begin` in one, where nothing is to be checked in between."""
    return claim_output(recipe, overwrite=overwrite, resume=resume).begin()


def _is_first_file(entry: Path) -> bool:
    """What a run that was killed while its folder was made leaves there: a recipe, and no manifest yet."""
    return entry.name == RECIPE or (entry.suffix == ".tmp" and entry.name.startswith((f".{RECIPE}.", f".{MANIFEST}.")))


def _is_inside(entry: Path | str, folder: Path) -> bool:
    place = home_path(entry)
    return place.exists() and real_path(place).is_relative_to(real_path(folder))


def model_of(path: str | Path) -> str | Path:
    """The model that a path means: a run folder stands for its result, anything else for itself.

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
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
