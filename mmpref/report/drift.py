"""How far the log-probs of the chosen and rejected answers moved from the start model's.

They are read from the first of these that has them: held-out pairs one by one (``pairs_eval.parquet``), the held-out
means in ``metrics.jsonl``, the training pairs of the last quarter of the run (``pairs.parquet``), the training lines.
Only the files with one row per pair give intervals. Values are nats per answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmpref.report.runs import Row, Run, number
from mmpref.statistics import Interval, mean_with_interval

SIDES = ("chosen", "rejected")
_REFERENCE = ("ref_logps/{}", "logps/ref_{}", "logps/{}_ref")
_LENGTH = ("weights/effective_len", "len/{}", "logps/{}_len", "length/{}")


_OF_SINGLE_ANSWERS = "kto/kl"
_LABEL = "kto/share_desirable"


@dataclass(frozen=True, slots=True)
class Change:
    """Mean change of one side. ``by_pair`` is filled where every pair's own change is known."""

    value: float
    interval: Interval | None
    by_pair: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Drift:
    """The changes of a run by side and where they come from; per token only when token counts were logged."""

    changes: Mapping[str, Change]
    source: str
    chosen_per_token: float | None = None
    chosen_start: float | None = None


def measure_drift(run: Run) -> Drift | None:
    """The first source that has the chosen side; None when the run logged no log-probs."""
    for source in (_from_held_out_pairs, _from_eval_lines, _from_training_pairs, _from_training_lines):
        drift = source(run)
        if drift is not None:
            return drift
    return None


def change_in_line(line: Row, side: str) -> float | None:
    """Change of one side in a log line that also holds the reference's log-prob.

    A line of single answers (KTO) says nothing of sides: its mean is over desirable and undesirable ones.
    """
    if _OF_SINGLE_ANSWERS in line:
        return None
    now = number(line.get(f"logps/{side}"))
    start = _first(line, _REFERENCE, side)
    return None if now is None or start is None else now - start


def _first(line: Row, patterns: Sequence[str], side: str, prefix: str = "") -> float | None:
    found = (number(line.get(prefix + pattern.format(side))) for pattern in patterns)
    return next((value for value in found if value is not None), None)


def _rows(columns: Mapping[str, Sequence[Any]], keep: Callable[[list[float]], set[float]]) -> list[Row]:
    """The rows of the steps that ``keep`` chooses among all that the columns have."""
    if "step" not in columns or "pair_id" not in columns:
        return []
    steps = [number(step) for step in columns["step"]]
    wanted = keep(sorted({step for step in steps if step is not None}))
    names = [name for name in columns if name in ("step", "pair_id", _OF_SINGLE_ANSWERS, _LABEL) or _is_used(name)]
    places = [place for place, step in enumerate(steps) if step in wanted]
    return [_by_label({name: columns[name][place] for name in names}) for place in places]


def _is_used(name: str) -> bool:
    return name.startswith(("logps/", "ref_logps/", "len/", "length/", "weights/effective_len"))


def _ends(steps: list[float]) -> set[float]:
    return {*steps[:1], *steps[-1:]}


def _last_quarter(steps: list[float]) -> set[float]:
    begin = steps[-1] - (steps[-1] - steps[0]) / 4 if steps else 0.0
    return {step for step in steps if step >= begin}


def _by_label(row: Row) -> Row:
    """A row of a single answer (KTO) as one of a chosen answer, or of a rejected one where it is undesirable."""
    label = number(row.get(_LABEL))
    if label is None:
        return row
    rest = {name: value for name, value in row.items() if name != _OF_SINGLE_ANSWERS}
    if label:
        return rest
    sides = {name: rest.pop(name) for name in list(rest) if name.endswith("/chosen")}
    return rest | {name.replace("/chosen", "/rejected"): value for name, value in sides.items()}


