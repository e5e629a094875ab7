"""A sweep's folder, read: every cell that the sweep has, whatever became of it, with its numbers.

A number comes with what was asked for it. Two numbers are compared only where that is the same: the questions, the
rules by which the answers were read, and how long an answer could be.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mmpref.errors import ConfigError, DataError, MMPrefError
from mmpref.evals.benchmarks import BENCHMARKS
from mmpref.files.reading import parse_json, read_json, read_text
from mmpref.report.cells import Unit
from mmpref.report.evaluation import RESULTS, Evaluation, number
from mmpref.report.runs import load_evaluation
from mmpref.rundir.content import CELLS, START, SWEEP
from mmpref.rundir.folder import RunDir
from mmpref.yaml_text import parse_yaml

COMPLETE, FAILED, MISSING = "complete", "failed", "not run yet"
HELD_OUT = "held-out pairs"
_OF_HELD_OUT = {"accuracy": "eval_rewards/accuracies", "margin": "eval_rewards/margins"}
Better = Literal["lower", "higher"] | None
Values = tuple[str, ...]
"""Values of some axes, in the order of the sweep's axes, as they were written."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One metric. ``better`` says which direction is good; None where neither is."""

    group: str
    name: str
    better: Better
    unit: Unit
    is_main: bool = True
    """Whether it gets figures; the others stand in tables."""

    @property
    def key(self) -> str:
        """Its name in files."""
        return f"{self.group}/{self.name}"

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"{self.name} ({self.group})"


@dataclass(frozen=True, slots=True)
class Number:
    """A value and what was asked for it, as a digest."""

    value: float
    asked: str


