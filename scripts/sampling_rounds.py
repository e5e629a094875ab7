"""Two rounds of on-policy pairs on the embedded world, several seeds: the tables of docs/sampling.md.

    python scripts/sampling_rounds.py --seeds 0 1 2 --work sampling-rounds [--write-docs]

Every seed changes the world, the start model and the sampling. What is finished in the work folder is not run again;
the start model is that of ``mmpref demo`` (the methods that it trains afterwards are not used here).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from demo_seeds import mean_and_interval

from mmpref.report.compare import comparison_table, difference_between, load_runs

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- table made by scripts/sampling_rounds.py -->", "<!-- end of table -->"
PLAIN = "sample.pair.balance_length=false"
FAITHFUL = "sample.scorers.objects.options.measure=faithfulness"
WAYS: Mapping[str, Sequence[str]] = {
    "F1, balanced": (),
    "F1, plain": (PLAIN,),
    "faithfulness, balanced": (FAITHFUL,),
    "faithfulness, plain": (PLAIN, FAITHFUL),
}
"""What is compared -> changes to the recipe demo_rounds."""
METRICS = {
    "chair_s": "CHAIR_s",
    "chair_i": "CHAIR_i",
    "recall": "recall",
    "mean_length": "words",
    "pope/random/accuracy": "POPE random",
    "pope/adversarial/accuracy": "adversarial",
}
CAPTIONS = ("chair_s", "recall", "mean_length")
FACTS = {
    "mean_score": ("mean score", 1.0, 2),
    "distinct": ("distinct", 100.0, 1),
    "ties": ("ties", 100.0, 1),
    "pairs": ("pairs", 1.0, 0),
    "words_chosen": ("words chosen", 1.0, 2),
    "words_rejected": ("rejected", 1.0, 2),
    "eta": ("eta", 1.0, 2),
    "tau_good": ("tau_good", 1.0, 2),
}


def run_seed(seed: int, way: str, work: Path, rounds: int) -> Path:
    """The rounds of one seed and way, unless they are there already; their folder."""
    folder = work / f"seed_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    mmpref = [sys.executable, "-m", "mmpref"]
    if not (folder / "mmpref-demo" / "runs" / "habit" / "model").is_dir():
        subprocess.run([*mmpref, "demo", "--seed", str(seed)], cwd=folder, check=True)
    out = way.replace(", ", "_")
    changes = [f"seed={seed}", f"sample.seed={1000 * seed}", *WAYS[way]]
    command = [*mmpref, "sample", "round", "demo_rounds", *changes, "--rounds", str(rounds), "--out", out]
    subprocess.run(command, cwd=folder, check=True)
    return folder / out


def written(values: Sequence[float], *, scale: float, digits: int = 1, signed: bool = False) -> str:
    """Mean over seeds and half a 95 % t-interval."""
    middle, half = mean_and_interval([scale * value for value in values])
    return f"{middle:{'+' if signed else ''}.{digits}f}" + ("" if half is None else f" ± {half:.{digits}f}")


def scale_of(metric: str) -> float:
    """Percent, but for words."""
    return 1.0 if metric == "mean_length" else 100.0


def values_table(found: Mapping[str, Sequence[Path]]) -> list[str]:
    """Markdown: the benchmarks of the start model and of every round of every way."""
    lines = ["| | " + " | ".join(METRICS.values()) + " |", "|---" * (len(METRICS) + 1) + "|"]
    for way, folders in found.items():
        tables = [comparison_table(load_runs([folder])) for folder in folders]
        for place, line in enumerate(tables[0].lines):
            if place == 0 and way != next(iter(found)):
                continue  # the same start model
            cells = []
            for metric in METRICS:
                values = [table.lines[place].cells[metric].value for table in tables]
                known = [value for value in values if value is not None]
                cells.append(written(known, scale=scale_of(metric)) if len(known) == len(values) else "–")
            label = line.label if place == 0 else f"{way}, {line.label}"
            lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def changes_table(found: Mapping[str, Sequence[Path]]) -> list[str]:
    """Markdown: each round against the one before, paired by image within a seed; mean over seeds, and every seed."""
    heads = [f"{METRICS[metric]}" for metric in CAPTIONS]
    lines = [
        "| | " + " | ".join(heads) + " | CHAIR_s of each seed [95 % over images] | recall of each seed |",
        "|---" * (len(heads) + 3) + "|",
    ]
    for way, folders in found.items():
        runs = [load_runs([folder]) for folder in folders]
        for place in range(1, len(runs[0])):
            differences = {
                metric: [difference_between(seed[place - 1], seed[place], metric) for seed in runs]
                for metric in CAPTIONS
            }
            cells = []
            for metric, each in differences.items():
                values = [one.value for one in each if one is not None and one.value is not None]
                cells.append(written(values, scale=scale_of(metric), signed=True))
            for metric in ("chair_s", "recall"):
                cells.append("; ".join(_with_interval(one) for one in differences[metric]))
            before = runs[0][place - 1].label
            lines.append(f"| {way}: {runs[0][place].label} less {before} | " + " | ".join(cells) + " |")
    return lines


def _with_interval(found: Any) -> str:
    if found is None or found.value is None:
        return "–"
    if found.interval is None:
        return f"{100 * found.value:+.1f}"
    low, high = found.interval
    return f"{100 * found.value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def facts_table(found: Mapping[str, Sequence[Path]]) -> list[str]:
    """Markdown: what each round was made of."""
    lines = ["| | " + " | ".join(name for name, _, _ in FACTS.values()) + " |", "|---" * (len(FACTS) + 1) + "|"]
    for way, folders in found.items():
        seeds = [json.loads((folder / "rounds.json").read_text(encoding="utf-8"))["rounds"] for folder in folders]
        for number in range(1, len(seeds[0])):
            cells = []
            for key, (_, scale, digits) in FACTS.items():
                values = [seed[number][key] for seed in seeds]
                cells.append("–" if None in values else written(values, scale=scale, digits=digits))
            lines.append(f"| {way}, round {number} | " + " | ".join(cells) + " |")
    return lines


def text(found: Mapping[str, Sequence[Path]], seeds: Sequence[int]) -> str:
    """All tables."""
    parts = [
        [
            f"Mean over seeds {', '.join(map(str, seeds))} ± half a 95 % t-interval over seeds; percent and words, on "
            "400 held-out scenes."
        ],
        values_table(found),
        ["Each round against the round before, paired:"],
        changes_table(found),
        ["What each round was made of (scores from 0 to 5; distinct and ties in percent):"],
        facts_table(found),
    ]
    return "\n\n".join("\n".join(part) for part in parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--work", type=Path, default=Path("sampling-rounds"))
    parser.add_argument("--write-docs", action="store_true", help="update docs/sampling.md")
    known = parser.parse_args()
    found = {way: [run_seed(seed, way, known.work, known.rounds) for seed in known.seeds] for way in known.ways}
    made = text(found, known.seeds)
    print(made)
    if known.write_docs:
        page = ROOT / "docs" / "sampling.md"
        before, rest = page.read_text(encoding="utf-8").split(BEGIN)
        page.write_text(f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
