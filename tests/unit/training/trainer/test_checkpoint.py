"""Checkpoints: complete or passed over, damage named, and the weights that train restored without exception."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mmpref.errors import CheckpointError
from mmpref.rundir.content import COMPLETE
from mmpref.training.run.start_model import model_fingerprint
from mmpref.training.trainer.checkpoint import (
    differences,
    in_order,
    load_trained,
    newest_complete,
    prune,
    save_trained,
    seal,
    verify,
)


def checkpoint(root: Path, step: int) -> Path:
    folder = root / f"step-{step}"
    (folder / "inner").mkdir(parents=True)
    (folder / "weights").write_bytes(bytes(range(256)) * 8)
    (folder / "inner" / "state").write_text(f"state {step}")
    seal(folder, {"step": step})
    return folder


def test_a_sealed_checkpoint_gives_its_facts_back(tmp_path: Path) -> None:
    assert verify(checkpoint(tmp_path, 3)) == {"step": 3}


@pytest.mark.parametrize("position", [0, 1000, 2047])
def test_one_flipped_bit_is_found_and_the_file_named(tmp_path: Path, position: int) -> None:
    folder = checkpoint(tmp_path, 1)
    content = bytearray((folder / "weights").read_bytes())
    content[position] ^= 1
    (folder / "weights").write_bytes(content)
    with pytest.raises(CheckpointError, match="weights is not what was written"):
        verify(folder)


def test_a_file_cut_short_and_a_missing_file_are_named(tmp_path: Path) -> None:
    cut, missing = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    (cut / "weights").write_bytes(b"12")
    (missing / "inner" / "state").unlink()
    with pytest.raises(CheckpointError, match="weights has 2 bytes, and 2048 were written"):
        verify(cut)
    with pytest.raises(CheckpointError, match="inner/state is missing"):
        verify(missing)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"files": {"a": {}}, "facts": {}}', '{"files": 3, "facts": {}}'])
def test_a_damaged_manifest_is_a_checkpoint_error(tmp_path: Path, content: str) -> None:
    folder = checkpoint(tmp_path, 1)
    (folder / COMPLETE).write_text(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        verify(folder)


def test_the_newest_whole_one_is_taken_and_newer_damaged_ones_are_named(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        checkpoint(tmp_path, step)
    (tmp_path / "step-10" / COMPLETE).unlink()
    (tmp_path / "step-abc").mkdir()
    found, skipped = newest_complete(tmp_path)
    assert found == tmp_path / "step-9"
    assert len(skipped) == 1
    assert "step-10 is not complete" in skipped[0]


def test_without_any_checkpoint_there_is_none_to_take(tmp_path: Path) -> None:
    assert newest_complete(tmp_path / "nowhere") == (None, [])


def test_pruning_keeps_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint(tmp_path, step)
    prune(tmp_path, 2, newest=3)
    assert [folder.name for folder in in_order(tmp_path)] == ["step-2", "step-3"]


def test_differences_name_what_changed_what_came_and_what_went() -> None:
    found = differences({"seed": 1, "gone": 2, "same": 3}, {"seed": 4, "new": 5, "same": 3})
    assert found == ["gone: 2 then, None now", "new: None then, 5 now", "seed: 1 then, 4 now"]


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].weight.requires_grad_(False)
    return model


def test_what_trains_is_restored_and_what_is_frozen_is_left_alone(tmp_path: Path) -> None:
    saved, other = net(0), net(1)
    frozen = other[0].weight.clone()
    save_trained(saved, tmp_path / "w.safetensors")
    load_trained(other, tmp_path / "w.safetensors")
    assert torch.equal(other[1].weight, saved[1].weight)
    assert torch.equal(other[0].weight, frozen)


def test_other_trained_parts_or_shapes_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_trained(net(0), file)
    more = net(0)
    more[0].weight.requires_grad_(True)
    with pytest.raises(CheckpointError, match=r"1 missing \['0\.weight'\]"):
        load_trained(more, file)
    wider = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    wider[0].weight.requires_grad_(False)
    with pytest.raises(CheckpointError, match=r"1\.weight is \(2, 4\), want \(3, 4\)"):
        load_trained(wider, file)


def test_a_truncated_weights_file_is_a_checkpoint_error(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    save_trained(net(0), file)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_trained(net(0), file)


def test_a_start_model_with_other_weights_has_another_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"a" * 5000)
    (tmp_path / "config.json").write_text("{}")
    before = model_fingerprint(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"a" * 4999 + b"b")
    after = model_fingerprint(str(tmp_path))
    assert before["config.json"] == after["config.json"]
    assert before["model.safetensors"] != after["model.safetensors"]
