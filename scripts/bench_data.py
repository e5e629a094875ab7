"""How fast data is read and checked: ``mmpref data check`` beside Pillow alone, and rows per second of the readers.

    python scripts/bench_data.py [--images 1500] [--rows 1000000] [--workers 2] [--repeats 5]

Draws its own images (photo-like noise, JPEG, quality 90) and rows in a temporary folder, which is removed at the end.
Nothing else is written. Rounds of the two sides alternate and the median is given; processor time is the figure to
compare on a machine that does other work too. Readers are measured in a process of their own, with its peak memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mmpref.data.commands.check import check
from mmpref.data.opening import open_pairs
from mmpref.data.pair_source import PairSource
from mmpref.data.quarantine import Quarantine
from mmpref.data.reading.source import open_source

SIDE = (640, 480)


def draw(folder: Path, number: int) -> None:
    """One photo-like image: smooth colours with grain, about as large as a COCO file."""
    generator = np.random.default_rng(number)
    coarse = Image.fromarray(generator.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize(SIDE, Image.Resampling.BICUBIC), dtype=np.int16)
    grain = generator.normal(0, 12, (*smooth.shape[:2], 1)).astype(np.int16)
    Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=90)


def write_image_rows(path: Path, num_images: int) -> None:
    with path.open("w", encoding="utf-8") as handle:
        for number in range(num_images):
            prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is here?"}]}]
            row = {
                "id": f"i{number}",
                "images": [f"{number}.jpg"],
                "prompt": prompt,
                "chosen": "Grain.",
                "rejected": "A dog.",
            }
            handle.write(json.dumps(row) + "\n")


def write_text_rows(path: Path, num_rows: int) -> None:
    question, good, bad = "Which river is the longest, and why do maps disagree? ", "It depends on the source. ", "No. "
    with path.open("w", encoding="utf-8") as handle:
        for number in range(num_rows):
            row = {"id": f"t{number}", "prompt": [{"role": "user", "content": question}], "chosen": good * 12}
            handle.write(json.dumps({**row, "rejected": bad * 30, "score_chosen": 4.5, "score_rejected": 2}) + "\n")


def with_pillow_alone(paths: list[str]) -> None:
    for path in paths:
        with Image.open(path) as image:
            image.load()
            image.convert("RGB")


class Cost(NamedTuple):
    """Of one whole pass over all images."""

    wall: float
    cpu: float
    """Processor seconds of this process and all of its workers; other programs on the machine change it little."""


def cost(work: Callable[[], None]) -> Cost:
    """What some work takes. The workers end within it, so that what they used can be read."""
    begin, used = time.perf_counter(), cpu_seconds()
    work()
    return Cost(time.perf_counter() - begin, cpu_seconds() - used)


def cpu_seconds() -> float:
    """Processor time of this process, of the server its workers are forked from, and of the workers that have ended."""
    server = getattr(forkserver._forkserver, "_forkserver_pid")  # noqa: B009 - not in the stubs of the library
    pids = [os.getpid(), *([server] if server else [])]
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def pillow_cost(folder: Path, workers: int) -> Cost:
    """Every image opened, decoded and brought to RGB by Pillow alone, in as many processes, their start included."""
    paths = sorted(str(path) for path in folder.glob("*.jpg"))
    pieces = [paths[begin : begin + 16] for begin in range(0, len(paths), 16)]

    def work() -> None:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("forkserver")) as pool:
            list(pool.map(with_pillow_alone, pieces))

    return cost(work)


def check_cost(rows: Path, out: Path, workers: int) -> Cost:
    """The whole of ``data check``, the start of its processes and the writing of its report included."""

    def work() -> None:
        report = check([open_pairs(rows)], out=out, workers=workers)
        assert report.fault is None, report.fault

    return cost(work)


def read_rows(path: str) -> int:
    return sum(1 for _ in open_source(path))


def read_pairs(path: str) -> int:
    source = PairSource(rows=open_source(path))
    return sum(1 for _ in source.pairs(Quarantine(), demonstrations=False))


def measured(read: Callable[[str], int], path: Path) -> dict[str, Any]:
    """Rows per second of processor time and the memory that reading added, in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, read, str(path)).result()


def _measure(read: Callable[[str], int], path: str) -> dict[str, Any]:
    before = _peak_mib()
    begin = time.process_time()
    num_rows = read(path)
    seconds = time.process_time() - begin
    peak = _peak_mib()
    return {"rows": num_rows, "rows/s": num_rows / seconds, "grown_mib": peak - before, "peak_mib": peak}


def _peak_mib() -> float:
    """Most memory that this process ever held; not taken from ``getrusage``, which knows the parent's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.images:
            for number in range(options.images):
                draw(folder, number)
            rows = folder / "rows.jsonl"
            write_image_rows(rows, options.images)
            size = sum(path.stat().st_size for path in folder.glob("*.jpg")) / options.images / 1024
            print(
                f"{options.images} JPEGs of {SIDE[0]}x{SIDE[1]}, {size:.0f} KiB on average, {options.workers} processes"
            )
            multiprocessing.set_forkserver_preload(["mmpref.data.images.decoding"])
            pillow_cost(folder, options.workers)  # starts the fork server and warms the file cache
            rounds = []
            for _ in range(options.repeats):
                alone = pillow_cost(folder, options.workers)
                checked = check_cost(rows, folder / "out", options.workers)
                rounds.append((checked.cpu / alone.cpu, checked.wall / alone.wall, checked.cpu / checked.wall))
                print(
                    f"  Pillow alone {alone.wall:.2f} s, {alone.cpu:.2f} s of processors; "
                    f"data check {checked.wall:.2f} s, {checked.cpu:.2f} s of processors"
                )
            for place, title in enumerate(("processor time", "time", "processors kept busy")):
                values = [found[place] for found in rounds]
                print(f"  {title}: median {statistics.median(values):.2f} (of {min(values):.2f} to {max(values):.2f})")
            print("  wanted: times Pillow alone at most 1.20, processors kept busy near their number")
        if options.rows:
            text = folder / "text.jsonl"
            for num_rows in (options.rows // 10, options.rows):
                write_text_rows(text, num_rows)
                for title, read in (("rows", read_rows), ("rows to pairs", read_pairs)):
                    runs = [measured(read, text) for _ in range(options.repeats)]
                    speeds = [found["rows/s"] for found in runs]
                    print(
                        f"{title}: {num_rows:,} text rows, {statistics.median(speeds):,.0f} per second of one "
                        f"core's time (of {min(speeds):,.0f} to {max(speeds):,.0f}), "
                        f"memory +{max(found['grown_mib'] for found in runs):.1f} MiB "
                        f"(peak {max(found['peak_mib'] for found in runs):.0f})"
                    )


if __name__ == "__main__":
    main()
