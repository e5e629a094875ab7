"""Candidates and steps on disk: what is written is read back, and what is broken is named with its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpref.errors import ConfigError, DataError
from mmpref.records import Candidate, Candidates, ImageRef, Prompt, Score, user_turn
from mmpref.sampling.candidate_files import candidates_from_row, candidates_to_row, read_candidates, write_candidates
from mmpref.sampling.steps import CANDIDATES, Step, file_of_step, read_step, write_step

PROMPT = Prompt(id="a", images=(ImageRef(path="a.png"),), prompt=user_turn("What is it?", num_images=1), source="x")
SCORE = Score(scorer="objects", version="1", scale=(0.0, 1.0), raw=0.5, detail={"said": ["dog"]})

candidates = st.builds(
    Candidate,
    text=st.text(),
    seed=st.none() | st.integers(0, 2**31),
    times=st.integers(1, 9),
    cut=st.booleans(),
    score=st.none() | st.floats(-1e100, 1e100),
    scores=st.lists(
        st.builds(
            Score,
            scorer=st.text(min_size=1, max_size=5),
            version=st.just("1"),
            scale=st.tuples(st.none() | st.just(0.0), st.none() | st.just(1.0)),
            raw=st.none() | st.floats(0, 1),
            why=st.text(max_size=5),
        ),
        max_size=3,
    ).map(tuple),
)


@given(st.lists(candidates, max_size=4, unique_by=lambda found: found.text))
def test_a_row_of_candidates_is_read_back(answers: list[Candidate]) -> None:
    found = Candidates(prompt=PROMPT, answers=tuple(answers))
    row = json.loads(json.dumps(candidates_to_row(found)))
    assert candidates_from_row(row, source="x", line=1) == found


def test_a_file_of_candidates_is_read_back(tmp_path: Path) -> None:
    answers = (
        Candidate(text="a dog\u2028.", seed=3, times=2, cut=True, scores=(SCORE,), score=2.5),
        Candidate(text=""),
    )
    both = [Candidates(prompt=PROMPT, answers=answers)]
    write_candidates(tmp_path / "c.jsonl", both)
    read = list(read_candidates(tmp_path / "c.jsonl"))
    assert read == both
    assert read[0].answers[0].scores[0].detail == {"said": ["dog"]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"candidates": None}, "a list of 'candidates'"),
        ({"candidates": [{"text": 3}]}, r"candidates\[0\]: 'text' must be a text"),
        ({"candidates": [{"text": "a", "sed": 3}]}, "unknown key 'sed'; known: cut, score"),
        ({"candidates": [{"text": "a", "score": float("nan")}]}, "'score' must be a finite number"),
        ({"candidates": [{"text": "a", "score": 1e308}]}, "'score' must be a finite number"),
        ({"candidates": [{"text": "a", "times": 0}]}, "times from 1"),
        ({"candidates": [{"text": "a"}, {"text": "a"}]}, "same text"),
        ({"candidates": [{"text": "a", "scores": [{"scorer": "x"}]}]}, r"scores\[0\]: 'scale' must be"),
        ({"chosen": "a dog"}, "unknown key 'chosen'"),
        ({"images": []}, "1 image parts and 'images' has 0"),
    ],
)
def test_a_broken_row_is_named_with_its_place(change: dict[str, object], said: str) -> None:
    row = candidates_to_row(Candidates(prompt=PROMPT, answers=(Candidate(text="a"),))) | change
    with pytest.raises(DataError, match=said) as caught:
        candidates_from_row(row, source="c.jsonl", line=7)
    assert "c.jsonl, " in str(caught.value)


def test_one_id_twice_is_refused(tmp_path: Path) -> None:
    one = Candidates(prompt=PROMPT, answers=(Candidate(text="a"),))
    write_candidates(tmp_path / "c.jsonl", [one, one])
    with pytest.raises(DataError, match="line 2: id 'a' stands there twice"):
        list(read_candidates(tmp_path / "c.jsonl"))


def test_a_step_is_read_back_and_a_damaged_one_named(tmp_path: Path) -> None:
    step = Step(
        name="generate",
        complete=True,
        image_root=Path("/images"),
        made_from=("p.jsonl",),
        settings={"n": 4},
        counts={"prompts": 2},
    )
    write_step(tmp_path, step)
    assert read_step(tmp_path) == step
    (tmp_path / "step.json").write_text('{"step": "generate"}')
    with pytest.raises(DataError, match=r"step\.json is damaged"):
        read_step(tmp_path)


def test_the_file_of_a_step_is_found_or_its_absence_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        file_of_step(tmp_path / "none", [CANDIDATES])
    with pytest.raises(DataError, match=r"has no candidates\.jsonl; run the step before"):
        file_of_step(tmp_path, [CANDIDATES])
    (tmp_path / CANDIDATES).write_text("")
    with pytest.raises(DataError, match="is no finished step"):
        file_of_step(tmp_path, [CANDIDATES])
