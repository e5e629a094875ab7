"""One training in a folder at a time, as two people see it who start two: real processes from the command line."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mmpref.rundir.content import LOCK
from mmpref.rundir.folder import RunDir
from tests.integration.conftest import Place
from tests.integration.killing import assert_same_run, forked, in_child

SHORT = (
    "train.per_device_train_batch_size=16", "train.learning_rate=1e-3", "train.warmup_steps=0", "train.logging_steps=1",
    "train.max_steps=2", "train.save_steps=1",
)  # fmt: skip
WITHOUT_TORCH = """
import sys
from mmpref.cli.main import main
code = main(sys.argv[1:])
print("loaded:", *sorted({"torch", "transformers"} & set(sys.modules)))
sys.exit(code)
"""


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mmpref", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def refused(arguments: list[str]) -> tuple[int, str]:
    """Exit code and message of a command that must end before it loads torch."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *arguments], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "loaded:", done.stderr
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.strip()


def holds(run: Path) -> bool:
    """Whether a training has a folder: its lock file names it. The file is there a moment before it is locked."""
    return (run / LOCK).is_file() and bool((run / LOCK).read_bytes())


@contextmanager
def paused_training(arguments: list[str], run: Path) -> Iterator[subprocess.Popen[str]]:
    """A training that has its folder and stands still while the block runs."""
    process = start(arguments)
    try:
        while not holds(run):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        process.kill()
        process.wait()


def content(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.mark.slow
def test_a_second_training_in_a_folder_is_refused_three_ways_and_the_first_ends_as_if_alone(
    place: Place, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "alone").mkdir()
    run, whole = tmp_path / "mine" / "run", tmp_path / "alone" / "run"
    (tmp_path / "link").symlink_to(run)
    first = place.training("demo_dpo", run, *SHORT)
    with paused_training(first, run) as process:
        before = content(run)
        for output in (run, tmp_path / "link", run / ".." / "run"):
            second = place.training("demo_dpo", output, *SHORT)
            for way in ([], ["--resume"], ["--overwrite"]) if output == run else (["--overwrite"],):
                code, message = refused([*second, *way])
                assert code == 2
                assert f"process {process.pid} on {socket.gethostname()} writes there" in message
                assert "output=..." in message
        code, message = refused([*first, "--launch", "ddp", "--processes", "2"])
        assert (code, f"process {process.pid} on" in message) == (2, True)
        assert content(run) == before
        process.send_signal(signal.SIGCONT)
        assert process.wait() == 0
    assert in_child(place.training("demo_dpo", whole, *SHORT)) == 0
    assert_same_run(run, whole)


def test_the_holder_that_a_refusal_names_can_be_stopped_as_it_says_and_the_run_goes_on(
    place: Place, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = place.training("demo_dpo", run, *SHORT)
    holder = forked([*arguments, "train.max_steps=100000"])  # it does not end before it is stopped
    while not holds(run):
        assert os.waitpid(holder, os.WNOHANG) == (0, 0)
        time.sleep(0.01)
    os.kill(holder, signal.SIGSTOP)
    try:
        assert f"stop it (kill {holder})" in refused(arguments)[1]
        os.kill(holder, signal.SIGTERM)
    finally:
        os.kill(holder, signal.SIGCONT)
        code = os.waitstatus_to_exitcode(os.waitpid(holder, 0)[1])
    assert code == 143
    assert in_child([*arguments, "--resume"]) == 0


def taken(tmp_path: Path, kind: str) -> Path:
    """A folder that a training cannot have."""
    place = tmp_path / kind
    if kind == "a file":
        place.write_text("x")
    elif kind == "below a file":
        (tmp_path / "file").write_text("x")
        return tmp_path / "file" / "run"
    elif kind == "a loop":
        place.symlink_to(tmp_path / "other")
        (tmp_path / "other").symlink_to(place)
    else:
        place.mkdir()
        (place / "thesis.tex").write_text("years of work")
    return place


@pytest.mark.parametrize(("kind", "code", "words"), [
    ("a file", 2, "is a file; give a folder"),
    ("below a file", 6, "cannot write to"),
    ("a loop", 2, "symbolic link leads back to itself"),
    ("something else", 2, "is not empty and is not a run folder"),
])  # fmt: skip
def test_a_folder_that_cannot_be_had_is_refused_before_torch_is_loaded_and_left_as_it_was(
    place: Place, tmp_path: Path, kind: str, code: int, words: str
) -> None:
    output = taken(tmp_path, kind)
    before = sorted(tmp_path.rglob("*"))
    found, message = refused(place.training("demo_dpo", output, *SHORT))
    assert (found, words in message) == (code, True), message
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_that_failed_before_its_first_step_does_not_block_its_folder(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mmpref.cli.main import main

    run = tmp_path / "run"
    wrong = place.training("demo_dpo", run, *SHORT, "data.train=/nowhere/pairs.jsonl")
    assert main(wrong) == 2
    assert RunDir(run).manifest()["state"] == "failed"
    (run / "notes.txt").write_text("mine")
    capsys.readouterr()
    assert main(place.training("demo_dpo", run, *SHORT)) == 0
    assert "ended before its first step (state: failed) and is begun again" in capsys.readouterr().out
    assert (run / "notes.txt").read_text() == "mine"
    assert main(place.training("demo_dpo", run, *SHORT)) == 2


def test_overwriting_through_a_link_keeps_the_link_and_replaces_the_content(place: Place, tmp_path: Path) -> None:
    from mmpref.cli.main import main

    (tmp_path / "link").symlink_to(tmp_path / "middle")
    (tmp_path / "middle").symlink_to(tmp_path / "disk" / "run")  # not there yet
    through = place.training("demo_dpo", tmp_path / "link", *SHORT, "data.eval=[]")
    assert main(through) == 0
    run = tmp_path / "disk" / "run"
    (run / "logs").mkdir()
    (run / "logs" / "wandb").write_text("of the earlier run")
    assert main([*through, "--overwrite", "train.max_steps=1"]) == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "middle").is_symlink()
    assert not (run / "logs").exists()
    assert RunDir(run).manifest()["steps"] == 1
    assert sorted(entry.name for entry in tmp_path.rglob(".*")) == []
