"""Run `mmpref demo` for several seeds and write what came out: the table and the image of docs/demo.md.

    python scripts/demo_seeds.py --seeds 0 1 2 --work demo-seeds [--write-docs]

Every seed changes the world, the model and the pairs. A finished seed in the work folder is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from mmpref.statistics import t_quantile

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- table made by scripts/demo_seeds.py -->", "<!-- end of table -->"

COLUMNS = {
    "chair_s": "CHAIR_s",
    "chair_i": "CHAIR_i",
    "recall": "recall",
    "mean_length": "words",
    "pope/random/accuracy": "POPE random",
    "pope/popular/accuracy": "popular",
    "pope/adversarial/accuracy": "adversarial",
    "pope/adversarial/yes_ratio": "says yes (adv.)",
    "logp_chosen": "chosen log-prob",
    "logp_rejected": "rejected log-prob",
}
LABELS = {"habit": "SFT (start)", "sft_chosen": "SFT on chosen", "dpo": "DPO", "uni_dpo": "Uni-DPO", "adadpo": "AdaDPO"}
PERCENT = {key for key in COLUMNS if key not in ("mean_length", "logp_chosen", "logp_rejected")}


def run_seed(seed: int, work: Path, arguments: list[str]) -> dict[str, Any]:
    """One demo, unless it is there already; its results.json with the seconds it took."""
    out = work / f"seed_{seed}"
    marker = out / "demo.json"
    if not marker.is_file() or json.loads(marker.read_text())["state"] != "complete":
        command = [sys.executable, "-m", "mmpref", "demo", "--out", str(out), "--seed", str(seed), *arguments]
        subprocess.run(command, check=True)
    results: dict[str, Any] = json.loads((out / "results.json").read_text())
    results["seconds"] = json.loads(marker.read_text())["seconds"]
    return results


def mean_and_interval(values: list[float]) -> tuple[float, float | None]:
    """Mean and the half width of its 95 % t-interval over seeds; None with a single seed."""
    if len(values) < 2:
        return values[0], None
    parallel = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), t_quantile(len(values) - 1) * parallel


def cell(results: list[dict[str, Any]], run: int, key: str, *, field: str = "value") -> str:
    """One cell over all seeds."""
    values = [seed["runs"][run]["cells"][key][field] for seed in results]
    if any(value is None for value in values):
        return ""
    scale = 100.0 if key in PERCENT else 1.0
    signed = field == "difference" or key.startswith("logp")
    return written([value * scale for value in values], key, signed=signed)


def written(values: list[float], key: str, *, signed: bool) -> str:
    """Mean and half interval as text."""
    middle, half = mean_and_interval(values)
    sign = "+" if signed else ""
    digits = 2 if key.startswith("logp") else 1
    return f"{middle:{sign}.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: every run's numbers, the differences from the start model, and what each seed says."""
    seeds = ", ".join(str(seed["seed"]) for seed in results)
    seconds = ", ".join(f"{seed['seconds']:.0f}" for seed in results)
    parts = [
        f"Mean over seeds {seeds} ± half a 95 % t-interval over seeds; percent, words, nats per answer. "
        f"Seconds for each whole demo: {seconds}.",
        rows_of(results, "value"),
        "Differences from the start model, seed by seed:",
        rows_of(results, "difference"),
        "Differences from DPO, seed by seed:",
        rows_against(results, "DPO"),
        "CHAIR_s / recall of each seed:",
        per_seed(results),
    ]
    return "\n\n".join(parts)


def rows_of(results: list[dict[str, Any]], field: str) -> str:
    """One row a run, one column a metric; the baseline has no differences."""
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for number, run in enumerate(results[0]["runs"]):
        if field == "value" or not run["is_baseline"]:
            cells = [cell(results, number, key, field=field) for key in COLUMNS]
            lines.append(f"| {run['label']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rows_against(results: list[dict[str, Any]], label: str) -> str:
    """How the other runs differ from one of them, paired by seed; the start model is left out."""
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    for number, run in enumerate(results[0]["runs"]):
        if run["label"] != label and not run["is_baseline"]:
            shown = []
            for key in COLUMNS:
                scale = 100.0 if key in PERCENT else 1.0
                pairs = [
                    (seed["runs"][number], next(r for r in seed["runs"] if r["label"] == label)) for seed in results
                ]
                values = [scale * (a["cells"][key]["value"] - b["cells"][key]["value"]) for a, b in pairs]
                shown.append(written(values, key, signed=True))
            lines.append(f"| {run['label']} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def per_seed(results: list[dict[str, Any]]) -> str:
    """CHAIR_s and recall of every run and seed: what the means hide."""
    labels = [run["label"] for run in results[0]["runs"]]
    lines = ["| seed | " + " | ".join(labels) + " |", "|---" * (len(labels) + 1) + "|"]
    for seed in results:
        cells = [run["cells"] for run in seed["runs"]]
        shown = [f"{100 * c['chair_s']['value']:.1f} / {100 * c['recall']['value']:.1f}" for c in cells]
        lines.append(f"| {seed['seed']} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def write_docs(text: str, work: Path, seed: int) -> None:
    """Put the table into docs/demo.md and the image of one seed into docs/figures."""
    from mmpref.report.compare import comparison_table, load_runs
    from mmpref.report.figures.outcomes import result_figure

    page = ROOT / "docs" / "demo.md"
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    runs = load_runs([work / f"seed_{seed}" / "runs" / name for name in LABELS], labels=LABELS)
    figure = ROOT / "docs" / "figures" / "demo_result.svg"
    figure.parent.mkdir(parents=True, exist_ok=True)
    figure.write_text(result_figure(comparison_table(runs)), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("demo-seeds"))
    parser.add_argument("--write-docs", action="store_true", help="update docs/demo.md and its image")
    known, others = parser.parse_known_args()
    results = [run_seed(seed, known.work, others) for seed in known.seeds]
    text = table(results)
    print(text)
    if known.write_docs:
        write_docs(text, known.work, known.seeds[0])


if __name__ == "__main__":
    main()
