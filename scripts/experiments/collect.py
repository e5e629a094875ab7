"""Sweeps of scripts/experiments/run.sh as tables: one row a cell, with what docs/experiments.md needs of it.

    python scripts/experiments/collect.py --work experiments

Writes results/experiments/NAME.csv for every sweep folder of the work folder that run.sh makes: arm, the axes, seed,
and metrics; shares are fractions, lengths words, log-probs nats an answer, means over the held-out pairs. Rows of the
models that the cells start from have the arm ``start`` and no values on the other axes. A cell that is not complete
has no row, and is named.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpref.files.writing import write_text
from mmpref.report.figures.drawing import csv_of

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results" / "experiments"
START = "start"
SWEEPS = (
    "noise",
    "on_policy",
    "learning_rate",
    "grid",
    "uni_dpo_parts",
    "adadpo_parts_2e-4",
    "adadpo_parts_6e-5",
    "qwen2_vl",
    "two_themes",
)
CHAIR = {"chair_s": "chair_s", "chair_i": "chair_i", "recall": "recall", "words": "mean_length"}
POPE = {
    "pope_random": "random/accuracy",
    "pope_adversarial": "adversarial/accuracy",
    "pope_adversarial_yes": "adversarial/yes_ratio",
}
HELD_OUT = {
    "logp_chosen": "eval_logps/chosen",
    "logp_rejected": "eval_logps/rejected",
    "heldout_accuracy": "eval_rewards/accuracies",
    "heldout_margin": "eval_rewards/margins",
    "coef_chosen": "eval_ada/coef_chosen",
    "w_qual": "eval_uni/w_qual",
}
_BEFORE = {"logp_chosen": "eval_ref_logps/chosen", "logp_rejected": "eval_ref_logps/rejected"}
METRICS = (*CHAIR, *POPE, *HELD_OUT, "pairs", "steps")
Row = dict[str, Any]


def rows_of(sweep: Path) -> tuple[list[Row], list[str]]:
    """One row a complete cell, those of the start models first; and the names of cells that are not complete."""
    content = json.loads((sweep / "sweep.json").read_text(encoding="utf-8"))["sweep"]
    axes = [key for key in content["axes"] if key != "seed"]
    rows: list[Row] = []
    unfinished = []
    starts: dict[str, Row] = {}
    for folder in sorted(path for path in (sweep / "cells").glob("*") if path.is_dir()):
        outcome = folder.with_name(f"{folder.name}.json")
        cell = json.loads(outcome.read_text(encoding="utf-8")) if outcome.is_file() else {}
        if cell.get("state") != "complete":
            unfinished.append(folder.name)
            continue
        log = _last_evaluation(folder / "metrics.jsonl")
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        row = {"arm": cell["arm"], **{key: cell["values"][key] for key in axes}, "seed": cell["values"]["seed"]}
        row |= _benchmarks(folder / "evals")
        row |= {name: _rounded(log.get(key)) for name, key in HELD_OUT.items()}
        rows.append(row | {"pairs": manifest["pairs"], "steps": manifest["steps"]})
        start = starts.setdefault(row["seed"], {"arm": START, **dict.fromkeys(axes, ""), "seed": row["seed"]})
        start |= {name: _rounded(log[key]) for name, key in _BEFORE.items() if key in log}
    for seed, values in _start_benchmarks(sweep).items():
        starts.get(seed, {}).update(values)
    order = list(content["arms"])
    places = {key: list(values) for key, values in content["axes"].items()}
    rows.sort(key=lambda row: (order.index(row["arm"]), *(places[key].index(row[key]) for key in (*axes, "seed"))))
    return [*(starts[seed] for seed in sorted(starts)), *rows], unfinished


def _last_evaluation(log: Path) -> Mapping[str, Any]:
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return next(line for line in reversed(lines) if "eval_loss" in line)


def _benchmarks(evals: Path) -> Row:
    found: Row = {}
    for benchmark, names in (("chair", CHAIR), ("pope", POPE)):
        file = evals / benchmark / "results.json"
        if file.is_file():
            metrics = json.loads(file.read_text(encoding="utf-8"))["metrics"]
            found |= {name: _rounded(metrics[key]) for name, key in names.items()}
    return found


def _start_benchmarks(sweep: Path) -> dict[str, Row]:
    """By seed; a start folder is named by a hash, and its results name the model, one of whose folders has the seed."""
    found: dict[str, Row] = {}
    for file in sorted(sweep.glob("start/*/chair/results.json")):
        model = Path(json.loads(file.read_text(encoding="utf-8"))["settings"]["model"])
        seed = next(part for part in model.parts if part.startswith("seed_")).removeprefix("seed_")
        found[seed] = _benchmarks(file.parents[1])
    return found


def _rounded(value: float | None) -> float | str:
    return "" if value is None else round(value, 5)


def columns_of(rows: list[Row]) -> tuple[str, ...]:
    """arm, axes, seed, then the metrics that some row has."""
    named = list(dict.fromkeys(key for row in rows for key in row))
    axes = [key for key in named if key not in METRICS and key not in ("arm", "seed")]
    used = {key for row in rows for key, value in row.items() if value != ""}
    return ("arm", *axes, "seed", *(key for key in METRICS if key in used))


def main() -> None:
    """Write the tables of the sweeps that are there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("experiments"), help="the folder of run.sh")
    parser.add_argument("--sweeps", nargs="+", default=SWEEPS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    for name in given.sweeps:
        if not (given.work / name / "sweep.json").is_file():
            print(f"{name}: not there")
            continue
        rows, unfinished = rows_of(given.work / name)
        if not rows:
            print(f"{name}: no cell is complete")
            continue
        columns = columns_of(rows)
        given.out.mkdir(parents=True, exist_ok=True)
        write_text(given.out / f"{name}.csv", csv_of(columns, [[row.get(key, "") for key in columns] for row in rows]))
        print(f"{name}: {len(rows)} rows" + (f", not complete: {', '.join(unfinished)}" if unfinished else ""))


if __name__ == "__main__":
    main()
