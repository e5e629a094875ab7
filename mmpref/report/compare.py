"""Runs compared with the first of them: the numbers of their evaluations, paired differences, flags, notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from mmpref.report.cells import NOT_MEASURED, Cell, Column, Line, Table, Unit, as_json
from mmpref.report.differences import paired_differences
from mmpref.report.drift import SIDES, Drift, measure_drift
from mmpref.report.flags import Flag, Signs, caption_flags, yes_flag
from mmpref.report.runs import CHAIR_METRICS, POPE_SPLITS, Evaluation, Run, load_runs
from mmpref.report.text_stats import mean_repetition, most_common_share
from mmpref.statistics import Difference, Interval, mean_difference

__all__ = [
    "NOT_MEASURED",
    "Cell",
    "Column",
    "Line",
    "Table",
    "as_json",
    "comparison_table",
    "difference_between",
    "filled",
    "load_runs",
]


def comparison_table(runs: Sequence[Run]) -> Table:
    """Compare runs with the first of them. Whatever was not measured is a cell that says so."""
    baseline = runs[0]
    notes: list[str] = []
    splits = _splits(runs)
    drifts = [measure_drift(run) for run in runs]
    signs = [_signs(run, drift) for run, drift in zip(runs, drifts, strict=True)]
    lines = []
    for place, run in enumerate(runs):
        other = baseline if place else None
        found = caption_flags(signs[place], signs[0]) if place else {}
        cells = _chair_cells(run, other, found, notes)
        for split in splits:
            cells |= _pope_cells(run, other, split, notes)
        cells |= _drift_cells(drifts[place], drifts[0] if place else None, found)
        drift = drifts[place]
        lines.append(Line(run.label, place == 0, cells, drift.source if drift else ""))
    columns = _columns(splits)
    if not any(run.manifest for run in runs):  # answers that were only scored: what nobody asked has no column
        asked = {column.group for column in columns for line in lines if _is_known(line.cells[column.key])}
        columns = tuple(column for column in columns if column.group in asked) or columns
    return Table(columns, tuple(lines), tuple(dict.fromkeys(notes)))


def _is_known(cell: Cell) -> bool:
    """A value, or a reason why there is none."""
    return cell.text != NOT_MEASURED


def difference_between(first: Run, second: Run, metric: str) -> Difference | None:
    """``second - first`` in one CHAIR metric, paired by image; None when the items do not allow it."""
    a, b = first.chair(), second.chair()
    if a is None or b is None:
        return None
    return paired_differences(a, b, (first.label, second.label), []).get(metric)


def _columns(splits: Sequence[str]) -> tuple[Column, ...]:
    chair = "captions (CHAIR)"
    found = [
        Column("chair_s", chair, "CHAIR_s", "percent", "lower", "captions with at least one hallucinated object"),
        Column("chair_i", chair, "CHAIR_i", "percent", "lower", "mentioned objects that are not in the image"),
        Column("recall", chair, "recall", "percent", "higher", "objects of the image that the caption mentions"),
        Column("mean_length", chair, "length", "words", None, "words per caption"),
    ]
    for split in splits:
        group = f"POPE {split}" if split != "all" else "POPE"
        found += [
            Column(f"pope/{split}/accuracy", group, "accuracy", "percent", "higher", "questions answered rightly"),
            Column(f"pope/{split}/f1", group, "F1", "percent", "higher", "F1 of the answer yes"),
            Column(f"pope/{split}/yes_ratio", group, "says yes", "percent", None, "share of answers that are yes"),
        ]
    what = "mean change of the {} answers' log-prob from the start of training, nats per answer"
    found += [Column(f"logp_{side}", "change of log-prob", side, "nats", None, what.format(side)) for side in SIDES]
    return tuple(found)


def _splits(runs: Sequence[Run]) -> list[str]:
    found = {split for run in runs for split in run.pope()}
    known = [split for split in POPE_SPLITS if split in found]
    return known + sorted(found - set(known))


def _signs(run: Run, drift: Drift | None) -> Signs:
    chair = run.chair()
    if chair is None:
        captions: dict[str, float | None] = {}
    else:
        texts = [str(item["text"]) for item in chair.items]
        captions = {name: chair.metric(name) for name in CHAIR_METRICS}
        if texts:
            captions["empty_share"] = sum(not text.strip() for text in texts) / len(texts)
            captions["repetition"] = mean_repetition(texts)
            captions["same_answer"] = most_common_share(texts) if len(texts) > 1 else None
    change = drift.changes["chosen"].value if drift else None
    return Signs(
        **captions,
        chosen_per_token=drift.chosen_per_token if drift else None,
        chosen_change=change,
        chosen_start=drift.chosen_start if drift else None,
    )


def _chair_cells(
    run: Run, baseline: Run | None, flags: Mapping[str, Sequence[Flag]], notes: list[str]
) -> dict[str, Cell]:
    found = run.chair()
    before = baseline.chair() if baseline else None
    differences: dict[str, Difference] = {}
    if found is not None and before is not None and baseline is not None:
        differences = paired_differences(before, found, (baseline.label, run.label), notes, what="CHAIR")
    units: dict[str, tuple[Unit, Literal["lower", "higher"] | None]] = {
        "chair_s": ("percent", "lower"),
        "chair_i": ("percent", "lower"),
        "recall": ("percent", "higher"),
        "mean_length": ("words", None),
    }
    return {
        name: _cell(found, name, unit, better, differences.get(name), flags.get(name, ()))
        for name, (unit, better) in units.items()
    }


def _pope_cells(run: Run, baseline: Run | None, split: str, notes: list[str]) -> dict[str, Cell]:
    found, prefix = run.pope().get(split, (None, ""))
    before, before_prefix = baseline.pope().get(split, (None, "")) if baseline else (None, "")
    differences: dict[str, Difference] = {}
    if found is not None and before is not None and baseline is not None:
        sides = _part(before, before_prefix), _part(found, prefix)
        differences = paired_differences(*sides, (baseline.label, run.label), notes, what=f"POPE {split}")
    share = found.metric(f"{prefix}yes_ratio") if found else None
    share_before = before.metric(f"{before_prefix}yes_ratio") if before else None
    flag = yes_flag(share, share_before, _label_share(found, prefix))
    better: dict[str, Literal["lower", "higher"] | None] = {"accuracy": "higher", "f1": "higher", "yes_ratio": None}
    return {
        f"pope/{split}/{name}": _cell(
            found,
            f"{prefix}{name}",
            "percent",
            direction,
            differences.get(name),
            (flag,) if flag and name == "yes_ratio" else (),
        )
        for name, direction in better.items()
    }


def _part(evaluation: Evaluation, prefix: str) -> Evaluation:
    """One split of an evaluation of several, with its metrics under their plain names."""
    if not prefix:
        return evaluation
    metrics = evaluation.results.get("metrics")
    plain = {
        str(name).removeprefix(prefix): value
        for name, value in (metrics.items() if isinstance(metrics, Mapping) else ())
        if str(name).startswith(prefix)
    }
    items = tuple(item for item in evaluation.items if f"{item.get('split', '')}/" == prefix)
    return Evaluation(evaluation.name, {**evaluation.results, "metrics": plain}, items)


def _label_share(evaluation: Evaluation | None, prefix: str) -> float:
    items = _part(evaluation, prefix).items if evaluation else ()
    return sum(item.get("label") == "yes" for item in items) / len(items) if items else 0.5


def _drift_cells(drift: Drift | None, baseline: Drift | None, flags: Mapping[str, Sequence[Flag]]) -> dict[str, Cell]:
    cells = {}
    for side in SIDES:
        change = drift.changes.get(side) if drift else None
        start = baseline.changes.get(side) if baseline else None
        key = f"logp_{side}"
        if change is None:
            cells[key] = Cell(unit="nats", value=None)
            continue
        difference = mean_difference(start.by_pair, change.by_pair) if start else None
        cells[key] = filled("nats", change.value, change.interval, None, difference, flags.get(key, ()))
    return cells


def _cell(
    evaluation: Evaluation | None,
    metric: str,
    unit: Unit,
    better: Literal["lower", "higher"] | None,
    difference: Difference | None,
    flags: Sequence[Flag],
) -> Cell:
    value = evaluation.metric(metric) if evaluation else None
    if evaluation is None or value is None:
        reason = evaluation.why_undefined(metric) if evaluation else None
        return Cell(unit=unit, value=None, note=f"undefined: {reason}" if reason else "", flags=tuple(flags))
    return filled(unit, value, evaluation.interval(metric), better, difference, flags)


def filled(
    unit: Unit,
    value: float,
    interval: Interval | None,
    better: Literal["lower", "higher"] | None,
    difference: Difference | None,
    flags: Sequence[Flag],
) -> Cell:
    if difference is None or difference.value is None:
        return Cell(unit=unit, value=value, interval=interval, flags=tuple(flags))
    verdict: Literal["better", "worse", "changed", "unclear"] = "unclear"
    if difference.clear:
        improved = difference.value < 0 if better == "lower" else difference.value > 0
        verdict = "changed" if better is None else "better" if improved else "worse"
    return Cell(
        unit=unit,
        value=value,
        interval=interval,
        difference=difference.value,
        difference_interval=difference.interval,
        verdict=verdict,
        caution=difference.caution,
        flags=tuple(flags),
    )
