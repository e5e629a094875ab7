"""One holder of a file at a time; the lock dies with the process that has it, however that ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mmpref.errors import CheckpointError
from mmpref.files import Holder, Locked, locked

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
