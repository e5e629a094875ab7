"""The commands that README.md and docs/ tell people to type are commands that work; those of docs/demo.md are run in
test_demo.py, where a demo is."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer
import yaml

from mmpref.cli.main import app, main
from mmpref.recipe.loading import load_recipe
from mmpref.version import __version__
from tests.coco_layout import lay_out_coco, write_rows
from tests.integration.conftest import Place

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "tasks").glob("*.md"))]


def commands(page: Path) -> list[list[str]]:
    """Every `mmpref ...` line of the page's bash blocks, continued lines joined, comments left out."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["mmpref"]:
                found.append(words[1:])
    return found


ALL = [(page.name, words) for page in PAGES for words in commands(page)]


def test_the_pages_have_commands() -> None:
    assert len(commands(ROOT / "README.md")) >= 3
    assert len(commands(ROOT / "docs" / "demo.md")) >= 4


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["version"], cited["license"]) == (__version__, "Apache-2.0")
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(reference["url"] in readme for reference in cited["references"])


@pytest.mark.parametrize(
    ("page", "words"), ALL, ids=lambda value: value if isinstance(value, str) else " ".join(value)[:60]
)
def test_every_command_has_options_that_exist_and_a_recipe_that_builds(page: str, words: list[str]) -> None:
    command = typer.main.get_command(app)
    while commands_of := getattr(command, "commands", None):
        name, *words = words
        command = commands_of[name]
    context = command.make_context(name, list(words))
    if name in ("train", "round") and not str(context.params["recipe"]).endswith(".yaml"):  # one that a reader makes
        load_recipe(context.params["recipe"], context.params["overrides"] or [])


def test_a_checkpoint_and_saved_answers_are_scored_again_as_the_page_says(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _lay_out_coco(tmp_path, place)
    for words in commands(ROOT / "docs" / "rescoring.md"):
        said = main(words)
        err = capsys.readouterr().err
        # a model that learnt nothing says nothing that can be read
        assert said == 0 or (said == 8 and "rescored" in str(words) and "answers" in err), f"{words}: {err}"
    table = (tmp_path / "both.md").read_text(encoding="utf-8")
    rows = [line for line in table.splitlines() if line.startswith(("| Published", "| Checkpoint"))]
    assert [row.count("|") for row in rows] == [rows[0].count("|")] * 2
    assert "CHAIR" in table
    assert "100.0<br>[29.2, 100.0] | 100.0" in rows[0]  # their accuracy and F1 on three images
    assert "undefined" in rows[1]
    for name in ("rescored.html", "rescored.tex", "both.html"):
        assert (tmp_path / name).stat().st_size > 1000
    again = json.loads((tmp_path / "rescored_again" / "pope" / "results.json").read_text(encoding="utf-8"))
    first = json.loads((tmp_path / "rescored" / "pope" / "results.json").read_text(encoding="utf-8"))
    assert again["metrics"] == first["metrics"]
    assert again["reader"] == first["reader"]
    assert len(again["inputs"]) == 4
    assert all(len(digest) == 64 for digest in again["inputs"].values())


def _lay_out_coco(root: Path, place: Place) -> None:
    """The files that docs/rescoring.md names, with three images of the demo's world."""
    shutil.copytree(place.model, root / "llava-hf" / "llava-1.5-7b-hf")
    names = lay_out_coco(root, place.world.root / "images", 3)
    (root / "theirs").mkdir()
    for split in ("random", "popular", "adversarial"):
        answers = [{"question_id": number, "text": f"{('yes', 'no')[number % 2]}."} for number in names]
        write_rows(root / "theirs" / f"coco_pope_{split}.jsonl", answers)
    asked = [{"image_id": number, "text": "Please describe this image in detail."} for number in names]
    write_rows(root / "chair-500.jsonl", asked)
    captions = [{"image_id": number, "caption": "A dog and a cat."} for number in names]
    write_rows(root / "theirs" / "captions.jsonl", captions)
