"""``tests/gpu``: what needs CUDA to be seen right. Runs pytest and counts how its tests ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gpu_parts import outcomes
from gpu_parts.case import Case, Context, Row
from gpu_parts.results import ROOT

TITLE = "kernels: tests/gpu"


def cases(context: Context) -> list[Case]:
    return [Case(name="tests/gpu", run=lambda: run_tests(context), seconds=15, libraries=("pytest",))]


def run_tests(context: Context) -> Iterator[Row]:
    """One row with the counts, one for each test that failed, and one where the time was up before the last or pytest
    itself broke.
    """
    file, words = context.work / "tests_gpu.jsonl", context.work / "tests_gpu.txt"
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "-q", "-p", "no:cacheprovider",
               "-p", outcomes.__name__]  # fmt: skip
    paths = [str(ROOT), str(ROOT / "scripts"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), outcomes.FILE: str(file)}
    if context.device == "cpu":
        environment["MMPREF_GPU_TESTS_ON"] = "cpu"
    seconds = max(context.left, 1.0)
    late = False
    # into a file: a pipe stays open as long as any process that a test started, and would be waited for
    with (
        words.open("w") as out,
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT) as tests,
    ):
        try:
            tests.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            late = True
            tests.kill()
    said = words.read_text(encoding="utf-8", errors="replace")
    found = counted(file) if file.exists() else {}
    ended = f"pytest ended with {tests.returncode}: {' '.join(said.strip().splitlines()[-1:])}"
    if not found and not late:
        raise RuntimeError(ended)
    if found:
        yield {name: value for name, value in found.items() if name != "failing"}
        if found["failing"]:
            print(said)
        for name, why in found["failing"].items():
            yield {"case": name, "failed": why}
    if late:
        yield {"case": "the rest of tests/gpu", "skipped": f"its time was up after {seconds:.0f} s"}
    elif tests.returncode not in (0, 1):  # 1: tests failed; else a test took the process along, or it could not go on
        print(said)
        yield {"case": "the rest of tests/gpu", "failed": ended}


def counted(file: Path) -> Row:
    """What the lines of :mod:`gpu_parts.outcomes` say: ``passed``, ``not_run`` (reason -> how many), ``num_failed``,
    ``failing`` (test -> why).
    """
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    failing = {one["test"].removeprefix("tests/gpu/"): one["why"] for one in lines if one["outcome"] == "failed"}
    not_run = Counter(one["why"] for one in lines if one["outcome"] == "skipped")
    passed = {one["test"] for one in lines if one["outcome"] == "passed"} - {
        one["test"]
        for one in lines
        if one["outcome"] == "failed"  # at its end
    }
    return {"passed": len(passed), "not_run": dict(not_run), "num_failed": len(failing), "failing": failing}


def line_of(row: Row) -> str:
    reasons = "".join(f"; {count} not run: {reason}" for reason, count in row["not_run"].items())
    return f"{row['case']}: {row['passed']} passed, {row['num_failed']} failed{reasons}"
