"""Images reach a tower in its own dtype."""

from __future__ import annotations

import pytest
import torch

from mmpref.models.parts import with_parts
from mmpref.models.tower_inputs import take_any_dtype
from tests.tiny_others import bare


@pytest.mark.parametrize("model_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("image_dtype", [torch.float32, torch.bfloat16])
def test_a_tower_that_does_not_cast_takes_images_of_any_dtype(
    model_dtype: torch.dtype, image_dtype: torch.dtype
) -> None:
    loaded = bare("llama4")
    tower = loaded.model.get_submodule("vision_model")
    for parameter in tower.parameters():  # not all of it: its rotary positions are complex numbers
        parameter.data = parameter.data.to(model_dtype)
    pixels = torch.rand(1, 3, 28, 28).to(image_dtype)
    if model_dtype != image_dtype:
        with pytest.raises(RuntimeError, match=r"expected scalar type|same dtype"):
            tower(pixels)
    take_any_dtype(loaded.model, with_parts(loaded.family, loaded.model))
    found = tower(pixels).last_hidden_state
    assert found.dtype == model_dtype
    assert torch.equal(found, tower(pixel_values=pixels.to(model_dtype)).last_hidden_state)
