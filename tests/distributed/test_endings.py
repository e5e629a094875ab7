"""How a run of several processes begins and ends, through the command line: launched, refused, failing, killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mmpref.rundir.folder import RunDir
from mmpref.training.trainer.checkpoint import in_order, newest_complete
from tests.distributed.conftest import ROOT, Place, finish, losses, torchrun
from tests.tiers import corners

pytestmark = pytest.mark.distributed
MMPREF = [sys.executable, "-m", "mmpref"]
LONG = ("train.max_steps=800", "train.save_steps=3", "train.save_total_limit=3", "preflight=false")


def launched(place: Place, run: Path, *changes: str, strategy: str = "ddp") -> list[str]:
    line = place.train(run, "train.per_device_train_batch_size=3", *changes)
    return [*MMPREF, *line, "--launch", strategy, "--processes", "2"]


@contextmanager
def started(command: list[str], run: Path) -> Iterator[subprocess.Popen[str]]:
    """Started, and past its first checkpoint; nothing of it is left afterwards."""
    try:
        yield _started(command, run)
    finally:
        for pid in processes_of(run):
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def _started(command: list[str], run: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    limit = time.monotonic() + 150
    while not in_order(run / "checkpoints"):
        assert process.poll() is None, process.communicate()
        if time.monotonic() > limit:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail("no checkpoint after 150 s")
        time.sleep(0.2)
    return process


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        out, err = process.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out + err


def rank_of(pid: str) -> str | None:
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # it has ended meanwhile
        return None
    return next((entry[5:].decode() for entry in environ if entry.startswith(b"RANK=")), None)


def processes_of(run: Path) -> list[str]:
    """Ids of every process that writes to a run folder, its launcher included."""
    return subprocess.run(["pgrep", "-f", f"output={run} "], capture_output=True, text=True, check=False).stdout.split()


def process_of(run: Path, rank: int) -> int:
    """The process of one rank of a run."""
    [own] = [int(pid) for pid in processes_of(run) if rank_of(pid) == str(rank)]
    return own


@pytest.mark.parametrize("strategy", corners(["ddp", "fsdp2"], "fsdp2"))
def test_launch_starts_the_processes_and_says_what_they_are(place: Place, tmp_path: Path, strategy: str) -> None:
    run = tmp_path / "run"
    done = finish(launched(place, run, "train.max_steps=2", strategy=strategy))
    assert done.returncode == 0, done.stderr[-3000:]
    manifest = RunDir(run).manifest()
    assert (manifest["state"], manifest["processes"], manifest["strategy"]) == ("complete", 2, strategy)
    assert done.stdout.count("done: ") == 1  # one of the two speaks
    assert ("this one has" in done.stdout) == (strategy == "fsdp2")
    assert (run / "model" / "model.safetensors").is_file()


def test_a_row_that_breaks_on_one_rank_stops_all_with_its_message(place: Place, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (place.root / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    image = (place.root / rows[9]["images"][0]).read_bytes()
    (place.root / "images" / "torn.png").write_bytes(image[: len(image) // 2])
    rows[9].update(id="torn-row", images=["images/torn.png"])
    (place.root / "torn.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = tmp_path / "run"
    settings = ("train.per_device_train_batch_size=3", "preflight=false", "data.check_images=header")
    done = finish([*MMPREF, *place.train(run, *settings, pairs="torn"), "--launch", "ddp", "--processes", "2"])
    assert done.returncode == 3
    assert "row 'torn-row'" in done.stderr
    assert "Traceback" not in done.stderr
    assert RunDir(run).manifest()["state"] == "failed"


@pytest.mark.slow
def test_a_broken_image_is_found_by_both_ranks_before_the_first_step(place: Place, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (place.root / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    image = (place.root / rows[9]["images"][0]).read_bytes()
    (place.root / "images" / "half.png").write_bytes(image[: len(image) // 2])
    rows[9].update(id="half-row", images=["images/half.png"])
    (place.root / "half.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    launch = ["--launch", "ddp", "--processes", "2"]
    done = finish([*MMPREF, *place.train(tmp_path / "one", pairs="half"), *launch])
    assert done.returncode == 3
    assert done.stderr.count("line 10 (id 'half-row'): image_decode") == 1
    assert "Traceback" not in done.stderr
    done = finish([*MMPREF, *place.train(tmp_path / "two", "data.max_bad_fraction=0.5", pairs="half"), *launch])
    assert done.returncode == 0, done.stderr
    assert RunDir(tmp_path / "two").manifest()["quarantined"] == 1


@pytest.mark.parametrize("strategy", corners(["ddp", "fsdp2"], "fsdp2"))
def test_a_rank_that_is_killed_ends_the_run_and_it_goes_on_from_its_checkpoint(
    place: Place, tmp_path: Path, strategy: str
) -> None:
    run = tmp_path / "run"
    command = launched(place, run, *LONG, strategy=strategy)
    with started(command, run) as process:
        os.kill(process_of(run, 1), signal.SIGKILL)
        code, said = ended(process)
    assert code == 7, said[-3000:]
    assert "rank 0 of 2 waited in vain" in said, said
    assert "rank 1: step" in said, said
    assert "rank 1 was killed (SIGKILL)" in said, said
    newest, _ = newest_complete(run / "checkpoints")
    assert newest is not None
    last = int(newest.name.removeprefix("step-"))
    with started([*command, "--resume"], run) as process:
        while process.poll() is None and not (run / "checkpoints" / f"step-{last + 3}").is_dir():
            time.sleep(0.2)
        process.terminate()
        code, said = ended(process)
    assert code == 143, said
    assert f"resuming from {newest}" in said


def test_processes_of_which_one_was_killed_are_started_again_when_asked(place: Place, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ends = ("train.max_steps=60", *LONG[1:])
    with started([*launched(place, run, *ends), "--max-restarts", "1"], run) as process:
        os.kill(process_of(run, 1), signal.SIGKILL)
        code, said = ended(process)
    assert code == 0, said[-3000:]
    assert "starting all again (1 of 1 times)" in said
    assert "resuming from" in said
    assert RunDir(run).manifest()["state"] == "complete"
    assert len(losses(run)) == 60


def test_sigterm_to_the_launcher_leaves_a_checkpoint_of_that_step(place: Place, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with started(launched(place, run, *LONG), run) as process:
        process.terminate()
        code, said = ended(process)
    assert code == 143, said[-3000:]
    assert said.count("stopped by SIGTERM at step") == 1
    assert RunDir(run).manifest()["state"] == "stopped"
    newest, skipped = newest_complete(run / "checkpoints")
    assert (newest is not None, skipped) == (True, [])
    assert len(losses(run)) == int(str(newest).rpartition("-")[2])


@pytest.mark.slow
def test_a_hang_up_of_the_launcher_leaves_a_checkpoint_and_no_process(place: Place, tmp_path: Path) -> None:
    """Loader workers too, whom the launcher signals with their ranks."""
    run = tmp_path / "run"
    with started(launched(place, run, *LONG, "train.dataloader_num_workers=1"), run) as process:
        process.send_signal(signal.SIGHUP)
        code, said = ended(process)
        assert processes_of(run) == []
    assert code == 129, said
    assert "Traceback" not in said
    last = RunDir(run).log_file.read_text(encoding="utf-8").splitlines()[-1]
    assert "stopped by SIGHUP at step " in last


@pytest.mark.slow
def test_under_nohup_a_hang_up_of_all_processes_stops_none(place: Place, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with started(["nohup", *launched(place, run, *LONG)], run) as process:
        for pid in processes_of(run):
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGHUP)
        newest = in_order(run / "checkpoints")[-1]
        for _ in range(2):  # the one after it may have been under way already
            while (later := in_order(run / "checkpoints")[-1]) == newest:
                assert process.poll() is None, process.communicate()
                time.sleep(0.2)
            newest = later
        process.terminate()
        code, said = ended(process)
    assert code == 143, said


def test_ranks_whose_launcher_was_killed_leave_a_checkpoint_and_end(place: Place, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with started(launched(place, run, *LONG), run) as process:
        process.kill()
        ended(process)  # not before all that could write to its output are gone
        limit = time.monotonic() + 90
        while processes_of(run) and time.monotonic() < limit:
            time.sleep(0.2)
        assert processes_of(run) == []
    assert RunDir(run).manifest()["state"] == "stopped"
    newest, _ = newest_complete(run / "checkpoints")
    assert newest is not None
    last = RunDir(run).log_file.read_text(encoding="utf-8").splitlines()[-1]
    assert f"stopped by SIGTERM at step {newest.name.removeprefix('step-')} of 800, with a checkpoint" in last


def test_a_rank_that_hangs_is_named_with_its_rows(place: Place, tmp_path: Path) -> None:
    run = tmp_path / "run"
    line = place.train(
        run,
        "train.per_device_train_batch_size=3",
        "train.extra.ddp_timeout=10",
        "preflight=false",
        "train.save_steps=1",
    )
    done = torchrun(str(Path(__file__).with_name("hanging.py")), *line)
    assert done.returncode != 0
    assert "rank 0 of 2 waited in vain for another rank" in done.stderr, done.stderr
    assert "rank 1: step 3, training with rows" in done.stderr
    assert "exitcode  : 7" in done.stderr
    assert newest_complete(run / "checkpoints")[0] == run / "checkpoints" / "step-2"


def test_other_data_on_another_rank_is_refused(place: Place, tmp_path: Path) -> None:
    line = place.train(tmp_path / "run", "preflight=false")
    file = next(entry for entry in line if entry.startswith("data.train="))
    shown = f"[ $RANK = 0 ] && f={place.root}/pairs.jsonl || f={place.root}/mixed.jsonl; "
    command = " ".join(f"'{entry}'" if entry != file else "data.train=$f" for entry in line)
    script = tmp_path / "differ.sh"
    script.write_text(f"{shown} exec {sys.executable} -m mmpref {command}\n", encoding="utf-8")
    done = torchrun("--no-python", "bash", str(script))
    assert done.returncode != 0
    assert "rank 1 has training files that are not those of rank 0" in done.stderr
    assert not (tmp_path / "run" / "model").exists()


def test_accelerate_starting_one_process_for_two_is_refused(place: Place, tmp_path: Path) -> None:
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m", "mmpref"]
    done = finish([*accelerate, *place.train(tmp_path / "run")])
    assert done.returncode != 0
    assert "was asked for several processes and started one" in done.stderr
    assert not (tmp_path / "run").exists()


def test_accelerate_launch_with_one_of_our_profiles_trains(place: Place, tmp_path: Path) -> None:
    profile = tmp_path / "profile.yaml"
    ours = (ROOT / "scripts" / "accelerate" / "fsdp2.yaml").read_text(encoding="utf-8")
    profile.write_text(f"{ours}use_cpu: true\nnum_processes: 2\nnum_machines: 1\n", encoding="utf-8")
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(profile), "-m", "mmpref"]
    line = place.train(tmp_path / "run", "train.per_device_train_batch_size=3", "train.max_steps=2", "preflight=false")
    done = finish([*accelerate, *line])
    assert done.returncode == 0, done.stderr[-3000:]
    assert RunDir(tmp_path / "run").manifest()["strategy"] == "fsdp2"


def test_an_update_that_is_not_finite_is_left_out_by_both_and_then_ends_the_run(place: Place, tmp_path: Path) -> None:
    file, run = tmp_path / "lines.json", tmp_path / "run"
    changes = ("train.learning_rate=1e30", "train.optim=adamw_torch_fused", "train.skip_nonfinite_steps=1")
    line = place.train(run, "train.per_device_train_batch_size=3", *changes)
    file.write_text(json.dumps([line]), encoding="utf-8")
    done = torchrun(str(Path(__file__).with_name("worker.py")), str(file))
    assert done.returncode
    assert "nothing was updated (1 updates were left out before)" in done.stderr
    dumps = {dump.name for dump in (run / "faults").iterdir()}
    assert dumps == {f"nonfinite-step-{step}-rank-{rank}.json" for step in (2, 3) for rank in (0, 1)}
