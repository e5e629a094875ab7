"""Statistics of a run: means over pairs and not over batches, and every pair's own values kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmpref.training.trainer.metrics import JsonlLogger, Meter


def test_a_mean_is_over_pairs_and_not_over_batches() -> None:
    meter = Meter()
    meter.add({"x": torch.tensor([1.0, 2.0, 3.0])})
    meter.add({"x": torch.tensor([10.0])})
    assert meter.take() == {"x": pytest.approx(4.0)}


def test_taking_empties_the_meter() -> None:
    meter = Meter()
    meter.add({"x": torch.ones(2)})
    meter.take()
    assert meter.take() == {}


def test_a_pair_without_a_value_is_left_out_of_its_mean_only() -> None:
    meter = Meter()
    meter.add({"x": torch.tensor([1.0, float("nan")]), "y": torch.tensor([4.0, 6.0])})
    assert meter.take() == {"x": 1.0, "y": 5.0}


def test_a_statistic_that_no_pair_has_is_not_reported() -> None:
    meter = Meter()
    meter.add({"x": torch.tensor([float("nan")])})
    assert meter.take() == {}


def test_sums_and_counts_are_what_is_added_over_ranks() -> None:
    meter = Meter()
    meter.add({"x": torch.tensor([1.0, 3.0])})
    other_rank = {"x": (8.0, 1.0), "only there": (6.0, 2.0)}
    assert meter.take(lambda mine: [mine, other_rank]) == {"only there": 3.0, "x": 4.0}


LOSSES = '{"step": 1, "loss": 1}\n{"step": 2, "loss": 2}\n'


def test_a_resumed_run_begins_with_the_lines_that_its_checkpoint_holds(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path / "metrics.jsonl")
    logger.path.write_text(LOSSES, encoding="utf-8")
    (tmp_path / "step-2").mkdir()
    logger.copy_to(tmp_path / "step-2")
    logger.event(2, "alarm/x", "behind the checkpoint, of the same step")
    logger.begin_from(tmp_path / "step-2", 2)
    assert logger.path.read_text(encoding="utf-8") == LOSSES


def test_lines_that_were_lost_come_back_from_the_checkpoint(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path / "metrics.jsonl")
    logger.path.write_text(LOSSES, encoding="utf-8")
    (tmp_path / "step-2").mkdir()
    logger.copy_to(tmp_path / "step-2")
    logger.path.unlink()
    logger.begin_from(tmp_path / "step-2", 2)
    assert logger.path.read_text(encoding="utf-8") == LOSSES


def test_a_resumed_run_has_the_summary_of_none_of_its_parts(tmp_path: Path) -> None:
    logger = JsonlLogger(tmp_path / "metrics.jsonl")
    logger.path.write_text(LOSSES + '{"step": 2, "train_runtime": 3.0}\n', encoding="utf-8")
    (tmp_path / "step-2").mkdir()
    logger.copy_to(tmp_path / "step-2")
    logger.begin_from(tmp_path / "step-2", 2)
    assert logger.path.read_text(encoding="utf-8") == LOSSES


def test_a_checkpoint_without_lines_keeps_those_up_to_its_step_and_no_torn_one(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(LOSSES + '{"step": 3, "lo', encoding="utf-8")
    JsonlLogger(file).begin_from(tmp_path / "step-1", 1)
    assert file.read_text(encoding="utf-8") == '{"step": 1, "loss": 1}\n'


def test_a_run_that_begins_anew_has_no_lines_of_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 0, "eval_loss": 1}\n{"step": 1', encoding="utf-8")
    JsonlLogger(file).begin_from(None, -1)
    assert file.read_text(encoding="utf-8") == ""
