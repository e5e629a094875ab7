"""The commands on the report's page, given again: they make the same numbers."""

from __future__ import annotations

import html
import json
import random
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmpref.cli.main import main
from mmpref.evals import BENCHMARKS, load_samples
from mmpref.report.commands import explained
from tests.chat_server import ChatServer
from tests.integration.conftest import Place
from tests.unit.evals.cases import load


def commands_of(runs: list[Path], page: Path) -> tuple[list[str], str]:
    """The commands of ``mmpref eval`` on the page of ``runs``, and its text."""
    assert main(["report", *map(str, runs), "--out", str(page)]) == 0
    source = page.read_text(encoding="utf-8")
    found = re.findall(r"<pre[^>]*>(.*?)</pre>", source, flags=re.S)
    lines = [html.unescape(line) for block in found for line in block.splitlines()]
    return [line for line in lines if line.startswith("mmpref eval ")], html.unescape(source)


def numbers(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    kept = {key: result[key] for key in ("benchmark", "protocol", "n", "metrics", "intervals", "settings", "asked")}
    return kept | {"answers": sorted((folder / "answers.jsonl").read_text(encoding="utf-8").splitlines())}


@pytest.fixture
def asked(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The beginning of a command about POPE questions, with relative paths."""
    rows = place.world.heldout.pope_random.read_text(encoding="utf-8").splitlines(keepends=True)[:6]
    (tmp_path / "coco pope.jsonl").write_text("".join(rows), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    shown = ["--questions", "coco pope.jsonl", "--image-root", str(place.world.root), "--protocol", "official"]
    return ["eval", "--benchmark", "pope", *shown]


def test_the_command_of_an_evaluation_makes_its_numbers_again(
    place: Place, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "evaluated"
    more = ["--limit", "4", "--max-new-tokens", "2", "--dtype", "float32"]
    assert main([*asked, "--model", str(place.model), *more, "--out", str(out)]) in (0, 8)
    before = numbers(out)
    (command,), text = commands_of([out], tmp_path / "page.html")
    for words in ("--limit 4", "--max-new-tokens 2", "--dtype float32", f"--image-root {place.world.root}"):
        assert words in command
    assert "QUESTIONS" not in text
    shutil.rmtree(out)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    main(shlex.split(command)[1:])
    assert numbers(out) == before


def test_the_command_of_a_served_evaluation_names_the_server(place: Place, asked: list[str], tmp_path: Path) -> None:
    out = tmp_path / "evaluated"
    with ChatServer(lambda request: "Yes").running() as server:
        url = server.url
        main([*asked, "--model", "served", "--server", url, "--out", str(out)])
        before = numbers(out)
        (command,), text = commands_of([out], tmp_path / "page.html")
        assert f"--server {url.rstrip('/')}" in command
        assert "--key-env with the environment variable" in text
        shutil.rmtree(out)
        main(shlex.split(command)[1:])
    assert numbers(out)["metrics"] == before["metrics"]
    assert numbers(out)["answers"] == before["answers"]


def test_what_an_older_result_does_not_tell_is_a_word_that_the_page_explains(
    place: Place, asked: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "evaluated"
    main([*asked, "--model", str(place.model), "--limit", "3", "--max-new-tokens", "2", "--out", str(out)])
    before = numbers(out)
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    del results["asked"], results["images"]
    (out / "results.json").write_text(json.dumps(results), encoding="utf-8")
    (command,), text = commands_of([out], tmp_path / "page.html")
    assert "--questions QUESTIONS" in command
    assert "--image-root IMAGES" in command
    assert "--limit 3" in command
    assert all(line in text for line in explained([command]))
    assert [line.partition(":")[0] for line in explained([command])] == ["QUESTIONS", "IMAGES", "OPTIONS"]
    shutil.rmtree(out)
    known = {"QUESTIONS": str(tmp_path / "coco pope.jsonl"), "IMAGES": str(place.world.root)}
    main([known.get(part, part) for part in shlex.split(command)[1:] if part != "OPTIONS"])
    assert numbers(out)["metrics"] == before["metrics"]


def test_the_command_of_the_page_makes_the_same_page(place: Place, asked: list[str], tmp_path: Path) -> None:
    out, page = tmp_path / "evaluated", tmp_path / "page.html"
    main([*asked, "--model", str(place.model), "--limit", "3", "--max-new-tokens", "2", "--out", str(out)])
    words = ["report", str(out), "--out", str(page), "--title", "A & b", "--image-root", str(place.world.root)]
    assert main(words) == 0
    before = page.read_bytes()
    line = re.findall(r"<pre[^>]*>(mmpref report .*?)</pre>", page.read_text(encoding="utf-8"))[0]
    page.unlink()
    assert main(shlex.split(html.unescape(line))[1:]) == 0
    assert page.read_bytes() == before


@pytest.mark.slow
def test_the_command_of_a_named_setting_asks_the_same_images_again(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CHAIR as HALC asks it: of 500 images that are drawn, the first three."""
    names = [f"COCO_val2014_{number:012d}.jpg" for number in range(520, 0, -1)]
    coco = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [{"image_id": number, "category_id": 1} for number in range(len(names))],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco), encoding="utf-8")
    (tmp_path / "val2014").mkdir()
    drawn = random.Random(0).sample(names, 500)[:3]
    for number, name in enumerate(drawn):
        Image.new("RGB", (24, 24), (80 * number, 40, 90)).save(tmp_path / "val2014" / name)
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "evaluated"
    given = ["--benchmark", "chair", "--questions", "coco.json", "--image-root", "val2014", "--model", str(place.model)]
    wrong = ["eval", *given, "--setting", "halc_64", "--max-new-tokens", "512", "--out", str(out)]
    assert main(wrong) == 2
    assert not out.exists()
    main(["eval", *given, "--setting", "halc_64", "--limit", "3", "--out", str(out)])
    before = numbers(out)
    assert before["settings"]["setting"] == "halc_64"
    assert before["settings"]["max_new_tokens"] == 64
    assert [json.loads(line)["id"] for line in before["answers"]] == sorted(str(names.index(name)) for name in drawn)
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert found["setting"]["name"] == "part of halc_64"
    assert not found["setting"]["whole"]
    assert any("these are not the numbers of that setting" in note for note in found["notes"])
    (command,), text = commands_of([out], tmp_path / "page.html")
    assert "--setting halc_64" in command
    assert "these are not the numbers of that setting" in text
    shutil.rmtree(out)
    main(shlex.split(command)[1:])
    assert numbers(out) == before


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("mmvp", "pair_accuracy"),
        pytest.param("crpe", "accuracy", marks=pytest.mark.slow),
        pytest.param("finer", "paired_accuracy", marks=pytest.mark.slow),
    ],
)
def test_a_multiple_choice_benchmark_is_asked_scored_and_reported(
    name: str, metric: str, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = load(name)["questions"][:8]
    images = sorted({path for sample in load_samples(name, made) for image in sample.images if (path := image.path)})
    for number, image in enumerate(images):
        (tmp_path / "images" / image).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 24), (30 * number, 40, 90)).save(tmp_path / "images" / image)
    (tmp_path / "questions.json").write_text(json.dumps(made), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    given = ["--benchmark", name, "--questions", "questions.json", "--image-root", "images", "--max-new-tokens", "2"]
    assert main(["eval", *given, "--model", str(place.model), "--out", "evaluated"]) in (0, 8)
    before = numbers(tmp_path / "evaluated")
    assert before["n"] == 8
    assert metric in before["metrics"]
    (command,), text = commands_of([tmp_path / "evaluated"], tmp_path / "page.html")
    assert BENCHMARKS[name].title.partition(",")[0] in text
    shutil.rmtree(tmp_path / "evaluated")
    main(shlex.split(command)[1:])
    assert numbers(tmp_path / "evaluated") == before
