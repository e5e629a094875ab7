"""What a resumed run must have in common with its checkpoint: a preset counts by what it means, not by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmpref.config import build_recipe
from mmpref.training.resume import facts_of


def facts(tmp_path: Path, loss: dict) -> dict:
    model = tmp_path / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text("{}")
    tree = {"output": "out", "model": {"path": str(model)}, "data": {"train": "p.jsonl"}, "loss": loss,
            "train": {"learning_rate": 1e-6}}  # fmt: skip
    return facts_of(build_recipe(tree, where="test"), ["hash"])


def test_a_balance_counts_by_the_keys_it_resolves_to(tmp_path: Path) -> None:
    """A checkpoint of before, whose `adadpo` was another loss, has none of these facts and is refused."""
    named = facts(tmp_path, {"name": "adadpo"})
    assert named["loss.ada.share"] == 1.0
    assert named["loss.ada.clip"] == 2.0
    assert named["loss.ada.use_reference"] is True
    written = facts(tmp_path, {"name": "adadpo", "ada": {"share": 1.0}})
    assert written == named
    split = facts(tmp_path, {"name": "adadpo_split"})
    changed = {key for key in named if named[key] != split[key]}
    assert changed == {"loss.name", "loss.ada.share", "loss.ada.use_reference", "loss.ada.clip", "loss.ada.clip_mode"}


@pytest.mark.parametrize("loss", [{"name": "dpo"}, {"name": "uni_dpo", "uni": {"tau_good": 2.5}}], ids=str)
def test_without_a_balance_the_facts_are_what_was_written(tmp_path: Path, loss: dict) -> None:
    got = facts(tmp_path, loss)
    assert got["loss.ada"] is None
    assert got["loss.name"] == loss["name"]
    assert got["loss.beta"] is None
