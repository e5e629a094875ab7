"""One holder of a file at a time; the lock dies with the process that has it, however that ends."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mmpref.errors import CheckpointError, ConfigError
from mmpref.files import Holder, Locked, locked, only_writer

HOLDS = """
import sys, time
from pathlib import Path
from mmpref.files import locked
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


def test_a_lock_file_that_goes_with_its_lock_is_never_held_twice(tmp_path):
    """Many that come and go: whoever holds the lock is alone, though its file is deleted each time."""
    inside, most, taken = [], [], []

    def come_and_go():
        for _ in range(200):
            try:
                with locked(tmp_path / "lock", leave=False):
                    inside.append(1)
                    most.append(len(inside))
                    inside.pop()
                    taken.append(1)
            except Locked:
                pass

    threads = [threading.Thread(target=come_and_go) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert len(taken) >= 200
    assert not (tmp_path / "lock").exists()
