"""HunYuan-VL's positions: a row of a batch is counted as if it were alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mmpref.models import load
from tests.model_types.folders import NotBuiltError
from tests.model_types.grids import write_hunyuan
from tests.plain_forward import collator_for
from tests.tiny_vlms import pair


def test_the_images_of_a_row_are_numbered_from_its_own_first(tmp_path: Path) -> None:
    try:
        loaded = load(write_hunyuan(tmp_path / "model"))
    except NotBuiltError as err:
        pytest.skip(str(err))
    batch = collator_for(loaded, "plain")([pair("two", images=("64x32-1", "32x64-2")), pair("one", chosen="a cat")])
    inner: Any = loaded.model.model
    inputs = {
        "input_ids": batch.input_ids,
        "mm_token_type_ids": batch.token_types["mm_token_type_ids"],
        "image_grid_thw": batch.vision["image_grid_thw"],
        "attention_mask": batch.attention_mask,
    }
    stock = type(inner).get_rope_index
    together, ahead = inner.get_rope_index(**inputs)
    assert not torch.equal(together, stock(inner, **inputs)[0])  # else there is nothing to mend any more
    images = [2, 1, 2, 1]  # chosen answers first
    grids = batch.vision["image_grid_thw"].split(images)
    for row, grid in enumerate(grids):
        one = {name: value[row : row + 1] for name, value in inputs.items() if value is not None}
        alone, own = stock(inner, **{**one, "image_grid_thw": grid})
        assert torch.equal(together[:, row : row + 1], alone)
        assert torch.equal(ahead[row : row + 1], own)
