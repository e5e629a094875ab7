"""kill -9 at any moment, then --resume: the run ends with the weights, pairs and lines of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from transformers import Trainer

from mmpref.cli.main import main
from mmpref.models import save
from mmpref.rundir.folder import RunDir
from mmpref.training.run import run
from mmpref.training.trainer import alarms, checkpointer, trainer
from mmpref.training.trainer.metrics import JsonlLogger
from mmpref.training.trainer.pair_log import PairLog
from tests.integration.conftest import Place
from tests.integration.killing import assert_same_run, forked, lines
from tests.tiers import corners

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


def _in_child(
    arguments: list[str], *, seconds: float | None = None, before: Callable[[], object] = lambda: None
) -> int:
    """``in_child``, killed after ``seconds``."""
    child = forked(arguments, before=before)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def step_and_loss(run: Path) -> list[tuple[int, float | None]]:
    return [(line["step"], line.get("loss", line.get("eval_loss"))) for line in lines(run)]


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
    assert_same_run(run, whole)


@pytest.mark.parametrize("seed", corners([0, 1], 0))
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


# ---- kills at named points ------------------------------------------------------------------------------------------

SHORT = (*CHANGES, "train.max_steps=2", "train.eval_steps=1")
"""Each step is a log line, an evaluation line and a checkpoint, in this order."""
LAST_EVALUATED_LATE = (*CHANGES, "train.max_steps=2", "train.eval_steps=null")
"""The evaluation of the last step comes after its checkpoint."""


def _kill(*_: Any, **__: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("never reached")


def _dies(owner: object, name: str, *, call: int = 1, after: bool = False) -> Callable[[], None]:
    """Plants a kill at the n-th call of a function: in place of it, or right behind it."""

    def plant() -> None:
        real, calls = getattr(owner, name), [0]

        def replaced(*args: Any, **kwargs: Any) -> Any:
            calls[0] += 1
            if calls[0] < call:
                return real(*args, **kwargs)
            if after:
                real(*args, **kwargs)
            _kill()

        setattr(owner, name, replaced)

    return plant


def _torn_at_line(number: int) -> Callable[[], None]:
    """Plants a kill in the middle of writing the n-th line of metrics.jsonl."""

    def plant() -> None:
        real, calls = JsonlLogger._append, [0]

        def torn(self: JsonlLogger, line: Any) -> None:
            calls[0] += 1
            if calls[0] < number:
                real(self, line)
                return
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line)[:25])
            _kill()

        JsonlLogger._append = torn  # type: ignore[method-assign]

    return plant


@pytest.fixture(scope="module")
def undisturbed_short(place: Place, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Path]:
    root = tmp_path_factory.mktemp("undisturbed")
    runs = {SHORT: root / "evaluated", LAST_EVALUATED_LATE: root / "evaluated_late"}
    for changes, folder in runs.items():
        assert _in_child(place.training("demo_dpo", folder, *changes)) == 0
    return runs


# the lines of SHORT: evaluation at 0; loss, evaluation, checkpoint at 1; loss, evaluation, checkpoint at 2; the summary
POINTS: dict[str, tuple[tuple[str, ...], Callable[[], None]]] = {
    "first evaluation line torn": (SHORT, _torn_at_line(1)),
    "between the first evaluation and the first step": (SHORT, _dies(JsonlLogger, "_append", after=True)),
    "log line torn, no checkpoint yet": (SHORT, _torn_at_line(2)),
    "log line torn, behind a checkpoint": (SHORT, _torn_at_line(4)),
    "between log line and evaluation": (SHORT, _dies(JsonlLogger, "_append", call=4, after=True)),
    "evaluation line torn": (SHORT, _torn_at_line(5)),
    "between evaluation and checkpoint": (SHORT, _dies(checkpointer.Checkpointer, "save", call=2)),
    "between the checkpoint's weights and its logs":
        (SHORT, _dies(Trainer, "_save_rng_state", call=2)),
    "between the checkpoint's logs and its seal": (SHORT, _dies(checkpointer, "seal", call=2)),
    "between a checkpoint and the pruning of older ones": (SHORT, _dies(checkpointer, "prune", call=2)),
    "between the last checkpoint and the summary": (SHORT, _torn_at_line(6)),
    "between the last checkpoint and the last evaluation":
        (LAST_EVALUATED_LATE, _dies(trainer.PreferenceTrainer, "evaluate", call=2)),
    "last evaluation line torn": (LAST_EVALUATED_LATE, _torn_at_line(5)),
    "final save: right behind the last evaluation": (LAST_EVALUATED_LATE, _dies(PairLog, "write", call=5)),
    "final save: between the pair logs": (LAST_EVALUATED_LATE, _dies(PairLog, "write", call=5, after=True)),
    "final save: before the model": (LAST_EVALUATED_LATE, _dies(checkpointer, "save_model")),
    "final save: in the model": (LAST_EVALUATED_LATE, _dies(save, "copy_processor_files")),
    "final save: behind the model": (LAST_EVALUATED_LATE, _dies(checkpointer, "save_model", after=True)),
    "final save: all but the state": (LAST_EVALUATED_LATE, _dies(run, "_facts_of_result")),
}  # fmt: skip


QUICK = (
    "log line torn, behind a checkpoint", "between the checkpoint's weights and its logs",
    "final save: all but the state",
)  # fmt: skip


@pytest.mark.parametrize("point", corners(POINTS, *QUICK))
def test_a_run_killed_at_a_named_point_has_every_line_and_row_once(
    place: Place, undisturbed_short: dict[tuple[str, ...], Path], tmp_path: Path, point: str
) -> None:
    changes, plant = POINTS[point]
    whole, folder = undisturbed_short[changes], tmp_path / "run"
    arguments = place.training("demo_dpo", folder, *changes)
    assert _in_child(arguments, before=plant) == -signal.SIGKILL
    assert RunDir(folder).manifest()["state"] == "running"
    assert _in_child([*arguments, "--resume"]) == 0
    assert_same_run(folder, whole)


@pytest.mark.slow
def test_a_resumed_run_killed_again_has_every_line_once(
    place: Place, undisturbed_short: dict[tuple[str, ...], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    arguments = place.training("demo_dpo", folder, *LAST_EVALUATED_LATE)
    assert _in_child(arguments, before=_dies(checkpointer, "save_model")) == -signal.SIGKILL
    for plant in (_torn_at_line(1), _dies(checkpointer, "save_model"), _dies(JsonlLogger, "begin_from", after=True)):
        assert _in_child([*arguments, "--resume"], before=plant) == -signal.SIGKILL
    assert _in_child([*arguments, "--resume"]) == 0
    assert_same_run(folder, undisturbed_short[LAST_EVALUATED_LATE])


@pytest.mark.slow
def test_an_alarm_of_a_resumed_run_stands_where_an_undisturbed_one_has_it(place: Place, tmp_path: Path) -> None:
    changes = (*CHANGES, "train.max_steps=5", "data.eval=[]")

    def easily_alarmed() -> None:
        alarms.LARGE_MARGIN = -100.0

    def ended(name: str, *kills: Callable[[], None]) -> list[tuple[int, float | None]]:
        arguments = place.training("demo_dpo", tmp_path / name, *changes)
        for number, kill in enumerate(kills):
            resume = ["--resume"] if number else []
            assert _in_child([*arguments, *resume], before=lambda kill=kill: (easily_alarmed(), kill())) < 0  # type: ignore[misc]
        assert _in_child([*arguments, *(["--resume"] if kills else [])], before=easily_alarmed) == 0
        return step_and_loss(tmp_path / name)

    save_checkpoint = (checkpointer.Checkpointer, "save")
    whole = ended("whole")
    assert [step for step, loss in whole if loss is None] == [3]
    assert ended("right_behind_it", _dies(*save_checkpoint, call=3, after=True)) == whole
    assert ended("twice", _dies(*save_checkpoint, call=2), _dies(*save_checkpoint, call=4)) == whole
