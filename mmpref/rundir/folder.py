"""One run = one folder: what is in it, and who may write it.

A run folder holds ``recipe.yaml`` (resolved), ``manifest.json`` (versions, hashes, seeds, state), ``metrics.jsonl``,
``pairs.parquet`` and ``pairs_eval.parquet`` (statistics of every trained and held-out pair), ``quarantine.jsonl``,
``train.log`` (every line that the run said), ``logs/`` (of trackers), ``checkpoints/`` and ``model/`` (the result).
``manifest.json`` says in ``state`` whether the run is ``running``, ``complete``, ``stopped`` or ``failed``; only a
complete run has ``model/``.

While a run is written its folder holds ``.mmpref.lock``, and one such file for each further rank
(``.mmpref.lock.1``, ...): who trains there, by process and machine. Whoever wants to write there too is refused.
"""

from __future__ import annotations

import contextlib
import platform
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

from mmpref.errors import ConfigError
from mmpref.files.reading import read_json
from mmpref.files.writing import real_path, write_json, write_text, writing_to
from mmpref.recipe.loading import dump_recipe
from mmpref.recipe.sections import Recipe
from mmpref.rundir.content import (
    BESIDE,
    DUMP,
    LOCK,
    MANIFEST,
    MODEL,
    RECIPE,
    STEP,
    is_own_name,
)
from mmpref.rundir.locking import refuse_second
from mmpref.rundir.refusals import (
    MOST_BYTES,
    refuse_damaged,
    refuse_in_another_run,
    refuse_special_files,
    refuse_to_delete,
    refuse_to_lose_from_model,
    refuse_unwritable,
)
from mmpref.version import __version__

