"""How the preparation of a run grows with its pairs: the part ``data`` of ``bench_growth.py``, which runs it.

    python scripts/growth_data.py [--rows 500 1000 2000] [--repeats 2]

Rows with an image of 160 x 120 each, a question of 40 words, answers of 40 to 80. Measured are rows to pairs
(``read``), ``mmpref data check`` with one worker (``check``), ``mmpref data audit`` (``audit``) and the lengths before
the first step (``lengths``): processor time of the process and those that it started, and the resident memory that it
added. Each is done in a process of its own, on eight other rows first, so that what loads on first use is not counted.
Writes results/growth/data.csv after every figure.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench_data import cpu_seconds
from PIL import Image
from resident_memory import step_memory

from mmpref.data.audit.report import audit
from mmpref.data.commands.check import check
from mmpref.data.opening import open_pairs
from mmpref.data.quarantine import Quarantine
from mmpref.files.writing import write_text
from mmpref.records import PreferencePair
from mmpref.report.figures.drawing import csv_of

RESULTS = Path(__file__).resolve().parents[1] / "results" / "growth"
COLUMNS = ("rows", "stage", "repeat", "cpu_seconds", "grown_mib")
WARM_UP = 8


def write_rows(folder: Path, count: int) -> Path:
    """A file of pairs with scores, and their images."""
    folder.mkdir(parents=True)
    draw, noise = random.Random(count), np.random.default_rng(count)

    def words(number: int) -> str:
        return " ".join(f"w{draw.randrange(20_000)}" for _ in range(number))

    lines = []
    for number in range(count):
        coarse = Image.fromarray(noise.integers(0, 255, (15, 20, 3), dtype=np.uint8))
        coarse.resize((160, 120), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=90)
        content = [{"type": "image"}, {"type": "text", "text": words(40)}]
        row: dict[str, Any] = {
            "id": str(number),
            "images": [f"{number}.jpg"],
            "prompt": [{"role": "user", "content": content}],
        }
        row |= {side: words(draw.randint(40, 80)) for side in ("chosen", "rejected")}
        row |= {"score_chosen": draw.uniform(2, 5), "score_rejected": draw.uniform(1, 4)}
        lines.append(json.dumps(row) + "\n")
    path = folder / "pairs.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def read(path: Path) -> list[PreferencePair]:
    return [found.pair for found in open_pairs(path).pairs(Quarantine(), demonstrations=False)]


def check_all(path: Path) -> None:
    report = check([open_pairs(path)], out=path.parent / "checked", workers=1)
    assert report.fault is None, report.fault


def audit_all(path: Path) -> None:
    audit(read(path), images=open_pairs(path).images)


def plan_lengths(path: Path) -> None:
    from bench_models import llava_like

    from mmpref.processing import PairEncoder, family_of
    from mmpref.processing.length_plan import plan_fit

    encoder = PairEncoder(llava_like().processor, family_of("llava", has_vision=True), max_length=4096)
    pairs, images = read(path), open_pairs(path).images
    assert images is not None
    plan = plan_fit(pairs, encoder, images.size)
    assert len(plan.pairs) == len(pairs)


STAGES: dict[str, Callable[[Path], Any]] = {
    "read": read,
    "check": check_all,
    "audit": audit_all,
    "lengths": plan_lengths,
}


def staged(stage: str, few: Path, path: Path) -> tuple[float, float]:
    """Processor seconds and MiB of a stage over a file, after one over a few rows."""
    STAGES[stage](few)
    start = cpu_seconds()
    memory = step_memory(partial(STAGES[stage], path))
    return cpu_seconds() - start, memory["over_rest"]


def measure(sizes: Sequence[int], repeats: int) -> Iterator[list[Any]]:
    """A row for every size, stage and repeat."""
    with tempfile.TemporaryDirectory() as name:
        few = write_rows(Path(name) / "few", WARM_UP)
        for size in sizes:
            path = write_rows(Path(name) / str(size), size)
            for stage in STAGES:
                for repeat in range(repeats):
                    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                        seconds, grown = pool.submit(staged, stage, few, path).result()
                    yield [size, stage, repeat, round(seconds, 4), round(grown, 2)]


def main() -> None:
    """Measure, and write each figure as it comes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=(500, 1000, 2000))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in measure(options.rows, options.repeats):
        rows.append(row)
        print(*row, flush=True)
        write_text(options.out / "data.csv", csv_of(COLUMNS, rows))


if __name__ == "__main__":
    main()
