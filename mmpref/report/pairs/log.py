"""The pair log of a run as columns of numbers: what is damaged is told and left out, the rest stays.

Shapes: N rows, one for each pair and step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmpref.report.runs import Run, number
from mmpref.statistics import Array

_MAY_BE_ABSENT = (
    "score/", "lift/", "image/", "loss/", "ada/image", "kto/", "anchor/", "pair/", "rewards/desirable",
    "rewards/undesirable",
)  # fmt: skip
"""Columns in which a pair may have no value: pairs without scores, or without another image."""
_NUMBER = (int, float, np.integer, np.floating)
_ONE_ANSWER = ("sft", "kto")


@dataclass(frozen=True, slots=True)
class PairLog:
    """Rows of a pair log. ``steps`` [N], ``ids`` [N] texts, ``columns`` name -> [N], NaN where there is no number."""

    steps: Array
    ids: np.ndarray[Any, np.dtype[np.object_]]
    columns: Mapping[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.steps)

    def column(self, name: str) -> Array:
        """A column [N]; all NaN where the log has none of that name."""
        found = self.columns.get(name)
        return np.full(len(self), np.nan) if found is None else found

    def has(self, name: str) -> bool:
        """Whether the column holds at least one number."""
        return bool(np.isfinite(self.column(name)).any())

    def where(self, rows: Any) -> PairLog:
        """Some rows, by a mask [N] or by their places."""
        return PairLog(self.steps[rows], self.ids[rows], {name: found[rows] for name, found in self.columns.items()})

    def evaluations(self) -> list[float]:
        """The steps that have rows, in order."""
        return [float(step) for step in np.unique(self.steps)]

    def at(self, step: float) -> PairLog:
        """The rows of one step, one for each pair."""
        return self.where(self.steps == step).last_of_each()

    def last_of_each(self) -> PairLog:
        """The latest row of every pair, in the order of their ids: the values of the last epoch."""
        order = np.lexsort((self.steps, self.ids.astype(str)))
        names = self.ids[order]
        last = np.append(names[1:] != names[:-1], True) if len(names) else np.zeros(0, dtype=bool)
        return self.where(order[last])

    def by_id(self, name: str) -> dict[str, float]:
        """The finite values of a column by pair; of a pair with several rows, the last."""
        values = self.column(name)
        return {str(key): float(value) for key, value in zip(self.ids, values, strict=True) if math.isfinite(value)}


@dataclass(frozen=True, slots=True)
class PairRun:
    """A training run with its pair logs.

    ``style`` is its place among all runs of the page: its colour, dashes and marker. ``problems`` are sentences.
    """

    run: Run
    style: int
    train: PairLog
    held_out: PairLog
    problems: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The run's name on the page."""
        return self.run.label

    @property
    def loss(self) -> Mapping[str, Any]:
        """The loss as it resolved, from the manifest, else from the recipe; empty when neither says."""
        for found in (self.run.manifest.get("loss"), self.run.recipe_value("loss")):
            if isinstance(found, Mapping) and found:
                return found
        return {}

    @property
    def uni(self) -> Mapping[str, Any] | None:
        """Its Uni-DPO section, where that is on."""
        found = self.loss.get("uni")
        return found if isinstance(found, Mapping) else None

    @property
    def compares(self) -> bool:
        """Whether its loss compares two answers, so that there are margins."""
        return self.loss.get("base") not in _ONE_ANSWER

    def number(self, key: str, *, section: str | None = None) -> float | None:
        """A number of its loss; None where there is none."""
        inside = self.loss if section is None else self.loss.get(section)
        found = inside.get(key) if isinstance(inside, Mapping) else None
        return number(found)


def pair_runs(runs: Sequence[Run]) -> list[PairRun]:
    """The training runs among the runs of a page; what is only an evaluation is left out."""
    found = []
    for style, run in enumerate(runs):
        if not run.manifest and not run.pairs and not run.eval_pairs:
            continue
        train, problems = read_log(run.pairs, "pairs.parquet")
        held_out, more = read_log(run.eval_pairs, "pairs_eval.parquet")
        found.append(PairRun(run, style, train, held_out, (*problems, *more)))
    return found


