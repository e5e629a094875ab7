"""Stored answers are read as they were when the number of the reading rules was last raised."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from mmpref.errors import ConfigError
from mmpref.evals import score
from mmpref.evals.results import result_content
from mmpref.evals.text.revision import READING_REVISION
from tests.loaded_scripts import script

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def golden() -> ModuleType:
    return script("golden_readings")


def test_no_stored_answer_is_read_otherwise_under_the_same_number(golden):
    revision, rows = golden.load()
    assert len(rows) > 100
    other = golden.changed(rows)
    assert not other, (
        f"{len(other)} answers are read otherwise. Is that meant? Raise READING_REVISION in mmpref/evals/text/"
        f"revision.py and run python scripts/golden_readings.py --write\n{golden.shown(other)}"
    )
    assert revision == READING_REVISION, "run python scripts/golden_readings.py --write"


def test_the_readings_are_not_written_anew_under_the_same_number(golden, tmp_path, monkeypatch):
    file = tmp_path / "readings.jsonl"
    rows = [{"kind": "yes_no", "question": "Is there a dog?", "answer": text} for text in ("Yes", "No")]
    golden.write(rows, file)
    revision, stored = golden.load(file)
    assert revision == READING_REVISION
    assert [row["reading"]["mmpref"] for row in stored] == ["yes", "no"]
    before = file.read_text()
    assert golden.renew([*rows, {**rows[0], "answer": "Yes."}], file) == 1  # an answer more changes nothing
    lines = file.read_text().splitlines()
    assert [*lines[:3]] == before.splitlines()
    altered = json.loads(lines[1])
    altered["reading"]["mmpref"] = "no"
    file.write_text("\n".join([lines[0], json.dumps(altered), *lines[2:]]) + "\n")
    with pytest.raises(ConfigError, match=f"set it to {READING_REVISION + 1} in mmpref/evals/text/revision.py"):
        golden.renew([], file)
    monkeypatch.setattr(golden, "READING_REVISION", READING_REVISION + 1)
    assert golden.renew([], file) == 0
    revision, stored = golden.load(file)
    assert (revision, stored[0]["reading"]["mmpref"]) == (READING_REVISION + 1, "yes")


def test_a_result_says_by_which_revision_it_was_read():
    question = {"question_id": 1, "image": "1.jpg", "text": "Is there a dog in the image?", "label": "yes"}
    result = score("pope", [question], [{"id": 1, "text": "Yes."}])
    assert result_content(result)["reader"] == {"revision": READING_REVISION}


def test_captions_and_choices_are_read_too(golden):
    rows = [
        {"kind": "captions", "caption": "A dog beside two cups."},
        {"kind": "yes_no", "question": "Is there a dog?", "answer": "No."},
        {"kind": "choice", "question": "What is it?", "options": {"A": "a dog", "B": "a cat"}, "answer": "B"},
        {"kind": "captions", "caption": "A horse."},
    ]
    found = golden.readings(rows)
    assert found[0] == ["cup", "dog"]
    assert found[1]["mmpref"] == "no"
    assert found[2:] == ["B", ["horse"]]


def test_answers_of_fixtures_are_rows_of_every_kind(golden):
    rows = golden.rows_of_fixtures()
    kinds = {kind: [row for row in rows if row["kind"] == kind] for kind in ("yes_no", "choice", "captions")}
    assert all(len(found) > 200 for found in kinds.values())
    assert {row["reading"] for row in _read(golden, kinds["choice"][:50])} >= {"A", "B", "C", "D"}
    assert {row["reading"]["mmpref"] for row in _read(golden, kinds["yes_no"][:50])} == {"yes", "no", "unparsed"}


def _read(golden, rows):
    return [{**row, "reading": now} for row, now in zip(rows, golden.readings(rows), strict=True)]
