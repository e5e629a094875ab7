"""Losses that look at another image, weigh tokens or have constants of the update: two processes train as one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpref.cli.main import main
from tests.distributed.conftest import FSDP2, Place, assert_same_run, run_together

pytestmark = pytest.mark.distributed
LORA = ("adapter={kind: lora, rank: 4}", "tune={language: lora, projector: freeze, vision: freeze}")
ONE_BATCH, HALF = "train.per_device_train_batch_size=6", "train.per_device_train_batch_size=3"
MADE = ("data.other_image=made",)

# name -> (file of pairs, what differs from the demo's recipe)
CASES = {
    "mdpo, images in some rows only": ("mixed", (*LORA, "loss={name: mdpo}", *MADE)),
    "mpo, accumulated": ("pairs", ("loss={name: mpo}", "train.gradient_accumulation_steps=2")),
    "mdpo with a balance, weighted": (
        "pairs", ("loss={name: mdpo, ada: true, token_weights: {rule: diff}}", *MADE),
    ),
}  # fmt: skip


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_train_as_one(place: Place, tmp_path: Path, strategy: str) -> None:
    lines = []
    for number, (pairs, changes) in enumerate(CASES.values()):
        assert main(place.train(tmp_path / f"one-{number}", ONE_BATCH, *changes, pairs=pairs)) == 0
        lines.append(place.train(tmp_path / str(number), HALF, *changes, pairs=pairs))
    run_together(lines, tmp_path, **(FSDP2 if strategy == "fsdp2" else {}))
    for number, name in enumerate(CASES):
        print(name)  # noqa: T201  # shown when the next line fails
        assert_same_run(tmp_path / str(number), tmp_path / f"one-{number}")
