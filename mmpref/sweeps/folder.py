"""The folder of a sweep: where its cells, caches and evaluations of start models are, and which sweep it is.

A cell's folder is a run folder like any other, with its evaluations in ``evals/NAME``, so that ``mmpref report``
reads it. A sweep's folder has:

- ``sweep.json``: the recipe, the changes, arms and axes;
- ``cells/NAME/``: the run folders, ``cells/NAME.yaml``, the recipe that each trains, which ``mmpref train`` takes as it
  is, and ``cells/NAME.json``, what became of it;
- ``caches/``: reference log-probs and image features, one folder for all cells that can share it;
- ``start/HASH/``: evaluations of the models that the cells start from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError, DataError
from mmpref.files.locking import Locked, NoLocksError, locked
from mmpref.files.reading import read_json
from mmpref.files.writing import write_json, writing_to
from mmpref.recipe.sections import Recipe
from mmpref.rundir.content import CACHES, CELLS, START, SWEEP
from mmpref.rundir.folder import is_run_folder, versions
from mmpref.rundir.refusals import refuse_in_another_run
from mmpref.sweeps.grid import Arm, Axis, Cell, cells_of
from mmpref.training.loss_settings import objective_of

_PATIENCE = 30.0
"""Seconds to wait for another process that begins in the same folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A grid over a recipe in one folder.

    Attributes:
        recipe: file or name of a shipped recipe.
        changes: to it, in every cell.
        caches: whether cells share a cache of reference log-probs.
    """

    recipe: str
    changes: tuple[str, ...]
    arms: tuple[Arm, ...]
    axes: tuple[Axis, ...]
    out: Path
    caches: bool = True

    def cells(self) -> tuple[Cell, ...]:
        """All cells in order; see :func:`mmpref.sweeps.grid.cells_of`."""
        return cells_of(self.changes, self.arms, self.axes)

    def folder(self, cell: Cell) -> Path:
        """The run folder of a cell."""
        return self.out / CELLS / cell.name

    def outcome_file(self, cell: Cell) -> Path:
        """What became of a cell."""
        return self.out / CELLS / f"{cell.name}.json"

    def recipe_file(self, cell: Cell) -> Path:
        """The recipe of a cell, for ``mmpref train``."""
        return self.out / CELLS / f"{cell.name}.yaml"

    def recipe_of(self, cell: Cell) -> Recipe:
        """What a cell trains, with the caches that it shares with others.

        Raises:
            ConfigError: a key or a value is not the recipe's.
        """
        recipe = cell.recipe(self.recipe, self.folder(cell))
        return _with_caches(recipe, self.out / CACHES) if self.caches else recipe

    def outcome(self, cell: Cell) -> dict[str, Any]:
        """What became of a cell the last time; empty where nothing did.

        Raises:
            DataError: the file is damaged.
        """
        file = self.outcome_file(cell)
        if not file.is_file():
            return {}
        found = read_json(file, DataError)
        if not isinstance(found, dict):
            raise DataError(f"{file} is damaged: it has no JSON object; delete it, and the cell is looked at again")
        return found

    def refuse_folder(self) -> None:
        """Refuse a folder that has something else, before anything is written.

        Raises:
            ConfigError: it is a file, lies in a run's folder or is one, has other files, or has another sweep.
        """
        out = self.out
        refuse_in_another_run(out)
        if out.exists() and not out.is_dir():
            raise ConfigError(f"--out {out} is a file; give a folder")
        around = [folder for folder in (out, *out.absolute().parents) if is_run_folder(folder)]
        if around:
            raise ConfigError(f"--out {out} lies in the run folder {around[0]}; choose another folder")
        file = out / SWEEP
        if file.is_file():
            self._refuse_another(file)
        elif out.is_dir() and any(out.iterdir()):
            raise ConfigError(f"--out {out} is not empty and has no {SWEEP}; choose another folder")

    def begin(self) -> None:
        """Write ``sweep.json``, or find the same one there.

        Raises:
            ConfigError: as :meth:`refuse_folder`.
            CheckpointError: the folder cannot be written.
        """
        lock = self.out.absolute().parent / f".{self.out.absolute().name}.begin.lock"
        try:
            with locked(lock, leave=False, patience=_PATIENCE):
                self._begin()
        except NoLocksError:
            self._begin()
        except Locked as err:
            raise ConfigError(f"{self.out} is being begun by {err.holder or 'another process'}; try again") from None

    def _begin(self) -> None:
        self.refuse_folder()
        with writing_to(self.out):
            (self.out / CELLS).mkdir(parents=True, exist_ok=True)
        if not (self.out / SWEEP).is_file():
            content = {"sweep": self._content(), "folder": str(Path.cwd()), "versions": versions()}
            write_json(self.out / SWEEP, content)

    def _refuse_another(self, file: Path) -> None:
        found = read_json(file, DataError)
        before = found.get("sweep") if isinstance(found, dict) else None
        if not isinstance(before, dict):
            raise DataError(f"{file} is damaged: it has no 'sweep'; put it back from a copy, or choose another --out")
        if differences := _differences(before, self._content()):
            raise ConfigError(
                f"{self.out} has another sweep ({'; '.join(differences)}); choose another --out, or give the command "
                f"that it was begun with: {file} has its parts"
            )

    def _content(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe,
            "changes": list(self.changes),
            "arms": {arm.name: list(arm.changes) for arm in self.arms},
            "axes": {axis.key: list(axis.values) for axis in self.axes},
        }


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    found = []
    for part in ("recipe", "changes"):
        if before.get(part) != now[part]:
            found.append(f"{part}: {_said(before.get(part))} then, {_said(now[part])} now")
    for part in ("arms", "axes"):
        then = before.get(part) or {}
        for name in dict.fromkeys((*then, *now[part])):
            if then.get(name) != now[part].get(name):
                found.append(f"{part[:-1] if part == 'arms' else 'axis'} {name}: {_said(then.get(name))} then, "
                             f"{_said(now[part].get(name))} now")  # fmt: skip
        if not found and list(then) != list(now[part]):
            found.append(f"{part} in another order")
    return found


def _said(value: Any) -> str:
    return "none" if value is None or value == [] else " ".join(value) if isinstance(value, list) else str(value)


def start_folders(sweep: Sweep, recipes: Mapping[str, Recipe]) -> dict[str, Path]:
    """Where the evaluations are of the model that each cell starts from; cells that start from one and ask it the same
    share a folder.

    Args:
        recipes: name of a cell -> its recipe.

    Returns:
        Name of a cell -> folder; without the cells that ask nothing.
    """
    models = {name: _short_hash(_start(recipe)) for name, recipe in recipes.items() if recipe.evals}
    asked = {name: _short_hash({**_start(recipes[name]), **_asked(recipes[name])}) for name in models}
    ways: dict[str, set[str]] = {}
    for name, model in models.items():
        ways.setdefault(model, set()).add(asked[name])
    return {
        name: sweep.out / START / (model if len(ways[model]) == 1 else asked[name]) for name, model in models.items()
    }


def _start(recipe: Recipe) -> dict[str, Any]:
    return {"model": recipe.model.model_dump(mode="json"), "adapter": str(recipe.adapter.path)}


def _asked(recipe: Recipe) -> dict[str, Any]:
    """What the answers of a start model depend on besides itself."""
    return {
        "evals": [benchmark.model_dump(mode="json", exclude={"batch_size"}) for benchmark in recipe.evals],
        "root": str(recipe.data.root),
        "stored_as": recipe.adapter.stored_as,
        "max_pixels": recipe.processing.max_pixels,
        "template_kwargs": recipe.processing.template_kwargs,
    }


def _with_caches(recipe: Recipe, caches: Path) -> Recipe:
    """The recipe with a reference cache that all cells share which start from the same model."""
    shared = {
        "model": recipe.model.model_dump(mode="json"),
        "processing": recipe.processing.model_dump(mode="json"),
        "adapter": recipe.adapter.model_dump(mode="json") if recipe.adapter.kind != "none" else None,
        "precision": [recipe.train.bf16, recipe.train.fp16],
    }
    if recipe.reference.kind != "auto" or recipe.reference.cache is not None:
        return recipe
    if not objective_of(recipe).needs_reference:
        return recipe
    reference = recipe.reference.model_copy(
        update={"kind": "cache", "cache": caches / f"reference-{_short_hash(shared)}"}
    )
    return recipe.model_copy(update={"reference": reference})


def _short_hash(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:10]
