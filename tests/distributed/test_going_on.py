"""A checkpoint of one way of training is gone on from in another: the same order of pairs, the same weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from mmpref.cli.main import main
from mmpref.training.trainer.checkpoint import in_order
from tests.distributed.conftest import FSDP2, Place, losses, run_together, torchrun, weights
from tests.tiers import corners

pytestmark = pytest.mark.distributed
COMMON = ("train.num_train_epochs=2", "train.save_steps=2", "train.save_total_limit=null")
LORA = ("adapter={kind: lora, rank: 4}", "tune={language: lora, projector: freeze, vision: freeze}")
TUNINGS = {"full": (), "lora": LORA}
ALONE, HALF = "train.per_device_train_batch_size=6", "train.per_device_train_batch_size=3"


@pytest.fixture(scope="module")
def whole(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Uninterrupted runs in one process."""
    root = tmp_path_factory.mktemp("whole")
    for name, tuning in TUNINGS.items():
        assert main(place.train(root / name, ALONE, *COMMON, *tuning, pairs="mixed")) == 0
    return root


def cut(run: Path, kept: int) -> None:
    """As if the run had been killed after the checkpoint of step ``kept``."""
    shutil.rmtree(run / "model")
    for folder in in_order(run / "checkpoints"):
        if int(folder.name.removeprefix("step-")) > kept:
            shutil.rmtree(folder)
    manifest = run / "manifest.json"
    manifest.write_text(manifest.read_text(encoding="utf-8").replace('"complete"', '"running"'), encoding="utf-8")


@pytest.mark.parametrize("first", corners(["ddp", "fsdp2"], "fsdp2"))
def test_two_processes_go_on_where_they_stopped_and_so_does_one_alone(
    place: Place, whole: Path, tmp_path: Path, first: str
) -> None:
    env = FSDP2 if first == "fsdp2" else {}
    names = [(name, after) for name in TUNINGS for after in ("together", "alone", "otherwise")]

    def line(name: str, after: str, batch: str) -> list[str]:
        return place.train(tmp_path / f"{name}-{after}", batch, *COMMON, *TUNINGS[name], pairs="mixed")

    run_together([line(name, "together", HALF) for name in TUNINGS], tmp_path, **env)
    for name in TUNINGS:
        cut(tmp_path / f"{name}-together", kept=6)
        for after in ("alone", "otherwise"):
            shutil.copytree(tmp_path / f"{name}-together", tmp_path / f"{name}-{after}")
    run_together([[*line(name, "together", HALF), "--resume"] for name in TUNINGS], tmp_path, **env)
    other = {} if first == "fsdp2" else FSDP2
    run_together([[*line(name, "otherwise", HALF), "--resume"] for name in TUNINGS], tmp_path, **other)
    for name in TUNINGS:
        assert main([*line(name, "alone", ALONE), "--resume"]) == 0
    for name, after in names:
        run = tmp_path / f"{name}-{after}"
        assert losses(run) == pytest.approx(losses(whole / name), abs=1e-6), run.name
        ours, theirs = weights(run), weights(whole / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.allclose(ours[key], theirs[key], atol=1e-4) for key in ours), run.name


def test_an_update_of_other_pairs_is_refused(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(place.train(run, ALONE, *COMMON, *LORA)) == 0
    cut(run, kept=2)
    assert main([*place.train(run, HALF, *COMMON, *LORA), "--resume"]) == 6
    assert "train.pairs_per_update: 6 then, 3 now" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_refuse_other_pairs_together_and_go_on_where_it_is_allowed(place: Place, tmp_path: Path) -> None:
    world = tmp_path / "world"
    shutil.copytree(place.root, world)
    there = Place(world, place.model)
    line = there.train(tmp_path / "run", HALF, *COMMON, *LORA, "data.max_bad_fraction=0.5")
    run_together([line], tmp_path)
    cut(tmp_path / "run", kept=6)
    row = json.loads((world / "pairs.jsonl").read_text(encoding="utf-8").splitlines()[3])
    (world / row["images"][0]).unlink()
    refused = torchrun("-m", "mmpref", *line, "--resume")
    assert refused.returncode != 0
    told = " ".join(refused.stderr.split())
    assert "the pairs that train are not those of" in told
    assert "'23 pairs, " in told
    assert "resume.py" not in told  # a message and no traceback of ours; the launcher has one
    allowed = torchrun("-m", "mmpref", *line, "--resume", "--allow-data-change")
    assert allowed.returncode == 0, allowed.stderr[-3000:]
    assert "in the epoch under way some pairs train twice and others not at all" in " ".join(allowed.stdout.split())