def read_log(columns: Mapping[str, Sequence[Any]], file: str) -> tuple[PairLog, list[str]]:
    """A pair log from the columns of its file, and sentences on what could not be used.

    Rows without a step or a pair are left out, columns of another length than ``step`` too; a value that is no finite
    number counts as absent.
    """
    nothing = PairLog(np.zeros(0), np.zeros(0, dtype=object))
    if not columns:
        return nothing, []
    if missing := [name for name in ("step", "pair_id") if name not in columns]:
        return nothing, [f"{file} has no column {' and no column '.join(missing)}: nothing is read from it"]
    steps, _ = _numbers(columns["step"])
    ids = columns["pair_id"]
    if len(ids) != len(steps):
        return nothing, [f"{file}: step has {len(steps)} rows and pair_id {len(ids)}: nothing is read from it"]
    problems = []
    usable = np.isfinite(steps) & np.array([isinstance(name, str | int) for name in ids], dtype=bool)
    if not usable.all():
        problems.append(f"{file}: {int((~usable).sum()):,} of {len(steps):,} rows have no step or no pair_id, left out")
    kept: dict[str, Array] = {}
    for name, raw in columns.items():
        if name in ("step", "pair_id"):
            continue
        if len(raw) != len(steps):
            problems.append(f"{file}: {name} has {len(raw):,} rows and step {len(steps):,}; the column is left out")
            continue
        values, bad = _numbers(raw)
        kept[name] = values[usable]
        absent = int(np.isnan(kept[name]).sum())
        allowed = name.startswith(_MAY_BE_ABSENT)
        if bad or (absent and not allowed):
            count = bad if allowed else max(bad, absent)
            problems.append(f"{file}: {name}: {count:,} of {len(steps):,} values are no numbers and are left out")
    names = np.array([str(name) for name in ids], dtype=object)
    return PairLog(steps[usable], names[usable], kept), problems


def _numbers(raw: Sequence[Any]) -> tuple[Array, int]:
    """Values as floats, NaN where there is none; and how many are something else than a finite number, NaN or None."""
    if isinstance(raw, np.ndarray) and raw.dtype.kind in "fiu":
        values = raw.astype(np.float64)
        bad = np.isinf(values)
    else:
        plain = [isinstance(value, _NUMBER) and not isinstance(value, bool) for value in raw]
        values = np.array([float(v) if ok else math.nan for v, ok in zip(raw, plain, strict=True)], dtype=np.float64)
        other = [not ok and value is not None for value, ok in zip(raw, plain, strict=True)]
        bad = np.isinf(values) | np.array(other, dtype=bool)
    values[np.isinf(values)] = np.nan
    return values, int(bad.sum())


def no_log(found: PairRun) -> str:
    """Why a run has nothing to analyse, and what gives it."""
    if found.run.recipe_value("train.pair_log") == 0:
        return f"{found.label}: its recipe keeps no training pairs; train.pair_log=1 keeps all of them"
    if found.run.state == "running":
        return (
            f"{found.label}: no pair log yet; it is read from the checkpoints while a run trains, and whole at its end"
        )
    if any("step" in columns for columns in (found.run.pairs, found.run.eval_pairs)):
        return f"{found.label}: its pair log has no usable row"
    return (
        f"{found.label}: no pair log (pairs.parquet and pairs_eval.parquet are missing or cannot be read). "
        "mmpref train writes both; training again makes them"
    )


def data_of(found: PairRun) -> frozenset[str] | None:
    """Hashes of the files it was trained on; None where its manifest names none."""
    files = found.run.manifest.get("data")
    if not isinstance(files, Mapping) or not files or not all(isinstance(digest, str) for digest in files.values()):
        return None
    return frozenset(files.values())


def why_not_paired(first: PairRun, other: PairRun) -> str | None:
    """Why two runs are not compared pair by pair; None where they are.

    They are where both were trained on the same files. Where a manifest does not say, answers of other lengths under
    the same ids give other data away.
    """
    mine, theirs = data_of(first), data_of(other)
    if mine is not None and theirs is not None and mine != theirs:
        return f"{other.label} was trained on other data than {first.label}: each is shown without differences"
    logs = [("training", first.train, other.train), ("held-out", first.held_out, other.held_out)]
    if not any(set(one.ids) & set(two.ids) for _, one, two in logs):
        return f"{other.label} and {first.label} have no pairs in common: each is shown without differences"
    for what, one, two in logs:
        for side in ("len/chosen", "len/rejected"):
            before, after = one.by_id(side), two.by_id(side)
            if any(before[name] != after[name] for name in before.keys() & after.keys()):
                return (
                    f"{other.label} and {first.label} have {what} pairs of the same ids with answers of other lengths "
                    "(other answers, or another tokenizer): each is shown without differences"
                )
    return None
