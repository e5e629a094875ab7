"""Two processes on the CPU answer what one answers, survive a kill, and fail clearly; with and without torchrun."""

import json
import signal
import subprocess
import sys
import time

import pytest

torch = pytest.importorskip("torch")

from mmpref.demo.tiny_models import build_tiny_llava  # noqa: E402
from mmpref.errors import ConfigError  # noqa: E402
from mmpref.generation import AnswerSettings, TransformersAnswerer  # noqa: E402
from mmpref.generation.model_source import ModelSource  # noqa: E402
from mmpref.generation.processes import ProcessesAnswerer  # noqa: E402
from mmpref.records import EvalSample, ImageRef, user_turn  # noqa: E402

TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone")
COLOURS = ("red", "green", "blue", "yellow", "grey", "white")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from PIL import Image

    root = tmp_path_factory.mktemp("processes")
    build_tiny_llava(root / "model", seed=0)
    for colour in COLOURS:
        Image.new("RGB", (70, 50), colour).save(root / f"{colour}.png")
    truth = {colour: {"objects": ["cup"], "image": f"{colour}.png"} for colour in COLOURS}
    (root / "truth.json").write_text(json.dumps(truth))
    return root


def command(folder, out, *more):
    return [
        "-m", "mmpref", "eval", "--model", str(folder / "model"), "--benchmark", "chair", "--questions",
        str(folder / "truth.json"), "--image-root", str(folder), "--out", str(out), "--max-new-tokens", "4",
        "--cpu-threads", "1", "--batch-size", "1", *more, "prompt=describe",
    ]  # fmt: skip


def answers(out):
    rows = [json.loads(line) for line in (out / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({row["id"] for row in rows}) == len(rows)
    return {row["id"]: row["text"] for row in rows}


@pytest.fixture(scope="module")
def alone(folder):
    made = TransformersAnswerer(
        str(folder / "model"), AnswerSettings(batch_size=1, max_new_tokens=4), images_root=folder
    )
    return {answer.id: answer.text for answer in made.answer(samples(COLOURS))}


def test_two_processes_give_the_answers_of_one(folder, alone):
    both = ProcessesAnswerer(
        source=ModelSource(path=str(folder / "model")),
        num=2,
        images_root=folder,
        settings=AnswerSettings(batch_size=1, max_new_tokens=4, cpu_threads=1),
    )
    found = list(both.answer(samples(COLOURS)))
    assert {answer.id: answer.text for answer in found} == alone
    assert len(found) == len(COLOURS)


@pytest.mark.slow
def test_the_option_processes_changes_no_setting(folder, alone, tmp_path):
    done = subprocess.run(
        [sys.executable, *command(folder, tmp_path, "--processes", "2")], check=True, capture_output=True, text=True
    )
    assert answers(tmp_path) == alone
    assert "chair_s" in done.stdout
    assert "processes" not in json.loads((tmp_path / "results.json").read_text())["settings"]


@pytest.mark.slow
def test_torchrun_gives_the_answers_of_one_and_one_result(folder, alone, tmp_path):
    done = subprocess.run(
        [sys.executable, *TORCHRUN, *command(folder, tmp_path)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert answers(tmp_path) == alone
    assert not list(tmp_path.glob("answers.rank*"))
    assert done.stdout.count("protocol mmpref") == 1


@pytest.mark.slow
def test_a_killed_first_process_takes_the_others_with_it_and_the_run_goes_on(folder, alone, tmp_path):
    arguments = [sys.executable, *command(folder, tmp_path, "--processes", "2")]
    with subprocess.Popen(arguments, start_new_session=True) as first:
        file = tmp_path / "answers.jsonl"
        until = time.monotonic() + 120
        while time.monotonic() < until and not (file.is_file() and file.read_bytes().count(b"\n")):
            time.sleep(0.005)
        first.send_signal(signal.SIGKILL)
    kept = file.read_text(encoding="utf-8")
    subprocess.run(arguments, check=True, capture_output=True)
    assert file.read_text(encoding="utf-8").startswith(kept[: kept.rfind("\n") + 1])
    assert answers(tmp_path) == alone


def samples(names):
    return [
        EvalSample(id=name, images=(ImageRef(path=f"{name}.png"),), prompt=user_turn("describe", num_images=1))
        for name in names
    ]


@pytest.mark.distributed
def test_an_error_in_one_process_is_the_error_of_all(folder):
    answerer = ProcessesAnswerer(source=ModelSource(path=str(folder / "no_model")), num=2, images_root=folder)
    with pytest.raises(ConfigError, match=r"no_model does not exist"):
        list(answerer.answer(samples(COLOURS)))


def test_no_process_is_started_without_questions(folder):
    answerer = ProcessesAnswerer(source=ModelSource(path=str(folder / "no_model")), num=2, images_root=folder)
    assert list(answerer.answer([])) == []
    with pytest.raises(ConfigError, match="processes must be >= 1"):
        ProcessesAnswerer(source=ModelSource(path="m"), num=0)
