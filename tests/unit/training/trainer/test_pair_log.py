"""The log of single pairs: every value of every pair that is kept, the same whoever asks, and compact."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mmpref.errors import CheckpointError, ConfigError
from mmpref.losses import LossOutput
from mmpref.training.trainer.options import TrainerOptions
from mmpref.training.trainer.pair_facts import pair_facts
from mmpref.training.trainer.pair_log import PairLog, place_of, read_pair_log, read_pair_table
from mmpref.training.trainer.recorder import StatsRecorder

IDS = [f"pair-{number}" for number in range(400)]


def test_rows_of_all_ranks_come_together_and_keep_what_only_one_of_them_has(tmp_path: Path) -> None:
    log = PairLog(lambda mine: [mine, {"step": [1], "pair_id": ["far"], "z": [9.0]}, {}])
    log.add(1, ["near"], {"x": torch.tensor([2.0])})
    log.flush()
    log.write(tmp_path / "pairs.parquet")
    assert read_pair_log(tmp_path / "pairs.parquet") == {
        "step": [1, 1], "pair_id": ["near", "far"], "x": [2.0, None], "z": [None, 9.0],
    }  # fmt: skip


def test_every_pair_is_in_the_file_with_its_step_and_absent_values_are_none(tmp_path: Path) -> None:
    log = PairLog()
    log.add(1, ["a", "b"], {"x": torch.tensor([1.0, float("nan")])})
    log.flush()
    log.add(2, ["c"], {"x": torch.tensor([3.0]), "late": torch.tensor([0.5])})
    assert log.write(tmp_path / "pairs.parquet") == 3
    assert read_pair_log(tmp_path / "pairs.parquet") == {
        "step": [1, 1, 2],
        "pair_id": ["a", "b", "c"],
        "x": [1.0, None, 3.0],
        "late": [None, None, 0.5],
    }


def test_a_restored_log_goes_on_where_it_was(tmp_path: Path) -> None:
    first = PairLog()
    first.add(1, ["a"], {"x": torch.tensor([1.0])})
    first.write(tmp_path / "p")
    second = PairLog()
    second.restore(read_pair_log(tmp_path / "p"))
    second.add(2, ["b"], {"x": torch.tensor([2.0])})
    second.write(tmp_path / "p")
    assert read_pair_log(tmp_path / "p")["x"] == [1.0, 2.0]


def test_recent_values_are_those_up_to_the_line(tmp_path: Path) -> None:
    log = PairLog()
    for step in (1, 2, 3):
        log.add(step, ["a", "b"], {"x": torch.tensor([10.0 * step, 10.0 * step + 1])})
        log.flush()
    assert log.recent(3, ("x",), 2) == [[11.0, 20.0, 21.0]]
    assert log.recent(9, ("x",), 1) == [[10.0, 11.0]]
    assert log.recent(2, ("x", "never"), 3) == [[], []]


def logged(share: float, file: Path) -> dict[str, list[float]]:
    log = PairLog(share=share)
    for step in (1, 2):
        log.add(step, IDS[:200], {"x": torch.arange(200.0) + step})
        log.add(step, IDS[200:], {"x": torch.arange(200.0, 400.0) + step, "y": torch.ones(200)})
        log.flush()
    log.write(file)
    return read_pair_log(file)


def test_a_share_keeps_the_same_pairs_in_every_epoch_and_a_smaller_one_some_of_them(tmp_path: Path) -> None:
    whole, half, tenth = (logged(share, tmp_path / f"{share}") for share in (1.0, 0.5, 0.1))
    assert len(whole["step"]) == 800
    first = half["pair_id"][: len(half["pair_id"]) // 2]
    assert half["pair_id"] == first * 2 == [name for name in IDS if place_of(name) < 0.5] * 2
    assert 0.4 < len(first) / 400 < 0.6
    assert set(tenth["pair_id"]) < set(first)
    rows = {row[:2]: row for row in zip(*(whole[name] for name in ("step", "pair_id", "x", "y")), strict=True)}
    kept = list(zip(*(half[name] for name in ("step", "pair_id", "x", "y")), strict=True))
    assert kept == [rows[row[:2]] for row in kept], "what is kept is what it would have been with all pairs"


def test_of_a_share_of_nothing_there_are_no_rows_and_the_file_can_be_gone_on_from(tmp_path: Path) -> None:
    assert logged(0.0, tmp_path / "p") == {"step": [], "pair_id": []}
    log = PairLog()
    log.restore(read_pair_table(tmp_path / "p"))
    log.add(3, ["a"], {"x": torch.ones(1)})
    assert log.write(tmp_path / "p") == 1


def test_ids_of_any_characters_have_a_place_in_0_to_1() -> None:
    places = [place_of(name) for name in ("", "\ud800", "a\x00b", "ü", *IDS)]
    assert all(0 <= place < 1 for place in places)
    assert len(set(places)) == len(places)


def test_means_are_over_all_pairs_whatever_share_is_kept_and_facts_have_none(tmp_path: Path) -> None:
    recorder = StatsRecorder(share=0.1)
    recorder.add(1, IDS, {"x": torch.arange(400.0)}, {"score/chosen": torch.full((400,), 4.0)})
    assert recorder.take_means() == {"x": 199.5}
    recorder.pair_log.write(tmp_path / "p")
    log = read_pair_log(tmp_path / "p")
    assert 0 < len(log["step"]) < 100
    assert set(log["score/chosen"]) == {4.0}
    with recorder.evaluation(1, ()) as found:
        found.add(IDS, {"x": torch.arange(400.0)}, {"score/chosen": torch.full((400,), 4.0)})
    assert found.take() == {"x": 199.5}
    recorder.eval_log.write(tmp_path / "e")
    assert len(read_pair_log(tmp_path / "e")["step"]) == 400, "held-out pairs are kept always"


def test_a_log_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """Which had double precision, and a column of nothing where no pair had a value."""
    old = {"step": [1, 2], "pair_id": ["a", "b"], "x": [0.5, None], "z": pa.array([None, None], pa.null())}
    pq.write_table(pa.table(old), tmp_path / "p")
    log = PairLog()
    log.restore(read_pair_table(tmp_path / "p"))
    log.add(3, ["a"], {"x": torch.tensor([2.0]), "score/chosen": torch.tensor([7.0])})
    log.write(tmp_path / "p")
    assert read_pair_log(tmp_path / "p") == {
        "step": [1, 2, 3], "pair_id": ["a", "b", "a"], "x": [0.5, None, 2.0], "z": [None] * 3,
        "score/chosen": [None, None, 7.0],
    }  # fmt: skip


def test_a_damaged_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p").write_bytes(b"PAR1 and no more")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_pair_table(tmp_path / "p")


def test_numbers_take_four_bytes_and_ids_are_kept_once() -> None:
    log = PairLog()
    for step in range(20):
        log.add(step, IDS, {name: torch.ones(400) for name in "abc"})
    log.flush()
    assert {column.itemsize for column in log._columns.values()} == {4}
    assert len(log._names) == 400
    assert len(log) == 8000


def test_infinite_values_stay_and_are_not_absent_ones(tmp_path: Path) -> None:
    log = PairLog()
    log.add(1, ["a", "b"], {"x": torch.tensor([float("inf"), float("nan")])})
    log.write(tmp_path / "p")
    assert read_pair_log(tmp_path / "p")["x"] == [float("inf"), None]


def test_scores_are_facts_of_a_pair_whether_or_not_all_have_some() -> None:
    nan = float("nan")
    batch = SimpleNamespace(
        score_chosen=torch.tensor([4.0, nan, 9.0]), score_rejected=None, weight=torch.tensor([1.0, 0.5, 1.0]), counted=2
    )
    found = pair_facts(batch, LossOutput(torch.tensor([0.5, 0.25], requires_grad=True), {}))  # type: ignore[arg-type]
    assert {name: str(value.tolist()) for name, value in found.items()} == {
        "loss": "[0.5, 0.25]", "score/chosen": "[4.0, nan]", "pair/weight": "[1.0, 0.5]",
    }  # fmt: skip
    assert not any(value.requires_grad for value in found.values())


@pytest.mark.parametrize("share", [-0.1, 1.01, float("nan")])
def test_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="want a share of the pairs, 0 to 1"):
        TrainerOptions(pair_log=share)
