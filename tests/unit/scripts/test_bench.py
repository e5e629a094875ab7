"""scripts/bench.py: every benchmark is named, can be started, and what it prints is kept."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tests.loaded_scripts import script

ROOT = Path(__file__).resolve().parents[3]


bench = script("bench")
KNOWN = bench.benchmarks()


def test_every_benchmark_of_the_folder_is_named() -> None:
    named = {benchmark["command"].split()[0] for benchmark in KNOWN.values()}
    there = {f"scripts/{path.name}" for path in (ROOT / "scripts").glob("bench_*.py")}
    assert named == there - {"scripts/bench_models.py"}  # what others measure with


@pytest.mark.parametrize("name", KNOWN)
def test_its_options_and_its_page_exist(name: str) -> None:
    path, *words = KNOWN[name]["command"].split()
    source = (ROOT / path).read_text(encoding="utf-8")
    assert all(f'"{word}"' in source for word in words if word.startswith("--"))
    page = (ROOT / KNOWN[name]["page"]).read_text(encoding="utf-8")
    numbers = set(re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", KNOWN[name]["told"]))
    assert {number for number in numbers if number not in page} == set()  # the page tells the same figures


def test_a_word_in_capitals_is_what_the_user_gives() -> None:
    asked = {"command": "scripts/x.py FOLDER --rounds 1"}
    assert bench.words_of(asked, {"FOLDER": None}) is None
    assert bench.words_of(asked, {"FOLDER": Path("/data")}) == ["scripts/x.py", "/data", "--rounds", "1"]


def test_what_a_benchmark_prints_is_kept_and_a_failure_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text("import os\nprint('1.5 times', os.environ['OMP_NUM_THREADS'])\n")
    bad.write_text("raise SystemExit(3)\n")
    monkeypatch.setattr(bench, "benchmarks", lambda: {"good": {"command": str(good)}, "bad": {"command": str(bad)}})
    monkeypatch.setattr(sys, "argv", ["bench.py", "--out", str(tmp_path / "out")])
    assert bench.main() == 1
    kept = json.loads((tmp_path / "out" / "good.json").read_text())
    assert kept["lines"] == ["1.5 times 1"]
    assert kept["exit_code"] == 0
    assert kept["versions"]["torch"]
    assert json.loads((tmp_path / "out" / "bad.json").read_text())["exit_code"] == 3
    assert capsys.readouterr().out.endswith("failed: bad\n")
