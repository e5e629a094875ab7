"""A small drawn world and an untrained small model, made once for all integration tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from mmpref.demo.tiny_models import build_tiny_llava
from mmpref.demo.world import WorldFiles, WorldSizes, make_world

SIZES = WorldSizes(
    see_images=40,
    see_captions=40,
    see_questions=80,
    habit_images=20,
    habit_captions=20,
    habit_questions=40,
    pairs=48,
    validation=16,
    heldout=16,
    pairs_heldout=12,
)


class InfiniteGradient(torch.autograd.Function):
    """Passes a value on, and an infinite gradient back."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return gradients[0] * float("inf")


@dataclass(frozen=True)
class Place:
    """Where the shared world and model are."""

    world: WorldFiles
    model: Path

    def training(self, recipe: str, output: Path, *changes: str) -> list[str]:
        """Arguments of ``mmpref train`` for a demo recipe on this world."""
        file = self.world.pairs if recipe != "demo_see" else self.world.see
        return [
            "train",
            recipe,
            f"output={output}",
            f"model.path={self.model}",
            f"data.train={file}",
            f"data.root={self.world.root}",
            f"data.eval={self.world.pairs_heldout}",
            *changes,
        ]


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("small")
    make_world(root / "world", seed=0, sizes=SIZES)
    build_tiny_llava(root / "model", seed=0)
    return Place(WorldFiles.under(root / "world"), root / "model")
