"""A report of a folder of rounds: its runs, the start model first, and what each round was made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpref.cli.main import main
from mmpref.errors import ConfigError
from mmpref.evals import score, write_scored
from mmpref.report.rounds import changes_table, facts_table
from mmpref.report.runs import load_runs

OBJECTS = {f"{number}.jpg": ["dog"] if number % 2 else ["cat"] for number in range(12)}


def evaluated(folder: Path, invented: int) -> None:
    """CHAIR of twelve captions, the first ``invented`` of which name what is not there."""
    root = folder / "evals" / "chair"
    root.mkdir(parents=True)
    (root / "objects.json").write_text(json.dumps(OBJECTS), encoding="utf-8")
    other = {"cat": "dog", "dog": "cat"}
    said = {}
    for place, (name, (thing,)) in enumerate(OBJECTS.items()):
        said[name] = f"{thing} and a {other[thing]}" if place < invented else thing
    lines = [json.dumps({"id": name, "text": f"a {text}."}) for name, text in said.items()]
    (root / "answers.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_scored(
        root / "results.json",
        score("chair", questions=root / "objects.json", answers=root / "answers.jsonl", image_name="{id}"),
    )


@pytest.fixture
def rounds(tmp_path: Path) -> Path:
    folder = tmp_path / "rounds"
    evaluated(folder / "round-0", 8)
    evaluated(folder / "round-1" / "run", 2)
    facts = {"round": 1, "prompts": 12, "mean_score": 3.25, "ties": 0.125, "pairs": 9, "eta": 0.7, "tau_good": None}
    runs = [{"label": "start", "path": "round-0"}, {"label": "round 1", "path": "round-1/run"}]
    (folder / "rounds.json").write_text(json.dumps({"runs": runs, "rounds": [{"round": 0}, facts]}), encoding="utf-8")
    return folder


def test_a_folder_of_rounds_is_its_runs_the_start_model_first(rounds: Path) -> None:
    runs = load_runs([rounds])
    assert [run.label for run in runs] == ["start", "round 1"]
    header, (row,) = changes_table(runs)
    assert header[1] == "CHAIR_s"
    assert row[0] == "round 1 less start"
    assert row[1].startswith("-50.0 points [")
    assert row[3].startswith("+0.0 points")


def test_the_page_has_what_each_round_was_made_of(rounds: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["report", str(rounds), "--out", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "The rounds" in text
    for shown in ("3.250", "12.5 %", "-50.0 points", "round 1 less start"):
        assert shown in text


def test_what_is_not_known_of_a_round_has_a_dash() -> None:
    header, (row,) = facts_table([{"round": 0}, {"round": 1, "pairs": 9, "tau_good": None}])
    assert dict(zip(header, row, strict=True)) | {"round": "1", "pairs": "9", "tau_good": "–", "ties": "–"} == dict(
        zip(header, row, strict=True)
    )


@pytest.mark.parametrize(
    ("content", "message"), [("{}", "is damaged"), ('{"runs": [], "rounds": []}', "no round in .* is complete yet")]
)
def test_a_folder_without_a_complete_round_says_so(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "rounds.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_runs([tmp_path])
