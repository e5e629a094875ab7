"""One small world and one untrained model for all tests of the demo."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpref.demo.tiny_models import build_tiny_llava
from mmpref.demo.tiny_qwen2_vl import build_tiny_qwen2_vl
from mmpref.demo.world import WorldFiles, WorldSizes, make_world

SMALL = WorldSizes(
    see_images=60,
    see_captions=60,
    see_questions=120,
    see_inventories=60,
    habit_images=40,
    habit_captions=40,
    habit_questions=80,
    pairs=400,
    validation=40,
    heldout=60,
    pairs_heldout=30,
)


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> WorldFiles:
    return make_world(tmp_path_factory.mktemp("world"), seed=3, sizes=SMALL)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "untrained"
    build_tiny_llava(folder, seed=3)
    return folder


@pytest.fixture(scope="session")
def untrained_qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "untrained_qwen2_vl"
    build_tiny_qwen2_vl(folder, seed=3)
    return folder
