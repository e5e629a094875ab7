"""Two processes that go on from an adapter do what one does, compared with a copy of that adapter."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpref.cli.main import main
from tests.distributed.conftest import FSDP2, Place, assert_same_run, pair_rows, run_together
from tests.tiers import corners

pytestmark = pytest.mark.distributed
ONE_BATCH, HALF = "train.per_device_train_batch_size=6", "train.per_device_train_batch_size=3"
LORA = ("adapter={kind: lora, rank: 4}", "tune={language: lora, projector: full, vision: freeze}", "loss={name: sft}")


@pytest.mark.parametrize("strategy", corners(["ddp", "fsdp2"], "fsdp2"))
def test_two_processes_go_on_from_an_adapter_as_one(place: Place, tmp_path: Path, strategy: str) -> None:
    start = tmp_path / "start"
    assert main(place.train(start, ONE_BATCH, *LORA, "train.learning_rate=1e-2")) == 0
    further = (f"adapter={{path: {start}}}", "tune={}")
    assert main(place.train(tmp_path / "one", ONE_BATCH, *further)) == 0
    run_together([place.train(tmp_path / "two", HALF, *further)], tmp_path, **(FSDP2 if strategy == "fsdp2" else {}))
    assert_same_run(tmp_path / "two", tmp_path / "one")
    first = [row for (step, _), row in pair_rows(tmp_path / "two").items() if step == 1]
    assert len(first) == 6
    assert all(abs(row["rewards/margins"]) < 1e-5 for row in first)
