"""Runs compared with the first of them: the numbers of their evaluations, paired differences, flags, notes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from mmpref.report.cells import NOT_MEASURED, Cell, Column, Line, Table, Unit, as_json
from mmpref.report.differences import paired_differences
from mmpref.report.drift import SIDES, Drift, measure_drift
from mmpref.report.flags import Flag, Signs, caption_flags, yes_flag
from mmpref.report.notes import notes_of_result, notes_of_run
from mmpref.report.questions import in_order, items_of
from mmpref.report.runs import CHAIR_METRICS, Evaluation, Run, load_runs
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


_OTHER_PAIRS = "change of log-prob: no difference, where the logs of two runs have no pairs in common"


def comparison_table(runs: Sequence[Run]) -> Table:
    """Compare runs with the first of them. Whatever was not measured is a cell that says so."""
    baseline = runs[0]
    notes = list(baseline.notes)
    remarks = [note for run in runs for note in notes_of_run(run)]
    splits = _splits(runs)
    drifts = [measure_drift(run) for run in runs]
    signs = [_signs(run, drift) for run, drift in zip(runs, drifts, strict=True)]
    lines = []
    for place, run in enumerate(runs):
        other = baseline if place else None
        found = caption_flags(signs[place], signs[0]) if place else {}
        cells = _chair_cells(run, other, found, notes, remarks)
        for split in splits:
            cells |= _pope_cells(run, other, split, notes, remarks)
        cells |= _drift_cells(drifts[place], drifts[0] if place else None, found)
        drift = drifts[place]
        lines.append(Line(run.label, place == 0, cells, drift.source if drift else ""))
    remarks += [_OTHER_PAIRS for line in lines for cell in line.cells.values() if _OTHER_PAIRS in cell.notes]
    columns = _columns(splits)
    # what nobody was asked has no column
    asked = {column.group for column in columns for line in lines if _is_known(line.cells[column.key])}
    columns = tuple(column for column in columns if column.group in asked)
    return Table(columns, tuple(lines), tuple(dict.fromkeys(notes)), tuple(dict.fromkeys(remarks)))


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
    return sorted({split for run in runs for split in run.pope()}, key=in_order)


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
    run: Run, baseline: Run | None, flags: Mapping[str, Sequence[Flag]], notes: list[str], remarks: list[str]
) -> dict[str, Cell]:
    found = run.chair()
    run_notes = [*_run_notes(run, found, "CHAIR"), *_left_out(run)]
    own: list[str] = []
    differences = _differences(baseline, run, baseline.chair() if baseline else None, found, "CHAIR", own)
    notes.extend(own)
    remarks.extend(run_notes)
    units: dict[str, tuple[Unit, Literal["lower", "higher"] | None]] = {
        "chair_s": ("percent", "lower"),
        "chair_i": ("percent", "lower"),
        "recall": ("percent", "higher"),
        "mean_length": ("words", None),
    }
    return {
        name: _cell(found, name, unit, better, differences.get(name), flags.get(name, ()), (*own, *run_notes))
        for name, (unit, better) in units.items()
    }


def _left_out(run: Run) -> list[str]:
    """The table has one place for captions; a second protocol of them is not lost without a word."""
    found = [entry for entry in run.evals if entry.benchmark == "chair"]
    return [
        f"CHAIR, {run.label}: {other.name} (protocol {other.protocol}) is not in this table, which shows "
        f"{found[0].name} (protocol {found[0].protocol}); to show it, give {(other.file or run.path).parent} as a run "
        "of its own"
        for other in found[1:]
    ]


def _pope_cells(run: Run, baseline: Run | None, split: str, notes: list[str], remarks: list[str]) -> dict[str, Cell]:
    found, before = _part(run, split), _part(baseline, split) if baseline else None
    name = "POPE" if split == "all" else f"POPE {split}"
    run_notes = _run_notes(run, found, name)
    own: list[str] = []
    differences = _differences(baseline, run, before, found, name, own)
    notes.extend(own)
    remarks.extend(run_notes)
    share, share_before = (side.metric("yes_ratio") if side else None for side in (found, before))
    flag = yes_flag(share, share_before, _label_share(found))
    better: dict[str, Literal["lower", "higher"] | None] = {"accuracy": "higher", "f1": "higher", "yes_ratio": None}
    return {
        f"pope/{split}/{name}": _cell(
            found,
            name,
            "percent",
            direction,
            differences.get(name),
            (flag,) if flag and name == "yes_ratio" else (),
            (*own, *run_notes),
        )
        for name, direction in better.items()
    }


def _run_notes(run: Run, found: Evaluation | None, what: str) -> list[str]:
    return [f"{what}, {run.label}: {note}" for note in notes_of_result(found)] if found is not None else []


def _differences(
    baseline: Run | None,
    run: Run,
    before: Evaluation | None,
    found: Evaluation | None,
    what: str,
    notes: list[str],
) -> dict[str, Difference]:
    if baseline is None or found is None:
        return {}
    if before is None:
        notes.append(f"{what}, {run.label}: no difference, {baseline.label} was not asked these questions")
        return {}
    return paired_differences(before, found, (baseline.label, run.label), notes, what=what)


def _part(run: Run, split: str) -> Evaluation | None:
    """One split of POPE as an evaluation of it alone, with its metrics under their plain names."""
    part = run.pope().get(split)
    if part is None:
        return None
    found = part.evaluation

    def plain(key: str) -> dict[str, Any]:
        given = found.results.get(key)
        named = given.items() if isinstance(given, Mapping) else ()
        return {str(n).removeprefix(part.prefix): value for n, value in named if str(n).startswith(part.prefix)}

    numbers = {key: plain(key) for key in ("metrics", "intervals", "undefined")}
    return Evaluation(found.name, {**found.results, **numbers}, items_of(part), found.file)


def _label_share(evaluation: Evaluation | None) -> float:
    items = evaluation.items if evaluation else ()
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
        cell = filled("nats", change.value, change.interval, None, difference, flags.get(key, ()))
        without = baseline is not None and cell.difference is None
        cells[key] = replace(cell, notes=(_OTHER_PAIRS,)) if without else cell
    return cells


def _cell(
    evaluation: Evaluation | None,
    metric: str,
    unit: Unit,
    better: Literal["lower", "higher"] | None,
    difference: Difference | None,
    flags: Sequence[Flag],
    notes: Sequence[str],
) -> Cell:
    value = evaluation.metric(metric) if evaluation else None
    if evaluation is None or value is None:
        reason = evaluation.why_undefined(metric) if evaluation else None
        run_notes = f"undefined: {reason}" if reason else ""
        return Cell(unit=unit, value=None, note=run_notes, flags=tuple(flags), notes=tuple(notes))
    return replace(filled(unit, value, evaluation.interval(metric), better, difference, flags), notes=tuple(notes))


def filled(
    unit: Unit,
    value: float,
    interval: Interval | None,
    better: Literal["lower", "higher"] | None,
    difference: Difference | None,
    flags: Sequence[Flag],
) -> Cell:
    """A cell of the table: the value with its interval, its difference and what is doubtful about it."""
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
