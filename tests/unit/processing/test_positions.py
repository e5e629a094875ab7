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
from mmpref.processing import FAMILIES, family_of
from mmpref.processing.positions import Grid, continued, in_sequence, multimodal
from tests.model_types.registry import WRITERS
from tests.releases import COUNTS_WHOLE_SECONDS
from tests.tiers import checkerboard
from tests.tiny_vlms import TINY, build_model

IN_PLANES = sorted(name for row in FAMILIES if row.mrope for name in row.model_types if name in TYPES)
MERGE = 2
A_SECOND = 4
"""Positions that a second takes in the tiny Qwen2.5-VL."""
SECONDS = (1.0, 2.0, 0.5, 1.5, 0.66)
"""From one temporal patch of a video to the next."""
# texts between images and videos; of each: temporal patches (0 for an image), and the grid in merged tokens
LAYOUT = st.tuples(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 5), st.integers(1, 9), st.integers(1, 9), st.sampled_from(SECONDS)),
        max_size=4,
    ),
    st.integers(0, 12),
).filter(lambda found: found[1] or found[0])
Layout = tuple[list[tuple[int, int, int, int, float]], int]


@functools.cache
def model_of(name: str) -> Any:
    if name in TINY:
        return build_model(name)
    if name in WRITERS:
        with tempfile.TemporaryDirectory() as folder:
            return load_model(WRITERS[name](Path(folder)))
    with torch.device("meta"):  # positions follow from ids, grids and the config
        return getattr(tf, TYPES[name])._from_config(CONFIG_MAPPING[name]())


@pytest.mark.parametrize("name", checkerboard(IN_PLANES))
@settings(max_examples=60, deadline=None)
@given(layout=LAYOUT, answer=st.integers(1, 5))
def test_they_equal_what_transformers_counts_for_any_grids(name: str, layout: Layout, answer: int) -> None:
    model, facts = model_of(name), family_of(name, has_vision=True).video
    assert model.config.vision_config.spatial_merge_size == MERGE
    image, video = model.config.image_token_id, model.config.video_token_id
    follows_seconds = facts is not None and facts.time == "positions"
    ids: list[int] = []
    ours: list[Grid] = []
    theirs: dict[int, list[Any]] = {image: [], video: []}
    between: list[float] = []
    for text, patches, rows, columns, apart in layout[0]:
        patches = 0 if facts is None else patches
        seconds = float(max(int(apart), 1)) if COUNTS_WHOLE_SECONDS else apart
        ids += [40 + i for i in range(text)]
        token = video if patches else image
        theirs[token].append((max(patches, 1), rows * MERGE, columns * MERGE))
        if patches:
            between.append(seconds)
        is_apart = facts is not None and facts.time == "text"  # each temporal patch has its time before it
        for _ in range(max(patches, 1) if is_apart else 1):
            each = 1 if is_apart or not patches else patches
            interval = A_SECOND * seconds if patches and follows_seconds else 1.0
            ours.append(Grid(len(ids), rows, columns, each, interval))
            ids += [token] * (each * rows * columns)
            ids.append(41)  # two images never touch: each template closes its vision part
    ids += range(50, 50 + layout[1])
    whole = torch.tensor([[*ids, *range(60, 60 + answer)]])
    want, _ = model.model.get_rope_index(
        whole,
        mm_token_type_ids=(whole == image).int() + 2 * (whole == video).int(),
        image_grid_thw=torch.tensor(theirs[image]) if theirs[image] else None,
        video_grid_thw=torch.tensor(theirs[video]) if theirs[video] else None,
        **({"second_per_grid_ts": between} if between and follows_seconds else {}),
    )
    prompt = multimodal(len(ids), ours)
    got = torch.cat([prompt, continued(prompt, answer)], dim=1)
    assert torch.equal(got, want[:, 0])


@given(length=st.integers(1, 30), first=st.integers(0, 8), second=st.integers(1, 8))
def test_a_second_answer_starts_where_the_first_one_did(length: int, first: int, second: int) -> None:
    prompt = in_sequence(length)
    assert continued(prompt, first).tolist() == list(range(length, length + first))
    assert continued(prompt, second, skip=first).tolist() == list(range(length + first, length + first + second))
    planes = multimodal(length, ())
    assert torch.equal(planes, prompt.expand(3, -1))
    assert torch.equal(continued(planes, second), continued(prompt, second).expand(3, -1))


def test_the_answer_to_a_long_video_goes_on_from_the_last_word_and_not_from_its_last_patch() -> None:
    prompt = multimodal(12, [Grid(1, 1, 1, patches=9, interval=4.0)])
    assert prompt[0].tolist() == [0, 1, 5, 9, 13, 17, 21, 25, 29, 33, 2, 3]
    assert continued(prompt, 2).tolist() == [[4, 5]] * 3
