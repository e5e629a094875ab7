"""Dry runs of scripts/gpu_check.py for tests: real parts at toy size, and the page that is made of what they found."""

from __future__ import annotations

import importlib
import json
import math
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"


def dry_run(folder: Path, *parts: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of the parts. docs/gpu.md can be made from them: no row that a part writes is unknown to the page."""
    out = folder / "found.json"
    command = [sys.executable, str(SCRIPTS / "gpu_check.py"), "--dry-run", "--out", str(out), "--parts", *parts]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    found = json.loads(out.read_text(encoding="utf-8"))
    page = page_from(found, folder / "checkout")
    shown = [part for part in parts if part != "plan"]  # a CPU has no peak to compare a plan with
    assert page.count("Not measured.") == 7 - len(shown)
    return rows_of(found)


def rows_here(folder: Path, part: str) -> list[dict[str, Any]]:
    """Rows of one part as a dry run finds them, in this process: without the libraries that a run loads for each."""
    if str(SCRIPTS) not in sys.path:
        sys.path.append(str(SCRIPTS))
    from gpu_parts.case import Context, run_cases

    context = Context(
        dry_run=True, device="cpu", deadline=math.inf, work=folder, environment={"bf16_tflops": 1.0}
    )  # fmt: skip
    with warnings.catch_warnings():
        rows = list(run_cases(importlib.import_module(f"gpu_parts.{part}").cases(context), context))
    assert not [row for row in rows if {"skipped", "failed"} & row.keys()], rows
    return rows


def rows_of(results: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {name: part["rows"] for name, part in results["parts"].items()}


def page_from(results: dict[str, Any], root: Path) -> str:
    """docs/gpu.md as it would be if these results were of a card, made in a copy of README and docs."""
    (root / "results" / "gpu").mkdir(parents=True)
    shutil.copy(ROOT / "README.md", root)
    shutil.copytree(ROOT / "docs", root / "docs")
    (root / "results" / "gpu" / "one.json").write_text(json.dumps({**results, "dry_run": False}), encoding="utf-8")
    command = [sys.executable, str(SCRIPTS / "make_gpu_page.py"), "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return (root / "docs" / "gpu.md").read_text(encoding="utf-8")
