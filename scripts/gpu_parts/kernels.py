"""``tests/gpu``: what needs CUDA to be seen right. Runs pytest and counts how its tests ended."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gpu_parts.case import Case, Context, Row
from gpu_parts.results import ROOT

TITLE = "kernels: tests/gpu"


def cases(context: Context) -> list[Case]:
    return [Case(name="tests/gpu", run=lambda: run_tests(context), seconds=30, libraries=("pytest",))]


def run_tests(context: Context) -> Iterator[Row]:
    """One row with the counts, and one for each test that failed."""
    report = context.work / "tests_gpu.xml"
    command = [sys.executable, "-m", "pytest", "tests/gpu", "-m", "gpu", "-q", "-p", "no:cacheprovider",
               f"--junitxml={report}"]  # fmt: skip
    environment = {**os.environ}
    if context.device == "cpu":
        environment["MMPREF_GPU_TESTS_ON"] = "cpu"
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, timeout=max(context.left, 1), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    except subprocess.TimeoutExpired as err:
        raise RuntimeError(f"not through after {err.timeout:.0f} s; give it more with --minutes") from err
    if not report.exists():
        raise RuntimeError(f"pytest ended with {done.returncode}: {done.stdout.strip().splitlines()[-1:]}")
    found = outcomes(report)
    if found["failing"]:
        print(done.stdout)
    yield {name: value for name, value in found.items() if name != "failing"}
    for name, why in found["failing"].items():
        yield {"case": name, "failed": why}


def outcomes(report: Path) -> Row:
    """What a JUnit report says: ``passed``, ``not_run`` (reason -> how many), ``failing`` (test -> why), seconds."""
    passed, not_run, failing = 0, Counter[str](), {}
    suite = ET.parse(report).getroot()
    for test in suite.iter("testcase"):
        name = f"{test.get('classname', '').rsplit('.', 1)[-1]}::{test.get('name')}"
        bad = next((test.find(kind) for kind in ("failure", "error") if test.find(kind) is not None), None)
        skipped = test.find("skipped")
        if bad is not None:
            failing[name] = (bad.get("message") or "no message").strip().splitlines()[0][:300]
        elif skipped is not None:
            not_run[(skipped.get("message") or "no reason").strip()] += 1
        else:
            passed += 1
    return {"passed": passed, "not_run": dict(not_run), "num_failed": len(failing), "failing": failing}


def line_of(row: Row) -> str:
    reasons = "".join(f"; {count} not run: {reason}" for reason, count in row["not_run"].items())
    return f"{row['case']}: {row['passed']} passed, {row['num_failed']} failed{reasons}"
