"""The part of ``scripts/gpu_check.py`` for pairs of one prompt in one row: less is computed, and the same is found."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from bench_models import image  # noqa: E402
from gpu_parts.prompt_groups import KINDS, make_group, nearest_to_mean  # noqa: E402
from gpu_parts.random_models import LLAVA_7B, QWEN_7B  # noqa: E402

from tests.dry_runs import dry_run  # noqa: E402


@pytest.mark.slow
def test_the_dry_run_of_the_part_computes_less_and_finds_the_same(tmp_path: Path) -> None:
    rows = dry_run(tmp_path, "groups")["groups"]
    assert [row["model"] for row in rows] == [LLAVA_7B, QWEN_7B]
    for row in rows:
        assert row["pairs"] == 6
        assert row["ideal"] > 2.5
        assert row["separate"]["counted_tflop"] / row["grouped"]["counted_tflop"] == row["ideal"]
        assert row["difference"] < 1e-3
        assert row["memory_ratio"] is None  # a CPU counts no bytes
        for way in ("separate", "grouped"):
            assert row[way]["ms"] > 0
            assert math.isclose(row[way]["ms"], sum(row[way]["ms_of_groups"]) / row["groups"], abs_tol=1e-3)
            assert row[way]["share_of_bf16"] > 0


def test_pairs_apart_have_prompts_of_their_own_over_the_same_pixels() -> None:
    for kind, answers in KINDS.items():
        group = make_group(kind, 7, shortest=3, longest=9)
        assert len({pair.prompt_key for pair in group.pairs}) == 1
        assert len({pair.prompt_key for pair in group.apart}) == len(group.pairs) == len(answers)
        pixels = {image(pair.images[0], (16, 16)).tobytes() for pair in (*group.pairs, *group.apart)}
        assert len(pixels) == 1
        assert [(pair.chosen, pair.rejected) for pair in group.apart] == [(p.chosen, p.rejected) for p in group.pairs]
        words = {answer: len(answer.split()) for pair in group.pairs for answer in (pair.chosen, str(pair.rejected))}
        assert sum(words.values()) == group.answer_tokens


def test_the_group_nearest_to_the_mean_stands_for_all() -> None:
    groups = [make_group("six", 1, shortest=length, longest=length) for length in (10, 60, 200)]
    assert nearest_to_mean(groups) is groups[1]
