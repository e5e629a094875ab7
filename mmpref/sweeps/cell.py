"""One cell of a sweep in this process: trained, evaluated, and what became of it written down.

What is done is not done again: a training that was stopped goes on from its newest checkpoint, or from the start where
it has none, and answers that were given are not asked for again.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpref.errors import DistributedError, MMPrefError, StoppedError
from mmpref.evals import EvalSettings, evaluate
from mmpref.evals.model_facts import source_of
from mmpref.evals.results import RESULTS
from mmpref.files.writing import write_json, write_text
from mmpref.generation import BATCH_SIZE
from mmpref.generation.model_source import ModelSource
from mmpref.process import children
from mmpref.recipe.loading import dump_recipe
from mmpref.recipe.sample_section import BenchmarkSection
from mmpref.recipe.sections import Recipe
from mmpref.rundir.folder import RunDir, is_run_folder, model_of
from mmpref.sweeps.folder import Sweep
from mmpref.sweeps.grid import Cell
from mmpref.training.run.run import train

EVALS = "evals"
COMPLETE, FAILED = "complete", "failed"

Outcome = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CellWork:
    """What a worker is given: a cell to train and evaluate.

    Attributes:
        start: folder of the evaluations of its start model; None where it asks nothing.
        options: of ``mmpref train``, where a training takes several processes.
    """

    cell: Cell
    start: Path | None
    options: tuple[str, ...] = ()


def is_done(sweep: Sweep, cell: Cell, recipe: Recipe) -> bool:
    """Whether a cell is trained and has an answer to everything that is asked."""
    found, run = sweep.outcome(cell), RunDir(sweep.folder(cell))
    if found.get("state") != COMPLETE or not is_run_folder(run.path) or run.manifest().get("state") != "complete":
        return False
    asked = found.get("evals", _named(recipe))  # cells of before this was written down
    return asked == _named(recipe) and has_results(recipe, run.path / EVALS)


def has_results(recipe: Recipe, folder: Path) -> bool:
    """Whether a folder of evaluations has a result of every benchmark of ``evals``."""
    return all((folder / benchmark.folder / RESULTS).is_file() for benchmark in recipe.evals)


def run_cell(sweep: Sweep, work: CellWork) -> Outcome:
    """Train and evaluate one cell, as far as that is not done; what became of it, which is also written.

    An expected error ends the cell and not the sweep.

    Raises:
        StoppedError: a signal stopped the training, with a checkpoint; nothing is written of that.
    """
    cell, begun = work.cell, time.monotonic()
    found: dict[str, Any] = _facts_of(work)
    try:
        recipe = sweep.recipe_of(cell)
        write_text(sweep.recipe_file(cell), dump_recipe(recipe))
        _train(recipe, sweep.recipe_file(cell), work.options)
        evaluate_all(recipe, trained(recipe), sweep.folder(cell) / EVALS)
        found |= {"state": COMPLETE, EVALS: _named(recipe)}
    except StoppedError:
        raise
    except MMPrefError as err:
        found |= {"state": FAILED, "error": str(err), "exit_code": err.exit_code}
    found["seconds"] = round(time.monotonic() - begun, 1)
    return written(sweep, cell, found)


def failed(sweep: Sweep, work: CellWork, reason: str, exit_code: int, seconds: float) -> Outcome:
    """What became of a cell whose process ended before it could say."""
    facts = {"state": FAILED, "error": reason, "exit_code": exit_code, "seconds": round(seconds, 1)}
    return written(sweep, work.cell, {**_facts_of(work), **facts})


def written(sweep: Sweep, cell: Cell, found: dict[str, Any]) -> Outcome:
    """Write what became of a cell; where the disk has no room for that either, it is a reason of its own."""
    try:
        write_json(sweep.outcome_file(cell), found)
    except MMPrefError as err:
        return {**found, "state": FAILED, "error": found.get("error", str(err)), "exit_code": err.exit_code}
    return found


def evaluate_all(recipe: Recipe, model: ModelSource, out: Path) -> None:
    """Ask a model every benchmark of ``evals``; what was answered before is not asked again.

    Raises:
        MMPrefError: a benchmark cannot be asked, or was not answered in full.
    """
    for benchmark in recipe.evals:
        _ask(recipe, benchmark, model, out / benchmark.folder)


def trained(recipe: Recipe) -> ModelSource:
    """The model that a cell trained, as it was trained."""
    return _source(recipe, str(recipe.output), None)


def start_model(recipe: Recipe) -> ModelSource:
    """The model that a cell starts from, with the adapter that it starts from."""
    adapter = recipe.adapter.path
    return _source(recipe, recipe.model.path, None if adapter is None else Path(model_of(adapter)))


def _source(recipe: Recipe, path: str, adapter: Path | None) -> ModelSource:
    stored = recipe.adapter.stored_as if recipe.adapter.kind != "none" else None
    kwargs = recipe.processing.template_kwargs
    return source_of(
        path,
        adapter=adapter,
        quantization="nf4" if stored == "fp4" else stored,
        max_pixels=recipe.processing.max_pixels,
        template_kwargs=json.dumps(kwargs) if kwargs else None,
    )


def _train(recipe: Recipe, file: Path, options: tuple[str, ...]) -> None:
    run = RunDir(recipe.output)
    there = is_run_folder(run.path)
    if there and run.manifest().get("state") == "complete":
        return
    if options:
        _train_in_several(["train", str(file), *(("--resume",) if there else ()), *options])
        return
    train(recipe, resume=there)  # from the start, where no checkpoint was written


def _train_in_several(arguments: list[str]) -> None:
    code = children.run_step(arguments, Path.cwd())
    if code == 0:
        return
    if code - 128 in {int(number) for number in signal.Signals}:
        raise StoppedError("the training was stopped by a signal", code - 128)
    what = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
    error = DistributedError(f"mmpref train {what}; its message is above, and in train.log of the cell's folder")
    error.exit_code = code if code > 0 else DistributedError.exit_code
    raise error


def _ask(recipe: Recipe, benchmark: BenchmarkSection, model: ModelSource, out: Path) -> None:
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


def _facts_of(work: CellWork) -> dict[str, Any]:
    cell = work.cell
    start = {} if work.start is None else {"start": work.start.name}
    return {"name": cell.name, "arm": cell.arm, "values": dict(cell.values), **start}


def _named(recipe: Recipe) -> list[dict[str, Any]]:
    """What is asked, as it is written down; how many questions at once is none of it."""
    return [benchmark.model_dump(mode="json", exclude={"batch_size"}) for benchmark in recipe.evals]
