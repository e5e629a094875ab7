"""The commands that README.md and docs/ tell people to type are commands that work."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from mmpref.cli.main import app, main
from mmpref.recipe.loading import load_recipe
from mmpref.version import __version__

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


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
    if name in ("train", "round"):
        load_recipe(context.params["recipe"], context.params["overrides"] or [])


def test_the_demo_page_s_steps_by_hand_work_on_a_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--scale", "0.02"]) == 0
    for words in commands(ROOT / "docs" / "demo.md"):
        if words[0] != "demo":
            said = main(words)
            err = capsys.readouterr().err
            # a model that was shown next to nothing describes nothing, and eval says so
            assert said == 0 or (said == 8 and "names a known object" in err), f"{words}: {err}"
    assert (tmp_path / "by_hand.html").stat().st_size > 10_000
    made = (tmp_path / "by_hand" / "model" / "model.safetensors").read_bytes()
    assert made == (tmp_path / "mmpref-demo" / "runs" / "uni_dpo" / "model" / "model.safetensors").read_bytes()