@dataclass(frozen=True, slots=True)
class Axis:
    """A key that was varied, and its values: in the order of their size where all are numbers."""

    key: str
    values: Values

    @property
    def label(self) -> str:
        """The last part of the key."""
        return self.key.rpartition(".")[2]

    @property
    def is_seed(self) -> bool:
        """Whether its values repeat one training instead of changing it."""
        return self.label == "seed" or self.label.endswith("_seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """One cell: ``state`` is complete, failed, not run yet, or what the sweep wrote; ``why`` is the error of a failed
    one. ``numbers`` are by the key of the measure; ``remarks`` say what of a complete one could not be used."""

    name: str
    arm: str
    values: Mapping[str, str]
    state: str = MISSING
    why: str = ""
    seconds: float | None = None
    numbers: Mapping[str, Number] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """A sweep, read. ``starts`` are the models that its cells start from, by name; ``problems`` are sentences about
    what could not be used."""

    path: Path
    recipe: str
    arms: tuple[str, ...]
    axes: tuple[Axis, ...]
    cells: tuple[CellResult, ...]
    measures: tuple[Measure, ...]
    starts: Mapping[str, Mapping[str, Number]]
    problems: tuple[str, ...]

    @property
    def grid_axes(self) -> tuple[Axis, ...]:
        """The axes that change the training."""
        return tuple(axis for axis in self.axes if not axis.is_seed)

    @property
    def seed_axes(self) -> tuple[Axis, ...]:
        """The axes that repeat it."""
        return tuple(axis for axis in self.axes if axis.is_seed)

    @property
    def places(self) -> tuple[Values, ...]:
        """All combinations of the values of the grid's axes: one empty one where there is no axis."""
        return tuple(itertools.product(*(axis.values for axis in self.grid_axes)))

    @property
    def seeds(self) -> tuple[Values, ...]:
        """All combinations of the seeds: one empty one where none is varied."""
        return tuple(itertools.product(*(axis.values for axis in self.seed_axes)))

    def place_of(self, cell: CellResult) -> Values:
        """A cell's values on the grid's axes."""
        return tuple(cell.values[axis.key] for axis in self.grid_axes)

    def seed_of(self, cell: CellResult) -> Values:
        """A cell's seeds."""
        return tuple(cell.values[axis.key] for axis in self.seed_axes)

    def described(self, place: Values) -> str:
        """A place in words, as ``beta 0.1, learning_rate 6e-5``."""
        pairs = zip(self.grid_axes, place, strict=True)
        return ", ".join(f"{axis.label} {value}" for axis, value in pairs) or "the recipe"

    def states(self) -> Counter[str]:
        """How many cells are in which state."""
        return Counter(cell.state for cell in self.cells)


def is_sweep_folder(path: Path) -> bool:
    """Whether ``mmpref sweep`` made a folder."""
    return (path / SWEEP).is_file()


def files_of_sweep(path: Path) -> list[Path]:
    """The files of a sweep that a report reads, and those of its runs beside them."""
    cells = path / CELLS
    names = ("*.json", "*/*.json", "*/*.jsonl", "*/*.yaml", "*/*.parquet", "*/evals/*/*.json*")
    return [path / SWEEP, *(file for name in names for file in cells.glob(name)), *(path / START).glob("*/*/*.json*")]


def read_sweep(path: Path) -> SweepResult:
    """Read a sweep's folder. Cells that failed or have not run are in it as such; nothing is left out.

    Args:
        path: the folder that ``mmpref sweep --out`` was given.

    Raises:
        ConfigError: it is none, or ``sweep.json`` is damaged.
    """
    if not is_sweep_folder(path):
        raise ConfigError(f"{path} is no folder of mmpref sweep: it has no {SWEEP}")
    try:
        content = read_json(path / SWEEP, DataError)["sweep"]
        arms = tuple(map(str, content["arms"])) or ("",)
        axes = tuple(_axis(str(key), values) for key, values in content["axes"].items())
        recipe = str(content["recipe"])
    except (DataError, KeyError, TypeError, AttributeError) as err:
        raise ConfigError(f"{path / SWEEP} is damaged ({err}): give the sweep's command again") from err
    problems: list[str] = []
    found = _outcomes(path / CELLS, problems)
    measures: dict[str, Measure] = {}
    cells = []
    for arm in arms:
        for values in itertools.product(*(axis.values for axis in axes)):
            own = dict(zip((axis.key for axis in axes), values, strict=True))
            outcome = found.pop((arm, values), None)
            cells.append(
                _cell(path / CELLS, arm, own, outcome, measures)
                if outcome is not None
                else CellResult(name=_shown(arm, own), arm=arm, values=own)
            )
    problems += [f"cells/{row['name']}.json belongs to no cell of this sweep" for row in found.values()]
    starts = {
        folder.name: _numbers(_evaluations(folder, []), measures)
        for folder in sorted((path / START).glob("*"))
        if folder.is_dir()
    }
    return SweepResult(
        path=path,
        recipe=recipe,
        arms=arms,
        axes=axes,
        cells=tuple(cells),
        measures=tuple(sorted(measures.values(), key=lambda one: not one.is_main)),
        starts=starts,
        problems=tuple(problems),
    )


def _axis(key: str, values: Sequence[Any]) -> Axis:
    texts = [str(value) for value in values]
    with contextlib.suppress(ValueError):  # words stay in the order in which they were given
        texts.sort(key=float)
    return Axis(key, tuple(texts))


def _shown(arm: str, values: Mapping[str, str]) -> str:
    return ", ".join([*([arm] if arm else []), *(f"{key.rpartition('.')[2]}={value}" for key, value in values.items())])


def _outcomes(folder: Path, problems: list[str]) -> dict[tuple[str, Values], dict[str, Any]]:
    """What became of each cell, by its arm and values; what cannot be read is a problem."""
    found: dict[tuple[str, Values], dict[str, Any]] = {}
    for file in sorted(folder.glob("*.json")):
        try:
            row = read_json(file, DataError)
            key = (str(row["arm"]), tuple(str(value) for value in row["values"].values()))
            found[key] = {**row, "name": str(row["name"])}
        except (DataError, KeyError, TypeError, AttributeError) as err:
            problems.append(f"{CELLS}/{file.name} cannot be used ({err}): the cell counts as {MISSING}")
    return found


def _cell(
    folder: Path, arm: str, values: Mapping[str, str], outcome: Mapping[str, Any], measures: dict[str, Measure]
) -> CellResult:
    run, state = RunDir(folder / outcome["name"]), str(outcome.get("state", MISSING))
    remarks: list[str] = []
    numbers: dict[str, Number] = {}
    if state == COMPLETE:
        numbers = _numbers(_evaluations(run.path / "evals", remarks), measures, remarks)
        if not numbers:
            remarks.append("no evaluation is in its folder")
        numbers |= _held_out(run, measures)
    return CellResult(
        name=outcome["name"],
        arm=arm,
        values=values,
        state=state,
        why=str(outcome.get("error", "")),
        seconds=number(outcome.get("seconds")),
        numbers=numbers,
        remarks=tuple(remarks),
    )


def _evaluations(folder: Path, remarks: list[str]) -> list[Evaluation]:
    """The results in a folder, without their items."""
    found = []
    for file in sorted(folder.glob(f"*/{RESULTS}")):
        evaluation = load_evaluation(file, remarks, f"{file.parent.name}/{RESULTS}", with_items=False)
        found += [evaluation] if evaluation is not None else []
    return found


def _numbers(
    evaluations: Sequence[Evaluation], measures: dict[str, Measure], remarks: list[str] | None = None
) -> dict[str, Number]:
    found: dict[str, Number] = {}
    for evaluation in evaluations:
        if evaluation.results.get("complete") is False:
            if remarks is not None:
                remarks.append(f"{evaluation.name} is not complete and is not compared")
            continue
        asked = _asked(evaluation)
        for name in evaluation.results["metrics"]:
            value = evaluation.metric(name)
            if value is None or name.startswith("overall/"):  # another spelling of the bare names
                continue
            measure = _measure(evaluation, name, value)
            measures.setdefault(measure.key, measure)
            found[measure.key] = Number(value, asked)
    return found


def _asked(evaluation: Evaluation) -> str:
    """What makes two numbers comparable: questions, rules, reader, limits."""
    results = evaluation.results
    settings = results.get("settings")
    given = settings if isinstance(settings, Mapping) else {}
    reader = results.get("reader")
    facts = {
        "benchmark": evaluation.benchmark,
        "protocol": evaluation.protocol,
        "questions": given.get("questions"),
        "limits": [given.get(key) for key in ("max_new_tokens", "num_beams", "max_pixels")],
        "n": (number(results.get("n")) or 0) + (number(results.get("n_missing")) or 0),
        "reader": reader.get("revision") if isinstance(reader, Mapping) else None,
    }
    return _digest(facts)


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _measure(evaluation: Evaluation, name: str, value: float) -> Measure:
    known, short = BENCHMARKS.get(evaluation.benchmark), name.rpartition("/")[2]
    better: Better = "higher"
    unit: Unit = "percent" if 0 <= value <= 1 else "number"
    if known is not None:
        better = "lower" if short in known.lower_is_better else None if short in known.undirected else "higher"
        shares = known.metrics(known.protocol_of_result(evaluation.protocol), "", ())
        if short in shares:
            unit = "percent" if shares[short].proportion else "number"
    elif short in ("mean_length", "yes_ratio"):
        better = None
    if short == "mean_length":
        unit = "words"
    is_main = "/" not in name and (known is None or not known.headline or short in known.headline)
    return Measure(evaluation.name, name, better, unit, is_main)


def _held_out(run: RunDir, measures: dict[str, Measure]) -> dict[str, Number]:
    """Accuracy and margin of the rewards on held-out pairs at the last evaluation of a run."""
    try:
        lines = read_text(run.metrics_file, DataError).splitlines()
        tree = parse_yaml(read_text(run.recipe_file, DataError), where="recipe.yaml")
    except MMPrefError:
        return {}
    last = next((row for row in map(_line, reversed(lines)) if _OF_HELD_OUT["accuracy"] in row), {})
    data = tree.get("data") if isinstance(tree, Mapping) else None
    data = data if isinstance(data, Mapping) else {}
    # the same file for all, or the same share of the same pairs
    asked = _digest(data.get("eval") or [data.get("train"), data.get("held_out"), tree.get("seed")])
    found = {}
    for name, logged in _OF_HELD_OUT.items():
        if (value := number(last.get(logged))) is None:
            continue
        measure = Measure(HELD_OUT, name, "higher" if name == "accuracy" else None,
                          "percent" if name == "accuracy" else "number", name == "accuracy")  # fmt: skip
        measures.setdefault(measure.key, measure)
        found[measure.key] = Number(value, asked)
    return found


def _line(text: str) -> Mapping[str, Any]:
    try:
        row = parse_json(text, DataError, "metrics.jsonl")
    except DataError:
        return {}
    return row if isinstance(row, dict) else {}
