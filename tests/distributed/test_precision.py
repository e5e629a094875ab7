"""Where weights are divided, what trains is float32 as in one process, and swallowed updates are measured in parts."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmpref.demo.tiny_models import build_tiny_llava
from mmpref.models import LoadSettings, load_model
from mmpref.rundir.folder import RunDir
from tests.distributed.conftest import FSDP2, Place, pair_rows, run_together, weights, zero

pytestmark = pytest.mark.distributed
SLOW = ("train.learning_rate=6e-6", "train.lr_scheduler_type=constant", "train.max_steps=4",
        "train.per_device_train_batch_size=2", "tune={projector: full, language: full}")  # fmt: skip


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("half") / "model"
    build_tiny_llava(folder, seed=0)
    load_model(folder, LoadSettings(dtype="bfloat16")).save_pretrained(folder)
    return folder


def changed(half: Path, run: Path) -> float:
    start, end = load_file(half / "model.safetensors"), weights(run)
    names = [name for name in start if "vision" not in name]
    return sum(int((end[name].float() != start[name].float()).sum()) for name in names) / sum(
        start[name].numel() for name in names
    )


def test_fsdp2_updates_in_float32_and_measures_half_precision_that_was_asked_for(
    place: Place, half: Path, tmp_path: Path
) -> None:
    ways = {
        "autocast": ("model.dtype=auto", "train.bf16=true"),
        "plain": ("model.dtype=auto",),
        "half": ("model.dtype=bfloat16",),
    }
    lines = [place.train(tmp_path / name, f"model.path={half}", *SLOW, *more) for name, more in ways.items()]
    run_together(lines, tmp_path, **FSDP2)
    for name in ("autocast", "plain"):
        assert changed(half, tmp_path / name) > 0.8
        assert {value.dtype for value in weights(tmp_path / name).values()} == {torch.float32}
        assert RunDir(tmp_path / name).manifest()["updates_swallowed"] is None
        rows = pair_rows(tmp_path / name)
        assert {row["rewards/margins"] for (step, _), row in rows.items() if step == 1} == {0.0}
    assert RunDir(tmp_path / "half").manifest()["updates_swallowed"] > 0.9
    assert changed(half, tmp_path / "half") < 0.1


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed")
def test_zero_keeps_its_own_float32_copy_and_its_reference_says_the_same(
    place: Place, half: Path, tmp_path: Path
) -> None:
    more = ("model.dtype=auto", "train.bf16=true")
    done = run_together([place.train(tmp_path / "run", f"model.path={half}", *SLOW, *more)], tmp_path, **zero(2))
    assert "DeepSpeed keeps a float32 copy of what trains" in " ".join(done.stdout.split())
    assert RunDir(tmp_path / "run").manifest()["updates_swallowed"] is None
    rows = pair_rows(tmp_path / "run")
    assert {row["rewards/margins"] for (step, _), row in rows.items() if step == 1} == {0.0}
