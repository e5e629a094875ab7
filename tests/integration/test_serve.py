"""A benchmark answered, and candidates sampled, by a real `transformers serve` behind a line with faults."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mmpref.demo.tiny_models import build_tiny_llava
from mmpref.evals.scoring import load_samples
from mmpref.generation import AnswerSettings, TransformersAnswerer
from tests.chat_server import ChatServer
from tests.unit.generation.test_ranks import free_port
from tests.unit.sampling.scorers.judges import candidates, judge_at, verdict

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn", "openai")),
        reason='needs pip install "transformers[serving]"',
    ),
]
COLOURS = ("red", "green", "blue", "yellow", "grey", "white")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    root = tmp_path_factory.mktemp("serve")
    build_tiny_llava(root / "model", seed=0)
    for colour in COLOURS:
        Image.new("RGB", (70, 50), colour).save(root / f"{colour}.png")
    rows = [
        {"question_id": n, "image": f"{COLOURS[n % 6]}.png", "text": f"is there a {thing} ?", "label": "yes"}
        for n, thing in enumerate(["cup", "plate", "fork", "tree", "bench", "kite", "ball", "pot"] * 3)
    ]
    (root / "questions.json").write_text(json.dumps(rows))
    return root


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    with serving(folder / "model", folder / "server.log") as url:
        yield url


@contextmanager
def serving(model: Path, log_file: Path) -> Iterator[str]:
    port = free_port()
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model)]
    with log_file.open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process, log_file)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError:  # it speaks, though it has no such page
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"the server did not come up:\n{log.read_text()[-3000:]}")


def in_front_of(server: str, faults: dict[int, str]) -> ChatServer:
    """A server that passes everything on to the real one, and misbehaves at some requests."""

    def passed_on(request: dict[str, Any]) -> Any:
        sent = urllib.request.Request(
            f"{server}/v1/chat/completions", json.dumps(request).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(sent, timeout=120) as reply:
            return json.loads(reply.read())

    return ChatServer(passed_on, faults)


def command(folder: Path, server: str, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "mmpref", "eval", "--server", server, "--model", str(folder / "model"), "--benchmark",
        "pope", "--questions", str(folder / "questions.json"), "--image-root", str(folder), "--out", str(out),
        "--max-new-tokens", "4", "--concurrency", "2", "--timeout", "15",
    ]  # fmt: skip


def test_a_served_model_answers_is_killed_and_goes_on(folder: Path, server: str, tmp_path: Path) -> None:
    faults = {1: "429", 2: "garbage", 4: "half", 6: "hang", 9: "500", 11: "429", 12: "drop"}
    with in_front_of(server, faults).running() as faulty:
        _killed_and_taken_up(folder, faulty.url, tmp_path / "out")
    # no answer was asked twice, but for the faults and what was under way when the first run was killed
    assert len(faults) + 24 <= len(faulty.requests) <= len(faults) + 24 + 2


def _killed_and_taken_up(folder: Path, server: str, out: Path) -> None:
    answers = out / "answers.jsonl"
    with subprocess.Popen(command(folder, server, out)) as first:
        until = time.monotonic() + 240
        while time.monotonic() < until and not (answers.is_file() and answers.read_bytes().count(b"\n") >= 2):
            assert first.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
    kept = answers.read_text(encoding="utf-8")
    assert 2 <= kept.count("\n") < 24
    done = subprocess.run(command(folder, server, out), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole = answers.read_text(encoding="utf-8")
    assert whole.startswith(kept[: kept.rfind("\n") + 1])
    rows = {row["id"]: row["text"] for row in map(json.loads, whole.splitlines())}
    assert sorted(map(int, rows)) == list(range(24))
    assert whole.count("\n") == 24
    result = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert result["n"] == 24
    assert result["answered_by"]["server"] == f"{server}/v1"
    # the same model in this process says the same: images and prompt came through whole
    samples = load_samples("pope", folder / "questions.json")
    here = TransformersAnswerer(
        str(folder / "model"), AnswerSettings(max_new_tokens=4, batch_size=1), images_root=folder
    )
    assert {answer.id: answer.text for answer in here.answer(samples)} == rows


def test_a_served_model_takes_what_a_judge_is_asked_with_its_images(folder: Path, server: str, tmp_path: Path) -> None:
    """A model that was never trained rates nothing; what it says is replaced, and all else is the real server's."""
    said = []

    with in_front_of(server, {}).running() as front:
        passed_on = front.answer

        def rated(request: dict[str, Any]) -> Any:
            reply = passed_on(request)
            choice = reply["choices"][0]
            said.append(choice["message"]["content"])
            choice["message"]["content"], choice["finish_reason"] = verdict(request, 3), "stop"
            return reply

        front.answer = rated
        items = [candidates("a cup .", "a plate .", prompt_id=colour, images=(f"{colour}.png",)) for colour in COLOURS]
        scorer = judge_at(front.url, folder, model=str(folder / "model"), cache=str(tmp_path / "cache.jsonl"))
        found = list(scorer.score(items))
    assert [score.value for score in found] == [3.0] * 12
    assert len(said) == 12
    assert all(isinstance(text, str) for text in said)
    assert "image_url" in json.dumps(front.requests)


def sampled(folder: Path, server: str, out: Path, *more: str) -> dict[str, Any]:
    rows = [{"id": str(n), "image": f"{COLOURS[n]}.png", "question": f"what is on number {n} ?"} for n in range(6)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run(
        [
            sys.executable, "-m", "mmpref", "sample", "generate", "--server", server, "--model", str(folder / "model"),
            "--prompts", str(folder / "prompts.jsonl"), "--n", "3", "--max-new-tokens", "6", "--temperature", "1.5",
            "--timeout", "30", "--out", str(out), *more,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in (out / "candidates.jsonl").read_text(encoding="utf-8").splitlines()]
    return {row["id"]: row["candidates"] for row in found}


def test_a_served_model_that_draws_nothing_is_noted(folder: Path, server: str, tmp_path: Path) -> None:
    with in_front_of(server, {2: "429", 3: "garbage", 5: "500", 7: "drop"}).running() as faulty:
        first = sampled(folder, faulty.url, tmp_path / "first", "--concurrency", "1")
        assert len(faulty.requests) == 18 + 4
    assert set(first) <= {str(n) for n in range(6)}  # a prompt may have empty answers only
    step = json.loads((tmp_path / "first/step.json").read_text())
    assert step["complete"]
    assert step["counts"]["without_seed"] == 0
    assert step["counts"]["answered"] == 18
    # transformers serve follows a temperature only where the model's generation_config.json says do_sample
    assert "do_sample: true" in step["facts"]["note"]
    assert all(len(candidates) == 1 for candidates in first.values())


def test_candidates_of_a_served_model_are_drawn_by_their_seeds(folder: Path, tmp_path: Path) -> None:
    drawing = tmp_path / "model"
    shutil.copytree(folder / "model", drawing)
    config = json.loads((drawing / "generation_config.json").read_text())
    (drawing / "generation_config.json").write_text(json.dumps(config | {"do_sample": True}))
    with serving(drawing, tmp_path / "server.log") as server:
        first = sampled(folder, server, tmp_path / "first", "--concurrency", "1", "--model", str(drawing))
        step = json.loads((tmp_path / "first/step.json").read_text())
        assert "note" not in step["facts"]
        assert step["counts"]["candidates"] > 12  # random weights, drawn
        again = sampled(folder, server, tmp_path / "again", "--concurrency", "1", "--model", str(drawing))
        assert again == first
        others = sampled(folder, server, tmp_path / "others", "--seed", "1", "--model", str(drawing))
        assert others != first
