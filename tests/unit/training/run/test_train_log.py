"""train.log: what is said before its folder is there, a disk that is full, the error at the end, the losses."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mmpref.errors import ConfigError, DataError
from mmpref.rundir.train_log import TrainLog, append
from mmpref.training.trainer.log_lines import LossLines


def lines(path: Path) -> list[str]:
    """The lines without their times, each of which has one."""
    found = path.read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d |  ", line) for line in found)
    return [line[20:] for line in found]


def fails(log: TrainLog, path: Path | None, err: Exception) -> None:
    """A run that ends with an error, in its folder or before it has one."""

    def run() -> None:
        with log:
            if path is not None:
                log.start(path)
            raise err

    with pytest.raises(type(err)):
        run()


def test_what_is_said_before_the_folder_is_there_is_written_once_it_is(tmp_path: Path) -> None:
    told: list[str] = []
    with TrainLog() as log:
        log.saying(told.append)("before")
        assert not list(tmp_path.iterdir())
        log.start(tmp_path / "train.log")
        log.saying(told.append)("after\nin two lines \U0001f600 \ud83d")
    begins, *rest = lines(tmp_path / "train.log")
    assert begins.startswith("mmpref ")
    assert rest == ["before", "after", "in two lines \U0001f600 \\ud83d"]
    assert told == ["before", "after\nin two lines \U0001f600 \ud83d"]


def test_a_later_run_adds_to_the_log(tmp_path: Path) -> None:
    for number in range(2):
        with TrainLog() as log:
            log.start(tmp_path / "train.log")
            log.line(f"run {number}")
    assert [line for line in lines(tmp_path / "train.log") if line.startswith("run")] == ["run 0", "run 1"]


def test_the_error_that_ends_a_run_is_the_last_line(tmp_path: Path) -> None:
    fails(TrainLog(), tmp_path / "train.log", DataError("row 3 is broken"))
    assert lines(tmp_path / "train.log")[-1] == "error: row 3 is broken"
    fails(TrainLog(), tmp_path / "other.log", ZeroDivisionError("a defect"))
    defect = lines(tmp_path / "other.log")[1:]
    assert (defect[0], defect[-1]) == ("error: Traceback (most recent call last):", "ZeroDivisionError: a defect")
    fails(TrainLog(), None, ConfigError("refused before the folder is this run's"))
    assert len(list(tmp_path.iterdir())) == 2


def test_of_another_rank_only_the_error_is_written(tmp_path: Path) -> None:
    with TrainLog() as first:
        first.start(tmp_path / "train.log")
        TrainLog(is_first=False, rank=1).line("what the first rank says too")
        err = DataError("row 3 is broken")
        fails(TrainLog(is_first=False, rank=1), tmp_path / "train.log", err)
        err.reported_by_other_rank = True
        fails(TrainLog(is_first=False, rank=2), tmp_path / "train.log", err)
    assert lines(tmp_path / "train.log")[1:] == ["rank 1: error: row 3 is broken"]


def test_a_log_that_cannot_be_written_stops_nothing_and_catches_up(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    with TrainLog() as log:
        log.start(folder / "train.log")
        log.line("while there was no place")
        folder.mkdir()
        log.line("again")
    assert lines(folder / "train.log")[1:] == ["while there was no place", "again"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_no_exception() -> None:
    assert not append(Path("/dev/full"), "a line\n")


def test_a_loss_line_has_step_numbers_speed_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 110.0, 130.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    pairs, told = iter([0, 40, 120]), list[str]()
    written = LossLines(told.append, lambda: next(pairs))
    state: Any = SimpleNamespace(global_step=4, max_steps=24, is_world_process_zero=True)
    nothing: Any = None
    written.on_train_begin(nothing, state, nothing)
    logs = {"loss": 0.6931, "rewards/accuracies": 0.5, "rewards/margins": 0.01, "learning_rate": 5e-7}
    state.global_step = 9
    written.on_log(nothing, state, nothing, logs=logs)
    state.global_step = 14
    written.on_log(nothing, state, nothing, logs=logs)
    written.on_log(nothing, state, nothing, logs={"eval_loss": 0.5, "eval_rewards/accuracies": 0.75})
    written.on_log(nothing, state, nothing, logs={"train_runtime": 3.0})
    state.is_world_process_zero = False
    written.on_log(nothing, state, nothing, logs=logs)
    numbers = "loss 0.6931  accuracy 0.500  margin 0.0100  lr 5e-07"
    assert told == [
        f"step 9/24  {numbers}  4 pairs/s  0:00:30 left",
        f"step 14/24  {numbers}  4 pairs/s  0:00:30 left",
        "step 14/24  held-out pairs: loss 0.5000  accuracy 0.750",
    ]
