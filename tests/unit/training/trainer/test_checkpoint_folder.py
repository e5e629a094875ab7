"""What may be in a folder of checkpoints: what was written there, under its name, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mmpref.errors import CheckpointError
from mmpref.rundir.content import COMPLETE
from mmpref.training.trainer.checkpoint import newest_complete, prune, seal, sealed_in, verify


def checkpoint(root: Path, step: int) -> Path:
    folder = root / f"step-{step}"
    (folder / "inner").mkdir(parents=True)
    (folder / "weights").write_bytes(bytes(range(256)) * 8)
    (folder / "inner" / "state").write_text(f"state {step}")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    seal(folder, {"step": step, "rate": 1e-7}, step=step)
    return folder


def a_file(folder: Path) -> str:
    (folder / "inner" / "more.bin").write_bytes(b"x")
    return "inner/more.bin is not of this checkpoint"


def an_empty_folder(folder: Path) -> str:
    (folder / "more").mkdir()
    return "more/ is not of this checkpoint"


def a_folder_with_files(folder: Path) -> str:
    (folder / "more").mkdir()
    (folder / "more" / "a").touch()
    (folder / "more" / "b").touch()
    return "more/a, more/b are not of this checkpoint; take them away"


def a_link_to_a_folder(folder: Path) -> str:
    (folder.parent / "elsewhere").mkdir()
    (folder / "more").symlink_to(folder.parent / "elsewhere")
    return "more is not of this checkpoint"


def a_dead_link(folder: Path) -> str:
    (folder / "more").symlink_to("nowhere")
    return "more is not of this checkpoint"


def a_pipe(folder: Path) -> str:
    os.mkfifo(folder / "more")
    return "more is not of this checkpoint"


def a_file_that_is_a_link(folder: Path) -> str:
    shutil.copy(folder / "weights", folder.parent / "copy")
    (folder / "weights").unlink()
    (folder / "weights").symlink_to(folder.parent / "copy")  # with the very bytes that were written
    return "weights is a link and was written as a file; put the file back"


def a_file_that_is_a_pipe(folder: Path) -> str:
    (folder / "weights").unlink()
    os.mkfifo(folder / "weights")  # reading it would wait for ever
    return "weights is no file and was written as a file"


def a_folder_that_is_a_link(folder: Path) -> str:
    (folder / "inner").rename(folder.parent / "moved")
    (folder / "inner").symlink_to(folder.parent / "moved")
    return "inner/state is missing"


def another_name(folder: Path) -> str:
    folder.rename(folder.with_name("step-7"))
    return "step-7 holds step 4: it was renamed; give it its name step-4 back"


def facts_edited(folder: Path) -> str:
    file = folder / COMPLETE
    file.write_text(file.read_text().replace("1e-07", "2e-07"))
    return f"{COMPLETE} is damaged: it is not what was written"


def a_manifest_that_is_a_link(folder: Path) -> str:
    (folder / COMPLETE).rename(folder.parent / "moved.json")
    (folder / COMPLETE).symlink_to(folder.parent / "moved.json")
    return "is not complete"


def of_a_later_version(folder: Path) -> str:
    file = folder / COMPLETE
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 9}))
    return "was written by a later version of mmpref (format 9); update mmpref"


@pytest.mark.parametrize("harm", [
    a_file, an_empty_folder, a_folder_with_files, a_link_to_a_folder, a_dead_link, a_pipe, a_file_that_is_a_link,
    a_file_that_is_a_pipe, a_folder_that_is_a_link, another_name, facts_edited, a_manifest_that_is_a_link,
    of_a_later_version,
], ids=lambda harm: harm.__name__)  # fmt: skip
def test_a_checkpoint_that_is_not_as_it_was_written_is_passed_over_by_name(
    tmp_path: Path, harm: Callable[[Path], str]
) -> None:
    root = tmp_path / "checkpoints"
    older = checkpoint(root, 2)
    told = harm(checkpoint(root, 4))
    found, skipped = newest_complete(root)
    assert found == older
    assert len(skipped) == 1
    assert told in skipped[0]


@pytest.mark.parametrize("content", [
    '{"format": 2, "files": {"a": 3}, "facts": {}}', '{"format": "2", "files": {}, "facts": {}}', "[" * 99999,
    '{"format": 2, "files": {"a": {"bytes": "x", "sha256": 1}}, "facts": {}}', "null", '{"facts": {}, "files": []}',
    '{"format": 2, "step": "4", "files": {}, "facts": {}}', '{"format": 2, "files": {}, "facts": 3}', "\ud800",
])  # fmt: skip
def test_whatever_the_manifest_says_is_one_line(tmp_path: Path, content: str) -> None:
    folder = checkpoint(tmp_path, 4)
    (folder / COMPLETE).write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(CheckpointError, match=f"{COMPLETE} is damaged") as caught:
        verify(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [".DS_Store", "._weights", ".nfs000000000012", "Thumbs.db", "inner/desktop.ini"])
def test_what_the_system_puts_into_any_folder_does_not_count(tmp_path: Path, name: str) -> None:
    folder = checkpoint(tmp_path, 4)
    (folder / name).write_bytes(b"x")
    verify(folder)
    (folder / name).unlink()
    (folder / "inner" / name.rpartition("/")[2]).write_bytes(b"x")
    seal(folder, {}, step=4)  # nor is it missed when it goes
    (folder / "inner" / name.rpartition("/")[2]).unlink()
    verify(folder)


def test_a_checkpoint_under_another_name_is_named_and_never_taken(tmp_path: Path) -> None:
    for name in ("step-04", "step-4.bak", "step-\N{ARABIC-INDIC DIGIT SIX}", "copy"):
        shutil.copytree(checkpoint(tmp_path / name / "x", 4), tmp_path / "checkpoints" / name)
    (tmp_path / "checkpoints" / "notes").mkdir()
    older = checkpoint(tmp_path / "checkpoints", 2)
    found, skipped = newest_complete(tmp_path / "checkpoints")
    assert found == older
    assert len(skipped) == 4
    assert all("holds a checkpoint and has no name of one (step-N)" in line for line in skipped)


def test_a_checkpoint_moved_to_another_disk_is_found_through_its_link(tmp_path: Path) -> None:
    moved = checkpoint(tmp_path / "other disk", 4)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-4").symlink_to(moved)
    assert newest_complete(tmp_path / "checkpoints") == (tmp_path / "checkpoints" / "step-4", [])


def test_what_a_resume_passed_over_takes_no_whole_one_s_place(tmp_path: Path) -> None:
    """With one checkpoint kept, a damaged one of a later step had every new one deleted."""
    for step in (2, 4, 6):
        checkpoint(tmp_path, step)
    (tmp_path / "step-6" / "weights").write_bytes(b"damaged")
    prune(tmp_path, 1, newest=4)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-4", "step-6"]


def test_a_checkpoint_of_the_first_format_says_its_step_by_its_state(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 4)
    file = folder / COMPLETE
    content = json.loads(file.read_text())
    file.write_text(json.dumps({"files": content["files"], "facts": content["facts"]}))
    assert sealed_in(folder).format == 1
    assert verify(folder)["step"] == 4
    folder.rename(tmp_path / "step-9")
    with pytest.raises(CheckpointError, match="holds step 4: it was renamed"):
        verify(tmp_path / "step-9")
