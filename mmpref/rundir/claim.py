"""Whether a run may be written to its output folder, and the start of the run there.

:func:`claim_output` only looks; :meth:`Claim.create` is the first step that changes the folder.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError
from mmpref.files.writing import real_path, writing_to
from mmpref.recipe.sections import Recipe
from mmpref.rundir.content import LOCK, MANIFEST, RECIPE, is_own_name
from mmpref.rundir.folder import RunDir, is_run_folder, remove, versions
from mmpref.rundir.locking import refuse_second
from mmpref.rundir.refusals import (
    refuse_damaged,
    refuse_in_another_run,
    refuse_special_files,
    refuse_to_delete,
    refuse_to_lose_from_model,
    refuse_unwritable,
)
from mmpref.version import __version__

_ERRORS_KEPT = 20


@dataclass(frozen=True, slots=True)
class Claim:
    """Permission to write a run to a folder. Nothing is changed before :meth:`create`."""

    recipe: Recipe
    replaces: bool
    """The folder has a run that ``create`` deletes."""
    continues: bool
    """The folder has a run that ``create`` resumes."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Written into the manifest beside the usual ones."""
    note: str = ""
    """A line for whoever starts the run, if there is something to say."""

    @property
    def run(self) -> RunDir:
        """The folder."""
        return RunDir(self.recipe.output)

    def create(self) -> RunDir:
        """Create the folder, or take over the one that exists, and set its manifest to ``running``.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        path = self.recipe.output
        with writing_to(path):
            path.mkdir(parents=True, exist_ok=True)
            if self.replaces:
                refuse_to_delete(self.recipe, self.run.manifest())  # again: loading data and model took its time
                _empty(self.run)
            if self.continues:
                refuse_to_lose_from_model(path, self.run.manifest())
            remove(self.run.model)  # of a run killed before its manifest said that it was complete
            self.run.remove_leftovers()
            facts = {"mmpref": __version__, "state": "running", "seed": self.recipe.seed, "versions": versions()}
            self.run.write_start(self.recipe, {**facts, **self.facts})
        return self.run

    def update(self) -> RunDir:
        """Write recipe and facts into a run that has been created.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        with writing_to(self.recipe.output):
            self.run.write_recipe(self.recipe)
            self.run.set_state("running", **self.facts)
        return self.run


def with_real_output(recipe: Recipe) -> Recipe:
    """The recipe with its output's symbolic links followed, once for the whole run: a link that is changed meanwhile
    has no effect. An output without links and ``..`` stays as it was given.

    Raises:
        ConfigError: a link leads back to itself.
    """
    real = real_path(recipe.output)
    return recipe if real == recipe.output else recipe.model_copy(update={"output": real})


def check_output(recipe: Recipe, *, overwrite: bool = False, resume: bool = False) -> None:
    """Refuse a run whose output is taken, before anything heavy is loaded; nothing is created or changed.

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
    """Check whether a run may be written to the recipe's ``output``; nothing is written or deleted yet.

    A run that ended before its first step and left no result is taken over without ``overwrite``: its files are
    written again, and any other files stay.

    Args:
        recipe: its ``output`` is the folder.
        overwrite: a run that is in the folder may be replaced.
        resume: what is in the folder is kept; a run that is complete is refused.
        alone: whether no other process can be writing there; without locks that is not known, and a run whose state is
            ``running`` is not taken over.

    Raises:
        ConfigError: the folder has a run, or other files, and neither option allows it, or something that the run
            reads is in a folder that would be deleted.
        CheckpointError: the folder cannot be read or written.
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
            f"output {path} contains a run already (state: {state}); choose another with output=..., "
            "go on with --resume, or replace it with --overwrite"
        )
    if resume:
        refuse_to_lose_from_model(path, run.manifest())
    else:
        refuse_to_delete(recipe, run.manifest())
    facts = _facts_of_resumed(run.manifest()) if resume else _facts_of_new()
    return Claim(recipe, replaces=not resume, continues=resume, facts=facts)


def _empty(run: RunDir) -> None:
    """Delete a run but not its folder and locks; files that are not the run's stay.

    At every moment it is a run folder that is not complete, so that it can be replaced again after a kill.
    """
    run.set_state("failed", error="it was being replaced by --overwrite")
    for folder in (run.checkpoints, run.model, run.logs, run.faults):
        remove(folder)
    for entry in run.path.iterdir():
        if entry.name not in (MANIFEST, RECIPE) and not entry.name.startswith(LOCK) and is_own_name(entry.name):
            remove(entry)
    for name in (MANIFEST, RECIPE):
        remove(run.path / name)


def _facts_of_new() -> dict[str, Any]:
    """The id of a run. Its checkpoints have it too, so that one of another run is never taken for its own."""
    return {"run": uuid.uuid4().hex}


def _facts_of_resumed(before: Mapping[str, Any]) -> dict[str, Any]:
    """What a run keeps when it is resumed: its id, and the errors that ended it before."""
    name, errors = before.get("run"), before.get("earlier_errors")
    kept = [str(error) for error in errors] if isinstance(errors, list) else []
    kept += [str(before["error"])] if "error" in before else []
    known = {"run": name} if isinstance(name, str) and name else _facts_of_new()
    return {**known, **({"earlier_errors": kept[-_ERRORS_KEPT:]} if kept else {})}


def start_run(recipe: Recipe, *, overwrite: bool = False, resume: bool = False) -> RunDir:
    """:func:`claim_output` and :meth:`Claim.create` in one call, where nothing is to be checked in between."""
    return claim_output(recipe, overwrite=overwrite, resume=resume).create()


def _is_first_file(entry: Path) -> bool:
    """A file that a run killed while its folder was created leaves: its lock, a recipe, and no manifest yet."""
    if entry.name == RECIPE or entry.name.startswith(LOCK):
        return True
    return entry.suffix == ".tmp" and entry.name.startswith((f".{RECIPE}.", f".{MANIFEST}."))