def _from_held_out_pairs(run: Run) -> Drift | None:
    rows = _rows(run.eval_pairs, _ends)
    if not rows:
        return None
    first, last = min(row["step"] for row in rows), max(row["step"] for row in rows)
    start = {str(row["pair_id"]): row for row in rows if row["step"] == first}
    end = {str(row["pair_id"]): row for row in rows if row["step"] == last}
    changes = {side: _paired(start, end, side, same=first == last) for side in SIDES}
    lengths = [_first(row, _LENGTH, "chosen") for row in end.values()]
    source = f"{len(end)} held-out pairs, step {last} against step {first}"
    if first == last:
        source = f"{len(end)} held-out pairs at step {last} against the reference"
    return _drift(changes, source, lengths, _mean([number(row.get("logps/chosen")) for row in start.values()]))


def _paired(start: Mapping[str, Row], end: Mapping[str, Row], side: str, *, same: bool) -> dict[str, float]:
    found = {}
    for name, row in end.items():
        if same:
            value = change_in_line(row, side)
        else:
            before = number(start[name].get(f"logps/{side}")) if name in start else None
            now = number(row.get(f"logps/{side}"))
            value = None if before is None or now is None else now - before
        if value is not None:
            found[name] = value
    return found


def _from_eval_lines(run: Run) -> Drift | None:
    logged = [line for line in run.eval_lines() if number(line.get("eval_logps/chosen")) is not None]
    lines = [line for line in logged if f"eval_{_OF_SINGLE_ANSWERS}" not in line]
    if not lines:
        return None
    first, last = lines[0], lines[-1]
    changes: dict[str, Change] = {}
    for side in SIDES:
        now = number(last.get(f"eval_logps/{side}"))
        before = _first(last, _REFERENCE, side, "eval_")
        if before is None and first["step"] != last["step"]:
            before = number(first.get(f"eval_logps/{side}"))
        if now is not None and before is not None:
            changes[side] = Change(now - before, None, {})
    if "chosen" not in changes:
        return None
    length = _first(last, _LENGTH, "chosen", "eval_")
    per_token = changes["chosen"].value / length if length else None
    start = number(last["eval_logps/chosen"])
    before_start = None if start is None else start - changes["chosen"].value
    return Drift(changes, f"mean over the held-out pairs at step {last['step']}", per_token, before_start)


def _from_training_pairs(run: Run) -> Drift | None:
    rows = _rows(run.pairs, _last_quarter)
    if not rows:
        return None
    by_side = {}
    for side in SIDES:
        found = {f"{row['step']}/{row['pair_id']}": change_in_line(row, side) for row in rows}
        by_side[side] = {name: value for name, value in found.items() if value is not None}
    source = f"{len(by_side['chosen'])} training pairs of the last quarter of the run, against the reference"
    lengths = [_first(row, _LENGTH, "chosen") for row in rows]
    references = [_first(row, _REFERENCE, "chosen") for row in rows]
    return _drift(by_side, source, lengths, _mean(references))


def _from_training_lines(run: Run) -> Drift | None:
    lines = run.training_lines()
    lines = lines[-max(1, len(lines) // 4) :]
    changes: dict[str, Change] = {}
    for side in SIDES:
        value = _mean([change_in_line(line, side) for line in lines])
        if value is not None:
            changes[side] = Change(value, None, {})
    if "chosen" not in changes:
        return None
    length = _mean([_first(line, _LENGTH, "chosen") for line in lines])
    return Drift(
        changes,
        f"mean of the training lines from step {lines[0]['step']} on, against the reference",
        changes["chosen"].value / length if length else None,
        _mean([_first(line, _REFERENCE, "chosen") for line in lines]),
    )


def _drift(
    by_side: Mapping[str, Mapping[str, float]], source: str, lengths: Sequence[float | None], start: float | None
) -> Drift | None:
    if not by_side["chosen"]:
        return None
    changes = {}
    for side, by_pair in by_side.items():
        if by_pair:
            value, interval = mean_with_interval([by_pair[name] for name in sorted(by_pair)])
            changes[side] = Change(value, interval, by_pair)
    length = _mean(lengths)
    return Drift(changes, source, changes["chosen"].value / length if length else None, start)


def _mean(sample: Sequence[float | None]) -> float | None:
    known = [value for value in sample if value is not None]
    return sum(known) / len(known) if known else None
