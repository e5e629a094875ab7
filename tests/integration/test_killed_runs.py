"""kill -9 at any moment, then --resume: the run ends with the weights, pairs and lines of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmpref.cli import main
from mmpref.rundir import RunDir
from mmpref.training.metrics import read_pair_log
from tests.integration.conftest import Place

MOST_KILLS = 4
CHANGES = (
    "train.per_device_train_batch_size=4", "train.learning_rate=1e-3", "train.warmup_steps=2", "train.logging_steps=1",
    "train.save_steps=1", "adapter={kind: lora, rank: 4, dropout: 0.2}", "tune={language: lora, projector: full}",
)  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(place: Place, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run and how long it took, in a process like those that are killed."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    started = time.monotonic()
    assert _in_child(place.training("demo_dpo", run, *CHANGES), seconds=None) == 0
    return run, time.monotonic() - started


def _in_child(arguments: list[str], *, seconds: float | None) -> int:
    """Run a command in a forked process, killed after ``seconds``; its exit code, or minus the signal."""
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        code = 70
        try:
            code = main(arguments)
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def check(place: Place, undisturbed: tuple[Path, float], run: Path, seed: int) -> None:
    whole, duration = undisturbed
    draw = random.Random(seed)
    arguments = place.training("demo_dpo", run, *CHANGES)
    code, kills = -1, 0
    while code < 0 and kills < MOST_KILLS:
        resume = ["--resume"] if (run / "manifest.json").is_file() else []
        code = _in_child([*arguments, *resume], seconds=draw.uniform(0.05, 1.0) * duration)
        assert code in (0, -signal.SIGKILL)
        kills += code < 0
    if code < 0:
        resume = ["--resume"] if (run / "manifest.json").is_file() else []
        assert main([*arguments, *resume]) == 0
    assert RunDir(run).manifest()["state"] == "complete"
    ours, theirs = (load_file(folder / "model" / "adapter_model.safetensors") for folder in (run, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert read_pair_log(RunDir(run).pairs_file) == read_pair_log(RunDir(whole).pairs_file)
    assert read_pair_log(RunDir(run).eval_pairs_file) == read_pair_log(RunDir(whole).eval_pairs_file)
    assert _lines(run) == _lines(whole)


def _lines(run: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, RunDir(run).metrics_file.read_text().splitlines())
    return [(line["step"], line.get("loss", line.get("eval_loss"))) for line in lines if "train_runtime" not in line]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_killed_run_resumes_to_the_bits_of_an_undisturbed_one(
    place: Place, undisturbed: tuple[Path, float], tmp_path: Path, seed: int
) -> None:
    check(place, undisturbed, tmp_path / "run", seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_ten_more_killed_runs_do_as_well(
    place: Place, undisturbed: tuple[Path, float], tmp_path: Path, seed: int
) -> None:
    check(place, undisturbed, tmp_path / "run", seed)
