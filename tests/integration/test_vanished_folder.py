"""A run folder that loses its lock file or itself while it trains: no second training gets in, and no step is lost."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmpref.cli.main import main
from mmpref.rundir.content import LOCK
from mmpref.rundir.folder import RunDir, is_run_folder
from mmpref.training.trainer.checkpoint import in_order, verify
from mmpref.training.trainer.trainer import PreferenceTrainer
from tests.integration.conftest import Place
from tests.integration.killing import assert_same_run, forked
from tests.integration.test_one_training import SHORT, refused


def test_a_folder_whose_lock_file_was_deleted_still_belongs_to_the_training_in_it(place: Place, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = place.training("demo_dpo", run, *SHORT)
    holder = forked([*arguments, "train.max_steps=100000"])  # it does not end before it is stopped
    try:
        while not (run / "manifest.json").is_file():
            assert os.waitpid(holder, os.WNOHANG) == (0, 0)
            time.sleep(0.01)
        os.kill(holder, signal.SIGSTOP)
        (run / LOCK).unlink()
        code, message = refused([*arguments, "--resume"])
        assert (code, f"process {holder} on {socket.gethostname()} writes there" in message) == (2, True), message
    finally:
        os.kill(holder, signal.SIGKILL)
        os.waitpid(holder, 0)
    assert main([*arguments, "--overwrite"]) == 0  # the lock died with the process that had it


def deleted(run: Path) -> Path:
    shutil.rmtree(run)
    return run


def moved(run: Path) -> Path:
    return run.rename(run.parent / "elsewhere" / "now here")


def deleted_and_taken(run: Path) -> Path:
    shutil.rmtree(run)
    run.mkdir()
    (run / "metrics.jsonl").write_text("of somebody else")
    return run.with_name(f"{run.name}-kept-1")


def its_parent_moved(run: Path) -> Path:
    return run.parent.rename(run.parent.with_name("grandparent")) / run.name


@pytest.mark.parametrize(("vanish", "step", "save"), [
    pytest.param(deleted, 1, "train.save_steps=1", marks=pytest.mark.slow), (moved, 1, "train.save_steps=2"),
    pytest.param(deleted_and_taken, 2, "train.save_steps=null", marks=pytest.mark.slow),
    pytest.param(its_parent_moved, 2, "train.save_steps=1", marks=pytest.mark.slow),
], ids=lambda given: getattr(given, "__name__", str(given)))  # fmt: skip
def test_a_run_whose_folder_vanishes_is_kept_and_goes_on_as_the_message_says(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    vanish: Callable[[Path], Path], step: int, save: str,
) -> None:  # fmt: skip
    run, whole = tmp_path / "runs" / "run", tmp_path / "whole" / "run"
    (run.parent / "elsewhere").mkdir(parents=True)
    short = [change for change in SHORT if not change.startswith("train.save_steps")] + [save]
    real = PreferenceTrainer.training_step
    found: list[Path] = []

    def training_step(self: PreferenceTrainer, *given: Any, **named: Any) -> Any:
        if self.state.global_step == step - 1 and not found:
            found.append(vanish(run))
        return real(self, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(PreferenceTrainer, "training_step", training_step)
        assert main(place.training("demo_dpo", run, *short)) == 6
    err = capsys.readouterr().err
    message = " ".join(err.split())
    assert f"the run folder {run} vanished while it trained" in message
    assert "Traceback" not in err
    [kept] = found
    assert RunDir(kept).manifest()["state"] == "failed"
    checkpoint = in_order(kept / "checkpoints")[-1]
    verify(checkpoint)
    assert str(checkpoint) in message
    assert "vanished while it trained" in (kept / "train.log").read_text()
    if kept != run:
        assert not run.exists() or (run / "metrics.jsonl").read_text() == "of somebody else"
    program, *again = shlex.split(err.split("`")[1].replace("\n", " "))
    assert program == "mmpref"
    assert main(again) == 0
    assert main(place.training("demo_dpo", whole, *short)) == 0
    if kept.parent == tmp_path / "runs":
        shutil.rmtree(kept.parent / "elsewhere", ignore_errors=True)
    assert_same_run(kept, whole)


def test_what_is_deleted_in_the_folder_while_the_run_trains_is_written_again(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    real = PreferenceTrainer.training_step

    def training_step(self: PreferenceTrainer, *given: Any, **named: Any) -> Any:
        for name in ("manifest.json", "recipe.yaml", "metrics.jsonl"):
            (run / name).unlink(missing_ok=True)
        return real(self, *given, **named)

    monkeypatch.setattr(PreferenceTrainer, "training_step", training_step)
    assert main(place.training("demo_dpo", run, *SHORT)) == 0
    manifest = RunDir(run).manifest()
    assert (manifest["state"], manifest["steps"], isinstance(manifest["run"], str)) == ("complete", 2, True)
    assert is_run_folder(run)
    last = [json.loads(line) for line in (run / "checkpoints" / "step-2" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in last if "loss" in line] == [1, 2]
    assert sorted(entry.name for entry in (run / "model").iterdir()) == manifest["model_files"]
