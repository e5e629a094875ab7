"""What can be known to be wrong with a sweep before anything is loaded: every problem, with the cells that have it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from mmpref.data.quarantine import Quarantine
from mmpref.errors import ConfigError, DataError, MMPrefError
from mmpref.evals.scoring import benchmark_named, refuse_without_needed, with_defaults
from mmpref.files.rows import choose, refuse_duplicates
from mmpref.models.load import check_model
from mmpref.recipe.sample_section import BenchmarkSection
from mmpref.recipe.sections import Recipe
from mmpref.recipe.shipped import read_recipe_text
from mmpref.rundir.folder import RunDir, is_run_folder
from mmpref.sweeps.folder import Sweep
from mmpref.sweeps.grid import Cell, refuse_unused_names, unknown_names
from mmpref.sweeps.same import differences_from_run, refuse_equal_cells
from mmpref.training.loss_settings import objective_of
from mmpref.training.run.data import load_data
from mmpref.training.run.start_adapter import with_start_adapter

_NAMED = 3
"""Cells that a message names before it counts the rest."""
_MOST_PROBLEMS = 8


class Problems:
    """What is wrong with which cells."""

    def __init__(self) -> None:
        self._cells: dict[str, list[str]] = {}
        self._first: type[MMPrefError] = ConfigError

    def __bool__(self) -> bool:
        return bool(self._cells)

    def add(self, cell: str, err: MMPrefError) -> None:
        """Note a problem of a cell; the same of several cells is one."""
        if not self._cells:
            self._first = DataError if isinstance(err, DataError) else ConfigError
        self._cells.setdefault(str(err), []).append(cell)

    def refuse(self, total: int) -> None:
        """Raise where there are any.

        Raises:
            ConfigError, DataError: all of them; of the kind of the first.
        """
        if not self._cells:
            return
        lines = [f"{_named(cells, total)}: {said}" for said, cells in self._cells.items()]
        more = [f"and {len(lines) - _MOST_PROBLEMS} more problems"] if len(lines) > _MOST_PROBLEMS else []
        first = (
            f"{lines[0]}" if len(lines) == 1 else f"{len(lines)} problems:\n  " + "\n  ".join(lines[:_MOST_PROBLEMS])
        )
        raise self._first("\n  ".join([first, *more]))


def check(sweep: Sweep) -> dict[str, Recipe]:
    """The recipes of all cells by name, when nothing is known to be wrong with them.

    Raises:
        ConfigError: a key, value or name in braces; two cells that are the same training; a benchmark, its options or
            its question files; a model that is not there; or a cell that was begun with another recipe.
        DataError: data that cannot be read, or without the scores that a loss reads.
    """
    sweep.refuse_folder()
    cells, texts = sweep.cells(), _texts(sweep)
    refuse_unused_names(sweep.axes, texts)
    known = list(cells[0].names)
    if wrong := unknown_names(texts, known):
        raise ConfigError("; ".join(wrong))
    problems, recipes = Problems(), dict[str, Recipe]()
    for cell in cells:
        try:
            recipes[cell.name] = sweep.recipe_of(cell)
        except ConfigError as err:
            problems.add(cell.name, ConfigError(str(err).removeprefix(f"cell {cell.name}: ")))
    problems.refuse(len(cells))
    refuse_equal_cells(recipes)
    _check_begun(sweep, cells, recipes, problems)
    problems.refuse(len(cells))
    for look in (_check_losses, _check_evals, _check_models, _check_data):
        look({cell.name: recipes[cell.name] for cell in cells if not sweep.outcome(cell)}, problems)
        problems.refuse(len(cells))
    return recipes


def _texts(sweep: Sweep) -> list[str]:
    text, _ = read_recipe_text(sweep.recipe)
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return ["\n".join(lines), *sweep.changes, *(change for arm in sweep.arms for change in arm.changes)]


def _check_begun(sweep: Sweep, cells: Sequence[Cell], recipes: Mapping[str, Recipe], problems: Problems) -> None:
    """Cells that are there already have the recipe that they have now, or a table would mix two sweeps."""
    for cell in cells:
        run = RunDir(sweep.folder(cell))
        if not is_run_folder(run.path):
            continue
        try:
            changed = differences_from_run(recipes[cell.name], run)
        except ConfigError as err:
            problems.add(cell.name, err)
            continue
        if changed:
            problems.add(
                cell.name,
                ConfigError(
                    f"it was begun with another recipe ({'; '.join(changed)}); go on with the earlier one, or choose "
                    "another --out"
                ),
            )


def _check_losses(recipes: Mapping[str, Recipe], problems: Problems) -> None:
    for name, recipe in recipes.items():
        _noting(problems, name, partial(_loss_of, recipe))


def _loss_of(recipe: Recipe) -> None:
    objective_of(with_start_adapter(recipe))


def _check_evals(recipes: Mapping[str, Recipe], problems: Problems) -> None:
    """Names of folders, benchmarks, options and question files; each file is read once."""
    seen: dict[str, MMPrefError | None] = {}
    for name, recipe in recipes.items():
        folders = [benchmark.folder.lower() for benchmark in recipe.evals]
        if double := sorted({folder for folder in folders if folders.count(folder) > 1}):
            problems.add(name, ConfigError(f"two evals are called '{double[0]}'; give one of them a `name` of its own"))
        for benchmark in recipe.evals:
            key = json.dumps(benchmark.model_dump(mode="json"), sort_keys=True, default=str)
            if key not in seen:
                seen[key] = _error_of(partial(_check_benchmark, benchmark))
            if (err := seen[key]) is not None:
                problems.add(name, err)


def _check_benchmark(benchmark: BenchmarkSection) -> None:
    chosen = benchmark_named(benchmark.benchmark)
    protocol = benchmark.protocol or "mmpref"
    choose(protocol, chosen.protocols, f"protocol of {chosen.name}")
    complete = with_defaults(chosen, benchmark.options)
    refuse_without_needed(chosen, protocol, complete)
    questions = [Path(file) for file in benchmark.questions]
    if missing := [file for file in questions if not file.exists()]:
        raise ConfigError(f"evals: the questions of {benchmark.folder}, {missing[0]}, are not there")
    samples = chosen.load(questions if len(questions) > 1 else questions[0], complete)
    refuse_duplicates((sample.id for sample in samples), "questions")


def _check_models(recipes: Mapping[str, Recipe], problems: Problems) -> None:
    seen: dict[str, MMPrefError | None] = {}
    for name, recipe in recipes.items():
        path = recipe.model.path
        if path not in seen:
            seen[path] = _error_of(partial(check_model, path))
        if (err := seen[path]) is not None:
            problems.add(name, err)


def _check_data(recipes: Mapping[str, Recipe], problems: Problems) -> None:
    """Rows, their ids, the headers of their images and, where a loss reads them, their scores; each set is read once
    for the cells that ask the same of it."""
    seen: dict[str, MMPrefError | None] = {}
    for name, recipe in recipes.items():
        objective = objective_of(recipe)
        asked = [objective.requires_scores, objective.needs_rejected, objective.needs_labels, objective.needs_other]
        key = json.dumps([recipe.data.model_dump(mode="json"), asked], sort_keys=True, default=str)
        if key not in seen:
            light = recipe.model_copy(update={"data": recipe.data.model_copy(update={"check_images": "header"})})
            seen[key] = _error_of(partial(load_data, light, objective, Quarantine()))
        if (err := seen[key]) is not None:
            problems.add(name, err)


def _noting(problems: Problems, cell: str, look: Callable[[], object]) -> None:
    if (err := _error_of(look)) is not None:
        problems.add(cell, err)


def _error_of(look: Callable[[], object]) -> MMPrefError | None:
    try:
        look()
    except MMPrefError as err:
        return err
    return None


def _named(cells: Sequence[str], total: int) -> str:
    if len(cells) == total and total > 1:
        return f"all {total} cells"
    more = f" and {len(cells) - _NAMED} more cells" if len(cells) > _NAMED else ""
    return f"cell{'' if len(cells) == 1 else 's'} {', '.join(cells[:_NAMED])}{more}"
