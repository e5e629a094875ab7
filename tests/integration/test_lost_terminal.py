"""A run whose terminal goes away: nothing of it is lost, in real processes with real terminals."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from mmpref.cli.main import main
from mmpref.rundir.folder import RunDir
from tests.integration.conftest import Place
from tests.unit.process.test_signals import nothing_left

pytestmark = pytest.mark.skipif(os.name != "posix", reason="terminals of POSIX")
SHORT = (
    "data.eval=[]", "train.max_steps=4", "train.logging_steps=2", "train.save_steps=null", "train.use_cpu=true",
    "preflight=false",
)  # fmt: skip
LONG = (*SHORT, "train.max_steps=100000", "train.logging_steps=1")
MMPREF = [sys.executable, "-m", "mmpref"]


def wait_for(run: RunDir, words: str, process: subprocess.Popen[bytes]) -> None:
    """Until the log of a run says something."""
    limit = time.monotonic() + 200
    while not (run.log_file.is_file() and words in run.log_file.read_text(encoding="utf-8")):
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.05)


class Terminal:
    """A terminal and what is shown on it, until it is closed."""

    def __init__(self) -> None:
        self.ours, self.theirs = os.openpty()
        self.shown = b""
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while not self._over.is_set():  # a read under way would keep the terminal open
            if select.select([self.ours], [], [], 0.05)[0]:
                self.shown += os.read(self.ours, 4096)

    def hang_up(self) -> None:
        """As an SSH session that drops: the system sends SIGHUP, and nothing can be written any more."""
        self._over.set()
        self._reader.join()
        os.close(self.ours)

    def start(self, command: list[str], **env: str) -> subprocess.Popen[bytes]:
        """A process whose terminal this is."""
        begun = subprocess.Popen(
            ["setsid", "--ctty", *command], stdin=self.theirs, stdout=self.theirs, stderr=self.theirs,
            env={**os.environ, "TERM": "xterm", **env},
        )  # fmt: skip
        os.close(self.theirs)
        return begun


@pytest.mark.slow
def test_a_hang_up_of_the_terminal_leaves_a_checkpoint_and_the_whole_log(place: Place, tmp_path: Path) -> None:
    run, terminal = RunDir(tmp_path / "run"), Terminal()
    process = terminal.start([*MMPREF, *place.training("demo_dpo", run.path, *LONG)])
    wait_for(run, "step 3/", process)
    while b"training" not in terminal.shown:  # the bar
        assert process.poll() is None
        time.sleep(0.05)
    assert b"pairs/s" not in terminal.shown  # no line for each loss beside it
    terminal.hang_up()
    assert process.wait(120) == 129
    assert nothing_left(process.pid)
    assert RunDir(run.path).manifest()["state"] == "stopped"
    [checkpoint] = run.checkpoints.iterdir()
    last = run.log_file.read_text(encoding="utf-8").splitlines()[-1]
    assert f"stopped by SIGHUP at step {checkpoint.name.removeprefix('step-')} of 100000, with a checkpoint" in last


@pytest.mark.slow
def test_a_run_without_a_terminal_has_plain_losses_and_one_whose_reader_left_goes_on(
    place: Place, tmp_path: Path
) -> None:
    run = RunDir(tmp_path / "run")
    line = f"{' '.join([*MMPREF, *place.training('demo_dpo', run.path, *SHORT)])} 2>{tmp_path / 'err'} | head -3"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stdout.count("\n")) == (0, 3)
    assert (tmp_path / "err").read_text(encoding="utf-8") == ""
    assert run.manifest()["state"] == "complete"
    log = run.log_file.read_text(encoding="utf-8")
    assert "standard output is lost (Broken pipe): the run goes on without it" in log
    assert "step 4/4  loss " in log
    assert log.splitlines()[-1].endswith(f"done: {run.path} (model in {run.model})")


def test_the_log_of_a_run_has_what_was_said_and_a_resumed_one_adds_to_it(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(tmp_path / "run")
    arguments = place.training("demo_dpo", run.path, *SHORT[:-1], "train.save_steps=2")
    assert main(arguments) == 0
    said = capsys.readouterr().out.splitlines()
    log = run.log_file.read_text(encoding="utf-8").splitlines()
    assert [line[20:] for line in log[1:]] == said
    assert sum(line.startswith("step ") for line in said) == 2
    before = run.log_file.read_bytes()
    run.set_state("stopped")
    assert main([*arguments, "--resume"]) == 0
    assert run.log_file.read_bytes().startswith(before)
    assert "resuming from" in run.log_file.read_text(encoding="utf-8")[len(before) :]
    before = run.log_file.read_bytes()
    assert main([*arguments, "--resume"]) == 2  # refused: nothing of it is in the log of the complete run
    assert main(arguments) == 2
    assert run.log_file.read_bytes() == before


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_writes_into_the_run_folder(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    assert main(place.training("demo_dpo", Path("run"), *SHORT, "train.report_to=[tensorboard]")) == 0
    assert [path.parent for path in tmp_path.rglob("events.out.*")] == [tmp_path / "run" / "logs" / "tensorboard"]


def test_a_check_of_data_that_is_stopped_leaves_no_process(place: Place, tmp_path: Path) -> None:
    """Its decoders are processes of a server of processes."""
    rows = [json.loads(line) for line in place.world.pairs.read_text(encoding="utf-8").splitlines()]
    many = tmp_path / "many.jsonl"
    with many.open("w", encoding="utf-8") as stream:
        for number in range(60_000):
            stream.write(json.dumps({**rows[number % len(rows)], "id": str(number)}) + "\n")
    command = [
        *MMPREF,
        "data",
        "check",
        str(many),
        "--image-root",
        str(place.world.root),
        "--out",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen([*command, "--workers", "2"], stderr=subprocess.PIPE, text=True, start_new_session=True)
    limit = time.monotonic() + 120
    while len(list(Path(f"/proc/{process.pid}/task").iterdir())) < 3 and time.monotonic() < limit:
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGHUP)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (
        129, "mmpref: stopped by SIGHUP; nothing unfinished was left looking whole\n",
    )  # fmt: skip
    assert nothing_left(process.pid)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_an_evaluation_in_two_processes_that_is_stopped_leaves_none(
    place: Place, tmp_path: Path, number: signal.Signals
) -> None:
    questions = place.world.heldout.pope_random
    process = subprocess.Popen(
        [*MMPREF, "eval", "--model", str(place.model), "--benchmark", "pope", "--questions", str(questions),
         "--image-root", str(place.world.root), "--out", str(tmp_path / "out"), "--processes", "2",
         "--cpu-threads", "1"],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    limit = time.monotonic() + 120
    while not _has_children(process.pid, 3) and time.monotonic() < limit:
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (143 if number == signal.SIGTERM else -number)
    if number == signal.SIGTERM:  # after SIGKILL a child that was just begun may complain
        assert err == "mmpref: stopped by SIGTERM; nothing unfinished was left looking whole\n"
    assert nothing_left(process.pid)


def _has_children(pid: int, count: int) -> bool:
    import psutil

    return len(psutil.Process(pid).children()) >= count


def test_a_name_with_letters_that_the_terminal_does_not_have(place: Place, tmp_path: Path) -> None:
    """A caption or an id is data: it must not decide whether a command ends well."""
    row = json.loads(place.world.pairs.read_text(encoding="utf-8").splitlines()[0])
    row.update(id="\U0001f600", chosen="half \ud83d")
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    command = [*MMPREF, "data", "check", str(tmp_path / "rows.jsonl"), "--image-root", str(place.world.root)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True
    )
    assert done.returncode == 3
    assert b"(id '\\U0001f600')" in done.stderr
    assert b"Traceback" not in done.stderr
