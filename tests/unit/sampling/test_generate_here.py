"""Candidates of a model in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmpref.data.prompt_source import PromptSource
from mmpref.demo.tiny_models import build_tiny_llava
from mmpref.errors import ConfigError, EvalIncompleteError
from mmpref.generation import AnswerSettings, SampleSettings
from mmpref.sampling.generate import GenerateSettings, generate
from mmpref.sampling.steps import Step
from tests.model_types.causal import write_causal
from tests.unit.sampling.asked_servers import quarantined, rows_of, write_prompts

ROWS: list[dict[str, Any]] = [
    {"id": "one", "image": "red.png", "question": "is there a cup ?"},
    {"id": "two", "image": "red.png", "question": "is there a plate ?"},
    {"id": "text", "question": "what is a kite ?"},
    {
        "id": "begun",
        "images": [],
        "prompt": [{"role": "user", "content": "what is a kite ?"}],
        "response_prefix": "a kite is",
    },
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("here")
    build_tiny_llava(root / "model", seed=0)
    return root


@pytest.fixture
def source(folder: Path) -> PromptSource:
    return write_prompts(folder / "in", rows=ROWS)


def drawn(folder: Path, source: PromptSource, out: Path, **more: Any) -> Step:
    settings = {"n": 3, "answering": AnswerSettings(max_new_tokens=6), "sampling": SampleSettings(temperature=1.3)}
    return generate(str(folder / "model"), source, out, settings=GenerateSettings(**settings | more))


def test_a_run_that_was_stopped_ends_as_one_that_was_not(folder: Path, source: PromptSource, tmp_path: Path) -> None:
    step = drawn(folder, source, tmp_path / "whole")
    assert step.complete
    assert (step.counts["answered"], step.counts["without_seed"]) == (12, 0)
    assert step.facts["shares_prompts"]
    whole = rows_of(tmp_path / "whole")
    assert [row["id"] for row in whole] == ["one", "two", "text", "begun"]
    assert len({answer["text"] for row in whole for answer in row["candidates"]}) > 8  # random weights, drawn
    log = (tmp_path / "whole/answers.jsonl").read_bytes()
    for kept in (1, 7, 11):
        out = tmp_path / f"part{kept}"
        out.mkdir()
        for name in ("settings.json", "images.json"):
            (out / name).write_bytes((tmp_path / "whole" / name).read_bytes())
        (out / "answers.jsonl").write_bytes(b"".join(log.splitlines(keepends=True)[:kept]) + b'{"id": "on')
        assert drawn(folder, source, out).counts == step.counts
        assert (out / "candidates.jsonl").read_bytes() == (tmp_path / "whole/candidates.jsonl").read_bytes()


def test_a_shard_gives_what_the_whole_gives_of_its_prompts(folder: Path, source: PromptSource, tmp_path: Path) -> None:
    from mmpref.sampling.shards import Shard

    drawn(folder, source, tmp_path / "whole")
    parts = []
    for number in (1, 2):
        drawn(folder, source, tmp_path / f"part{number}", shard=Shard(number, 2))
        parts += rows_of(tmp_path / f"part{number}")
    by_id = {row["id"]: row for row in rows_of(tmp_path / "whole")}
    assert {row["id"]: row for row in parts} == by_id


def test_a_prompt_that_the_model_cannot_read_is_listed_and_the_others_are_answered(
    folder: Path, tmp_path: Path
) -> None:
    rows = [*ROWS[:2], {"id": "gone", "image": "no.png", "question": "what ?"}]
    with pytest.raises(EvalIncompleteError, match=r"3 of 9 samples are missing \(image_missing 3\)"):
        drawn(folder, write_prompts(tmp_path / "in", rows=rows), tmp_path / "out")
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["one", "two"]
    assert [(row["id"], row["reason"]) for row in quarantined(tmp_path / "out")] == [("gone", "image_missing")]


def test_a_prompt_beyond_the_places_of_a_model_is_listed_and_the_others_are_answered(tmp_path: Path) -> None:
    write_causal("gpt2", tmp_path / "model")
    rows = [{"id": "short", "question": "a b"}, {"id": "long", "question": "a b c d " * 200}]
    source = write_prompts(tmp_path / "in", rows=rows)
    with pytest.raises(EvalIncompleteError, match=r"3 of 6 samples are missing \(over_limit 3\)"):
        drawn(tmp_path, source, tmp_path / "out")
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["short"]


def test_a_model_that_is_loaded_is_not_shared_by_processes(folder: Path, source: PromptSource, tmp_path: Path) -> None:
    from mmpref.generation import ModelSource

    loaded = ModelSource(path=str(folder / "model")).load(None)
    with pytest.raises(ConfigError, match="give its folder"):
        generate(loaded, source, tmp_path / "out", settings=GenerateSettings(processes=2))


@pytest.mark.slow
def test_two_processes_give_what_one_gives(folder: Path, source: PromptSource, tmp_path: Path) -> None:
    drawn(folder, source, tmp_path / "one")
    drawn(folder, source, tmp_path / "two", processes=2)
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "two")
