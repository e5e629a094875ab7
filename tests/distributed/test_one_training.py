"""One training in a folder at a time, all ranks of a launch counted."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest

from mmpref.rundir.content import LOCK
from mmpref.rundir.folder import RunDir
from tests.distributed.conftest import Place, finish
from tests.distributed.test_endings import LONG, MMPREF, launched, process_of, started


def refused(place: Place, run: Path, *way: str) -> str:
    done = finish([*MMPREF, *place.train(run), *way])
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.slow
@pytest.mark.distributed
def test_a_second_training_is_refused_as_long_as_any_rank_of_the_first_lives(place: Place, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with started(launched(place, run, *LONG), run) as launcher:
        first, second = process_of(run, 0), process_of(run, 1)
        assert sorted(entry.name for entry in run.glob(f"{LOCK}*")) == [LOCK, f"{LOCK}.1"]
        for way in ([], ["--resume"], ["--overwrite"], ["--overwrite", "--launch", "ddp", "--processes", "2"]):
            assert f"process {first} on {socket.gethostname()} writes there" in refused(place, run, *way)
        os.kill(launcher.pid, signal.SIGSTOP)  # it would end the others when one is gone
        os.waitid(os.P_PID, launcher.pid, os.WSTOPPED | os.WNOWAIT)
        os.kill(second, signal.SIGSTOP)
        os.kill(first, signal.SIGKILL)
        while any(Path(f"/proc/{first}/fd").iterdir()):  # until the system has taken its files from it
            time.sleep(0.01)
        for way in ([], ["--resume"], ["--overwrite"]):
            assert f"process {second} on {socket.gethostname()} writes there" in refused(place, run, *way)
        os.kill(second, signal.SIGKILL)
        os.kill(launcher.pid, signal.SIGKILL)
        launcher.wait()
    assert RunDir(run).manifest()["state"] == "running"
    assert "contains a run already (state: running)" in refused(place, run)
    done = finish([*launched(place, run, "train.max_steps=1", "preflight=false"), "--overwrite"])
    assert done.returncode == 0, done.stderr
    assert list(run.glob(f"{LOCK}*")) == []
