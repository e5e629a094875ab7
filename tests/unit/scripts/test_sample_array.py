"""The SLURM array of sample generate: which shard a task makes, and where."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "slurm" / "sample_array.sbatch"


@pytest.mark.parametrize(
    ("env", "shard"),
    [
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}, "3/8"),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "1", "SHARDS": "8"}, "3/8"),
    ],
)
def test_a_task_makes_its_shard_in_a_folder_of_its_own(tmp_path: Path, env: dict[str, str], shard: str) -> None:
    command = tmp_path / "mmpref"
    command.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    command.chmod(0o755)
    given = ["/out/a b", "--model", "m", "--prompts", "p q.jsonl"]
    done = subprocess.run(
        ["bash", str(SCRIPT), *given],
        env={**os.environ, **env, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = ["sample", "generate", *given[1:], "--shard", shard, "--out", "/out/a b/shard-3"]
    assert done.stdout.splitlines() == wanted
