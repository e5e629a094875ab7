"""Shards: which prompt is in which, and a merge that finds what is missing, double or of another run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpref.errors import ConfigError, DataError, EvalIncompleteError
from mmpref.generation import SampleSettings
from mmpref.sampling.merge_shards import merge_shards
from mmpref.sampling.shards import Shard, digest_of_ids, seed_of
from mmpref.sampling.steps import read_step
from tests.chat_server import ChatServer
from tests.unit.sampling.asked_servers import quarantined, rows_of, sample, says_its_seed, unless, write_prompts

ids = st.text(min_size=1, max_size=12)


@given(st.sets(ids, max_size=30), st.integers(1, 7))
def test_every_prompt_is_in_one_shard(found: set[str], total: int) -> None:
    shards = [Shard(number, total) for number in range(1, total + 1)]
    assert all(sum(shard.has(prompt_id) for shard in shards) == 1 for prompt_id in found)


def test_shards_are_of_about_the_same_size() -> None:
    sizes = [sum(Shard(number, 8).has(str(prompt)) for prompt in range(8000)) for number in range(1, 9)]
    assert 900 < min(sizes) < max(sizes) < 1100


@given(st.lists(ids, max_size=10), st.lists(ids, max_size=10))
def test_the_digest_is_that_of_a_collection(one: list[str], two: list[str]) -> None:
    assert (digest_of_ids(one) == digest_of_ids(two)) == (sorted(one) == sorted(two))


def test_seeds_differ_by_run_prompt_and_sample() -> None:
    found = {seed_of(seed, name, number) for seed in range(4) for name in ("a", "b", "1") for number in range(4)}
    assert len(found) == 48
    assert all(0 <= seed < 2**31 for seed in found)
    assert seed_of(0, "a", 0) == 97073193  # kept: other seeds are other samples


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "-1/2", "a/b", "1/2/3"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="a shard is i/n"):
        Shard.parse(text)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards and the whole, with a row that is no prompt, and a prompt that gets no answer."""
    root = tmp_path_factory.mktemp("shards")
    rows = [{"id": str(n), "image": "red.png", "question": f"What is on number {n}?"} for n in range(20)]
    source = write_prompts(root / "in", rows=[*rows, {"id": "bad", "image": "red.png"}])
    too_long = (400, {"error": {"message": "maximum context length"}})
    with ChatServer(unless(lambda number: number == 7, too_long)).running() as server:
        for number in (1, 2, 3):
            sample(source, server, root / f"shard{number}", shard=Shard(number, 3), max_missing=0.9)
        sample(source, server, root / "whole", max_missing=0.9)
    return root


@pytest.fixture
def shards(made: Path, tmp_path: Path) -> list[Path]:
    return [Path(shutil.copytree(made / f"shard{number}", tmp_path / f"shard{number}")) for number in (1, 2, 3)]


def test_merged_shards_are_the_whole(made: Path, shards: list[Path], tmp_path: Path) -> None:
    step = merge_shards([shards[2], shards[0], shards[1]], tmp_path / "out")
    by_id = {row["id"]: row for row in rows_of(made / "whole")}
    merged = rows_of(tmp_path / "out")
    assert len(merged) == 19
    assert {row["id"]: row for row in merged} == by_id

    def in_order(rows: list[dict[str, Any]]) -> list[str]:
        return sorted(json.dumps(row, sort_keys=True) for row in rows)

    assert in_order(quarantined(tmp_path / "out")) == in_order(quarantined(made / "whole"))
    whole = read_step(made / "whole")
    assert step == read_step(tmp_path / "out")
    assert (step.name, step.complete, step.image_root) == ("merge", True, whole.image_root)
    assert step.counts == whole.counts
    assert step.settings == {name: value for name, value in whole.settings.items() if name != "shard"}
    assert merge_shards(shards, tmp_path / "out") == step


