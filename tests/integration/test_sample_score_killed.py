"""A scoring that is killed at twenty moments ends as one that nobody disturbed, and scores nothing twice."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmpref.cli.main import main
from mmpref.records import Candidate, Candidates, ImageRef, Prompt, user_turn
from mmpref.sampling.candidate_files import write_candidates
from tests.integration.killing import KilledAt, in_child

WORDS = ["a", "red", "dog", "near", "two", "cats", "and", "the", "old", "chair", "on", "grass", "by", "some", "tree"]
KILLS = 20


def make_source(folder: Path, num_prompts: int) -> Path:
    chance = random.Random(0)

    def item(number: int) -> Candidates:
        prompt = Prompt(
            id=f"p{number}", images=(ImageRef(path=f"{number}.png"),), prompt=user_turn("What?", num_images=1)
        )
        texts = (" ".join(chance.choices(WORDS, k=12)) + f" {place}" for place in range(4))
        return Candidates(prompt=prompt, answers=tuple(Candidate(text=text) for text in texts))

    write_candidates(folder / "candidates.jsonl", map(item, range(num_prompts)))
    truth = {f"{number}.png": chance.sample(["dog", "cat", "chair", "tree"], 2) for number in range(num_prompts)}
    (folder / "truth.json").write_text(json.dumps(truth))
    return folder / "candidates.jsonl"


def command(source: Path, out: Path) -> list[str]:
    scorers = ["--scorer", "objects", "--scorer", "agreement", f"objects.truth={source.parent / 'truth.json'}"]
    return [sys.executable, "-m", "mmpref", "sample", "score", str(source), *scorers, "--out", str(out)]


def size_of(out: Path) -> int:
    return sum(file.stat().st_size for file in out.glob("scores.*.jsonl")) if out.is_dir() else 0


@pytest.mark.slow
def test_kills_at_any_moment_change_nothing_in_the_end(tmp_path: Path) -> None:
    source = make_source(tmp_path, 1500)
    subprocess.run(command(source, tmp_path / "whole"), check=True, capture_output=True)
    total = size_of(tmp_path / "whole")
    chance = random.Random(1)
    for at in sorted(chance.randrange(total) for _ in range(KILLS)):
        with subprocess.Popen(command(source, tmp_path / "out"), stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and size_of(tmp_path / "out") <= at:
                time.sleep(0.001)
            process.kill()
    subprocess.run(command(source, tmp_path / "out"), check=True, capture_output=True)
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for name in ("objects", "agreement"):
        logs = [(tmp_path / run / f"scores.{name}.jsonl").read_text().splitlines() for run in ("out", "whole")]
        assert sorted(logs[0]) == sorted(logs[1])


FILES = ("candidates.jsonl", "scores.json", "step.json", "quarantine.jsonl")


@pytest.mark.slow
def test_a_kill_before_any_change_of_the_disk_changes_nothing_in_the_end(tmp_path: Path) -> None:
    source = make_source(tmp_path, 2)
    count = tmp_path / "count"
    (tmp_path / "whole").mkdir()
    assert in_child(command(source, tmp_path / "whole")[3:], before=KilledAt(tmp_path / "whole", count_into=count)) == 0
    changes = int(count.read_text())
    assert changes > 10
    for number in range(1, changes + 1):
        out = tmp_path / f"out{number}"
        out.mkdir()
        assert in_child(command(source, out)[3:], before=KilledAt(out, number)) == -signal.SIGKILL
        assert in_child(command(source, out)[3:]) == 0
        for name in FILES:
            assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_two_processes_do_not_score_into_one_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = make_source(tmp_path, 3)
    holder = "import sys, pathlib\nfrom mmpref.files.locking import only_writer\n"
    holder += "with only_writer(pathlib.Path(sys.argv[1]), ''):\n    print('has it', flush=True)\n    sys.stdin.read()"
    arguments = [sys.executable, "-c", holder, str(tmp_path / "out")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "has it\n"
        code = main(command(source, tmp_path / "out")[3:])
        process.communicate("")
    assert code == 2
    assert "is being written by process" in capfd.readouterr().err
