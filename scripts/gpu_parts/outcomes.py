"""A plugin of pytest (``-p gpu_parts.outcomes``): how each test ended, written as soon as it did.

A run that is stopped leaves what it had found, which pytest's own reports, written at the end, do not.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

FILE = "GPU_CHECK_OUTCOMES"
"""Environment variable: the file that lines are added to."""


def pytest_runtest_logreport(report: Any) -> None:
    """A line for each test: passed or failed or skipped, and why."""
    if report.when != "call" and report.passed:
        return
    why = ""
    if report.skipped:
        why = report.longrepr[2].removeprefix("Skipped: ")
    elif report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        why = (str(crash.message if crash else report.longrepr).strip().splitlines() or ["no message"])[0][:300]
    with Path(os.environ[FILE]).open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"test": report.nodeid, "outcome": report.outcome, "why": why}) + "\n")
