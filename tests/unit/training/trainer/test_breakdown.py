"""Evaluations by source and by score gap."""

from __future__ import annotations

import pytest
import torch

from mmpref.records import PreferencePair
from mmpref.training.trainer.breakdown import Breakdown
from tests.tiny_vlms import pair


def rows(gaps: list[float | None], sources: list[str]) -> list[PreferencePair]:
    return [
        pair(str(i), source=source, score_chosen=None if gap is None else 1.0 + gap,
             score_rejected=None if gap is None else 1.0)
        for i, (gap, source) in enumerate(zip(gaps, sources, strict=True))
    ]  # fmt: skip


def means(pairs: list[PreferencePair], margins: list[float]) -> dict[str, float]:
    breakdown = Breakdown(pairs)
    for start in range(0, len(pairs), 4):  # in batches, as an evaluation does
        part = slice(start, start + 4)
        stats = {"rewards/margins": torch.tensor(margins[part]), "uni/w_perf": torch.ones(len(margins[part]))}
        breakdown.add([p.id for p in pairs[part]], stats)
    return breakdown.take()


def test_each_source_and_each_third_of_the_gaps_has_its_mean() -> None:
    pairs = rows([0.1, 0.2, 0.5, 0.6, 2.0, 3.0, None], ["a", "b", "a", "b", "a", "b", "a"])
    found = means(pairs, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    assert found == pytest.approx({
        "source/a/rewards/margins": 4.0, "source/b/rewards/margins": 4.0,
        "gap/low/rewards/margins": 1.5, "gap/mid/rewards/margins": 3.5, "gap/high/rewards/margins": 5.5,
        "gap/low_to": 0.2, "gap/mid_to": 0.6,
    })  # fmt: skip


def test_equal_gaps_stay_together_and_one_source_is_not_repeated() -> None:
    pairs = rows([1.0, 1.0, 1.0, 1.0, 1.0, 2.0], ["a"] * 6)
    found = means(pairs, [0.0, 0.0, 0.0, 0.0, 0.0, 6.0])
    assert {name for name in found if "margins" in name} == {"gap/low/rewards/margins", "gap/high/rewards/margins"}
    assert found["gap/high/rewards/margins"] == 6.0


def test_pairs_without_scores_and_of_one_source_have_no_groups() -> None:
    assert means(rows([None] * 4, ["a"] * 4), [1.0] * 4) == {}
    assert means(rows([1.0] * 4, ["a"] * 4), [1.0] * 4) == {}
