#!/usr/bin/env python3
"""Whether it changes what is learnt that pairs of one prompt travel together: the demo's model, off against prompt.

    mmpref demo --out mmpref-demo
    python scripts/compare_grouping.py --demo mmpref-demo --seeds 0 1 2 3 4 --work grouping

Trains the demo's start model by DPO on captions of its own world, four a scene in up to six pairs, once with
``train.group_pairs=off`` and once with ``prompt``: each seed draws other captions, judgements and orders, the same for
both. Prints the result on the demo's held-out pairs, which are one pair a prompt. A run that is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from pathlib import Path
from random import Random
from typing import Any

from mmpref.demo.annotate import ranked_rows
from mmpref.demo.scenes import load_scenes
from mmpref.demo.world import WorldFiles
from mmpref.recipe.loading import load_recipe
from mmpref.rundir.folder import RunDir
from mmpref.statistics import t_quantile
from mmpref.training.run.callbacks import RunCallbacks
from mmpref.training.run.run import train

WAYS = ("off", "prompt")
NAMES = {"eval_rewards/accuracies": "accuracy %", "eval_rewards/margins": "margin", "eval_loss": "loss"}


def several_a_prompt(demo: Path, seed: int, scenes: int, file: Path) -> int:
    """Write pairs of several captions a scene, over scenes that the demo has pairs of; how many they are."""
    files = WorldFiles.under(demo / "world")
    sizes = json.loads(files.world.read_text(encoding="utf-8"))["sizes"]
    paired = [scene for scene in load_scenes(files.scenes).values() if scene.split == "train"][-sizes["pairs"] :]
    rng = Random(f"{seed}/ranked")
    rows = list(ranked_rows(rng, rng.sample(paired, min(scenes, len(paired))), "ranked"))
    rng.shuffle(rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return len(rows)


def result(demo: Path, work: Path, seed: int, way: str, changes: list[str]) -> dict[str, float]:
    """The last evaluation of one training."""
    run = RunDir(work / f"{way}_{seed}")
    if not run.model.is_dir():
        world = WorldFiles.under(demo / "world")
        recipe = load_recipe("demo_dpo", [
            f"output={run.path}", f"seed={seed}", f"model.path={demo / 'runs' / 'habit' / 'model'}",
            f"data.root={world.root}", f"data.train={work / f'pairs_{seed}.jsonl'}", f"data.eval={world.pairs_heldout}",
            f"train.group_pairs={way}", *changes,
        ])  # fmt: skip
        train(recipe, overwrite=True, callbacks=RunCallbacks(say=lambda line: _group_line(line, way)))
    lines = [json.loads(line) for line in run.metrics_file.read_text(encoding="utf-8").splitlines()]
    last = [line for line in lines if "eval_loss" in line][-1]
    return {name: last[key] * (100 if name.endswith("%") else 1) for key, name in NAMES.items()}


def _group_line(line: str, way: str) -> None:
    if line.startswith("group_pairs"):
        print(f"{way}: {line}", file=sys.stderr)


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: mean and half a 95 % interval over seeds of both ways, and of the difference seed by seed."""
    names = list(NAMES.values())
    rows = {way: {name: [one[name] for one in results] for name in names} for way, results in found.items()}
    rows["prompt - off"] = {
        name: [b - a for a, b in zip(rows["off"][name], rows["prompt"][name], strict=True)] for name in names
    }
    lines = ["| train.group_pairs | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for label, values in rows.items():
        lines.append(f"| {label} | " + " | ".join(_cell(values[name], label) for name in names) + " |")
    return "\n".join(lines)


def _cell(values: list[float], label: str) -> str:
    sign = "+" if "-" in label else ""
    half = (
        t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    )
    return f"{statistics.mean(values):{sign}.3f} ± {half:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("mmpref-demo"), help="a finished demo, with its start model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="of the split and the order")
    parser.add_argument("--scenes", type=int, default=260, help="scenes with four captions each")
    parser.add_argument("--work", type=Path, default=Path("grouping"))
    known, changes = parser.parse_known_args()
    found: dict[str, list[Any]] = {way: [] for way in WAYS}
    for seed in known.seeds:
        count = several_a_prompt(known.demo, seed, known.scenes, known.work / f"pairs_{seed}.jsonl")
        for way in WAYS:
            found[way].append(result(known.demo, known.work, seed, way, changes))
            print(f"seed {seed}, {count} pairs, {way}: {found[way][-1]}", file=sys.stderr, flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
