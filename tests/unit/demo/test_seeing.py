"""The seeing stage: it learns, it touches nothing but tower and projector, and it refuses to hand on a blind model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mmpref.demo.scenes import CELL, COLOURS, GRID, KINDS, load_scenes
from mmpref.demo.seeing import Cells, SeeingResult, Words, learn_to_see, project, read_cells
from mmpref.demo.world import WorldFiles, draw_scene
from mmpref.errors import EvalIncompleteError
from mmpref.models.load import load


def test_cells_hold_the_truth_of_the_scenes(small_world: WorldFiles, untrained: Path) -> None:
    scenes = list(load_scenes(small_world.scenes).values())[:5]
    cells = Cells(scenes, load(untrained).processor)
    assert cells.pixels.shape == (5, 3, 72, 72)
    for row, scene in enumerate(scenes):
        there = {thing.cell: (KINDS.index(thing.kind), list(COLOURS).index(thing.colour)) for thing in scene.things}
        for cell in range(GRID * GRID):
            expected = there.get(cell, (len(KINDS), len(COLOURS)))
            assert (cells.kinds[row, cell].item(), cells.colours[row, cell].item()) == expected


def test_patches_of_a_cell_lie_together_where_a_processor_cuts_images_up(
    small_world: WorldFiles, untrained_qwen: Path
) -> None:
    """The four patches of image token c are what is drawn in cell c: else tokens would learn the words of others."""
    scene = next(iter(load_scenes(small_world.scenes).values()))
    cells = Cells([scene], load(untrained_qwen).processor)
    assert cells.pixels.shape == (1, 4 * GRID * GRID, 3 * 2 * 12 * 12)
    assert cells.grids is not None
    assert cells.grids.tolist() == [[1, 6, 6]]
    image = torch.from_numpy(np.array(draw_scene(scene))).float() / 127.5 - 1
    for cell in range(GRID * GRID):
        top, left = cell // GRID * CELL, cell % GRID * CELL
        drawn = image[top : top + CELL, left : left + CELL].mean((0, 1))
        patches = cells.pixels[0, 4 * cell : 4 * cell + 4].unflatten(1, (3, -1))  # [4, colours, numbers]
        torch.testing.assert_close(patches.mean((0, 2)), drawn, atol=1e-4, rtol=0)


def test_reading_counts_things_and_empty_cells_apart(
    small_world: WorldFiles, untrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patches that equal the meant words are read rightly; with the reds turned blue only the red things are wrong."""
    loaded = load(untrained)
    cells = Cells(list(load_scenes(small_world.scenes).values())[:20], loaded.processor)
    words = Words(loaded.model, loaded.processor.tokenizer)
    red, blue = (list(COLOURS).index(name) for name in ("red", "blue"))
    told: dict[str, torch.Tensor] = {}
    monkeypatch.setattr("mmpref.demo.seeing.project", lambda model, *images: told["patches"])
    told["patches"] = words.of(cells.kinds, cells.colours)
    assert read_cells(loaded.model, cells, words, steps=7) == SeeingResult(steps=7, things=1.0, empty=1.0)
    told["patches"] = words.of(cells.kinds, torch.where(cells.colours == red, blue, cells.colours))
    things = cells.kinds < len(KINDS)
    result = read_cells(loaded.model, cells, words, steps=7)
    assert result.things == pytest.approx(1 - ((cells.colours == red) & things).sum().item() / things.sum().item())
    assert result.empty == 1.0


@pytest.mark.parametrize("name", ["untrained", "untrained_qwen"])
def test_it_learns_and_leaves_the_language_model_alone(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    small_world: WorldFiles,
    name: str,
    tmp_path: Path,
) -> None:
    """A low gate is reached in a few steps; the written model reads as well as the result says."""
    untrained: Path = request.getfixturevalue(name)
    monkeypatch.setattr("mmpref.demo.seeing.BATCH", 16)
    calls: list[tuple[int, int, Mapping[str, float] | None]] = []
    result = learn_to_see(
        untrained,
        small_world.root,
        tmp_path / "seeing",
        seed=0,
        gate=0.1,
        max_steps=100,
        progress=lambda done, total, numbers: calls.append((done, total, numbers)),
    )
    assert result.steps in (50, 100)
    assert min(result.things, result.empty) >= 0.1
    assert [call[0] for call in calls] == list(range(1, result.steps + 1))
    assert calls[-1][1:] == (100, {"things": result.things, "empty": result.empty})
    before, after = (load_file(folder / "model.safetensors") for folder in (untrained, tmp_path / "seeing"))
    assert before.keys() == after.keys()
    for name in before:
        may_change = "vision_tower" in name or "multi_modal_projector" in name or "visual." in name
        assert may_change or torch.equal(before[name], after[name]), name
    assert any(not torch.equal(before[name], after[name]) for name in before)
    again = load(tmp_path / "seeing")
    validation = [scene for scene in load_scenes(small_world.scenes).values() if scene.split == "validation"]
    words = Words(again.model, again.processor.tokenizer)
    cells = Cells(validation, again.processor)
    assert read_cells(again.model, cells, words, steps=result.steps) == result
    grids = None if cells.grids is None else cells.grids[:2]
    assert project(again.model, cells.pixels[:2], grids).shape == (2, GRID * GRID, 128)


def test_a_blind_model_is_not_handed_on(small_world: WorldFiles, untrained: Path, tmp_path: Path) -> None:
    with pytest.raises(EvalIncompleteError, match=r"did not learn to see in 2 steps: .* of things .* 97% of both"):
        learn_to_see(untrained, small_world.root, tmp_path / "seeing", seed=0, max_steps=2)
    assert not (tmp_path / "seeing").exists()
