#!/usr/bin/env python3
"""What only a GPU can show, from one command: are the kernels right, how fast is a step, does it fit, is the plan true.

    python scripts/gpu_check.py                                  all parts in eight minutes; any NVIDIA card
    python scripts/gpu_check.py --minutes 15 --out found.json
    python scripts/gpu_check.py --parts pair_step heads          some of them
    python scripts/gpu_check.py --dry-run --out found.json       toy sizes, on a CPU: shows that every part runs

Parts, in this order, each in a process of its own with a share of the time:

    kernels       tests/gpu: shared prefix = separate rows, head tiles, NF4 layers, no waiting for the device
    pair_step     a training step against TRL's DPOTrainer on the same pairs, taking turns
    groups        4 answers of one prompt in 6 pairs: the prompt once, against once for each pair
    small_cards   7B QLoRA under caps of 24, 16 and 12 GB, and the largest pair that fits
    plan          what `mmpref plan` says beside each measured peak; its constants fitted
    heads         output head and loss core against full logits and TRL's head
    generation    answers in batches against one at a time

Weights are random and made on the card; nothing is downloaded. Results are written after each measurement, by default
to results/gpu/; `python scripts/make_gpu_page.py` makes docs/gpu.md and README's status lines from what is there. What
a part needs and is not there (a library, a larger card, time) is said in one line, and the others run. Ends with 0, or
with 1 where something failed, 2 where nothing can be measured here.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

STARTED = time.monotonic()
"""Of this process: what the imports below take counts as a part's time."""
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # mmpref as it stands here, installed or not

from gpu_parts.results import FOLDER, Results, new_results, read_results  # noqa: E402

SHARES = {
    "kernels": 80, "pair_step": 160, "groups": 50, "small_cards": 130, "plan": 45, "heads": 25, "generation": 30,
}  # fmt: skip
"""Parts in the order they run, and how they share the time; what one leaves over goes to those behind it."""
DRY_MINUTES = 60.0
"""Of a dry run: it has no time to share, whatever the machine."""
GRACE = 10.0
"""Seconds that a part may take beyond its time, at most as many again, to end what it is at."""


