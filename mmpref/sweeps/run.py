"""One cell after another: trained, evaluated, and what became of it written down.

A cell's folder is a run folder like any other, with its evaluations in ``evals/NAME``, so that ``mmpref report``
reads it. A sweep's folder has:

- ``sweep.json``: the recipe, the changes, arms and axes;
- ``cells/NAME/``: the run folders, and ``cells/NAME.json``, what became of each;
- ``caches/``: reference log-probs and image features, one folder for all cells that can share it;
- ``start/NAME/``: evaluations of the models that the cells start from.

What is complete is not run again, so the same command goes on where the last one ended, and several at once share the
work: a cell belongs to the process that holds its lock.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError, DataError, MMPrefError
from mmpref.evals import EvalSettings, evaluate
from mmpref.files.reading import read_json
from mmpref.files.writing import write_json, writing_to
from mmpref.generation import BATCH_SIZE
from mmpref.recipe.sample_section import BenchmarkSection
from mmpref.recipe.sections import Recipe
from mmpref.recipe.shipped import read_recipe_text
from mmpref.rundir.content import CACHES, CELLS, START, SWEEP
from mmpref.rundir.folder import RunDir, is_run_folder, versions
from mmpref.sweeps.grid import Arm, Axis, Cell, cells_of, refuse_equal_cells, refuse_unused_names
from mmpref.training.loss_settings import objective_of
from mmpref.training.run.run import train

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A grid over a recipe in one folder.

    Attributes:
        recipe: file or name of a shipped recipe.
        changes: to it, in every cell.
    """

    recipe: str
    changes: tuple[str, ...]
    arms: tuple[Arm, ...]
    axes: tuple[Axis, ...]
    out: Path

    def cells(self) -> tuple[Cell, ...]:
        """All cells in order; see :func:`mmpref.sweeps.grid.cells_of`."""
        return cells_of(self.changes, self.arms, self.axes)

    def folder(self, cell: Cell) -> Path:
        """The run folder of a cell."""
        return self.out / CELLS / cell.name

    def recipe_of(self, cell: Cell) -> Recipe:
        """What a cell trains, with the caches that it shares with others."""
        return _with_caches(cell.recipe(self.recipe, self.folder(cell)), self.out / CACHES)

    def check(self) -> dict[str, Recipe]:
        """The recipes of all cells by name; everything that can be known of them is wrong before the first one runs.

        Raises:
            ConfigError: a cell's recipe is wrong, or two cells are the same training.
        """
        text, _ = read_recipe_text(self.recipe)
        refuse_unused_names(self.axes, [text, *self.changes, *(change for arm in self.arms for change in arm.changes)])
        recipes = {cell.name: self.recipe_of(cell) for cell in self.cells()}
        refuse_equal_cells(recipes)
        return recipes

    def begin(self) -> None:
        """Write ``sweep.json``, or find the same one there.

        Raises:
            ConfigError: the folder has something else, or another sweep.
        """
        file, content = self.out / SWEEP, self._content()
        if file.is_file():
            if read_json(file, DataError).get("sweep") != content:
                raise ConfigError(
                    f"{self.out} has a sweep of other cells; choose another --out, or give its own command"
                )
            return
        with writing_to(self.out):
            if self.out.is_dir() and any(self.out.iterdir()):
                raise ConfigError(f"--out {self.out} is not empty and has no {SWEEP}; choose another folder")
            self.out.mkdir(parents=True, exist_ok=True)
        write_json(file, {"sweep": content, "folder": str(Path.cwd()), "versions": versions()})

    def _content(self) -> dict[str, Any]:
        return {
            "recipe": self.recipe,
            "changes": list(self.changes),
            "arms": {arm.name: list(arm.changes) for arm in self.arms},
            "axes": {axis.key: list(axis.values) for axis in self.axes},
        }


def run_cell(sweep: Sweep, cell: Cell, say: Say) -> Mapping[str, Any]:
    """Train and evaluate one cell, as far as that is not done; what became of it, which is also written.

    An expected error ends the cell and not the sweep.
    """
    begun, folder = time.monotonic(), sweep.folder(cell)
    found: dict[str, Any] = {"name": cell.name, "arm": cell.arm, "values": dict(cell.values)}
    try:
        recipe = sweep.recipe_of(cell)
        _train(recipe, say)
        evaluate_all(recipe, RunDir(folder).model, folder / "evals")
        found["state"] = "complete"
    except MMPrefError as err:
        found |= {"state": "failed", "error": str(err), "exit_code": err.exit_code}
    found["seconds"] = round(time.monotonic() - begun, 1)
    write_json(folder.with_name(f"{cell.name}.json"), found)
    return found


def evaluate_all(recipe: Recipe, model: Path | str, out: Path) -> None:
    """Ask a model every benchmark of ``evals``; what was answered before is not asked again."""
    for benchmark in recipe.evals:
        _ask(recipe, benchmark, model, out / benchmark.folder)


def start_folder(sweep: Sweep, recipe: Recipe) -> Path:
    """Where the evaluations of the model are that a cell starts from."""
    return (
        sweep.out
        / START
        / _short_hash({"model": recipe.model.model_dump(mode="json"), "adapter": str(recipe.adapter.path)})
    )


def start_models(sweep: Sweep, recipes: Mapping[str, Recipe]) -> Iterator[tuple[Recipe, Path]]:
    """Each model that cells start from once, with the folder of its evaluations."""
    seen: set[Path] = set()
    for recipe in recipes.values():
        folder = start_folder(sweep, recipe)
        if recipe.evals and folder not in seen:
            seen.add(folder)
            yield recipe, folder


def _train(recipe: Recipe, say: Say) -> None:
    run = RunDir(recipe.output)
    if is_run_folder(run.path):
        if run.manifest().get("state") == "complete":
            return
        train(recipe, resume=run.has_trained(), overwrite=not run.has_trained())
        return
    train(recipe)


def _ask(recipe: Recipe, benchmark: BenchmarkSection, model: Path | str, out: Path) -> None:
    settings = EvalSettings(
        protocol=benchmark.protocol or "mmpref",
        max_new_tokens=benchmark.max_new_tokens,
        batch_size=benchmark.batch_size or BATCH_SIZE,
        cpu_threads=recipe.cpu_threads,
    )
    questions = [Path(file) for file in benchmark.questions]
    evaluate(
        model,
        benchmark.benchmark,
        questions=questions if len(questions) > 1 else questions[0],
        images_root=benchmark.image_root or recipe.data.root,
        out=out,
        settings=settings,
        **benchmark.options,
    )


def _with_caches(recipe: Recipe, caches: Path) -> Recipe:
    """The recipe with a reference cache and a feature cache that all cells share which start from the same model."""
    shared = {
        "model": recipe.model.model_dump(mode="json"),
        "processing": recipe.processing.model_dump(mode="json"),
        "adapter": recipe.adapter.model_dump(mode="json") if recipe.adapter.kind != "none" else None,
        "precision": [recipe.train.bf16, recipe.train.fp16],
    }
    if recipe.reference.kind == "auto" and recipe.reference.cache is None and objective_of(recipe).needs_reference:
        reference = recipe.reference.model_copy(
            update={"kind": "cache", "cache": caches / f"reference-{_short_hash(shared)}"}
        )
        recipe = recipe.model_copy(update={"reference": reference})
    return recipe


def _short_hash(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:10]
