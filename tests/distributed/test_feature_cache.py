"""Two processes keep image features in one folder, and train as one process without it does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpref.cli.main import main
from tests.distributed.conftest import FSDP2, Place, assert_same_run, run_together, torchrun

pytestmark = pytest.mark.distributed
EPOCHS = ("train.num_train_epochs=2", "preflight=false")


def test_two_processes_keep_and_read_what_one_computes(place: Place, tmp_path: Path) -> None:
    kept = f"processing.feature_cache={tmp_path / 'features'}"
    half = ("train.per_device_train_batch_size=3", *EPOCHS, kept)
    assert main(place.train(tmp_path / "one", "train.per_device_train_batch_size=6", *EPOCHS, pairs="mixed")) == 0
    lines = [place.train(tmp_path / name, *half, pairs="mixed") for name in ("two", "again")]
    run_together(lines, tmp_path)
    for name in ("two", "again"):
        assert_same_run(tmp_path / name, tmp_path / "one")
    rows = map(json.loads, (place.root / "mixed.jsonl").read_text(encoding="utf-8").splitlines())
    images = {name for row in rows for name in row["images"]}
    assert len([*(tmp_path / "features").rglob("*.safetensors")]) == len(images)
    log = (tmp_path / "again" / "train.log").read_text(encoding="utf-8")
    assert " and those of 0 computed" in log


def test_sharded_weights_are_refused(place: Place, tmp_path: Path) -> None:
    kept = f"processing.feature_cache={tmp_path / 'features'}"
    done = torchrun("-m", "mmpref", *place.train(tmp_path / "run", kept), **FSDP2)
    assert done.returncode != 0
    assert "needs the whole tower in each process: with fsdp2" in done.stderr.replace("\n", " ")
    assert not (tmp_path / "features").exists()
