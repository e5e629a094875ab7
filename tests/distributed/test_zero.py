"""DeepSpeed ZeRO-2 and ZeRO-3 on two CPU processes: what one process does, from the first update to the model folder.

The first run after DeepSpeed was installed builds its communication for CPUs, which takes minutes.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mmpref.cli.main import main
from mmpref.models import load
from mmpref.rundir.folder import RunDir
from tests.distributed.conftest import (
    Place,
    assert_same_run,
    logged,
    losses,
    pair_rows,
    run_together,
    torchrun,
    weights,
    zero,
)
from tests.distributed.test_going_on import cut

pytest.importorskip("deepspeed")
pytestmark = pytest.mark.distributed

FIRST_BUILD = 600  # seconds
ONE_BATCH, HALF = "train.per_device_train_batch_size=6", "train.per_device_train_batch_size=3"
LORA = ("adapter={kind: lora, rank: 4}", "tune={language: lora, projector: freeze, vision: freeze}")
CACHED = "reference.kind=cache"
ALL_PARTS = ("tune={language: full, projector: full, vision: full}", CACHED)

CASES = {
    "full, images": ("pairs", (CACHED,)),
    "full with tower, images in some rows only": ("mixed", ALL_PARTS),
    "lora, images in some rows only": ("mixed", LORA),
    "lora with a vision tower that trains": ("mixed", (LORA[0], "tune={language: lora, vision: lora}")),
    "lora beside a projector that trains whole":
        ("mixed", (LORA[0], "tune={language: lora, projector: full, vision: freeze}")),
    "pissa": ("pairs", ("adapter={kind: lora, rank: 4, init: pissa}", LORA[1])),
    "full, text": ("text", ("tune={language: full, projector: freeze, vision: freeze}", CACHED)),
    "parts of different number": ("mixed", (*ALL_PARTS, "processing.row_tokens=160")),
    "held-out pairs": ("mixed", (*LORA, "data.held_out=0.3", "train.per_device_eval_batch_size=2")),
    "plain rows, accumulated": (
        "pairs", (CACHED, "model.attention=plain", "train.gradient_accumulation_steps=2", "train.max_grad_norm=0.5"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def singles(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("one")
    for number, (pairs, changes) in enumerate(CASES.values()):
        assert main(place.train(root / str(number), ONE_BATCH, *changes, pairs=pairs)) == 0
    return root


@pytest.mark.timeout(FIRST_BUILD)
@pytest.mark.parametrize("stage", [2, 3])
def test_two_processes_train_as_one(place: Place, singles: Path, tmp_path: Path, stage: int) -> None:
    lines = [
        place.train(tmp_path / str(number), HALF, *changes, pairs=pairs)
        for number, (pairs, changes) in enumerate(CASES.values())
    ]
    run_together(lines, tmp_path, limit=FIRST_BUILD, **zero(stage))
    for number, name in enumerate(CASES):
        print(name)  # noqa: T201  # shown when the next line fails
        run, single = tmp_path / str(number), singles / str(number)
        assert_same_run(run, single)
        assert RunDir(run).manifest()["reference"] == RunDir(single).manifest()["reference"]
        for ours, alone in zip(logged(run), logged(single), strict=True):
            if "loss" in ours:
                assert ours["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-4)
    held_out = list(CASES).index("held-out pairs")
    ours, theirs = (pair_rows(root / str(held_out), "pairs_eval.parquet") for root in (tmp_path, singles))
    assert ours.keys() == theirs.keys()


COMMON = ("train.num_train_epochs=2", "train.save_steps=2", "train.save_total_limit=null")
TUNINGS = {"full": (CACHED,), "lora": LORA}


@pytest.fixture(scope="module")
def whole(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Uninterrupted runs in one process."""
    root = tmp_path_factory.mktemp("whole")
    for name, tuning in TUNINGS.items():
        assert main(place.train(root / name, ONE_BATCH, *COMMON, *tuning, pairs="mixed")) == 0
    return root


@pytest.mark.timeout(FIRST_BUILD)
@pytest.mark.parametrize("stage", [2, 3])
def test_two_processes_go_on_where_they_stopped(
    place: Place, whole: Path, tmp_path: Path, stage: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(name: str, kept: int, batch: str = HALF) -> list[str]:
        return place.train(tmp_path / f"{name}-{kept}", batch, *COMMON, *TUNINGS[name], pairs="mixed")

    runs = [(name, kept) for name in TUNINGS for kept in (6, 8)]  # the second is at its last step
    run_together([line(*run) for run in runs], tmp_path, limit=FIRST_BUILD, **zero(stage))
    for name, kept in runs:
        cut(tmp_path / f"{name}-{kept}", kept)
    run_together([[*line(*run), "--resume"] for run in runs], tmp_path, limit=FIRST_BUILD, **zero(stage))
    for name, kept in runs:
        run = tmp_path / f"{name}-{kept}"
        assert losses(run) == pytest.approx(losses(whole / name), abs=1e-6), run.name
        ours, theirs = weights(run), weights(whole / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.allclose(ours[key], theirs[key], atol=1e-4) for key in ours), run.name
    assert load(str(tmp_path / "full-6" / "model")).model.num_parameters() > 0  # a plain folder of Hugging Face

    cut(tmp_path / "lora-6", 6)
    assert main([*line("lora", 6, ONE_BATCH), "--resume"]) == 6
    told = capsys.readouterr().err
    assert f"DeepSpeed zero{stage} with 2 processes" in told
    assert f"--launch zero{stage}" in told


def test_checkpoints_of_other_ways_are_refused(place: Place, whole: Path, tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(whole / "lora", run)
    cut(run, 6)
    file = tmp_path / "lines.json"
    lines = [[*place.train(run, HALF, *COMMON, *LORA, pairs="mixed"), "--resume"]]
    file.write_text(json.dumps(lines), encoding="utf-8")
    done = torchrun(str(Path(__file__).with_name("worker.py")), str(file), limit=FIRST_BUILD, **zero(2))
    assert done.returncode
    assert "was not written by DeepSpeed" in done.stderr


@pytest.mark.timeout(FIRST_BUILD)
@pytest.mark.parametrize("stage", [2, 3])
def test_an_update_that_is_not_finite_is_left_out_by_all_and_then_ends_the_run(
    place: Place, tmp_path: Path, stage: int
) -> None:
    file, run = tmp_path / "lines.json", tmp_path / "run"
    line = place.train(run, HALF, *LORA, "train.learning_rate=1e30", "train.skip_nonfinite_steps=1", pairs="mixed")
    file.write_text(json.dumps([line]), encoding="utf-8")
    done = torchrun(str(Path(__file__).with_name("worker.py")), str(file), limit=FIRST_BUILD, **zero(stage))
    assert done.returncode
    assert "nothing was updated (1 updates were left out before)" in done.stderr
    dumps = {dump.name for dump in (run / "faults").iterdir()}
    assert dumps == {f"nonfinite-step-{step}-rank-{rank}.json" for step in (2, 3) for rank in (0, 1)}
