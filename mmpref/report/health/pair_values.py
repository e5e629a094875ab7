"""Statistics of held-out pairs one by one, at the last step that has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mmpref.report.evaluation import number
from mmpref.report.runs import Run

Value = Callable[[Mapping[str, float]], float | None]


def last_evaluation(run: Run) -> tuple[int, dict[str, dict[str, float]]] | None:
    """The step of the last evaluation, and pair id -> statistic -> value; None where no pairs are recorded."""
    return _evaluation(run, max)


def first_evaluation(run: Run) -> tuple[int, dict[str, dict[str, float]]] | None:
    """The same of the first evaluation, which is the last one where there was only one."""
    return _evaluation(run, min)


def _evaluation(run: Run, which: Callable[[list[float]], float]) -> tuple[int, dict[str, dict[str, float]]] | None:
    columns = run.eval_pairs
    steps = [number(step) for step in columns.get("step", ())]
    known = [step for step in steps if step is not None]
    if not known or "pair_id" not in columns or len(columns["pair_id"]) != len(steps):
        return None
    wanted = which(known)
    found: dict[str, dict[str, float]] = {}
    names = [name for name in columns if name not in ("step", "pair_id")]
    for place, step in enumerate(steps):
        if step == wanted:
            row = {name: number(columns[name][place]) for name in names}
            found[str(columns["pair_id"][place])] = {name: value for name, value in row.items() if value is not None}
    return int(wanted), found


def named(name: str) -> Value:
    """Reads one statistic."""
    return lambda row: row.get(name)


def log_ratio_margin(row: Mapping[str, float]) -> float | None:
    """Log-ratio of the chosen answer to the reference less that of the rejected one, in nats, whatever the loss."""
    try:
        chosen = row["logps/chosen"] - row["ref_logps/chosen"]
        return chosen - (row["logps/rejected"] - row["ref_logps/rejected"])
    except KeyError:
        return None


def length_difference(row: Mapping[str, float]) -> float | None:
    """Tokens of the chosen answer less those of the rejected one."""
    sides = row.get("len/chosen"), row.get("len/rejected")
    return None if sides[0] is None or sides[1] is None else sides[0] - sides[1]


def by_pair(rows: Mapping[str, Mapping[str, float]], value: Value) -> dict[str, float]:
    """Pair id -> value, of the pairs that have one."""
    found = {name: value(row) for name, row in rows.items()}
    return {name: known for name, known in found.items() if known is not None}


def correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Pearson's correlation; None where one of the two does not vary."""
    count = len(first)
    if count < 2:
        return None
    means = sum(first) / count, sum(second) / count
    a, b = [value - means[0] for value in first], [value - means[1] for value in second]
    scale = (sum(value * value for value in a) * sum(value * value for value in b)) ** 0.5
    return sum(x * y for x, y in zip(a, b, strict=True)) / scale if scale > 0 else None
