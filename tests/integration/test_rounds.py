"""``mmpref sample round``: a thin loop over the public commands. It goes on wherever it stopped, and ends with the same
bytes."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mmpref.cli.main import main
from mmpref.process import children
from mmpref.rundir.content import LOCK
from mmpref.rundir.folder import RunDir
from tests.integration.conftest import Place
from tests.integration.killing import KilledAt, assert_same_run, in_child

PROMPTS = 24
TRAINING = (
    "train.per_device_train_batch_size=4", "train.learning_rate=1e-3", "train.warmup_steps=0", "train.logging_steps=1",
    "train.max_steps=2", "train.save_steps=1", "data.eval=[]", "preflight=false",
)  # fmt: skip
LORA = ("adapter={kind: lora, rank: 4}", "tune={language: lora, projector: freeze}")
MOMENTS = 20


def arguments(place: Place, folder: Path, out: Path, *changes: str, rounds: int = 1) -> list[str]:
    """``mmpref sample round`` on a dozen prompts of the small world; its files lie in ``folder``."""
    world = place.world
    prompts = folder / "prompts.jsonl"
    prompts.write_text("".join(world.prompts.open(encoding="utf-8").readlines()[:PROMPTS]), encoding="utf-8")
    asked = folder / "asked.jsonl"
    asked.write_text("".join(world.pairs_heldout.open(encoding="utf-8").readlines()[:8]), encoding="utf-8")
    benchmark = {"benchmark": "preference", "questions": [str(asked)]}
    return [
        "sample", "round", "demo_rounds", f"model.path={place.model}", f"data.train={prompts}",
        f"data.root={world.root}", *TRAINING, *changes, "sample.n=3", "sample.max_new_tokens=8",
        f"sample.scorers.objects.options={{truth: {world.prompts_objects}, synonyms: {world.synonyms}}}",
        "sample.pair.balance_length=false", f"sample.evals={json.dumps([benchmark])}",
        "--rounds", str(rounds), "--out", str(out),
    ]  # fmt: skip


def forked_steps() -> None:
    """In a process that does not live on: steps are forked, not started anew, which spares loading torch each time."""
    children.run_step = lambda words, _folder: in_child(list(words))


def made(out: Path) -> dict[str, bytes]:
    """What the rounds came to, by file."""
    names = ("candidates/candidates.jsonl", "scored/candidates.jsonl", "pairs/pairs.jsonl")
    files = [file for number in (1, 2) for name in names if (file := out / f"round-{number}" / name).is_file()]
    files += sorted(out.glob("round-*/**/evals/*/items.jsonl"))
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def assert_same_rounds(out: Path, whole: Path) -> None:
    assert made(out) == made(whole)
    ours, theirs = (json.loads((folder / "rounds.json").read_text(encoding="utf-8")) for folder in (out, whole))
    assert ours["rounds"] == theirs["rounds"]
    for number in range(1, len(theirs["rounds"])):
        # a training that was killed after its last word leaves its lock file, which means nothing once nobody has it
        (out / f"round-{number}" / "run" / LOCK).unlink(missing_ok=True)
        assert_same_run(out / f"round-{number}" / "run", whole / f"round-{number}" / "run")


@pytest.fixture(scope="module")
def one(place: Place, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """One round with LoRA, and the command that made it."""
    folder = tmp_path_factory.mktemp("one")
    command = arguments(place, folder, folder / "out", *LORA)
    assert in_child(command, before=forked_steps) == 0
    return folder / "out", command


def test_a_round_s_folder_is_complete_in_itself(one: tuple[Path, list[str]]) -> None:
    out, _ = one
    found = json.loads((out / "rounds.json").read_text(encoding="utf-8"))
    assert [run["path"] for run in found["runs"]] == ["round-0", "round-1/run"]
    _, facts = found["rounds"]
    assert facts["round"] == 1
    assert 2 * PROMPTS < facts["candidates"] <= 3 * PROMPTS  # an empty answer is none
    pairs = [json.loads(line) for line in (out / "round-1/pairs/pairs.jsonl").open(encoding="utf-8")]
    assert facts["pairs"] == len(pairs) > 0
    assert all(pair["score_chosen"] > pair["score_rejected"] for pair in pairs)
    assert facts["eta"] == pytest.approx(0.7)
    assert RunDir(out / "round-1/run").manifest()["state"] == "complete"
    for name in ("round-0/evals/preference", "round-1/run/evals/preference"):
        assert (out / name / "results.json").is_file()
    assert "The rounds" in (out / "report.html").read_text(encoding="utf-8")
    assert (out / "recipe.yaml").is_file()


@pytest.mark.slow
def test_the_commands_of_a_round_are_those_that_make_it_by_hand(
    one: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = one
    again = tmp_path / "again"
    first, *lines = (out / "round-1/commands.txt").read_text(encoding="utf-8").splitlines()
    monkeypatch.chdir(shlex.split(first)[1])
    recipe = str(out / "recipe.yaml")
    for line in lines:
        words = [word if word == recipe else word.replace(str(out), str(again)) for word in shlex.split(line)]
        assert words[0] == "mmpref"
        assert in_child(words[1:]) == 0, line
    theirs = {name: content for name, content in made(out).items() if name.startswith("round-1")}
    assert made(again) == theirs
    assert_same_run(again / "round-1/run", out / "round-1/run")


def test_what_is_done_is_not_done_again_and_more_rounds_go_on_after_it(
    one: tuple[Path, list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    out, command = one
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*.jsonl")}
    steps: list[str] = []
    before_step = children.run_step
    try:
        children.run_step = lambda words, _folder: steps.append(words[0]) or 0
        assert main(command) == 0
    finally:
        children.run_step = before_step
    assert steps == ["report"]
    assert before == {file: file.stat().st_mtime_ns for file in out.rglob("*.jsonl")}
    printed = capfd.readouterr().out
    assert "mean score" in printed
    assert "change of log-prob chosen" in printed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["train.learning_rate=1e-4"], r"rounds of another recipe \(learning_rate: 0\.0001\); choose another --out"),
        (["sample.temperature=0.5"], r"rounds of another recipe \(temperature: 0\.5\)"),
        (["--launch", "ddp", "--processes", "2"], "train with one process; give the same options"),
    ],
)
def test_other_settings_are_refused(
    one: tuple[Path, list[str]], changes: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*one[1], *changes]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_folder_with_something_else_is_left_alone(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine", encoding="utf-8")
    assert main(arguments(place, tmp_path, tmp_path / "out")) == 2
    assert "is not empty and has no rounds.json" in capsys.readouterr().err
    assert main(["sample", "round", "demo_dpo", "--rounds", "1", "--out", str(tmp_path / "other")]) == 2
    assert "the recipe has no section sample" in capsys.readouterr().err
    wrong = arguments(place, tmp_path, tmp_path / "other", "sample.scorers.other={kind: nothing}")
    assert main(wrong) == 2
    assert "there is no scorer of the kind 'nothing'" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_step_that_fails_ends_the_rounds_with_its_code_and_says_how_to_go_on(
    place: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = arguments(place, tmp_path, tmp_path / "out", "sample.scorers.objects.options.truth=nothing.json")
    command = [word for word in command if not word.startswith("sample.scorers.objects.options={")]
    outer, children.run_step = children.run_step, lambda words, _folder: 0 if words[0] == "eval" else 3
    try:
        assert main(command) == 3
    finally:
        children.run_step = outer
    said = capfd.readouterr().err
    assert "generate of round 1 ended with exit code 3; its message is above" in said
    assert "give the same command again" in said


def run_command(words: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "said.txt").open("ab") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "mmpref", *words], stdout=said, stderr=said, start_new_session=True
        )


def wait_for(condition: Any, process: subprocess.Popen[bytes]) -> None:
    while not condition():
        assert process.poll() is None, "it ended before the test had seen what it waits for"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_rounds_killed_at_any_change_of_the_disk_end_as_an_undisturbed_one(place: Place, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole, count = tmp_path / "whole" / "out", tmp_path / "count"

    def counted() -> None:
        forked_steps()
        KilledAt(tmp_path / "whole", count_into=count)()

    assert in_child(arguments(place, tmp_path / "whole", whole, *LORA, rounds=2), before=counted) == 0
    draw = random.Random(0)
    for moment in range(MOMENTS):
        folder = tmp_path / f"killed-{moment}"
        folder.mkdir()
        command = arguments(place, folder, folder / "out", *LORA, rounds=2)
        number = draw.randint(1, 3 * int(count.read_text()) // 2)  # a step has changes of its own beside the loop's

        def killed(root: Path = folder, number: int = number) -> None:
            forked_steps()
            KilledAt(root, number)()

        in_child(command, before=killed)
        assert in_child(command, before=forked_steps) == 0, f"killed at {number}"
        assert_same_rounds(folder / "out", whole)


@pytest.mark.slow
def test_full_weights_go_on_from_the_model_of_the_round_before(place: Place, tmp_path: Path) -> None:
    command = arguments(place, tmp_path, tmp_path / "out", rounds=2)
    assert in_child(command, before=forked_steps) == 0
    recipe = (tmp_path / "out/round-2/run/recipe.yaml").read_text(encoding="utf-8")
    assert f"path: {tmp_path}/out/round-1/run/model" in recipe
    assert len(json.loads((tmp_path / "out/rounds.json").read_text(encoding="utf-8"))["rounds"]) == 3


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_step_and_the_same_command_goes_on(
    place: Place, tmp_path: Path, stop: signal.Signals
) -> None:
    out = tmp_path / "out"
    command = arguments(place, tmp_path, out, *LORA, "train.max_steps=200", "train.save_steps=null")
    process = run_command(command, tmp_path)
    metrics = out / "round-1/run/metrics.jsonl"
    wait_for(lambda: metrics.is_file() and metrics.stat().st_size > 0, process)
    process.send_signal(stop)
    assert process.wait() == 128 + stop
    assert RunDir(out / "round-1/run").manifest()["state"] == "stopped"
    assert list((out / "round-1/run/checkpoints").glob("step-*"))
    assert run_command(command, tmp_path).wait() == 0
    assert RunDir(out / "round-1/run").manifest()["state"] == "complete"


@pytest.mark.slow
def test_a_step_ends_when_the_loop_is_killed(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = arguments(place, tmp_path, out, *LORA, "train.max_steps=100000", "train.save_steps=null")
    process = run_command(command, tmp_path)
    manifest = out / "round-1/run/manifest.json"
    wait_for(manifest.is_file, process)
    process.kill()
    process.wait()
    while RunDir(out / "round-1/run").manifest()["state"] == "running":
        time.sleep(0.1)
    assert RunDir(out / "round-1/run").manifest()["state"] == "stopped"


@pytest.mark.slow
def test_only_one_process_works_on_a_folder(place: Place, tmp_path: Path) -> None:
    command = arguments(place, tmp_path, tmp_path / "out", *LORA)
    process = run_command(command, tmp_path)
    wait_for((tmp_path / "out" / "rounds.json").is_file, process)
    done = subprocess.run(
        [sys.executable, "-m", "mmpref", *command], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 2
    assert f"is being written by process {process.pid}" in done.stderr
    assert process.wait() == 0
