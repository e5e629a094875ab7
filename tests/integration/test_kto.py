"""Training on single answers from the command line, end to end."""

from __future__ import annotations

import json
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
SHORT = (
    "train.max_steps=3", "train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=2",
    "train.logging_steps=1", "train.save_steps=1", "train.save_total_limit=null", "train.learning_rate=1e-3",
)  # fmt: skip


@pytest.fixture(scope="module")
def rows(place: Place) -> Path:
    """Pairs, and more labelled answers that are desirable than others: so the estimate is not 0."""
    found = [json.loads(line) for line in place.world.pairs.read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(found):
        if number % 4:
            row["label"] = number % 7 != 0
            for name in ("rejected", "score_chosen", "score_rejected"):
                row.pop(name, None)
    file = place.world.pairs.with_name("labelled.jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return file


def command(place: Place, rows: Path, output: Path, *changes: str) -> list[str]:
    return [*place.training("demo_dpo", output, "loss.name=kto", *SHORT, *changes), f"data.train={rows}"]


@pytest.fixture(scope="module")
def run(place: Place, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("kto") / "run"
    assert main(command(place, rows, output)) == 0
    return output


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in RunDir(run).metrics_file.read_text(encoding="utf-8").splitlines()]


def largest_difference(one: Path, other: Path) -> float:
    first, second = (load_file(RunDir(run).model / "model.safetensors") for run in (one, other))
    return max(float((value - second[name]).abs().max()) for name, value in first.items())


def test_answers_train_and_their_counts_and_statistics_are_told(
    place: Place, rows: Path, run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = RunDir(run).path.joinpath("train.log").read_text(encoding="utf-8")
    # 12 pairs are 24 answers; of 36 labelled ones every seventh row is undesirable
    assert "single answers: 43 desirable, 17 undesirable" in told
    assert "write `loss.kto.undesirable_weight=2.53`" in told
    trained = [line for line in lines(run) if "loss" in line]
    assert trained[0]["kto/kl"] == pytest.approx(0.0, abs=1e-5)
    assert trained[-1]["kto/kl"] > 0.01
    evaluated = [line for line in lines(run) if "eval_loss" in line]
    assert evaluated[0]["eval_kto/kl"] == 0
    assert evaluated[-1]["eval_kto/kl"] > 0
    ids = set(read_pair_log(RunDir(run).pairs_file)["pair_id"])
    assert len(ids) == 24
    assert any(name.endswith("/chosen") for name in ids)
    assert any(not name.endswith(("/chosen", "/rejected")) for name in ids)
    page = tmp_path / "page.html"
    assert main(["report", str(run), "--out", str(page)]) == 0
    assert "kto" in page.read_text(encoding="utf-8")
    # the advice is a key that a run takes, and it is followed by no more advice
    capfd.readouterr()
    advised = command(place, rows, tmp_path / "advised", "loss.kto.undesirable_weight=2.53", "train.max_steps=1")
    assert main(advised) == 0
    out = capfd.readouterr().out
    assert "with their weights 1 : 1" in out
    assert "is advised" not in out


def test_a_resumed_run_ends_with_the_same_bits(place: Place, rows: Path, run: Path, tmp_path: Path) -> None:
    again = tmp_path / "run"
    assert main(command(place, rows, again)) == 0
    assert largest_difference(again, run) == 0
    for folder in (again / "checkpoints" / "step-2", again / "checkpoints" / "step-3", again / "model"):
        shutil.rmtree(folder)
    (again / "pairs.parquet").unlink()
    RunDir(again).set_state("running")
    assert main([*command(place, rows, again), "--resume"]) == 0
    assert largest_difference(again, run) == 0


def test_a_cached_reference_and_other_ways_to_run_give_the_same(
    place: Place, rows: Path, run: Path, tmp_path: Path
) -> None:
    ways = {"cached": ["reference.kind=cache"], "parts": ["processing.row_tokens=90"]}
    for way, changes in ways.items():
        assert main(command(place, rows, tmp_path / way, *changes)) == 0
        for mine, his in zip(lines(tmp_path / way), lines(run), strict=True):
            for name in {"loss", "kto/kl", "eval_loss", "eval_kto/kl"} & his.keys():
                assert mine[name] == pytest.approx(his[name], rel=1e-3, abs=1e-4), (way, name)
        torch.testing.assert_close(largest_difference(tmp_path / way, run), 0.0, atol=2e-3, rtol=0)


def test_answers_of_a_prompt_travel_together(place: Place, rows: Path, tmp_path: Path) -> None:
    assert main(command(place, rows, tmp_path / "run", "train.group_pairs=prompt")) == 0
    steps = read_pair_log(RunDir(tmp_path / "run").pairs_file)
    at = dict(zip(steps["pair_id"], steps["step"], strict=True))
    both = [name.removesuffix("/chosen") for name in at if name.endswith("/chosen")]
    assert both
    assert all(at[f"{name}/chosen"] == at[f"{name}/rejected"] for name in both)
