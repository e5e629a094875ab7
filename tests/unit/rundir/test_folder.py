"""Run folders: what is refused, and that nothing half-written ever stands at a final name."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from mmpref.errors import CheckpointError, ConfigError
from mmpref.files import locking, temporary
from mmpref.files.locking import locked
from mmpref.files.writing import replacing, replacing_folder, write_json, write_text
from mmpref.recipe.loading import build_recipe, load_recipe
from mmpref.recipe.sections import Recipe
from mmpref.rundir.claim import check_output, claim_output, start_run
from mmpref.rundir.content import LOCK, MANIFEST
from mmpref.rundir.folder import RunDir
from mmpref.rundir.locking import folder_locked, writing_alone


def recipe(output: Path) -> Recipe:
    tree = {
        "output": str(output),
        "model": {"path": "m"},
        "data": {"train": ["a.jsonl"]},
        "loss": {"name": "dpo"},
        "train": {"learning_rate": 1e-6},
    }
    return build_recipe(tree, where="test")


def test_a_new_run_has_its_recipe_and_a_manifest_in_state_running(tmp_path: Path) -> None:
    wanted = recipe(tmp_path / "run")
    run = start_run(wanted)
    assert load_recipe(run.recipe_file) == wanted
    assert run.manifest()["state"] == "running"
    assert run.manifest()["versions"]["mmpref"]


def test_a_folder_that_holds_a_run_is_refused_with_its_state_and_replaced_when_told(tmp_path: Path) -> None:
    run = start_run(recipe(tmp_path / "run"))
    run.set_state("complete", steps=3)
    with pytest.raises(ConfigError, match=r"contains a run already \(state: complete\).*--overwrite"):
        start_run(recipe(tmp_path / "run"))
    run.metrics_file.write_text("x")
    start_run(recipe(tmp_path / "run"), overwrite=True)
    assert not run.metrics_file.exists()
    assert run.manifest()["state"] == "running"


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_text("x")
    with pytest.raises(ConfigError, match="not empty and is not a run folder"):
        start_run(recipe(tmp_path / "photos"), overwrite=True)
    assert (tmp_path / "photos" / "me.jpg").exists()


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is a file; give a folder"):
        start_run(recipe(tmp_path / "file"))


def test_an_output_below_a_file_is_a_checkpoint_error_with_exit_code_6(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot write to") as caught:
        start_run(recipe(tmp_path / "file" / "run"))
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"'])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(ConfigError, match=MANIFEST):
        RunDir(tmp_path).manifest()


def test_a_folder_without_a_manifest_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run folder"):
        RunDir(tmp_path).manifest()


def test_a_write_that_fails_midway_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    write_text(file, "old")

    def write_half() -> None:
        with replacing(file) as stream:
            stream.write(b"new and hal")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        write_half()
    assert file.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_a_full_disk_is_one_clear_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    write_text(file, "old")
    with pytest.raises(CheckpointError, match="No space left on device"), replacing(file):
        raise OSError(28, "No space left on device")
    assert file.read_text() == "old"


def test_a_written_file_can_be_read_by_others_as_the_umask_says(tmp_path: Path) -> None:
    write_text(tmp_path / "f", "x")
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o666 & ~umask


def test_a_symbolic_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_nan_is_refused_in_json_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "f.json", {"x": float("nan")})
    assert not (tmp_path / "f.json").exists()


def test_a_folder_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"

    def write_half() -> None:
        with replacing_folder(target) as folder:
            (folder / "weights").write_text("half")
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        write_half()
    assert not target.exists()
    with replacing_folder(target) as folder:
        (folder / "weights").write_text("whole")
    with replacing_folder(target) as folder:
        (folder / "config").write_text("{}")
    assert [entry.name for entry in target.iterdir()] == ["config"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def test_the_manifest_keeps_earlier_facts(tmp_path: Path) -> None:
    run = start_run(recipe(tmp_path / "run"))
    run.set_state("stopped", steps=1)
    run.set_state("failed", error="x")
    content = json.loads((run.path / MANIFEST).read_text())
    assert (content["state"], content["steps"], content["error"]) == ("failed", 1, "x")


def test_a_folder_that_a_kill_left_with_its_recipe_alone_is_taken_up_as_new(tmp_path: Path) -> None:
    wanted = recipe(tmp_path / "run")
    run = start_run(wanted)
    (run.path / MANIFEST).unlink()
    (run.path / ".manifest.json.abc.tmp").write_text("half")
    assert start_run(wanted).manifest()["state"] == "running"
    (run.path / MANIFEST).unlink()
    (run.path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty and is not a run folder"):
        start_run(wanted)


def test_what_a_killed_run_left_half_written_is_removed_and_nothing_else(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    kept = {".model.backup.tmp", ".notes.abcd1234.tmp", ".git", "metrics.jsonl", ".step-3", "step-3.abcd1234.tmp"}
    half = {".model.abcd_234", ".model.abcd1234.tmp", ".step-12.abcd1234.tmp", ".step-12.abcd1234.old"}
    run.checkpoints.mkdir()
    for folder in (tmp_path, run.checkpoints):
        for name in kept | half:
            (folder / name).mkdir()
            (folder / name / "weights").write_text("")
    for name in (".manifest.json.abcd1234.tmp", ".pairs.parquet.abcd1234.tmp", ".metrics.jsonl.abcd1234.tmp"):
        (tmp_path / name).write_text("")
    run.remove_leftovers()
    assert {entry.name for entry in run.checkpoints.iterdir()} == kept
    assert {entry.name for entry in tmp_path.iterdir()} == {*kept, "checkpoints"}


# ---- one process at a time ------------------------------------------------------------------------------------


def lines() -> tuple[list[str], Callable[[str], None]]:
    found: list[str] = []
    return found, found.append


def test_a_folder_is_held_under_all_its_names_and_is_as_it_was_afterwards(tmp_path: Path) -> None:
    said, say = lines()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with writing_alone(tmp_path / "new" / "run", say), writing_alone(tmp_path / "run", say) as alone:
        assert alone
        for name in ("run", "link", "link/../run"):
            for way in ({}, {"overwrite": True}, {"resume": True}):
                with pytest.raises(ConfigError, match=rf"process {os.getpid()} on .* writes there.*output=\.\.\."):
                    check_output(recipe(tmp_path / name), **way)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["link"]
    assert said == []


def test_a_rank_that_outlives_the_first_keeps_others_away(tmp_path: Path) -> None:
    _, say = lines()
    with locked(tmp_path / f"{LOCK}.1"):
        with pytest.raises(ConfigError, match="writes there"):
            check_output(recipe(tmp_path))
        with pytest.raises(ConfigError, match="writes there"), writing_alone(tmp_path, say):
            pass
        assert [entry.name for entry in tmp_path.iterdir()] == [f"{LOCK}.1"]
    with writing_alone(tmp_path, say):
        assert [entry.name for entry in tmp_path.iterdir()] == [LOCK]  # of killed ranks nothing is left


def test_a_rank_holds_the_folder_itself_and_a_forked_child_does_not(tmp_path: Path) -> None:
    _, say = lines()
    with folder_locked(tmp_path, first=False):
        with pytest.raises(ConfigError, match=rf"in use: process {os.getpid()} on .* writes there"):
            check_output(recipe(tmp_path))
        with pytest.raises(ConfigError, match="writes there"), writing_alone(tmp_path, say):
            pass
        child = os.fork()
        if child == 0:
            signal.pause()
    try:
        check_output(recipe(tmp_path))
        with writing_alone(tmp_path, say) as alone:
            assert alone
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_without_locks_the_user_is_warned_and_a_run_that_says_it_is_running_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object, **__: object) -> bool:
        raise OSError(errno.ENOSYS, "Function not implemented")

    for module in (locking, temporary):
        monkeypatch.setattr(module, "lock_descriptor", no_locks)
    said, say = lines()
    start_run(recipe(tmp_path / "run"))
    check_output(recipe(tmp_path / "run"))
    with writing_alone(tmp_path / "run", say) as alone:
        assert not alone
        with pytest.raises(ConfigError, match=r"contains a run already \(state: running\)"):
            claim_output(recipe(tmp_path / "run"), alone=alone)
    [warning] = said
    assert "has no locks" in warning
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_folder_with_nothing_but_a_lock_that_a_kill_left_is_empty(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text('{"pid": 1, "host": "gone"}')
    (tmp_path / f"{LOCK}.1").write_text("")
    check_output(recipe(tmp_path))
    assert start_run(recipe(tmp_path)).manifest()["state"] == "running"


def test_replacing_a_run_leaves_its_lock_and_does_not_follow_links(tmp_path: Path) -> None:
    _, say = lines()
    run = start_run(recipe(tmp_path / "run"))
    run.set_state("complete")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "step-1").write_text("x")
    run.checkpoints.symlink_to(tmp_path / "elsewhere")
    run.model.symlink_to(tmp_path / "elsewhere")
    with writing_alone(run.path, say):
        start_run(recipe(run.path), overwrite=True)
        assert {entry.name for entry in run.path.iterdir()} == {LOCK, MANIFEST, "recipe.yaml"}
    assert (tmp_path / "elsewhere" / "step-1").exists()


def test_replacing_a_run_that_is_cut_short_leaves_what_can_be_replaced_but_not_resumed_as_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_run(recipe(tmp_path))
    run.set_state("complete")
    run.model.mkdir()

    def cut(entry: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", cut)
        with pytest.raises(CheckpointError, match="Input/output error"):
            start_run(recipe(tmp_path), overwrite=True)
    assert run.manifest()["state"] == "failed"
    assert start_run(recipe(tmp_path), overwrite=True).manifest()["state"] == "running"
    assert not run.model.exists()


def test_a_run_within_a_run_is_not_deleted_while_it_is_written(tmp_path: Path) -> None:
    _, say = lines()
    start_run(recipe(tmp_path)).set_state("complete")
    with writing_alone(tmp_path / "runs" / "inner", say):
        (tmp_path / "runs" / "inner" / "work").write_text("")
        with pytest.raises(ConfigError, match="runs/inner is in use"):
            check_output(recipe(tmp_path), overwrite=True)
    (tmp_path / "runs" / "inner" / "work").unlink()
    check_output(recipe(tmp_path), overwrite=True)


# ---- a run that came to nothing -------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["failed", "stopped", "running"])
def test_a_run_that_ended_before_its_first_step_is_taken_over_with_a_word_and_nothing_of_others_goes(
    tmp_path: Path, state: Literal["failed", "stopped", "running"]
) -> None:
    run = start_run(recipe(tmp_path))
    run.set_state(state, error="the data was not there")
    run.checkpoints.mkdir()
    run.metrics_file.write_text('{"step": 0, "eval_loss": 0.7}\n{"step": 1, "lo')
    (tmp_path / "notes.txt").write_text("mine")
    claim = claim_output(recipe(tmp_path))
    assert f"ended before its first step (state: {state}) and is begun again" in claim.note
    manifest = claim.create().manifest()
    assert (manifest["state"], "error" in manifest) == ("running", False)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("worth", [
    "checkpoints/step-1/", "checkpoints/.step-5.abcdefgh.tmp/", "checkpoints/step-2/COMPLETE.json", "model/",
    ".model.abcdefgh.tmp/", "pairs.parquet", "pairs_eval.parquet", "metrics.jsonl",
])  # fmt: skip
def test_a_run_with_anything_of_a_step_is_never_taken_over(tmp_path: Path, worth: str) -> None:
    run = start_run(recipe(tmp_path))
    run.set_state("failed")
    entry = tmp_path / worth
    (entry if worth.endswith("/") else entry.parent).mkdir(parents=True, exist_ok=True)
    if not worth.endswith("/"):
        entry.write_text('{"step": 0, "eval_loss": 1}\n{"step": 1, "loss": 1}\n')
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"contains a run already \(state: failed\)"):
            start_run(recipe(tmp_path))
        assert entry.exists()
    assert claim_output(recipe(tmp_path), resume=True).continues


def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    place = Path(tempfile.mkdtemp())  # root may write anywhere: somebody else looks
    try:
        place.chmod(0o755)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setuid(65534 if os.getuid() == 0 else os.getuid())
                if os.getuid() != 65534:
                    place.chmod(0o555)
                check_output(recipe(place / "run"))
            except CheckpointError as err:
                code = 0 if f"no permission to write into {place}" in str(err) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        place.chmod(0o755)
        place.rmdir()
