"""One holder of a file at a time; the lock dies with the process that has it, however that ends."""

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mmpref.errors import CheckpointError, ConfigError
from mmpref.files import locking, temporary
from mmpref.files.locking import Holder, Locked, NoLocksError, locked, only_writer, refuse_locked
from mmpref.files.writing import replacing_folder, write_text

HOLDS = """
import sys, time
from pathlib import Path
from mmpref.files.locking import locked
with locked(Path(sys.argv[1])):
    print("mine", flush=True)
    time.sleep(600)
"""


def a_holder(file: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDS, str(file)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "mine\n"
    return process


def test_the_refusal_names_the_process_that_holds_the_lock(tmp_path: Path) -> None:
    process = a_holder(tmp_path / "made" / "lock")
    try:
        with pytest.raises(Locked) as refused, locked(tmp_path / "made" / "lock"):
            pass
    finally:
        process.kill()
        process.wait()
    assert refused.value.holder == Holder(process.pid, os.uname().nodename)
    assert str(process.pid) in str(refused.value)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the system's list of locks")
@pytest.mark.parametrize("line", ["", "{", "[1]"])
def test_a_holder_that_has_not_written_its_name_yet_is_named_by_the_system(tmp_path: Path, line: str) -> None:
    process = a_holder(tmp_path / "lock")
    (tmp_path / "lock").write_text(line)
    try:
        with pytest.raises(Locked) as refused:
            refuse_locked(tmp_path / "lock")
    finally:
        process.kill()
        process.wait()
    assert refused.value.holder == Holder(process.pid, os.uname().nodename)


def test_a_killed_holder_blocks_nobody(tmp_path: Path) -> None:
    process = a_holder(tmp_path / "lock")
    process.send_signal(signal.SIGKILL)
    process.wait()
    with locked(tmp_path / "lock"):
        pass


def test_a_second_block_of_the_same_process_is_refused_and_the_first_keeps_its_lock(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"):
        for _ in range(2):
            with pytest.raises(Locked), locked(tmp_path / "lock"):
                pass
    with locked(tmp_path / "lock"):
        pass


def test_a_forked_child_does_not_hold_on_to_the_lock(tmp_path: Path) -> None:
    read, write = os.pipe()
    with locked(tmp_path / "lock"):
        child = os.fork()
        if child == 0:
            os.read(read, 1)  # lives on while the parent lets go
            os._exit(0)
    try:
        with locked(tmp_path / "lock"):
            pass
    finally:
        os.write(write, b"x")
        os.waitpid(child, 0)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write to"), locked(tmp_path / "file" / "lock"):
        pass


def test_a_lock_that_does_not_stay_leaves_no_file_and_nobody_holds_a_deleted_one(tmp_path: Path) -> None:
    """Eight threads take and leave one lock over and over: never two at a time, although its file comes and goes."""
    inside, most, failures = [0], [0], []

    def worker() -> None:
        try:
            for _ in range(30):
                with locked(tmp_path / "lock", leave=False, patience=60):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    inside[0] -= 1
        except Exception as err:
            failures.append(err)

    threads = [threading.Thread(target=worker) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, failures) == ([1], [])
    assert list(tmp_path.iterdir()) == []


def test_looking_whether_a_lock_is_free_makes_and_changes_nothing(tmp_path: Path) -> None:
    refuse_locked(tmp_path / "lock")
    refuse_locked(tmp_path / "no" / "lock")
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "lock"):
        content = (tmp_path / "lock").read_bytes()
        with pytest.raises(Locked) as refused:
            refuse_locked(tmp_path / "lock")
        assert refused.value.holder == Holder(os.getpid(), os.uname().nodename)
        assert (tmp_path / "lock").read_bytes() == content
    refuse_locked(tmp_path / "lock")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_told_and_gets_no_lock_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def no_locks(*_: object, **__: object) -> bool:
        raise OSError(number, os.strerror(number))

    for module in (locking, temporary):
        monkeypatch.setattr(module, "lock_descriptor", no_locks)
    with pytest.raises(NoLocksError, match="has no locks"), locked(tmp_path / "lock"):
        pass
    assert list(tmp_path.iterdir()) == []
    write_text(tmp_path / "file", "whole")
    with replacing_folder(tmp_path / "folder"):
        pass
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", "folder"}


def test_an_output_has_one_writer_who_is_named_and_no_lock_file_stays(tmp_path):
    out = tmp_path / "out.jsonl"
    (tmp_path / "link.jsonl").symlink_to(out)
    with only_writer(out, "choose another --out"):
        for same in (out, tmp_path / "link.jsonl", tmp_path / "x" / ".." / "out.jsonl"):
            with (
                pytest.raises(ConfigError, match=rf"written by process {os.getpid()} on .*, or choose another --out"),
                only_writer(same, "choose another --out"),
            ):
                pass
    assert [file.name for file in tmp_path.iterdir()] == ["link.jsonl"]
