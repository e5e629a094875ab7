"""Positions of a prompt are those that the model itself would count."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as TYPES

from mmpref.models.load import load_model
from mmpref.processing import FAMILIES
from mmpref.processing.positions import continued, in_sequence, multimodal
from tests.model_types.registry import WRITERS
from tests.tiny_vlms import TINY, build_model

IN_PLANES = sorted(name for row in FAMILIES if row.mrope for name in row.model_types if name in TYPES)
MERGE = 2
# texts between images, and the grid of each image in merged tokens
LAYOUT = st.tuples(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 9), st.integers(1, 9)), max_size=4), st.integers(0, 12)
).filter(lambda found: found[1] or found[0])


def written(layout: tuple[list[tuple[int, int, int]], int], image_token: int) -> tuple[list[int], list[int], list[Any]]:
    """Ids, where each image begins, and the grids in patches."""
    ids: list[int] = []
    starts, grids = [], []
    for text, rows, columns in layout[0]:
        ids += [40 + i for i in range(text)]
        starts.append(len(ids))
        ids += [image_token] * (rows * columns)
        grids.append((1, rows * MERGE, columns * MERGE))
        ids.append(41)  # two images never touch: each template closes its vision part
    return [*ids, *range(50, 50 + layout[1])], starts, grids


@functools.cache
def model_of(name: str) -> Any:
    if name in TINY:
        return build_model(name)
    if name in WRITERS:
        with tempfile.TemporaryDirectory() as folder:
            return load_model(WRITERS[name](Path(folder)))
    with torch.device("meta"):  # positions follow from ids, grids and the config
        return getattr(tf, TYPES[name])._from_config(CONFIG_MAPPING[name]())


@pytest.mark.parametrize("name", IN_PLANES)
@settings(max_examples=60, deadline=None)
@given(layout=LAYOUT, answer=st.integers(1, 5))
def test_they_equal_what_transformers_counts_for_any_grids(
    name: str, layout: tuple[list[tuple[int, int, int]], int], answer: int
) -> None:
    model = model_of(name)
    assert model.config.vision_config.spatial_merge_size == MERGE
    ids, starts, grids = written(layout, model.config.image_token_id)
    whole = torch.tensor([[*ids, *range(60, 60 + answer)]])
    types = (whole == model.config.image_token_id).int()
    want, _ = model.model.get_rope_index(
        whole, mm_token_type_ids=types, image_grid_thw=torch.tensor(grids) if grids else None
    )
    prompt = multimodal(len(ids), starts, [(h // MERGE, w // MERGE) for _, h, w in grids])
    got = torch.cat([prompt, continued(prompt, answer)], dim=1)
    assert torch.equal(got, want[:, 0])


@given(length=st.integers(1, 30), first=st.integers(0, 8), second=st.integers(1, 8))
def test_a_second_answer_starts_where_the_first_one_did(length: int, first: int, second: int) -> None:
    prompt = in_sequence(length)
    assert continued(prompt, first).tolist() == list(range(length, length + first))
    assert continued(prompt, second, skip=first).tolist() == list(range(length + first, length + first + second))
    planes = multimodal(length, (), ())
    assert torch.equal(planes, prompt.expand(3, -1))
    assert torch.equal(continued(planes, second), continued(prompt, second).expand(3, -1))


def test_a_grid_that_does_not_fit_its_image_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        multimodal(9, (0,), ())
