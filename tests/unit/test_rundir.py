"""Run folders: what is refused, and that nothing half-written ever stands at a final name."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from mmpref.config import Recipe, build_recipe, load_recipe
from mmpref.errors import CheckpointError, ConfigError
from mmpref.files import replacing, replacing_folder, write_json, write_text
from mmpref.rundir import MANIFEST, RunDir, start_run


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
    with pytest.raises(ConfigError, match=r"holds a run already \(state: complete\).*--overwrite"):
        start_run(recipe(tmp_path / "run"))
    (run.path / "old").write_text("x")
    start_run(recipe(tmp_path / "run"), overwrite=True)
    assert not (run.path / "old").exists()
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
