"""Blocks of docs that are no commands: programs run, parts of recipes load, rows are pairs, scripts know options."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from mmpref.data import pair_from_row
from mmpref.evals.text.mentions import Reading
from mmpref.recipe.loading import load_recipe
from mmpref.yaml_text import parse_yaml
from tests.chat_server import ChatServer
from tests.integration.conftest import Place
from tests.integration.test_docs import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if not {"reference", "api"} & {*page.relative_to(ROOT).parts}]
RUN_ELSEWHERE = {
    "docs/losses.md": "tests/integration/test_losses_page.py",
    "docs/inside.md": "tests/integration/test_inside_page.py",
    "README.md": "tests/site/test_tasks.py",
    "docs/quickstart.md": "tests/site/test_tasks.py",
    "docs/tasks/evaluate_compare.md": "tests/site/test_tasks.py",
}
RUN_HERE = {"docs/evaluation.md", "docs/analyses.md", "docs/reading_answers.md", "docs/reading_captions.md"}


def blocks(page: Path, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def program(name: str, folder: Path) -> Path:
    """The only Python block of a page, as a file."""
    (block,) = blocks(ROOT / name, "python")
    file = folder / "block.py"
    file.write_text(block, encoding="utf-8")
    return file


def each(kind: str) -> list[Any]:
    named = [(str(page.relative_to(ROOT)), block) for page in PAGES for block in blocks(page, kind)]
    assert named, kind
    return [pytest.param(name, block, id=f"{name} {number}") for number, (name, block) in enumerate(named)]


def test_every_program_of_a_page_is_run() -> None:
    assert {str(page.relative_to(ROOT)) for page in PAGES if blocks(page, "python")} == RUN_HERE | set(RUN_ELSEWHERE)
    for name, test in RUN_ELSEWHERE.items():
        assert Path(name).name in (ROOT / test).read_text(encoding="utf-8")


def test_answers_are_read_as_the_page_says(tmp_path: Path) -> None:
    made = runpy.run_path(str(program("docs/reading_answers.md", tmp_path)))
    (block,) = blocks(ROOT / "docs" / "reading_answers.md", "python")
    said = re.findall(r'^(read_mmpref\(.*\))  # "(\w+)"$', block, flags=re.MULTILINE)
    assert len(said) == 2
    for call, reading in said:
        assert eval(call, {"read_mmpref": made["read_mmpref"]}) == reading, call


def test_captions_are_read_as_the_page_says(tmp_path: Path) -> None:
    reading = runpy.run_path(str(program("docs/reading_captions.md", tmp_path)))["reading"]
    assert isinstance(reading, Reading)
    (block,) = blocks(ROOT / "docs" / "reading_captions.md", "python")
    counted = re.findall(r"^reading.mentions  # (\w+)$", block, flags=re.MULTILINE)
    assert [mention.word for mention in reading.mentions] == counted
    others = re.findall(r'"([^"]+)" \(([^)]+)\)', block)
    assert [(other.word, other.why) for other in reading.not_counted] == others


def test_the_pair_log_is_read_as_the_page_says(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmpref.cli.main import main

    monkeypatch.chdir(tmp_path)
    assert main(place.training("demo_dpo", Path("runs/my_run"), "train.max_steps=2")) == 0
    columns = runpy.run_path(str(program("docs/analyses.md", tmp_path)))["columns"]
    assert len(columns["pair_id"]) > 0
    page = (ROOT / "docs" / "analyses.md").read_text(encoding="utf-8")
    always = re.findall(r"^\| (`[^|]+) \|[^|]*\| always \|", page, flags=re.MULTILINE)
    assert (
        {"step", "pair_id", "loss"}
        <= {name for cell in always for name in re.findall(r"`([^`]+)`", cell)}
        <= {*columns}
    )


def test_a_model_and_a_server_are_evaluated_as_the_page_says(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(place.model, "runs/my_run/model")
    Path("val2014").mkdir()
    drawn = sorted((place.world.root / "images").iterdir())[:2]
    rows = []
    for number, image in enumerate(drawn):
        shutil.copy(image, "val2014")
        rows.append(
            {"question_id": number, "image": image.name, "text": "Is there a cup in the image?", "label": "yes"}
        )
    Path("coco_pope_random.json").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with ChatServer(lambda request: "Yes.").running() as server:
        file = program("docs/evaluation.md", tmp_path)
        file.write_text(file.read_text(encoding="utf-8").replace("http://127.0.0.1:8000", server.url), encoding="utf-8")
        made = runpy.run_path(str(file))
    assert made["result"].n == made["served"].n == 2
    assert made["served"].metrics["accuracy"] == 1.0
    assert len(server.requests) == 2


@pytest.mark.parametrize(("page", "block"), each("yaml"))
def test_a_recipe_s_part_belongs_to_a_recipe(page: str, block: str, tmp_path: Path) -> None:
    part = parse_yaml(block, where=page)
    whole = parse_yaml(
        (ROOT / "mmpref" / "recipes" / "qwen2_5_vl_3b_uni_dpo_lora.yaml").read_text(encoding="utf-8"), where="recipe"
    )
    for section, given in part.items():
        is_whole = section in ("loss", "evals") or not isinstance(given, dict)
        whole[section] = given if is_whole else {**whole.get(section, {}), **given}
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps(whole), encoding="utf-8")
    recipe = load_recipe(str(file), [])
    assert all(getattr(recipe, section) is not None for section in part)


@pytest.mark.parametrize(("page", "block"), each("json"))
def test_a_row_is_a_pair(page: str, block: str) -> None:
    pair = pair_from_row(json.loads(block), source=page, line=1)
    assert pair.id == "1"
    assert len(pair.images) + len(pair.videos) == 1


def test_scripts_that_pages_call_exist_and_know_the_options() -> None:
    seen = 0
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                scripts = [word for word in words if word.startswith("scripts/")]
                if words[:1] not in (["python"], ["bash"]) or not scripts:
                    continue
                seen += 1
                script = ROOT / scripts[0]
                assert script.is_file(), f"{page.name}: {line}"
                source = script.read_text(encoding="utf-8")
                options = [word.partition("=")[0] for word in words if word.startswith("--")]
                passed_on = '"$@"' in source or "parse_known_args" in source
                unknown = [option for option in options if option not in source and not passed_on]
                assert unknown == [], f"{page.name}: {line}: {script.name} knows no {unknown}"
    assert seen >= 12
