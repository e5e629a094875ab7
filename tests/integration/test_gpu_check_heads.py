"""What gpu_check.py measures of heads and of answers, at toy size on a CPU: every way gives the same results."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest

from tests.dry_runs import dry_run, rows_here

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
HAS_TRL = importlib.util.find_spec("trl") is not None
PEERS = {"full", "full_selected", *(["trl"] if HAS_TRL else [])}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {part: rows_here(tmp_path_factory.mktemp(part), part) for part in ("heads", "generation")}


@pytest.mark.slow
def test_a_run_from_the_command_line_finds_the_same_cases_and_the_page_shows_them(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    whole = dry_run(tmp_path, "heads", "generation")
    for part, rows in whole.items():
        assert [row["case"] for row in rows] == [row["case"] for row in parts[part]]
        assert [row.keys() for row in rows] == [row.keys() for row in parts[part]]


def numbers_of(found: Any) -> list[float]:
    inner = found.values() if isinstance(found, dict) else found if isinstance(found, list) else ()
    own = [found] if isinstance(found, int | float) else []
    return [*own, *(number for one in inner for number in numbers_of(one))]


@pytest.mark.parametrize("part", ["heads", "generation"])
def test_every_case_gives_figures(parts: dict[str, Any], part: str) -> None:
    assert not [row for row in parts[part] if {"skipped", "failed"} & row.keys()]
    assert all(math.isfinite(number) for number in numbers_of(parts[part]))


@pytest.mark.parametrize("trains", [False, True])
def test_tiles_full_logits_and_trl_agree_on_log_probs_and_gradients(parts: dict[str, Any], trains: bool) -> None:
    rows = [row for row in parts["heads"] if row.get("trains") is trains]
    assert {row["vocabulary"] for row in rows} == {1002, 2376}
    for row in rows:
        assert set(row["ratio"]) == PEERS
        assert set(row["without"]) == (set() if HAS_TRL else {"trl"})
        for name in ("tiled", *PEERS):
            head = row[name]
            assert head["ms"] > 0
            assert head["logp_difference"] < 1e-4
            assert set(head["gradient_error"]) == ({"hidden", "weight"} if trains else {"hidden"})
            assert max(head["gradient_error"].values()) < 1e-5
            if name != "tiled":
                assert row["ratio"][name] == pytest.approx(head["ms"] / row["tiled"]["ms"])
        assert row["tiles"]["32"]["ms"] == row["tiled"]["ms"]


def test_sizes_of_a_tile_are_compared_over_the_frozen_heads(parts: dict[str, Any]) -> None:
    rows = parts["heads"]
    (found,) = (row for row in rows if "best_mib" in row)
    frozen = [row for row in rows if row.get("trains") is False]
    gains = {
        mib: math.prod(row["tiled"]["ms"] / row["tiles"][mib]["ms"] for row in frozen) ** (1 / len(frozen))
        for mib in found["gains"]
    }
    assert set(gains) == {"8", "32", "128", "256"}
    assert found["gains"] == pytest.approx(gains)
    assert found["best_mib"] == int(max(gains, key=lambda mib: gains[mib]))


def test_the_loss_core_has_a_time_and_a_count_of_kernels_for_every_preset(parts: dict[str, Any]) -> None:
    from mmpref.losses.presets import PRESETS

    rows = parts["heads"]
    (core,) = (row for row in rows if "presets" in row)
    (counted,) = (row for row in rows if "core" in row)
    assert core["presets"].keys() == counted["core"].keys() == PRESETS.keys()
    # a base with Uni-DPO or AdaDPO on it takes more steps than the base alone
    assert counted["core"]["dpo"] < counted["core"]["adadpo"] < counted["core"]["uni_adadpo"]
    assert counted["heads"].keys() == {"tiled", *PEERS}


def test_batches_give_the_answers_of_one_at_a_time_with_as_many_tokens_as_asked(parts: dict[str, Any]) -> None:
    rows = parts["generation"]
    assert len(rows) == 4
    assert {row["batch"] for row in rows} == {3, 6}
    for row in rows:
        assert row["compared"] > 1
        assert row["distinct"] > 1  # equal answers would say nothing if there were but one
        assert row["equal"] == row["equal_tokens"] == 1.0
        for way in ("batched", "one_at_a_time"):
            assert row[way]["tokens"] == row[way]["answers"] * row["new_tokens"]
        assert row["batched"]["answers"] == row["batch"]
        assert row["ratio"] == pytest.approx(
            row["batched"]["answers_per_second"] / row["one_at_a_time"]["answers_per_second"]
        )


@pytest.mark.parametrize(
    ("installed", "why"), [(False, "trl is not installed"), (True, "TRL's head could not be run: ImportError: moved")]
)
def test_without_a_usable_trl_its_column_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, installed: bool, why: str
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from bench_losses import HEADS
    from gpu_parts import heads
    from gpu_parts.case import Context

    def moved(*_: Any) -> None:
        raise ImportError("moved")

    monkeypatch.setitem(HEADS, heads.PEERS["trl"], moved)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    context = Context(dry_run=True, device="cpu", deadline=math.inf, work=tmp_path)
    case = heads.HeadCase(model="toy", vocabulary=600, hidden_size=8, tokens=5, trains=False)
    (row,) = heads.measure_head(case, context, [])
    assert "trl" not in row
    assert row["without"] == {"trl": why}
    assert set(row["ratio"]) == {"full", "full_selected"}
    assert f"trl not measured ({why})" in heads.line_of(row)
