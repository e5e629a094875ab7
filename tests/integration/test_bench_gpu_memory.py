"""The benchmark of memory on a GPU still runs: at toy size, on whatever is here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_gpu_memory.py"


def test_a_case_runs_from_building_the_model_to_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    command = [sys.executable, str(SCRIPT), "--tiny", "--only", "4B LoRA", "--steps", "1", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (case,) = json.loads(out.read_text())["cases"].values()
    assert case["checks"] == "passed"
    assert case["planned GiB"] > 0
