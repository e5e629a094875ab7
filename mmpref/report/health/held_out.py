"""The held-out pairs at the end of every run, and the paired differences of the runs over the pairs that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mmpref.report.cells import Cell, Unit
from mmpref.report.compare import filled
from mmpref.report.health.pair_values import Value, by_pair, last_evaluation, log_ratio_margin, named
from mmpref.report.runs import Run
from mmpref.statistics import mean_difference, mean_with_interval

_OTHER_PAIRS = 0.01
"""Share of pairs of one id and other lengths from which on ids are taken to name other pairs."""
_OF_SINGLE_ANSWERS = "kto/kl"
_SAME_UNITS = ("base", "beta", "length_normalize", "gamma_beta_ratio", "ada")


@dataclass(frozen=True, slots=True)
class HeldOutRow:
    """One quantity; a cell for each run of the table."""

    name: str
    unit: str
    better: Literal["lower", "higher"] | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The table. ``steps`` are those of the evaluations, ``notes`` what stands in the way of a comparison."""

    labels: tuple[str, ...]
    steps: tuple[int, ...]
    rows: tuple[HeldOutRow, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Quantity:
    name: str
    unit: Unit
    shown: str
    better: Literal["lower", "higher"] | None
    value: Value
    needs_same_loss: bool = False


_QUANTITIES = (
    _Quantity("log-prob of chosen answers", "nats", "nats an answer", None, named("logps/chosen")),
    _Quantity("log-prob of rejected answers", "nats", "nats an answer", None, named("logps/rejected")),
    _Quantity("log-ratio margin", "nats", "nats, against the reference", "higher", log_ratio_margin),
    _Quantity("reward margin", "number", "in the loss's own unit", "higher", named("rewards/margins"), True),
    _Quantity("reward accuracy", "percent", "%", "higher", named("rewards/accuracies")),
    _Quantity("lift of chosen answers", "nats", "nats a token", "higher", named("lift/chosen")),
    _Quantity("lift of rejected answers", "nats", "nats a token", None, named("lift/rejected")),
)


def held_out_table(runs: Sequence[Run]) -> HeldOut | None:
    """Every quantity at the last evaluation, each run against the first that has pairs; None without any."""
    found = [(run, last) for run in runs if (last := last_evaluation(run)) is not None]
    found = [(run, last) for run, last in found if _OF_SINGLE_ANSWERS not in run.eval_pairs]
    if not found:
        return None
    notes: list[str] = []
    first, (_, before) = found[0]
    others = [_other_pairs(first, run, before, rows, notes) if run is not first else False for run, (_, rows) in found]
    loss = _loss(first)
    rows = []
    for quantity in _QUANTITIES:
        start = by_pair(before, quantity.value)
        cells = [
            _cell(
                quantity,
                by_pair(values, quantity.value),
                None if place == 0 or other or (quantity.needs_same_loss and _loss(run) != loss) else start,
            )
            for place, ((run, (_, values)), other) in enumerate(zip(found, others, strict=True))
        ]
        if any(cell.value is not None for cell in cells):
            rows.append(HeldOutRow(quantity.name, quantity.shown, quantity.better, tuple(cells)))
    if any(_loss(run) != loss for run, _ in found):
        notes.append(
            "reward margins of different losses have different units: no difference; the log-ratio margin has one"
        )
    labels, steps = tuple(run.label for run, _ in found), tuple(step for _, (step, _) in found)
    return HeldOut(labels, steps, tuple(rows), tuple(notes))


def _cell(quantity: _Quantity, values: Mapping[str, float], start: Mapping[str, float] | None) -> Cell:
    if not values:
        return Cell(unit=quantity.unit, value=None)
    mean, interval = mean_with_interval([values[name] for name in sorted(values)])
    difference = None if start is None else mean_difference(start, values)
    return filled(quantity.unit, mean, interval, quantity.better, difference, ())


def _other_pairs(
    first: Run, run: Run, before: Mapping[str, Mapping[str, float]], rows: Mapping[str, Mapping[str, float]],
    notes: list[str],
) -> bool:  # fmt: skip
    """Whether the two runs cannot be compared pair by pair; the reason goes into ``notes``."""
    where = f"{run.label} against {first.label}"
    shared = before.keys() & rows.keys()
    if not shared:
        notes.append(f"{where}: no difference, no held-out pair is in both")
        return True
    names = ("len/chosen", "len/rejected")
    changed = sum(any(before[pair].get(name) != rows[pair].get(name) for name in names) for pair in shared)
    if changed > _OTHER_PAIRS * len(shared):
        notes.append(
            f"{where}: no difference, {changed} of {len(shared)} held-out pairs with the same id have other lengths: "
            "other pairs, or another tokenizer"
        )
        return True
    if len(shared) < max(len(before), len(rows)):
        notes.append(f"{where}: the difference is over the {len(shared)} pairs of both ({len(before)} and {len(rows)})")
    return False


def _loss(run: Run) -> tuple[Any, ...]:
    loss = run.manifest.get("loss")
    settings = loss if isinstance(loss, Mapping) else run.recipe_value("loss")
    return tuple(str(settings.get(key)) for key in _SAME_UNITS) if isinstance(settings, Mapping) else ()