State = Literal["running", "complete", "stopped", "failed"]
_REPORTED_PACKAGES = ("torch", "transformers", "accelerate", "peft", "datasets", "pillow", "bitsandbytes", "tokenizers")
_BEFORE_STEP_1 = re.compile(r'\{"step": 0[,}]')
"""How a line of ``metrics.jsonl`` begins that was written before the first step."""
_ERRORS_KEPT = 20
_WRITTEN: dict[Path, tuple[str, dict[str, Any]]] = {}
"""Recipe and manifest of the runs that this process is at, as it wrote them last."""


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
    def log_file(self) -> Path:
        return self.path / "train.log"

    @property
    def logs(self) -> Path:
        """What trackers write."""
        return self.path / "logs"

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
        return self.path / MODEL

    @property
    def faults(self) -> Path:
        return self.path / "faults"

    def manifest(self) -> dict[str, Any]:
        """The manifest as it stands.

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
                _remove(entry)

    @property
    def _written(self) -> set[str]:
        files = (self.metrics_file, self.pairs_file, self.eval_pairs_file, self.quarantine_file, self.model)
        return {RECIPE, MANIFEST, *(file.name for file in files)}

    def _leftovers(self) -> list[tuple[Path, str]]:
        """What lies in the folder under a hidden name of the kind that files have before they are whole, and the name
        that each would have got."""
        folders = [folder for folder in (self.path, self.checkpoints, self.faults) if folder.is_dir()]
        entries = [entry for folder in folders for entry in folder.iterdir()]
        return [(entry, made[1]) for entry in entries if (made := BESIDE.fullmatch(entry.name))]

    def has_trained(self) -> bool:
        """Whether anything shows that a step was made: a checkpoint or a result, whole or not, or a line of a step."""
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
        return any(line.endswith("\n") and not _BEFORE_STEP_1.match(line) for line in lines)  # a torn one says nothing

    def set_state(self, state: State, **facts: Any) -> None:
        """Record how far the run is, with further facts about it.

        A manifest or recipe that was deleted or damaged since this process began the run is written anew.

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

    def make_again(self, place: Path) -> RunDir:
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
    note: str = ""
    """Worth saying to whoever starts the run; else empty."""

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
            path.mkdir(parents=True, exist_ok=True)
            if self.replaces:
                refuse_to_delete(self.recipe, self.run.manifest())  # once more: loading data and model takes its time
                _empty(self.run)
            if self.continues:
                refuse_to_lose_from_model(path, self.run.manifest())
            _remove(self.run.model)  # of a run killed before it could say that it was complete
            self.run.remove_leftovers()
            text = dump_recipe(self.recipe)
            write_text(self.run.recipe_file, text)
            facts = {"mmpref": __version__, "state": "running", "seed": self.recipe.seed, "versions": versions()}
            write_json(path / MANIFEST, {**facts, **self.facts})
            _WRITTEN[path] = text, {**facts, **self.facts}
        return self.run

    def tell(self) -> RunDir:
        """Write recipe and facts into a run that has begun.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        with writing_to(self.recipe.output):
            text = dump_recipe(self.recipe)
            write_text(self.run.recipe_file, text)
            if self.recipe.output in _WRITTEN:
                _WRITTEN[self.recipe.output] = text, _WRITTEN[self.recipe.output][1]
            self.run.set_state("running", **self.facts)
        return self.run


def with_real_output(recipe: Recipe) -> Recipe:
    """The recipe with its output's symbolic links followed, once for the whole run: a link that is set anew meanwhile
    moves nothing. An output without links and ``..`` stays as it was given.

    Raises:
        ConfigError: a link leads back to itself.
    """
    real = real_path(recipe.output)
    return recipe if real == recipe.output else recipe.model_copy(update={"output": real})


def check_output(recipe: Recipe, *, overwrite: bool = False, resume: bool = False) -> None:
    """Refuse a run whose output is taken, before anything heavy is loaded; nothing is made or changed.

    Args:
        recipe: as for :func:`claim_output`, as are the others.

    Raises:
        ConfigError: another process writes there, or what :func:`claim_output` says.
        CheckpointError: the folder cannot be written.
    """
    recipe = with_real_output(recipe)
    refuse_second(recipe.output)
    claim_output(recipe, overwrite=overwrite, resume=resume)


def claim_output(recipe: Recipe, *, overwrite: bool = False, resume: bool = False, alone: bool = True) -> Claim:
    """Look whether a run may be written to the recipe's ``output``; nothing is written or deleted yet.

    A run that ended before its first step and left nothing of worth is taken over without being asked: what it wrote is
    written again, and what else lies there stays.

    Args:
        recipe: its ``output`` is the folder.
        overwrite: a run that is in the folder may be replaced.
        resume: what is in the folder is kept; a run that is complete is refused.
        alone: whether no other process can be writing there; without locks that is not known, and a run that says it is
            running is not taken over.

    Raises:
        ConfigError: the folder holds a run, or other files, and neither option allows it, or something that the run
            reads lies in a folder that would be deleted.
        CheckpointError: the folder cannot be looked into or written.
    """
    recipe = with_real_output(recipe)
    path = recipe.output
    refuse_in_another_run(path)
    with writing_to(path):
        if path.exists() and not path.is_dir():
            raise ConfigError(f"output {path} is a file; give a folder")
        refuse_unwritable(path)
        if not path.is_dir() or all(_is_first_file(entry) for entry in path.iterdir()):
            return Claim(recipe, replaces=False, continues=False, facts=_facts_of_new())
        refuse_special_files(path, overwrite=overwrite and is_run_folder(path))
    if not is_run_folder(path):
        refuse_damaged(path)
        raise ConfigError(f"output {path} is not empty and is not a run folder; choose another with output=...")
    run = RunDir(path)
    state = run.manifest()["state"]
    if resume and state == "complete":
        raise ConfigError(f"the run in {path} is complete; there is nothing to resume")
    with writing_to(path):
        if state != "complete" and (alone or state != "running") and not (overwrite or resume or run.has_trained()):
            note = f"the run in {path} ended before its first step (state: {state}) and is begun again"
            return Claim(recipe, replaces=False, continues=False, facts=_facts_of_new(), note=note)
    if not (overwrite or resume):
        raise ConfigError(
            f"output {path} holds a run already (state: {state}); choose another with output=..., "
            "go on with --resume, or replace it with --overwrite"
        )
    if resume:
        refuse_to_lose_from_model(path, run.manifest())
    else:
        refuse_to_delete(recipe, run.manifest())
    facts = _facts_going_on(run.manifest()) if resume else _facts_of_new()
    return Claim(recipe, replaces=not resume, continues=resume, facts=facts)


def _empty(run: RunDir) -> None:
    """Delete a run and leave its folder, its locks in it. At every moment it is a run folder that is not complete, so
    that a kill in the middle leaves what can be replaced again. What else lies there stays."""
    run.set_state("failed", error="it was being replaced by --overwrite")
    for folder in (run.checkpoints, run.model, run.logs, run.faults):
        _remove(folder)
    for entry in run.path.iterdir():
        if entry.name not in (MANIFEST, RECIPE) and not entry.name.startswith(LOCK) and is_own_name(entry.name):
            _remove(entry)
    for name in (MANIFEST, RECIPE):
        _remove(run.path / name)


def _remove(entry: Path) -> None:
    """Delete a file, a folder with all in it, or a link and not what it leads to; nothing where nothing is."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)


def _facts_of_new() -> dict[str, Any]:
    """The name of a run, which its checkpoints have too: one of another run is never taken for its own."""
    return {"run": uuid.uuid4().hex}


def _facts_going_on(before: Mapping[str, Any]) -> dict[str, Any]:
    """What a run keeps when it goes on: its name, and why it ended before."""
    name, errors = before.get("run"), before.get("earlier_errors")
    kept = [str(error) for error in errors] if isinstance(errors, list) else []
    kept += [str(before["error"])] if "error" in before else []
    known = {"run": name} if isinstance(name, str) and name else _facts_of_new()
    return {**known, **({"earlier_errors": kept[-_ERRORS_KEPT:]} if kept else {})}


def start_run(recipe: Recipe, *, overwrite: bool = False, resume: bool = False) -> RunDir:
    """:func:`claim_output` and :meth:`Claim.begin` in one, where nothing is to be checked in between."""
    return claim_output(recipe, overwrite=overwrite, resume=resume).begin()


def _is_first_file(entry: Path) -> bool:
    """What a run that was killed while its folder was made leaves there: its lock, a recipe, and no manifest yet."""
    if entry.name == RECIPE or entry.name.startswith(LOCK):
        return True
    return entry.suffix == ".tmp" and entry.name.startswith((f".{RECIPE}.", f".{MANIFEST}."))


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
