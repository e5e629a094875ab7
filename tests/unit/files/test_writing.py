"""Files and folders are written atomically; what a killed writer left is removed, and what one is writing is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmpref.errors import ConfigError
from mmpref.files.writing import folder_beside, real_path, replacing, replacing_folder, write_text

WRITES = """
import sys, time
from pathlib import Path
from mmpref.files.writing import folder_beside, replacing
with replacing(Path(sys.argv[1]) / "file") as stream, folder_beside(Path(sys.argv[1]) / "model") as folder:
    (folder / "weights").write_text("half")
    print("writing", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_writer_left_is_removed_by_the_next_and_what_one_is_writing_is_not(tmp_path: Path) -> None:
    mine = {".file.notes", ".file.abcdefgh.old", ".other.abcdefgh.tmp", ".model.abcdefgh.tmpx"}
    for name in mine:
        (tmp_path / name).write_text("mine")
    process = subprocess.Popen([sys.executable, "-c", WRITES, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        being_written = {entry.name for entry in tmp_path.iterdir()} - mine
        assert len(being_written) == 2
        write_text(tmp_path / "file", "whole")
        with replacing_folder(tmp_path / "model"):
            pass
        assert {entry.name for entry in tmp_path.iterdir()} == mine | being_written | {"file", "model"}
    finally:
        process.kill()
        process.wait()
    write_text(tmp_path / "file", "whole")
    with folder_beside(tmp_path / "model"):
        pass
    assert {entry.name for entry in tmp_path.iterdir()} == mine | {"file", "model"}


def test_a_folder_whose_replacement_was_cut_short_gets_its_name_back(tmp_path: Path) -> None:
    for name in ("model", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    (tmp_path / "model").rename(tmp_path / ".model.abcdefgh.old")  # and here the process was killed
    (tmp_path / "new").rename(tmp_path / ".model.abcdefgh.tmp")
    with pytest.raises(RuntimeError), replacing_folder(tmp_path / "model"):
        raise RuntimeError
    assert [entry.name for entry in tmp_path.rglob("*")] == ["model", "model"]


def test_a_link_that_leads_back_to_itself_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    with pytest.raises(ConfigError, match="leads back to itself"):
        real_path(tmp_path / "one")
    with pytest.raises(ConfigError, match="leads back to itself"), replacing(tmp_path / "two"):
        pass


def test_a_path_without_links_stays_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("real")
    assert real_path(Path("a/b")) == Path("a/b")
    assert real_path(Path("link")) == tmp_path.resolve() / "real"
    assert real_path(Path("a/../b")) == tmp_path.resolve() / "b"


def test_files_that_a_library_made_for_their_owner_alone_can_be_read_by_others_when_a_folder_is_whole(
    tmp_path: Path,
) -> None:
    before = os.umask(0o027)
    try:
        with replacing_folder(tmp_path / "step-1") as folder:
            (folder / "sharded").mkdir(mode=0o700)
            for name in ("trained.safetensors", "sharded/part"):
                os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    modes = {entry.name: entry.stat().st_mode & 0o777 for entry in (tmp_path / "step-1").rglob("*")}
    assert modes == {"sharded": 0o750, "trained.safetensors": 0o640, "part": 0o640}