def test_a_file_of_somebody_else_is_not_written_over(shards: list[Path], tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/candidates.jsonl").write_text("mine")
    with pytest.raises(ConfigError, match=r"has a candidates\.jsonl that this step has not made"):
        merge_shards(shards, tmp_path / "mine")
    assert (tmp_path / "mine/candidates.jsonl").read_text() == "mine"


def test_one_folder_of_images_may_be_written_in_several_ways(shards: list[Path], tmp_path: Path) -> None:
    root = read_step(shards[0]).image_root
    assert root is not None
    _change(image_root=f"{root}/../{root.name}")(shards[0])
    assert merge_shards(shards, tmp_path / "out").complete


def _drop_a_prompt(shard: Path) -> None:
    lines = (shard / "candidates.jsonl").read_text().splitlines(keepends=True)
    (shard / "candidates.jsonl").write_text("".join(lines[1:]))


def _drop_a_candidate(shard: Path) -> None:
    rows = rows_of(shard)
    rows[0]["candidates"] = rows[0]["candidates"][1:]
    (shard / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _count_twice(shard: Path) -> None:
    rows = rows_of(shard)
    rows[0]["candidates"][0]["times"] = rows[0]["candidates"][0].get("times", 1) + 1
    (shard / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _rename_a_prompt(shard: Path) -> None:
    rows = rows_of(shard)
    rows[0]["id"] = next(name for name in map(str, range(100, 200)) if Shard(1, 3).has(name))
    (shard / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _add_a_prompt_of_another(shard: Path) -> None:
    rows = rows_of(shard)
    other = next(name for name in map(str, range(20)) if not Shard(1, 3).has(name))
    with (shard / "candidates.jsonl").open("a") as stream:
        stream.write(json.dumps(rows[0] | {"id": other}) + "\n")


def _change(**changes: Any) -> Callable[[Path], None]:
    def change(shard: Path) -> None:
        step = json.loads((shard / "step.json").read_text())
        for place, value in changes.items():
            of, _, name = place.partition("__")
            if name:
                step[of][name] = value
            else:
                step[of] = value
        (shard / "step.json").write_text(json.dumps(step))

    return change


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (_drop_a_prompt, DataError, "the shards have 19 prompts, and the source had 20"),
        (_rename_a_prompt, DataError, "the source had 20, which are others"),
        (_add_a_prompt_of_another, DataError, "which is in another shard than 1/3"),
        (_drop_a_candidate, DataError, "1 prompts have more or fewer than 3 samples"),
        (_count_twice, DataError, "1 prompts have more or fewer than 3 samples"),
        (_change(settings__seed=5), DataError, r"different settings: seed \(seed: 5 and 0\)"),
        (_change(settings__shard="1/4"), DataError, "shards of 3 and 4"),
        (_change(settings__shard="2/3"), DataError, "shard 2/3 is there twice"),
        (_change(image_root="/elsewhere"), DataError, "name the same --image-root"),
        (_change(facts__served_as="m-2"), DataError, "answered by different models: m-2 and m-2026-01-01"),
        (_change(complete=False), EvalIncompleteError, r"1 of 3 shards are not complete: .*shard1"),
        (_change(step="score"), ConfigError, "is a folder of mmpref sample score"),
        (
            lambda shard: (shard / "step.json").unlink(),
            EvalIncompleteError,
            r"1 of 3 shards are not complete: .*shard1",
        ),
        (lambda shard: shutil.rmtree(shard), ConfigError, "does not exist"),
    ],
)
def test_what_is_missing_double_or_of_another_run_is_found(
    shards: list[Path], tmp_path: Path, damage: Callable[[Path], None], error: type[Exception], said: str
) -> None:
    damage(shards[0])
    with pytest.raises(error, match=said):
        merge_shards(shards, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_shard_one_given_twice_and_a_shard_as_output_are_refused(shards: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 3 shards are missing: 2/3"):
        merge_shards([shards[0], shards[2]], tmp_path / "out")
    with pytest.raises(ConfigError, match="is given twice"):
        merge_shards([shards[0], shards[0]], tmp_path / "out")
    with pytest.raises(ConfigError, match="is one of the shards"):
        merge_shards(shards, shards[1])


def test_a_shard_without_prompts_is_one_all_the_same(tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "in", 1)
    with ChatServer(says_its_seed).running() as server:
        sampling = SampleSettings(temperature=0.7)
        for number in (1, 2):
            step = sample(source, server, tmp_path / f"shard{number}", shard=Shard(number, 2), sampling=sampling)
            assert step.complete
    step = merge_shards([tmp_path / "shard1", tmp_path / "shard2"], tmp_path / "out")
    assert step.counts["prompts"] == 1
    assert step.image_root == (tmp_path / "in").absolute()
