"""Broken images of a benchmark: found before the model is loaded, listed, left out, and asked once they are whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mmpref.cli.main import main
from tests.chat_server import ChatServer
from tests.integration.conftest import Place

Run = Callable[..., tuple[int, str]]
COUNT = 8
LOST, HALF = (2, 3), 5


@pytest.fixture
def folder(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight POPE questions about eight images, of which two are missing and one is cut in half."""
    rows = [json.loads(line) for line in place.world.heldout.pope_random.read_text().splitlines()]
    images = tmp_path / "images"
    images.mkdir()
    questions = []
    for number in range(COUNT):
        shutil.copy(place.world.root / rows[number]["image"], images / f"{number}.png")
        questions.append({**rows[number], "question_id": number, "image": f"{number}.png"})
    (tmp_path / "pope.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    whole = tmp_path / "whole"
    shutil.copytree(images, whole)
    for number in LOST:
        (images / f"{number}.png").unlink()
    half = images / f"{HALF}.png"
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, str]:
        capfd.readouterr()
        code = main(["eval", *words])
        captured = capfd.readouterr()
        return code, captured.out + captured.err

    return call


def asking(model: object, *more: str, images: str = "images", benchmark: str = "pope") -> list[str]:
    words = ["--model", str(model), "--benchmark", benchmark, "--questions", f"{benchmark}.jsonl"]
    return [*words, "--image-root", images, "--out", "out", *more]


def test_eval_goes_on_without_broken_images_and_asks_them_when_they_are_whole(
    folder: Path, place: Place, run: Run
) -> None:
    code, told = run(*asking(place.model, "--protocol", "official"))  # which reads whatever an untrained model says
    assert code == 8
    assert "3 of 8 questions were not asked, as their images cannot be opened (image_missing 2, image_decode 1)" in told
    assert "question '2': image_missing: image '2.png' does not exist below the image root" in told
    assert "pope · protocol official · n 5" in told
    listed = [json.loads(line) for line in Path("out/unanswered.jsonl").read_text().splitlines()]
    assert [(entry["id"], entry["image"], entry["reason"]) for entry in listed] == [
        ("2", "2.png", "image_missing"),
        ("3", "3.png", "image_missing"),
        ("5", "5.png", "image_decode"),
    ]
    results = json.loads(Path("out/results.json").read_text())
    assert (results["n"], results["n_unanswered"], results["complete"]) == (5, 3, False)
    assert any("3 questions were not asked" in note for note in results["notes"])
    before = Path("out/answers.jsonl").read_text()

    shutil.copy("whole/2.png", "images")
    code, told = run(*asking(place.model, "--protocol", "official"))
    assert code == 8
    assert "2 of 8 questions were not asked" in told
    for number in (*LOST, HALF):
        shutil.copy(f"whole/{number}.png", "images")
    code, told = run(*asking(place.model, "--protocol", "official"))
    assert code == 0, told
    after = Path("out/answers.jsonl").read_text()
    assert after.startswith(before)
    assert sorted(json.loads(line)["id"] for line in after.splitlines()) == [str(n) for n in range(COUNT)]
    results = json.loads(Path("out/results.json").read_text())
    assert (results["n"], results["n_unanswered"], results["complete"]) == (COUNT, 0, True)
    assert not Path("out/unanswered.jsonl").exists()


def test_a_wrong_root_is_refused_before_a_model_is_looked_for(folder: Path, run: Run) -> None:
    Path("empty").mkdir()
    code, told = run(*asking("no/such/model", images="empty"))
    assert code == 3
    assert "none of the 8 images can be used (image_missing 8)" in told
    assert f"image paths start from {folder / 'empty'}" in told
    code, told = run(*asking("no/such/model")[:6], "--out", "out")
    assert code == 3
    assert "no image root was given" in told
    code, told = run(*asking("no/such/model", images="absent"))
    assert code == 2
    assert "is not a folder" in told


def test_a_server_is_not_asked_about_broken_images(folder: Path, run: Run) -> None:
    with ChatServer(lambda request: "Yes").running() as server:
        code, told = run(*asking("served", "--server", server.url))
        assert code == 8, told
        assert len(server.requests) == COUNT - 3
        for number in (*LOST, HALF):
            shutil.copy(f"whole/{number}.png", "images")
        assert run(*asking("served", "--server", server.url))[0] == 0
        assert len(server.requests) == COUNT


def test_held_out_pairs_with_a_broken_image_on_either_side_are_left_out(folder: Path, place: Place, run: Run) -> None:
    content = [{"type": "image"}, {"type": "text", "text": "What is here?"}]
    rows = [
        {
            "id": f"p{number}",
            "images": [f"{number}.png"],
            "prompt": [{"role": "user", "content": content}],
            "chosen": "a red ball",
            "rejected": "a cat",
        }
        for number in (0, 1, 2)
    ]
    rows[1]["rejected_images"] = [f"{HALF}.png"]
    Path("preference.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _ = run(*asking(place.model, benchmark="preference"))
    assert code == 8
    listed = [json.loads(line) for line in Path("out/unanswered.jsonl").read_text().splitlines()]
    assert [(entry["id"], entry["image"]) for entry in listed] == [("p1", "5.png"), ("p2", "2.png")]
    assert json.loads(Path("out/results.json").read_text())["n"] == 1


@pytest.mark.slow
def test_several_processes_leave_broken_images_out(folder: Path, place: Place, run: Run) -> None:
    code, told = run(*asking(place.model, "--processes", "2"))
    assert code == 8, told
    assert json.loads(Path("out/results.json").read_text())["n"] == COUNT - 3
