"""scripts/make_compare.py: the page is what results/peers gives, and every cell says what it must."""

from __future__ import annotations

import datetime
import shutil
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.loaded_scripts import script

ROOT = Path(__file__).resolve().parents[3]


compare = script("make_compare")
SUITES = """
mmpref: {name: mmpref, version: this commit, looked: 2026-01-01, licence: A, page: "https://x", role: [training]}
other: {name: Other, version: 1.0, looked: 2026-01-01, licence: B, page: "https://y", role: [training]}
"""


def features(folder: Path, cell: str, ours: str = "{is: no}") -> Path:
    (folder / "suites.yaml").write_text(SUITES, encoding="utf-8")
    (folder / "evaluation.yaml").write_text("{}\n", encoding="utf-8")
    text = f"Area:\n  thing:\n    title: A thing\n    mmpref: {ours}\n"
    (folder / "training.yaml").write_text(text + (f"    other: {cell}\n" if cell else ""), encoding="utf-8")
    return folder


def test_the_page_is_what_the_data_gives() -> None:
    page = compare.PAGE.read_text(encoding="utf-8")
    assert compare.filled(page) == page
    assert all(f"<!-- make_compare.py: {name} -->" in page for name in ("releases", *compare.TABLES))


def test_every_suite_has_a_release_a_day_and_a_way_to_get_it() -> None:
    for key, suite in compare.suites().items():
        assert suite["version"], key
        assert datetime.date.fromisoformat(suite["looked"]) <= datetime.date(2100, 1, 1), key
        home = suite["page"]
        assert home.startswith("https://") if key != compare.OURS else (ROOT / "docs" / home).is_file(), key
        assert key == compare.OURS or str(suite["version"]) in suite["get"], key


@pytest.mark.parametrize("table", compare.TABLES)
def test_every_cell_has_evidence_and_ours_names_files_that_exist(table: str) -> None:
    for row in compare.rows(table):
        for suite, cell in row.cells.items():
            where = f"{table}: {row.key}: {suite}"
            assert suite == compare.OURS or not cell.ours, where
            assert all(place.line is None or place.line > 0 for place in cell.places), where
            assert all((ROOT / path).is_file() for path in cell.ours), where
            assert cell.tried in ("", *compare.HOW_FAR), where


@pytest.mark.parametrize("table", compare.TABLES)
def test_the_table_says_what_others_have_and_this_has_not(table: str) -> None:
    lacking = [row for row in compare.rows(table) if row.cells[compare.OURS].state == "no"]
    assert len(lacking) >= 3
    for row in lacking:
        assert any(cell.state == "yes" for suite, cell in row.cells.items() if suite != compare.OURS) or row.about


@pytest.mark.parametrize(
    ("cell", "ours", "said"),
    [
        ("{is: yes}", "{is: no}", "say where it was seen"),
        ("{is: no}", "{is: no}", "which search finds nothing"),
        ("{is: maybe, none: x}", "{is: no}", "'is' must be one of"),
        ("{is: no, none: x, sure: very}", "{is: no}", "unknown keys: ['sure']"),
        ("{is: partly, none: x}", "{is: no}", "which part"),
        ("{is: yes, seen: [a.py]}", "{is: no}", "not 'a.py'"),
        ("", "{is: no}", "nothing is said of other"),
        ("{is: not looked at}", "{is: yes}", "name a page or a test"),
    ],
)
def test_a_cell_that_says_too_little_is_refused(tmp_path: Path, cell: str, ours: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"training\.yaml: thing") as caught:
        compare.rows("training", features(tmp_path, cell, ours))
    assert said in str(caught.value)


def test_places_are_looked_up_in_an_unpacked_release(tmp_path: Path) -> None:
    data = features(tmp_path, "{is: yes, seen: ['a.py:2 | def here'], none: gone, in: 'a.py'}")
    release = tmp_path / "unpacked" / "other"
    release.mkdir(parents=True)
    (release / "a.py").write_text("import x\ndef here(): ...\n")
    assert list(compare.looked_up(release.parent, data)) == []
    (release / "a.py").write_text("import x\nimport gone\ndef here(): ...\n")
    moved, found = compare.looked_up(release.parent, data)
    assert "'def here' is not at a.py:2, but at [3]" in moved
    assert "'gone' is at a.py:2" in found
    compare.pin(release.parent, data)
    assert "a.py:3 | def here" in (data / "training.yaml").read_text()
    (release / "a.py").unlink()
    assert len(list(compare.looked_up(release.parent, data))) == 2


def test_what_is_said_of_trl_is_so_in_the_installed_release(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    if version("trl") != str(compare.suites()["trl"]["version"]):
        pytest.skip("another release of TRL is installed")
    shutil.copytree(Path(trl.__file__).parent, tmp_path / "trl" / "trl", ignore=shutil.ignore_patterns("__pycache__"))
    assert list(compare.looked_up(tmp_path)) == []
