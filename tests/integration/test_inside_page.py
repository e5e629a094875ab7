"""docs/inside.md: its program runs, its counts are right, its figures are those of the script, its files exist."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from tests.integration.test_losses_page import calculator
from tests.integration.test_troubleshooting_page import start_up_checks

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "make_inside_figures.py"), run_name="figures")
PAGE = (ROOT / "docs" / "inside.md").read_text(encoding="utf-8")


def test_the_program_runs_and_makes_the_types_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    monkeypatch.setattr("tempfile.mkdtemp", lambda: str(tmp_path / "made"))
    (tmp_path / "made").mkdir()
    script = tmp_path / "block.py"
    script.write_text(block, encoding="utf-8")
    made = runpy.run_path(str(script))
    named = dict(re.findall(r"^ *(\w+)(?:, \w+)? = .*  # (\w+)", block, flags=re.MULTILINE))
    types = {"pair": "PreferencePair", "encoded": "EncodedPair", "together": "PairBatch", "logps": "PairLogps",
             "out": "LossOutput"}  # fmt: skip
    assert {name: named[name] for name in types} == types
    assert {name: type(made[name]).__name__ for name in types} == types


def test_sums_are_right() -> None:
    sums = re.findall(r"([\d+*() ,]+?[\d)]) = ([\d,]+)", PAGE)
    assert len(sums) >= 6
    for typed, shown in sums:
        assert calculator(typed.replace(",", "").strip()) == int(shown.replace(",", "")), typed
    for before, after, times in (("1,432", "816", "1.75"), ("8,592", "1,016", "8.5")):
        assert f"= {before} | " in PAGE
        assert f"= {after} | {times} times fewer" in PAGE
        ratio = int(before.replace(",", "")) / int(after.replace(",", ""))
        assert ratio == pytest.approx(float(times), rel=0.01)


@pytest.mark.parametrize("name", SCRIPT["FIGURES"])
def test_a_figure_is_what_the_script_draws_and_has_words_in_its_place(name: str) -> None:
    assert (ROOT / "docs" / "figures" / name).read_text(encoding="utf-8") == SCRIPT["FIGURES"][name]().written()
    said = re.search(rf"!\[(.+?)\]\(figures/{name}\)", PAGE)
    assert said is not None
    if name == "inside_types.svg":
        assert all(kind in said[1] for kind, _, _ in SCRIPT["TYPES"])
        assert all(step.removeprefix("mmpref.") in said[1] for step in SCRIPT["STEPS"])


def test_files_that_it_names_exist() -> None:
    files = set(re.findall(r"`(mmpref/[\w/]+\.py)`", PAGE))
    assert len(files) >= 20
    for file in files:
        assert (ROOT / file).is_file(), file


def test_every_start_up_check_is_explained() -> None:
    for check in start_up_checks():
        assert f"| {check} |" in PAGE, check
