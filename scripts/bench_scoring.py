"""How long ``mmpref score`` takes from the command line, start-up included: 9,000 POPE answers, 2,000 captions.

    OMP_NUM_THREADS=1 python scripts/bench_scoring.py BENCH_DATA [--rounds 5]

BENCH_DATA is a folder of public question files: ``pope/coco/*.json``, ``chair/coco_chair_gt_subset.json``,
``chair/synonyms.txt`` and ``chair/pope_captions/*.jsonl``. Each command is run in a process of its own; shown are the
median seconds of processor time and of the clock. Both print the numbers of two protocols, with intervals.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ANSWERS = (
    "Yes", "No", "Yes.", "No, there is no such thing in the image.", "**No**", "I'm not sure.",
    "There is no dog here, as far as I can see. The image shows a man on a bench with two bags.",
)  # fmt: skip


def pope(data: Path, folder: Path) -> list[str]:
    rng = random.Random(0)
    arguments = ["--benchmark", "pope", "--questions", str(data / "pope" / "coco")]
    for split in ("random", "popular", "adversarial"):
        lines = (data / "pope" / "coco" / f"coco_pope_{split}.json").read_text(encoding="utf-8").splitlines()
        rows = ({"id": json.loads(line)["question_id"], "text": rng.choice(ANSWERS)} for line in lines)
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        arguments += ["--answers", str(folder / f"{split}.jsonl")]
    return arguments


def chair(data: Path, captions: Path) -> list[str]:
    truth = data / "chair" / "coco_chair_gt_subset.json"
    synonyms = data / "chair" / "synonyms.txt"
    return ["--benchmark", "chair", "--questions", str(truth), "--answers", str(captions), f"synonyms={synonyms}"]


def seconds(arguments: list[str], out: Path) -> tuple[float, float]:
    """(processor time, time by the clock) of one run."""
    before, start = os.times(), time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "mmpref", "score", *arguments, "--out", str(out)], check=True, stdout=subprocess.DEVNULL
    )
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return used, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    settings = parser.parse_args()
    files = sorted((settings.data / "chair" / "pope_captions").glob("*.jsonl"), key=lambda file: file.stat().st_size)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        cases = {"9,000 POPE answers": pope(settings.data, folder)}
        cases |= {f"2,000 captions, {file.stem}": chair(settings.data, file) for file in (files[0], files[-1])}
        for name, arguments in cases.items():
            runs = [seconds(arguments, folder / "results.json") for _ in range(settings.rounds)]
            processor, clock = (statistics.median(column) for column in zip(*runs, strict=True))
            print(f"{name}: {processor:.2f} s of processor time, {clock:.2f} s by the clock")


if __name__ == "__main__":
    main()
