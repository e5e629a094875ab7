"""A training step never waits for the device: found without one (``tests.pretend_device``), line by line.

``tests/gpu`` asks the same of a real GPU. A wait costs more than its time: the device has nothing to do until the host
is back in front of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tiers import corners

pytestmark = pytest.mark.timeout(900)  # one process runs all cases, for the first test that asks
pytest.importorskip("torch.utils.backend_registration", reason="this torch has no device written in Python")

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = ("llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "text")
STEPS = (
    *(f"{name}, {layout}" for name in FAMILIES for layout in ("shared_prefix", "plain")),
    "llava, projector and language train",
    "qwen3_vl, projector and language train",
    "qwen2_5_vl, tower trains, checkpointed",
    "qwen2_vl, images and videos",
    "qwen2_5_vl, images and videos",
    "qwen3_vl, videos",
    "qwen3_vl, bfloat16",
)
UPDATES = tuple(f"trainer, {name}, {kind}" for name in ("llava", "qwen2_5_vl") for kind in ("live", "cached"))
OTHERS = ("planted", "stock llava", "stock qwen3_vl")
QUICK = ("llava, shared_prefix", "qwen2_5_vl, tower trains, checkpointed", "qwen2_5_vl, images and videos")


@pytest.fixture(scope="module")
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of the cases that are asked for; in a process of its own, because a device cannot be taken back."""
    out = tmp_path_factory.mktemp("waits") / "waits.json"
    own = [item for item in request.session.items if item.path == request.path]
    asked = {item.callspec.params["case"] for item in own if hasattr(item, "callspec")}
    command = [sys.executable, "-m", "tests.pretend_steps", str(out), *OTHERS, *sorted(asked)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    written: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return written


@pytest.fixture(scope="module")
def waits(found: dict[str, Any]) -> dict[str, list[str]]:
    """Case -> what waited."""
    written: dict[str, list[str]] = found["waits"]
    return written


@pytest.mark.parametrize("case", corners(STEPS, *QUICK))
def test_a_step_waits_for_nothing(case: str, waits: dict[str, list[str]]) -> None:
    """Live reference (adapter off, or a frozen copy), four objectives, backward, clipping, fused AdamW."""
    assert waits[case] == []


@pytest.mark.parametrize("case", corners(UPDATES, "trainer, llava, cached", "trainer, qwen2_5_vl, live"))
def test_an_update_of_the_trainer_waits_for_nothing(case: str, waits: dict[str, list[str]]) -> None:
    assert waits[case] == []


def test_every_case_is_looked_at(found: dict[str, Any]) -> None:
    assert set(found["known"]) == {*STEPS, *UPDATES, *OTHERS}


def test_whatever_waits_is_found(waits: dict[str, list[str]]) -> None:
    report = "\n".join(waits["planted"])
    for what in ("_local_scalar_dense", "boolean index", "nonzero", "copy from the device", "masked_scatter_backward",
                 "copy of pageable memory to the device", "blocking copy to the device"):  # fmt: skip
        assert what in report, what
    assert "tests/pretend_steps.py" in report


def test_the_models_own_ways_would_wait(waits: dict[str, list[str]]) -> None:
    """What is given to the models is the reason that nothing waits."""
    assert any("modeling_llava.py" in line for line in waits["stock llava"])
    report = "\n".join(waits["stock qwen3_vl"])
    for what in ("vision_utils.py", "split_sizes", "visual_pos_masks, :", "Image features and"):
        assert what in report, what
