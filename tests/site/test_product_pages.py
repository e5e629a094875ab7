"""The pages that mmpref itself writes, in a real browser: the report, the table of a paper, a gallery of pairs."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

from mmpref.cli.main import main
from tests.loaded_scripts import module_of
from tests.pages_in_browser import SCHEMES, WIDTHS, Watched, needs_browser

pytestmark = [pytest.mark.site, needs_browser]
PAGES = ("report.html", "paper.html", "gallery.html")


def run_folders() -> ModuleType:
    """The builder of run folders that the tests of the report use."""
    return module_of(Path(__file__).resolve().parents[1] / "unit" / "report" / "folders.py", "report_test_folders")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one page of each kind, written by the commands."""
    folder, folders = tmp_path_factory.mktemp("pages"), run_folders()
    runs = [str(run) for run in folders.demo_like(tmp_path_factory.mktemp("demo"), 60)]
    world = folders.write_images(tmp_path_factory.mktemp("world"), 60)
    assert main(["report", *runs, "--image-root", str(world), "--out", str(folder / "report.html")]) == 0
    assert main(["report", *runs, "--table", "paper", "--out", str(folder / "paper.html")]) == 0
    assert main(["data", "view", str(write_pairs(folder)), "--out", str(folder / "gallery.html")]) == 0
    return folder


def write_pairs(folder: Path) -> Path:
    """Pairs with an image each, and scores; long words, and markup that is text."""
    rows = []
    for number in range(12):
        Image.new("RGB", (96 + number, 64), (20 * number, 90, 160)).save(folder / f"{number}.png")
        question = [
            {"type": "image"},
            {"type": "text", "text": f"What is <b>here</b>? {'x' * 90 if number == 3 else ''}"},
        ]
        rows.append(
            {"id": str(number), "images": [f"{number}.png"], "prompt": [{"role": "user", "content": question}]}
            | {"chosen": "A blue sheet.", "rejected": f"A blue sheet and {number} dogs.", "source": "drawn"}
            | {"score_chosen": 4.0, "score_rejected": 4.0 - number / 4}
        )
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_fits_and_loads_nothing(pages: Path, browser: Any, name: str, scheme: str) -> None:
    watched = Watched(browser, scheme=scheme)
    watched.open(pages / name)
    too_wide, wrong = {}, {}
    for width in WIDTHS:
        watched.at(width)
        too_wide |= {width: over} if (over := watched.overflow()) > 0 else {}
        if width != 800:
            wrong |= {width: found} if (found := watched.violations()) else {}
    assert too_wide == {}
    assert wrong == {}
    assert watched.away() == []
    assert watched.complaints == []


@pytest.mark.parametrize("name", PAGES)
def test_the_keyboard_shows_where_it_is(pages: Path, browser: Any, name: str) -> None:
    watched = Watched(browser)
    page = watched.open(pages / name)
    reached, unseen = [], []
    for _ in range(60):
        page.keyboard.press("Tab")
        found = page.evaluate(_FOCUSED)
        if found is None or found["place"] in reached:  # once around
            break
        reached.append(found["place"])
        unseen += [] if found["ring"] else [found["html"]]
    assert len(reached) > 1
    assert unseen == []


_FOCUSED = """() => {
    const e = document.activeElement, style = getComputedStyle(e);
    const ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
    return e === document.body ? null : {place: [...document.querySelectorAll('*')].indexOf(e),
                                         ring: ring || style.boxShadow !== 'none', html: e.outerHTML.slice(0, 120)};
}"""
