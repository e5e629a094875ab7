"""A run folder that cannot be resumed as it is: one line, nothing waited for, no step lost, advice that works."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mmpref.cli.main import main
from mmpref.recipe.loading import load_recipe
from mmpref.rundir.claim import check_output
from mmpref.rundir.folder import RunDir
from mmpref.training.trainer.checkpoint import newest_complete
from tests.integration.conftest import Place
from tests.integration.test_one_training import refused

SHORT = ("train.per_device_train_batch_size=16", "train.learning_rate=1e-3", "train.warmup_steps=0",
         "train.logging_steps=1", "train.max_steps=3", "train.save_steps=2", "data.eval=[]")  # fmt: skip


@pytest.fixture(scope="module")
def stopped(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint of step 2 of 3, as a kill just after it leaves it."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    assert main(place.training("demo_dpo", run, *SHORT)) == 0
    for name in ("model", "checkpoints/step-3"):
        shutil.rmtree(run / name)
    for name in ("pairs.parquet", ".mmpref.lock"):
        (run / name).unlink(missing_ok=True)
    RunDir(run).set_state("running")
    return run


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    return shutil.copytree(stopped, tmp_path / "the run")


def message_of(capsys: pytest.CaptureFixture[str]) -> str:
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return " ".join(err.split())


def resumed_at_2(run: Path) -> None:
    assert RunDir(run).manifest()["state"] == "complete"
    assert f"resuming from {run / 'checkpoints' / 'step-2'}" in (run / "train.log").read_text()


# ---- what stands where a file should be -------------------------------------------------------------------------


def pipe(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()
    (path / "mine").write_text("x")


@pytest.mark.parametrize("kind", [pipe, folder])
@pytest.mark.parametrize("name", [
    "train.log", "metrics.jsonl", "pairs.parquet", "quarantine.jsonl", ".mmpref.lock", "manifest.json",
])  # fmt: skip
def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_refused_before_anything_is_loaded(
    place: Place, run: Path, name: str, kind: Callable[[Path], None], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    import mmpref.training.run.run as module

    def loads(*_: object, **__: object) -> None:
        raise AssertionError("the model or the data were looked at")

    kept = (run / name).read_bytes() if (run / name).is_file() else None
    (run / name).unlink(missing_ok=True)
    kind(run / name)
    arguments = [*place.training("demo_dpo", run, *SHORT), "--resume"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "load_data", loads)
        assert main(arguments) == 6
    message = message_of(capsys)
    assert f"{run / name} is a {kind.__name__}, and a run has a file there; take it away (`" in message
    subprocess.run(shlex.split(message.split("`")[1]), check=True)
    assert kind is pipe or len(list(run.parent.glob("*/mine"))) == 1  # moved, not deleted
    if name == "manifest.json":
        assert kept is not None
        (run / name).write_bytes(kept)
    check_output(load_recipe("demo_dpo", arguments[2:-1]), resume=True)
    if name == "train.log":
        assert main(arguments) == 0
        resumed_at_2(run)


def test_a_pipe_in_place_of_the_log_is_refused_without_torch(place: Place, run: Path) -> None:
    (run / "train.log").unlink()
    os.mkfifo(run / "train.log")
    code, message = refused([*place.training("demo_dpo", run, *SHORT), "--resume"])
    assert (code, "train.log is a pipe" in message) == (6, True), message


def test_a_file_in_place_of_the_checkpoints_is_refused(
    place: Place, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(run / "checkpoints")
    (run / "checkpoints").write_text("x")
    assert main([*place.training("demo_dpo", run, *SHORT), "--resume"]) == 6
    assert "checkpoints is a file, and a run has a folder there" in message_of(capsys)


# ---- checkpoints that cannot be used ----------------------------------------------------------------------------


def with_a_folder(step: Path) -> Callable[[], object]:
    (step / "__pycache__").mkdir()
    return (step / "__pycache__").rmdir


def with_notes(step: Path) -> Callable[[], object]:
    (step / "notes.txt").write_text("x")
    return (step / "notes.txt").unlink


def without_weights(step: Path) -> Callable[[], object]:
    away = (step / "trained.safetensors").rename(step.parent.parent / "weights")
    return lambda: away.rename(step / "trained.safetensors")


def cut(step: Path) -> Callable[[], object]:
    content = (step / "optimizer.pt").read_bytes()
    (step / "optimizer.pt").write_bytes(content[:-1])
    return lambda: (step / "optimizer.pt").write_bytes(content)


def not_sealed(step: Path) -> Callable[[], object]:
    away = (step / "COMPLETE.json").rename(step.parent.parent / "list")
    return lambda: away.rename(step / "COMPLETE.json")


def renamed(step: Path) -> Callable[[], object]:
    other = step.rename(step.with_name("best"))
    return lambda: other.rename(step)


HARMS = {
    with_a_folder: "__pycache__/ is not of this checkpoint; take it away",
    with_notes: "notes.txt is not of this checkpoint; take it away",
    without_weights: "trained.safetensors is missing; put it back from a copy",
    cut: "optimizer.pt has ",
    not_sealed: "it has no COMPLETE.json; put it back from a copy",
    renamed: "has no name of one (step-N); give it its name back",
}


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_checkpoints_that_cannot_be_used_are_named_and_not_trained_over(
    place: Place, run: Path, harm: Callable[[Path], Callable[[], object]], capsys: pytest.CaptureFixture[str]
) -> None:
    cure = harm(run / "checkpoints" / "step-2")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    arguments = place.training("demo_dpo", run, *SHORT)
    assert main([*arguments, "--resume"]) == 6
    message = message_of(capsys)
    assert HARMS[harm] in message
    assert "--overwrite begins anew" in message
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    cure()
    assert newest_complete(run / "checkpoints") == (run / "checkpoints" / "step-2", [])
    if harm is with_a_folder:
        assert main([*arguments, "--resume"]) == 0
        resumed_at_2(run)


def test_where_nothing_can_be_put_right_the_other_way_begins_anew(place: Place, run: Path) -> None:
    with_a_folder(run / "checkpoints" / "step-2")
    assert main([*place.training("demo_dpo", run, *SHORT), "--overwrite"]) == 0
    assert "resuming" not in (run / "train.log").read_text()


@pytest.mark.parametrize("left", ["nothing", "an empty folder"])
def test_a_run_without_a_checkpoint_still_starts_at_step_0(place: Place, run: Path, left: str) -> None:
    shutil.rmtree(run / "checkpoints")
    if left != "nothing":
        (run / "checkpoints" / "step-2").mkdir(parents=True)
    assert main([*place.training("demo_dpo", run, *SHORT), "--resume"]) == 0
    assert "starting at step 0" in (run / "train.log").read_text()


# ---- a run folder that was copied, and one whose manifest lost something -----------------------------------------


@pytest.mark.parametrize("old_place", ["gone", "there"])
def test_the_recipe_of_a_copied_run_resumes_that_run_or_nothing(
    stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, old_place: str
) -> None:
    run = shutil.copytree(stopped, tmp_path / "a copy")
    text = (run / "recipe.yaml").read_text()
    assert str(stopped) in text
    then = tmp_path / "old"
    (run / "recipe.yaml").write_text(text.replace(str(stopped), str(then)))
    if old_place == "there":
        shutil.copytree(run, then)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "a copy/recipe.yaml", "cpu_threads=1", "--resume"]) == 2
    message = message_of(capsys)
    assert f"its output is {then}" in message
    assert then.exists() == (old_place == "there")
    program, *again = shlex.split(message.split("`")[1])
    assert (program, again) == (
        "mmpref", ["train", "a copy/recipe.yaml", "cpu_threads=1", "output=a copy", "--resume"],
    )  # fmt: skip
    assert main(again) == 0
    assert RunDir(run).manifest()["state"] == "complete"
    assert old_place == "gone" or RunDir(then).manifest()["state"] == "running"


@pytest.mark.parametrize("content", [None, "", "{", "output: [", "data: 3"])
def test_a_damaged_recipe_of_a_run_is_told_with_what_goes_on(
    run: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    (run / "recipe.yaml").unlink()
    if content is not None:
        (run / "recipe.yaml").write_text(content)
    assert main(["train", str(run / "recipe.yaml"), "--resume"]) == 2
    message = message_of(capsys)
    assert f"it is the recipe of the run in {run}: put it back from a copy, or go on with the RECIPE" in message
    assert shlex.split(message.split("`")[1]) == ["mmpref", "train", "RECIPE", f"output={run}", "--resume"]


def test_a_wrong_change_to_a_good_recipe_of_a_run_is_only_that(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(run / "recipe.yaml"), "loss.nonsense=1", "--resume"]) == 2
    assert "recipe of the run" not in message_of(capsys)


@pytest.mark.parametrize("name", ["missing", 3])
def test_a_manifest_without_the_name_of_its_run_is_not_that_of_another_run(
    place: Place, run: Path, capsys: pytest.CaptureFixture[str], name: object
) -> None:
    file = run / "manifest.json"
    content = json.loads(file.read_text())
    content["run"] = name
    if name == "missing":
        del content["run"]
    file.write_text(json.dumps(content))
    arguments = [*place.training("demo_dpo", run, *SHORT), "--resume"]
    assert main(arguments) == 6
    message = message_of(capsys)
    assert f"{file} lacks its 'run'" in message
    assert "delete" not in message
    content |= json.loads("{" + message.split("`")[1] + "}")
    file.write_text(json.dumps(content))
    assert main(arguments) == 0
    resumed_at_2(run)
