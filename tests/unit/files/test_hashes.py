"""A hash is of all bytes of a file, is read once, and is never that of what the file was before."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmpref.errors import ConfigError, DataError
from mmpref.files import hashes as file_hashes
from mmpref.files.hashes import content_hash, content_hashes, folder_hashes, joined

LARGE = 4_000_000
"""Bytes from which a hash is kept here."""


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MMPREF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(file_hashes, "_known", {})
    monkeypatch.setattr(file_hashes, "KEPT_FROM", LARGE)
    return tmp_path / "cache" / "hashes"


def large(file: Path, *, old: bool = True, monkeypatch: pytest.MonkeyPatch | None = None) -> Path:
    """A file whose hash is kept; its times cannot be put back, so the clock goes on."""
    with file.open("wb") as stream:
        stream.truncate(LARGE + 1_000_000)
    if old and monkeypatch is not None:
        later(monkeypatch)
    return file


def later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10**11)


def change(file: Path, place: int) -> None:
    """One byte in place, size and time of change as they were."""
    before = file.stat()
    with file.open("r+b") as stream:
        stream.seek(place)
        byte = stream.read(1)
        stream.seek(place)
        stream.write(bytes([byte[0] ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def true_hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As another process begins."""
    monkeypatch.setattr(file_hashes, "_known", {})


def no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the file was read again")

    monkeypatch.setattr(hashlib, "file_digest", refuse)


def test_every_byte_counts_though_size_and_time_are_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = large(tmp_path / "w", monkeypatch=monkeypatch)
    before = content_hash(file)
    assert before == true_hash(file)
    for place in (0, (1 << 20) + 5, LARGE // 2, LARGE + 999_999):
        change(file, place)
        assert content_hash(file) == true_hash(file) != before


def test_a_large_file_is_read_once_by_all_processes(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = large(tmp_path / "w", monkeypatch=monkeypatch)
    before = content_hash(file)
    assert len(list(store.iterdir())) == 1
    forget(monkeypatch)
    no_reading(monkeypatch)
    assert content_hash(file) == before
    (tmp_path / "link").symlink_to(file)
    assert content_hash(tmp_path / "link") == before


def test_what_was_changed_this_moment_is_not_kept(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within one tick of a file system's clock a file may change twice."""
    file = large(tmp_path / "w", old=False)
    monkeypatch.setattr(time, "time_ns", lambda: file.stat().st_ctime_ns + 10**9)
    content_hash(file)
    assert not store.exists()
    assert not file_hashes._known


def test_another_file_under_the_name_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, other = large(tmp_path / "w", monkeypatch=monkeypatch), tmp_path / "o"
    first = content_hash(file)
    large(other)
    change(other, 77)
    os.utime(other, ns=(1, file.stat().st_mtime_ns))
    other.replace(file)  # same name, size and time; another inode
    forget(monkeypatch)
    assert content_hash(file) == true_hash(file) != first


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"null", b'{"sha256": 3}', b"\xff\xfe", b"other hash", b"[" * 9999]
)
def test_a_damaged_store_is_read_as_if_it_were_not_there(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    file = large(tmp_path / "w", monkeypatch=monkeypatch)
    right = content_hash(file)
    (entry,) = store.iterdir()
    if damage == b"other hash":
        entry.write_text(json.dumps({**json.loads(entry.read_text()), "sha256": "0" * 64}))
    else:
        entry.write_bytes(damage)
    forget(monkeypatch)
    assert content_hash(file) == right
    forget(monkeypatch)
    no_reading(monkeypatch)
    assert content_hash(file) == right  # and it was put right


def test_a_store_that_cannot_be_written_costs_a_reading_and_no_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    file = large(tmp_path / "w", monkeypatch=monkeypatch)
    right = content_hash(file)
    assert right == true_hash(file)
    no_reading(monkeypatch)
    assert content_hash(file) == right  # this process knows it
    assert "".join(capfd.readouterr()) == ""


def test_without_a_home_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(self: Path) -> Path:
        raise RuntimeError("no home")

    monkeypatch.delenv("MMPREF_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", no_home)
    assert content_hash(large(tmp_path / "w", monkeypatch=monkeypatch)) == true_hash(tmp_path / "w")


def test_the_folder_is_that_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert file_hashes._folder() == tmp_path / "cache" / "hashes"
    monkeypatch.delenv("MMPREF_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert file_hashes._folder() == tmp_path / "xdg" / "mmpref" / "hashes"


def test_many_processes_may_write_at_once(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = large(tmp_path / "w")
    script = (
        "import sys, time; from pathlib import Path; from mmpref.files import hashes as file_hashes\n"
        "now = time.time_ns; file_hashes.time.time_ns = lambda: now() + 10**11\n"
        f"file_hashes.KEPT_FROM = {LARGE}\n"
        "for _ in range(20):\n    file_hashes._known.clear(); print(file_hashes.content_hash(Path(sys.argv[1])))\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", script, str(file)], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    told = {line for each in started for line in each.communicate()[0].split()}
    assert told == {true_hash(file)}
    assert [entry.suffix for entry in store.iterdir()] == [".json"]


def test_many_files_keep_their_order_and_a_folder_its_names(tmp_path: Path) -> None:
    for number in range(600):
        (tmp_path / f"{number}.json").write_text(str(number))
    files = [tmp_path / f"{number}.json" for number in range(600)]
    found = content_hashes(files)
    assert list(found) == files
    assert found[files[577]] == hashlib.sha256(b"577").hexdigest()
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "t.jinja").write_text("x")
    named = folder_hashes(tmp_path, ("5.json", "inside/*", "*.none"))
    assert sorted(named) == ["5.json", "inside/t.jinja"]
    assert joined(named) != joined({**named, "5.json": "0"}) != joined({"5.json": named["5.json"]})


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("gone", "loop", "."):
        with pytest.raises(DataError, match=r"cannot be read: .*; check that it is there") as caught:
            content_hash(tmp_path / name, DataError)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="gone cannot be read"):
        content_hashes([tmp_path / "gone"])


def test_reading_much_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_hashes, "SAID_FROM", LARGE)
    file, told = large(tmp_path / "w", monkeypatch=monkeypatch), list[str]()
    content_hashes([file], say=told.append)
    content_hashes([file], say=told.append)
    (line,) = told
    assert line.startswith(f"hashing 0.0 GiB in {tmp_path}, ")
    assert "done once while the files stay as they are" in line


def test_the_store_does_not_grow_for_ever(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_hashes, "_MOST_KEPT", 4)
    later(monkeypatch)
    for number in range(9):
        large(tmp_path / str(number))
        content_hash(tmp_path / str(number))
    assert 2 <= len(list(store.iterdir())) <= 4
