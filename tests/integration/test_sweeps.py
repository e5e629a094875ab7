"""``mmpref sweep``: what is wrong is told before anything is loaded; what is killed ends with the same bits."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from mmpref.cli.main import main
from mmpref.rundir.content import LOCK
from mmpref.rundir.folder import RunDir
from mmpref.sweeps import run as sweep_run
from tests.integration.conftest import Place
from tests.integration.killing import assert_same_run, in_child

TRAINING = (
    "train.per_device_train_batch_size=4", "train.learning_rate=1e-3", "train.warmup_steps=0", "train.logging_steps=1",
    "train.max_steps=3", "train.save_steps=1", "preflight=false", "cpu_threads=1",
)  # fmt: skip
ARMS = ("--arm", "DPO: loss.name=dpo", "--arm", "Uni-DPO: loss.name=uni_dpo loss.uni.tau_good=median")


def arguments(place: Place, folder: Path, out: Path, *more: str, evals: Sequence[str] = ("preference",)) -> list[str]:
    """``mmpref sweep`` on the small world, without what it varies; files of questions lie in ``folder``."""
    world, asked = place.world, folder / "asked.jsonl"
    asked.write_text("".join(world.pairs_heldout.open(encoding="utf-8").readlines()[:6]), encoding="utf-8")
    found = [{"benchmark": "preference", "name": name, "questions": [str(asked)]} for name in evals]
    changes = [f"model.path={place.model}", f"data.train={world.pairs}", f"data.root={world.root}",
               f"data.eval={world.pairs_heldout}", *TRAINING, f"evals={json.dumps(found)}"]  # fmt: skip
    return ["sweep", "demo_dpo", *changes, *more, "--out", str(out)]


def error_of(words: list[str], capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(words)
    return code, capfd.readouterr().err


# ---- before anything is loaded --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--grid", "train.learning_rat=1,2"], 2, "all 2 cells: .*unknown key 'train.learning_rat', did you mean"),
        (["--grid", "learning_rate=1,2"], 2, r"did you mean 'train\.learning_rate'"),
        (["--grid", "train.weight_decay=0.1,much"], 2, "cell weight_decay=much: .*'train.weight_decay'"),
        (["--grid", "train.weight_decay=0.1,1e-1"], 2, "are the same training"),
        (["--arm", "sft", "--grid", "loss.beta=0.1,0.2"], 2, "loss.beta does nothing with base sft"),
        (["--arm", "uni_dpo", "loss.uni.nll_lambda=0", "--grid", "loss.uni.tau_good=1,2"], 2, "with nll_lambda 0"),
        (["--grid", "seed=0,1", "data.train=pairs_{sed}.jsonl"], 2, "{sed} is the name of no axis, did you mean"),
        (["--grid", "seed=0,1", "model.path=./nowhere/model"], 2, "all 2 cells: .*nowhere/model"),
        (["--grid", "seed=0,1", "data.train=none.jsonl"], None, "all 2 cells: .*none.jsonl"),
        (["--seeds", "0,x"], 2, "'x' is no seed"),
        (["--seeds", "0", "evals=[{benchmark: pop, questions: x.jsonl}]"], 2, "pop"),
        (["--seeds", "0", "evals=[{benchmark: pope, questions: x.jsonl}]"], 2, "x.jsonl, are not there"),
        (["--seeds", "0", "--launch", "ddp", "--workers", "2"], 2, "leave out --workers"),
        (["--seeds", "0", "--processes", "2"], 2, "--processes goes with --launch"),
        (["--seeds", "0,1", "--shard", "3/2"], 2, "--shard 3/2"),
        (["--seeds", "0,1", "--shard", "1/3"], 2, "more shares than cells"),
        ([], 2, "needs something to vary"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_cells_and_nothing_is_written(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str], more: list[str], code: int | None, said: str
) -> None:
    ended, message = error_of(arguments(place, tmp_path, tmp_path / "out", *more), capfd)
    assert re.search(said, message, flags=re.DOTALL), message
    assert ended in ({code} if code is not None else {2, 3})
    assert not (tmp_path / "out").exists()


def test_pairs_without_the_scores_that_an_arm_reads_are_refused_for_its_cells_alone(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in place.world.pairs.open(encoding="utf-8")]
    bare = tmp_path / "bare.jsonl"
    kept = ("id", "images", "prompt", "chosen", "rejected")
    bare.write_text("".join(json.dumps({key: row[key] for key in kept}) + "\n" for row in rows), encoding="utf-8")
    words = arguments(place, tmp_path, tmp_path / "out", *ARMS, f"data.train={bare}", "data.eval=[]")
    code, message = error_of(words, capfd)
    assert code == 3
    assert "cell Uni-DPO: " in message
    assert "no score_chosen" in message


def test_two_evals_of_one_name_are_refused(place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, message = error_of(arguments(place, tmp_path, tmp_path / "out", "--seeds", "0", evals=("a", "A")), capfd)
    assert (code, "two evals are called 'a'" in message) == (2, True)


def test_a_folder_that_has_something_else_is_refused(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "file").write_text("", encoding="utf-8")
    for name, said in (("out", "is not empty and has no sweep.json"), ("file", "is a file")):
        code, message = error_of(arguments(place, tmp_path, tmp_path / name, "--seeds", "0"), capfd)
        assert code == 2
        assert said in message


def test_a_dry_run_lists_the_cells_and_writes_nothing(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(place, tmp_path, tmp_path / "out", *ARMS, "--seeds", "0,1", "--dry-run")) == 0
    printed = capfd.readouterr().out
    assert "4 cells, 0 complete, 4 left" in printed
    assert "not begun" in printed
    assert not (tmp_path / "out").exists()


# ---- sweeps that run ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that ran through, one cell after another."""
    folder = tmp_path_factory.mktemp("whole")
    assert in_child(arguments(place, folder, folder / "out", *ARMS)) == 0
    return folder / "out"