def main() -> int:
    options = parse()
    if options.part:
        return run_part(options)
    if os.name != "posix":
        print("gpu_check.py needs Linux; on Windows run it under WSL 2", file=sys.stderr)
        return 2
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as in the background of a script
            signal.signal(number, _stop)
    if options.out is not None and options.out.exists():
        try:
            read_results(options.out)
        except (ValueError, OSError) as err:
            print(f"{err}; it would be replaced: give another --out", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as work:
        try:
            return check(options, Path(work))
        except KeyboardInterrupt:
            print("stopped; what was found until now is in the results file", file=sys.stderr)
            return 130


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help=f"for all parts together (default: 8; dry run {DRY_MINUTES:.0f})")
    parser.add_argument("--out", type=Path, help="the results file (default: results/gpu/TIME-CARD.json)")
    parser.add_argument("--parts", nargs="+", choices=SHARES, default=list(SHARES), metavar="PART")
    parser.add_argument("--dry-run", action="store_true", help="toy sizes, on a CPU")
    parser.add_argument("--commit", help="of the code, where this is a copy without .git")
    parser.add_argument("--part", choices=["environment", *SHARES], help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--part-seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.minutes is None:
        options.minutes = DRY_MINUTES if options.dry_run else 8.0
    if not options.minutes > 0:
        parser.error(f"--minutes {options.minutes:g}: must be above 0")
    if options.dry_run and options.out is None and not options.part:
        parser.error("--dry-run needs --out FILE: results/gpu/ is for figures of a card")
    return options


def check(options: argparse.Namespace, work: Path) -> int:
    """Run the parts one after another; the results file is whole after each row."""
    started = time.monotonic()
    environment: list[dict[str, Any]] = []
    code, why = run_child("environment", options, work, None, 120.0, environment.append)
    if code == 2 or not environment:
        print(
            environment[0]["unusable"] if environment else f"the environment could not be read: {why}", file=sys.stderr
        )
        return 2
    facts = environment[0]
    results = new_results(
        options.out, dry_run=options.dry_run, minutes=options.minutes, commit=options.commit, card=facts["card"]
    )
    results.facts["environment"] = facts
    results.write()
    announce(facts, results.path)
    if facts.get("cards", 1) > 1:  # the parts see one: trainers would use them all
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    left_parts = [part for part in SHARES if part in options.parts]
    while left_parts:
        part = left_parts[0]
        left = options.minutes * 60 - (time.monotonic() - started)
        seconds = max(left, 0.0) * SHARES[part] / sum(SHARES[one] for one in left_parts)
        del left_parts[0]
        results.begin(part)
        print(f"\n{part}, up to {seconds:.0f} s", flush=True)
        began = time.monotonic()
        code, why = run_child(part, options, work, results.path, seconds, lambda row, part=part: results.add(part, row))
        status = "done" if code == 0 else "stopped" if code is None else "failed"
        results.end(part, status, time.monotonic() - began, why)
        if why:
            print(f"  {status}: {why}", flush=True)
        results.facts["seconds"] = round(time.monotonic() - started, 1)
        results.write()
    return summary(results)


def run_child(
    part: str, options: argparse.Namespace, work: Path, results: Path | None, seconds: float, found: Any
) -> tuple[int | None, str]:
    """One part in a process of its own, its rows handed to ``found`` as they come.

    Returns:
        (its exit code, None where its time was up; why it is not 0).
    """
    rows = work / f"{part}.jsonl"
    rows.touch()
    command = [sys.executable, str(Path(__file__).resolve()), "--part", part, "--rows", str(rows), "--part-seconds",
               f"{seconds:.1f}", "--work", str(work)]  # fmt: skip
    command += ["--out", str(results)] if results else []
    command += ["--dry-run"] if options.dry_run else []
    python_path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {
        **os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": python_path, "PYTHONWARNINGS": "ignore::FutureWarning",
        **({"KINETO_LOG_LEVEL": "6"} if options.dry_run else {}),  # its profiler tells of each start and stop
    }  # fmt: skip
    end = time.monotonic() + seconds + min(GRACE, seconds)
    _starting.append(False)  # a stop meanwhile would leave a process of which nobody knows
    with subprocess.Popen(command, env=environment, start_new_session=True) as process, rows.open() as lines:
        try:
            late = False
            if _starting.pop():
                raise KeyboardInterrupt
            while process.poll() is None and not late:
                time.sleep(0.1)
                _hand_on(lines, found)
                late = time.monotonic() > end
        finally:
            if process.poll() is None:
                _end_group(process)
            with contextlib.suppress(ProcessLookupError):  # what the part started and left
                os.killpg(process.pid, signal.SIGKILL)
        _hand_on(lines, found)
    if late:
        return None, f"its time was up after {seconds:.0f} s; what it had found until then is kept"
    if process.returncode < 0:
        return process.returncode, f"its process was ended by {signal.Signals(-process.returncode).name}"
    return process.returncode, "" if process.returncode == 0 else f"its process ended with {process.returncode}"


def _hand_on(lines: Any, found: Any) -> None:
    """Whole lines that were written since the last time."""
    while True:
        at = lines.tell()
        line = lines.readline()
        if not line.endswith("\n"):
            lines.seek(at)
            return
        found(json.loads(line))


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a part and the processes it started."""
    for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return


_starting: list[bool] = []
"""While a part is started: whether a stop was asked for meanwhile."""


def _stop(_number: int, _frame: FrameType | None) -> None:
    if not _starting:
        raise KeyboardInterrupt
    _starting[-1] = True


def run_part(options: argparse.Namespace) -> int:
    """In the part's own process: write every row to the file as soon as it is there."""
    from gpu_parts.case import Context, first_line, run_cases
    from gpu_parts.environment import UnusableError, look
    from gpu_parts.results import without_folders

    before = read_results(options.out) if options.out else {"parts": {}, "environment": {}}
    device = "cpu" if options.dry_run else "cuda"
    if options.dry_run:
        import torch

        torch.set_num_threads(1)
    context = Context(
        dry_run=options.dry_run, device=device, deadline=STARTED + options.part_seconds, work=options.work,
        results={name: part["rows"] for name, part in before["parts"].items()}, environment=before["environment"],
    )  # fmt: skip
    failed = False
    with options.rows.open("a", encoding="utf-8") as rows:

        def write(row: dict[str, Any]) -> None:
            rows.write(json.dumps(without_folders(row, options.work), allow_nan=False) + "\n")
            rows.flush()

        if options.part == "environment":
            try:
                write(look(context))
            except UnusableError as err:
                write({"unusable": str(err)})
                return 2
            return 0
        try:
            module = importlib.import_module(f"gpu_parts.{options.part}")
            cases = module.cases(context)
        except Exception as err:
            traceback.print_exc()
            write({"case": options.part, "failed": f"{type(err).__name__}: {first_line(err)}"})
            return 1
        for row in run_cases(cases, context):
            write(row)
            failed |= "failed" in row
            told = getattr(module, "line_of", line_of) if not {"failed", "skipped"} & row.keys() else line_of
            print(f"  {told(row)}", flush=True)
    return 1 if failed else 0


def line_of(row: dict[str, Any]) -> str:
    """One row for the terminal: its case, and its figures or why there are none."""
    for word in ("failed", "skipped"):
        if word in row:
            return f"{row['case']}: {word}: {row[word]}"
    shown = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in row.items()
        if name != "case" and isinstance(value, int | float | str)
    ]
    return f"{row['case']}: {', '.join(shown)}"


def announce(facts: dict[str, Any], path: Path) -> None:
    libraries = ", ".join(f"{name} {version}" for name, version in facts["libraries"].items() if version)
    driver = f", driver {facts['driver']}" if facts["driver"] else ""
    print(f"{facts['card']}{driver}; {libraries}; bf16 products at {facts['bf16_tflops']:.4g} TFLOP/s")
    for note in facts["notes"]:
        print(f"note: {note}")
    print(f"results: {path}", flush=True)


def summary(results: Results) -> int:
    """The table at the end, and the exit code."""
    print(f"\n{'part':<12} {'status':<8} {'seconds':>7} {'found':>6} {'skipped':>8} {'failed':>7}")
    bad = False
    for name, part in results.parts.items():
        skipped, failed = (sum(word in row for row in part["rows"]) for word in ("skipped", "failed"))
        found = len(part["rows"]) - skipped - failed
        print(f"{name:<12} {part['status']:<8} {part['seconds']:>7.1f} {found:>6} {skipped:>8} {failed:>7}")
        bad |= part["status"] == "failed" or failed > 0
    print(f"results: {results.path}")
    if results.path.resolve().parent == FOLDER and not results.facts["dry_run"]:
        print("next: python scripts/make_gpu_page.py writes docs/gpu.md and README's lines from it; commit all of them")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
