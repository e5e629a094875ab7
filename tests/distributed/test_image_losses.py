"""Losses that look at another image, weigh tokens or have constants of the update: two processes train as one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpref.cli.main import main
from mmpref.rundir.folder import RunDir
from mmpref.training.trainer.pair_log import read_pair_log
from tests.distributed.conftest import FSDP2, Place, assert_same_run, run_together
from tests.tiers import corners

pytestmark = pytest.mark.distributed
LORA = ("adapter={kind: lora, rank: 4}", "tune={language: lora, projector: freeze, vision: freeze}")
ONE_BATCH, HALF = "train.per_device_train_batch_size=6", "train.per_device_train_batch_size=3"
MADE = ("data.other_image=made",)

# name -> (file of pairs, what differs from the demo's recipe)
CASES = {
    "mdpo, images in some rows only": ("mixed", (*LORA, "loss={name: mdpo}", *MADE)),
    "dpo, what images are worth to held-out pairs, some of the log": (
        "mixed", (*LORA, "data.held_out=0.3", "train.eval_image_lift=noise", "train.pair_log=0.5",
                  "train.per_device_eval_batch_size=2"),
    ),
    "mpo, accumulated": ("pairs", ("loss={name: mpo}", "train.gradient_accumulation_steps=2")),
    "mdpo with a balance, weighted": (
        "pairs", ("loss={name: mdpo, ada: true, token_weights: {rule: diff}}", *MADE),
    ),
}  # fmt: skip


@pytest.mark.parametrize("strategy", corners(["ddp", "fsdp2"], "fsdp2"))
def test_two_processes_train_as_one(place: Place, tmp_path: Path, strategy: str) -> None:
    lines = []
    for number, (pairs, changes) in enumerate(CASES.values()):
        assert main(place.train(tmp_path / f"one-{number}", ONE_BATCH, *changes, pairs=pairs)) == 0
        lines.append(place.train(tmp_path / str(number), HALF, *changes, pairs=pairs))
    run_together(lines, tmp_path, **(FSDP2 if strategy == "fsdp2" else {}))
    for number, name in enumerate(CASES):
        print(name)  # noqa: T201  # shown when the next line fails
        assert_same_run(tmp_path / str(number), tmp_path / f"one-{number}")
        assert_same_lifts(tmp_path / str(number), tmp_path / f"one-{number}")


def assert_same_lifts(one: Path, other: Path) -> None:
    """Every held-out pair has the same, and those without an image none, in both evaluations."""
    file = RunDir(other).eval_pairs_file
    if not file.is_file():
        return
    found = []
    for log in map(read_pair_log, (RunDir(one).eval_pairs_file, file)):
        rows = zip(log["step"], log["pair_id"], log["lift/chosen"], log["lift/rejected"], strict=True)
        found.append({(step, name): lifts for step, name, *lifts in rows})
    assert found[0].keys() == found[1].keys()
    for key, lifts in found[0].items():
        assert lifts == pytest.approx(found[1][key], abs=1e-4), key
    assert {None in lifts for lifts in found[0].values()} == {True, False}
