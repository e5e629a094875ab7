"""Every command ends with 128 + the signal's number and one line, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from mmpref.process.signals import SAME_SIGNAL

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

# a command like ours that never ends, with two processes that work for it: one by fork, one by spawn
COMMAND = """
import multiprocessing, signal, sys, time
from mmpref.cli import main as cli
from mmpref.errors import stopped_by_ctrl_c
from mmpref.process.children import begin_child, start_helpers

def work():
    begin_child()
    print("works", flush=True)
    while True:
        time.sleep(1)

@cli.app.command()
@stopped_by_ctrl_c
def endless(clumsy: bool = False) -> None:
    start_helpers("spawn")
    processes = [multiprocessing.get_context(how).Process(target=work, daemon=True) for how in ("fork", "spawn")]
    for process in processes:
        process.start()
    try:
        while True:
            time.sleep(1)
    finally:
        print("ends", flush=True)
        while clumsy:
            time.sleep(0.1)
        for process in processes:
            process.kill()
            process.join()

if __name__ == "__main__":
    cli.entry_point()
"""


@contextmanager
def running(folder: Path, *arguments: str, before: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """The command, once both of its processes work; nothing of it is left afterwards."""
    script = folder / "command.py"
    script.write_text(COMMAND, encoding="utf-8")
    process = subprocess.Popen(
        [*before, sys.executable, str(script), "endless", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["works\n"] * 2
        yield process
    finally:
        for left in in_session(process.pid):
            left.kill()


def in_session(number: int) -> list[psutil.Process]:
    """What still runs of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == number and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.Error):
            continue
    return found


def nothing_left(number: int) -> bool:
    """Whether all processes of a session end, soon."""
    limit = time.monotonic() + 60
    while (left := in_session(number)) and time.monotonic() < limit:
        time.sleep(0.05)
    return not left


@pytest.mark.parametrize(("number", "name", "to_all"), [
    (signal.SIGTERM, "SIGTERM", False), (signal.SIGINT, "Ctrl-C", True), (signal.SIGHUP, "SIGHUP", True),
])  # fmt: skip
def test_a_signal_ends_a_command_with_one_line_and_no_process_is_left(
    tmp_path: Path, number: signal.Signals, name: str, to_all: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = "from mmpref.process import signals\nsignals.SAME_SIGNAL = 60\n"  # however late the second is sent
    monkeypatch.setattr(sys.modules[__name__], "COMMAND", same + COMMAND)
    with running(tmp_path) as process:
        for _ in range(2):  # as whoever ends a session often does
            (os.killpg if to_all else os.kill)(process.pid, number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 128 + number
        assert err == f"mmpref: stopped by {name}; nothing unfinished was left looking whole\n"
        assert nothing_left(process.pid)


def test_a_second_signal_later_ends_all_at_once(tmp_path: Path) -> None:
    with running(tmp_path, "--clumsy") as process:
        process.terminate()
        assert process.stdout.readline() == "ends\n"  # it has heard the first one
        time.sleep(SAME_SIGNAL + 0.1)
        assert process.poll() is None
        process.terminate()
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (143, "mmpref: stopped by SIGTERM\n")
        assert nothing_left(process.pid)


def test_an_end_that_takes_too_long_is_made_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited = "from mmpref.process import signals\nsignals._limits[:] = [0.2]\n"
    monkeypatch.setattr(sys.modules[__name__], "COMMAND", limited + COMMAND)
    with running(tmp_path, "--clumsy") as process:
        process.send_signal(signal.SIGHUP)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (129, "mmpref: stopped by SIGHUP\n")
        assert nothing_left(process.pid)


def test_under_nohup_a_hang_up_stops_nothing(tmp_path: Path) -> None:
    with running(tmp_path, before=("nohup",)) as process:
        os.killpg(process.pid, signal.SIGHUP)
        time.sleep(0.5)
        assert process.poll() is None
        process.terminate()
        assert process.wait(60) == 143
        assert nothing_left(process.pid)


def test_processes_end_when_the_one_they_work_for_is_killed(tmp_path: Path) -> None:
    with running(tmp_path) as process:
        process.kill()
        process.wait(60)
        assert nothing_left(process.pid)


WORKERS = """
import os, signal, subprocess, sys, time, torch
from mmpref.process.children import begin_loader_worker, starting_workers
from torch.utils.data import DataLoader

class Rows(torch.utils.data.Dataset):
    def __len__(self): return 200
    def __getitem__(self, i):
        if i < 2:
            time.sleep(0.3)
        return i

def to_all():  # by somebody else: what the parent itself sends them ends them
    # not by kill(1): procps takes "-TERM -1234" for "-TERM -1", which is every process there is
    code = f"import os, signal; os.killpg({os.getpgid(0)}, signal.SIGTERM)"
    subprocess.run([sys.executable, "-c", code], start_new_session=True, check=True)

signal.signal(signal.SIGTERM, lambda *_: None)
loader = DataLoader(Rows(), num_workers=2, batch_size=1, worker_init_fn=begin_loader_worker)
with starting_workers():
    rows = iter(loader)
to_all()  # before a worker can have begun
next(rows)
to_all()
print(1 + sum(1 for _ in rows), flush=True)
"""


def test_loader_workers_go_on_when_a_signal_goes_to_all() -> None:
    """The step that is under way needs them; the stop is at its end."""
    done = subprocess.run(
        [sys.executable, "-c", WORKERS], capture_output=True, text=True, timeout=120, start_new_session=True
    )
    assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr
