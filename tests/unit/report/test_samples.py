"""Answers in the course of training, as the page shows them."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from mmpref.report.examples import Album
from mmpref.report.runs import Run
from mmpref.report.samples import MOST_PROMPTS, MOST_STEPS, compared, samples_section


def run(label: str, *rows: dict[str, Any]) -> Run:
    return Run(label, Path(label), {}, None, {}, (), (), samples=rows)


def row(step: int, text: Any, **other: Any) -> dict[str, Any]:
    return {"step": step, "id": "a", "prompt": "what ?", "images": ["a.png"], "text": text, "kind": "greedy", **other}


def section(*runs: Run) -> str:
    return str(samples_section(runs, Album(None)) or "")


def test_words_are_marked_against_the_first_answer() -> None:
    pieces = [(piece.text, piece.mark) for piece in compared("a red dog sits .", "a red cat sits there .")]
    assert pieces == [("a red", ""), ("dog", "gone"), ("cat", "new"), ("sits", ""), ("there", "new"), (".", "")]
    assert compared("same words", "same  words")[0].mark == ""
    assert [piece.mark for piece in compared("", "all new")] == ["new"]
    assert [piece.mark for piece in compared("all gone", "")] == ["gone"]
    assert compared("", "") == ()


def test_a_long_answer_is_shown_in_part_and_says_so() -> None:
    *_, last = compared("a", "b " * 1000)
    assert last.text == "… (600 words more)"


def test_runs_stand_side_by_side_with_their_last_answer_first() -> None:
    page = section(
        run("one", row(0, "a dog"), row(5, "a cat", tokens=3, cut=True)), run("two", row(0, "a dog")), run("three")
    )
    assert "<dt>one, step 5</dt>" in page
    assert "<dt>two, step 0</dt>" in page
    assert "<del>dog</del> <ins>cat</ins>" in page
    assert "3 tokens, cut" in page
    assert "No samples: three" in page
    assert page.count("<article") == 1
    assert page.count("<details") == 1  # one answer alone has no steps to open


def test_drawn_answers_and_what_is_no_answer_are_left_out() -> None:
    assert section(run("one", row(0, "drawn", kind="drawn"), row(0, None), row(0, ["list"]))) == ""
    assert section(run("one")) == ""
    assert "(an empty answer)" in section(run("one", row(0, "")))


def test_prompts_over_other_images_are_shown_apart_each_with_its_own(tmp_path: Path, folders: ModuleType) -> None:
    runs = []
    for number, name in enumerate(("one", "two", "three")):
        root = tmp_path / ("two" if name == "three" else name)
        root.mkdir(exist_ok=True)
        (root / "a.png").write_bytes(folders.png(min(number, 1)))
        runs.append(replace(run(name, row(0, name)), recipe={"data": {"root": str(root)}}))
    page = str(samples_section(runs, Album(tmp_path / "one")))
    assert page.count("<article") == 2
    assert [page.count(base64.b64encode(folders.png(number)).decode()) for number in (0, 1)] == [1, 1]
    assert str(samples_section(runs, Album(tmp_path / "one", is_given=True))).count("<article") == 1


def test_equal_ids_of_other_data_are_not_taken_for_one_prompt() -> None:
    page = section(run("one", row(0, "x")), run("two", row(0, "y", prompt="what else ?")))
    assert page.count("<article") == 2


def test_hostile_texts_are_text() -> None:
    bad = "<script>alert(1)</script>"
    page = section(run(bad, row(0, bad, id=bad, prompt=bad, images=[bad]), row(1, f"{bad} & more")))
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_many_prompts_and_steps_are_cut_to_what_a_page_can_show() -> None:
    rows = [row(step, f"text {step}", id=str(prompt)) for prompt in range(20) for step in range(40)]
    page = section(run("one", *rows))
    assert page.count("<article") == MOST_PROMPTS
    assert "4 more prompts" in page
    assert page.count("<dt>step ") == MOST_PROMPTS * MOST_STEPS
    assert "<dt>step 0</dt>" in page
    assert "<dt>step 39</dt>" in page


def test_rows_read_from_a_file_are_what_training_writes() -> None:
    written = json.loads(json.dumps({**row(3, "a dog"), "logp": -1.0, "ref_logp": -2.0, "tokens": 2, "cut": False}))
    assert "step 3" in section(run("one", written))