def assert_same_sweep(out: Path, whole: Path) -> None:
    cells = sorted(entry.name for entry in (whole / "cells").iterdir() if entry.is_dir())
    assert cells == sorted(entry.name for entry in (out / "cells").iterdir() if entry.is_dir())
    for name in cells:
        (out / "cells" / name / LOCK).unlink(missing_ok=True)
        assert_same_run(out / "cells" / name, whole / "cells" / name)
    evaluations = sorted(file.relative_to(whole) for file in whole.rglob("items.jsonl"))
    assert len(evaluations) == len(cells) + 1  # and of the start model
    for file in evaluations:
        assert (out / file).read_bytes() == (whole / file).read_bytes()
    assert states(out) == dict.fromkeys(cells, "complete")


def states(out: Path) -> dict[str, str]:
    files = sorted((out / "cells").glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf-8"))["state"] for file in files}


def begun(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as stream:
        return subprocess.Popen([sys.executable, "-m", "mmpref", *words], stdout=stream, stderr=stream)


def until(there: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None and not there():
        time.sleep(0.02)


def workers_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_a_sweep_killed_in_training_and_in_an_evaluation_ends_as_one_that_ran_through(
    place: Place, tmp_path: Path, whole: Path
) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    words = arguments(place, tmp_path, out, *ARMS, "--workers", "2")
    first = begun(words, log)
    until(lambda: any(out.glob("cells/*/checkpoints/step-1")), first)
    first.kill()
    first.wait()
    second = begun(words, log)
    until(lambda: any(out.glob("cells/*/evals/*/answers*")), second)
    second.send_signal(signal.SIGTERM)
    assert second.wait() in (143, 0)  # 0: it was quicker than the signal
    third = begun(words, log)
    assert third.wait() == 0, log.read_text(encoding="utf-8")
    assert_same_sweep(out, whole)
    assert (out / "sweep.html").is_file()


@pytest.mark.slow
def test_a_worker_that_is_killed_fails_its_cell_which_is_tried_again(place: Place, tmp_path: Path, whole: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    process = begun(arguments(place, tmp_path, out, *ARMS), log)
    until(lambda: any(out.glob("cells/*/metrics.jsonl")), process)
    for worker in workers_of(process):
        worker.kill()
    assert process.wait() == 0
    said = log.read_text(encoding="utf-8")
    assert "was killed (SIGKILL" in said
    assert "trying it once more" in said
    assert_same_sweep(out, whole)


@pytest.mark.slow
def test_two_commands_at_once_train_each_cell_once(place: Place, tmp_path: Path, whole: Path) -> None:
    out, logs = tmp_path / "out", [tmp_path / "log-0", tmp_path / "log-1"]
    words = arguments(place, tmp_path, out, *ARMS)
    both = [begun(words, log) for log in logs]
    said = [(process.wait(), log.read_text(encoding="utf-8")) for process, log in zip(both, logs, strict=True)]
    assert [code for code, _ in said] == [0, 0], said
    for name in states(whole):
        assert (out / "cells" / name / "train.log").read_text(encoding="utf-8").count(" begins, process ") == 1
    assert_same_sweep(out, whole)


@pytest.mark.slow
def test_a_cell_that_fails_is_told_with_the_command_that_trains_it_alone(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    words = arguments(place, tmp_path, out, *ARMS, "--retries", "0")
    real = sweep_run.run_sweep

    def damaging(*given: object) -> object:  # after the check of the data, which would tell
        images = place.world.root / "images"
        moved = images.rename(tmp_path / images.name)
        try:
            return real(*given)  # type: ignore[arg-type]
        finally:
            moved.rename(images)

    monkeypatch.setattr(sweep_run, "run_sweep", damaging)
    assert main(words) == 8
    printed = capfd.readouterr().out
    assert set(states(out).values()) == {"failed"}
    commands = re.findall(r"alone: mmpref (.+)", printed)
    assert len(commands) == 2
    assert main(shlex.split(commands[0])) == 0
    assert RunDir(out / "cells" / "DPO").manifest()["state"] == "complete"
    monkeypatch.undo()
    assert main(words) == 0
    assert set(states(out).values()) == {"complete"}


@pytest.mark.slow
def test_what_is_complete_stays_a_new_benchmark_is_asked_and_another_recipe_is_refused(
    place: Place, tmp_path: Path, whole: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = whole.parent
    before = {file: file.stat().st_mtime_ns for file in whole.rglob("*.safetensors")}
    assert main(arguments(place, folder, whole, *ARMS)) == 0
    assert "2 of 2 cells are complete already" in capfd.readouterr().out
    code, message = error_of(arguments(place, folder, whole, *ARMS, "train.max_steps=4"), capfd)
    assert code == 2
    assert "another sweep (changes: " in message
    recipe = whole / "cells" / "DPO" / "recipe.yaml"
    text = recipe.read_text(encoding="utf-8")
    recipe.write_text(text.replace("max_steps: 3", "max_steps: 5"), encoding="utf-8")
    code, message = error_of(arguments(place, folder, whole, *ARMS), capfd)
    assert (code, "cell DPO: it was begun with another recipe (train.max_steps: 5 then, 3 now)" in message) == (2, True)
    recipe.write_text(text, encoding="utf-8")
    assert before == {file: file.stat().st_mtime_ns for file in whole.rglob("*.safetensors")}
