"""Losses that look at the image, through ``mmpref train``: whatever does not change a plain run changes none of these.

A resumed run is the undisturbed one to the bit, eight pairs at once are one pair eight times, a cached reference is the
live one, and pairs of a prompt may travel together.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmpref.cli.main import main
from mmpref.rundir.folder import RunDir
from mmpref.training.trainer.pair_log import read_pair_log
from tests.integration.conftest import Place

pytestmark = pytest.mark.slow
MADE = ("data.other_image=made", "processing.other_image={kind: crop}")
CASES = {
    "mdpo": ("loss={name: mdpo}", *MADE),
    "mdpo, noise, detached, own weight": (
        "loss={name: mdpo, uni: {tau_good: 2.5, nll_margin: 0.01}, image: {uni: own, detach: true}}",
        "data.other_image=made", "processing.other_image={kind: noise}",
    ),
    "mdpo, uni": ("loss={name: mdpo, uni: {tau_good: 2.5, nll_margin: 0.01}}", *MADE),
    "mdpo, ada": ("loss={name: mdpo, ada: true}", *MADE),
    "chip": ("loss={name: chip, token_weights: {rule: diff}}", *MADE),
    "ddpo": ("loss={name: ddpo}",),
    "mpo": ("loss={name: mpo}",),
    "random rows, masked": ("loss={name: mdpo}", "data.other_image=random_row"),
}  # fmt: skip
QUICK = (
    "train.per_device_train_batch_size=8", "train.learning_rate=1e-3", "train.warmup_steps=0", "train.logging_steps=1",
    "train.max_steps=4", "data.eval=[]",
)  # fmt: skip
BY_ONE = ("train.per_device_train_batch_size=1", "train.gradient_accumulation_steps=8")


def trained(place: Place, run: Path, *changes: str) -> Path:
    assert main(place.training("demo_dpo", run, *QUICK, *changes)) == 0
    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(RunDir(run).model / "model.safetensors")


def lines(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in found if "loss" in line and "train_runtime" not in line]


def assert_alike(one: Path, other: Path, *, apart: float = 1e-4, of_weights: float = 2e-3) -> None:
    """The same lines, the same statistics pair by pair, and the same weights, to rounding."""
    for mine, its in zip(lines(one), lines(other), strict=True):
        assert mine["loss"] == pytest.approx(its["loss"], rel=apart, abs=apart)
    ours, theirs = (read_pair_log(RunDir(run).pairs_file) for run in (one, other))
    assert ours.keys() == theirs.keys()
    by_pair = [
        {(row["step"], row["pair_id"]): row for row in (dict(zip(log, values, strict=True)) for values in columns)}
        for log, columns in ((log, zip(*log.values(), strict=True)) for log in (ours, theirs))
    ]
    assert by_pair[0].keys() == by_pair[1].keys()
    for key, row in by_pair[0].items():
        for name, value in row.items():
            if name.startswith(("rewards/", "image/", "weights/", "anchor/", "loss/", "logps/")) and value is not None:
                if name.endswith(("accuracies", "helps", "below")):  # a sign may turn with the last digit
                    continue
                assert value == pytest.approx(by_pair[1][key][name], rel=1e-3, abs=1e-3), (key, name)
    mine, its = weights(one), weights(other)
    for name, value in mine.items():
        torch.testing.assert_close(value, its[name], atol=of_weights, rtol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_nothing_that_leaves_a_plain_run_as_it_is_changes_one_with_an_image_loss(
    place: Place, tmp_path: Path, name: str
) -> None:
    changes = CASES[name]
    whole = trained(place, tmp_path / "whole", *changes)
    assert all(math.isfinite(line["loss"]) for line in lines(whole))

    half = ("train.save_steps=2", "train.save_total_limit=null", *changes)
    again = trained(place, tmp_path / "again", *half)
    (again / "pairs.parquet").unlink()
    shutil.rmtree(again / "checkpoints" / "step-4", ignore_errors=True)
    RunDir(again).set_state("running")
    assert main([*place.training("demo_dpo", again, *QUICK, *half), "--resume"]) == 0
    assert all(torch.equal(value, weights(whole)[key]) for key, value in weights(again).items())
    first, second = (read_pair_log(RunDir(run).pairs_file) for run in (whole, again))
    assert first == second

    assert_alike(whole, trained(place, tmp_path / "by one", *changes, *BY_ONE))
    assert_alike(whole, trained(place, tmp_path / "plain", *changes, "model.attention=plain"))
    assert_alike(whole, trained(place, tmp_path / "cached", *changes, "reference.kind=cache"))


def test_pairs_of_a_prompt_may_travel_together(place: Place, tmp_path: Path) -> None:
    """With all pairs in one update both orders are the same update."""
    every = ("train.per_device_train_batch_size=48", "train.max_steps=2", "loss={name: mdpo}", *MADE)
    off = trained(place, tmp_path / "off", *every)
    together = trained(place, tmp_path / "together", *every, "train.group_pairs=prompt")
    assert_alike(off, together)


def test_qlora_learns_to_tell_the_images_apart(place: Place, tmp_path: Path) -> None:
    few = tmp_path / "pairs.jsonl"
    few.write_text("\n".join(place.world.pairs.read_text(encoding="utf-8").splitlines()[:8]) + "\n", encoding="utf-8")
    changes = (f"data.train={few}", "adapter={kind: qlora, rank: 8, alpha: 16}", "tune={language: lora}")
    steps = ("train.max_steps=8", "train.learning_rate=1e-2", "train.gradient_checkpointing=true")
    run = trained(place, tmp_path / "run", "loss={name: mdpo}", *MADE, *changes, *steps)
    margins = [line["image/margin"] for line in lines(run)]
    assert margins[0] == 0.0
    assert margins[-1] > 0.05
