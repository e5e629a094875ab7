"""Loading where torchvision is installed: processors stay with Pillow, and write what transformers' own would write.

No device is used. The machine that runs these tests has torchvision, which others need not have.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoProcessor
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES

from mmpref.models.load import load_config, load_processor
from tests.tiny_others import write_llava_next_video, write_mllama, write_paligemma, write_pixtral, write_video_llava
from tests.tiny_vlms import VISION, build, draw, refs

pytestmark = pytest.mark.gpu
pytest.importorskip("torchvision")

WRITERS: dict[str, Callable[[Path], Path]] = {
    **{name: partial(build, name) for name in VISION},
    "llava_next_video": write_llava_next_video,
    "mllama": write_mllama,
    "paligemma": write_paligemma,
    "pixtral": write_pixtral,
    "video_llava": write_video_llava,
}
SIZES = ("60x40-1", "40x96-2", "200x130-3")
GREY = 1.01
"""Levels of 255 between the two ways of resizing."""


def with_video_part(folder: Path) -> Path:
    """What AutoProcessor wants of types whose processor has one."""
    kind: Any = VIDEO_PROCESSOR_MAPPING_NAMES.get(load_config(folder).model_type)
    if kind is not None:
        kind = kind["torchvision"] if isinstance(kind, dict) else kind  # a name for each backend in newer releases
        (folder / "video_preprocessor_config.json").write_text(json.dumps({"video_processor_type": kind}))
    return folder


def assert_alike(ours: Any, stock: Any, std: float) -> None:
    assert ours.keys() == stock.keys()
    for name, value in ours.items():
        other = stock[name]
        if not isinstance(value, Tensor) or not value.is_floating_point():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other)), name
        else:
            assert value.shape == other.shape, name
            assert float((value - other).abs().max()) * 255 * std <= GREY, name


@pytest.mark.parametrize("name", WRITERS)
def test_images_are_those_of_torchvision_within_a_grey_level(name: str, tmp_path: Path) -> None:
    folder = WRITERS[name](tmp_path / name)
    ours = load_processor(folder).image_processor
    stock = AutoImageProcessor.from_pretrained(folder, backend="torchvision")
    for ref in refs(*SIZES):
        given = {"images": [draw(ref)], "return_tensors": "pt"}
        assert_alike(ours(**given), stock(**given), min(ours.image_std))


@pytest.mark.parametrize("name", WRITERS)
def test_ids_are_those_of_the_stock_processor_with_its_torchvision_parts(name: str, tmp_path: Path) -> None:
    folder = WRITERS[name](tmp_path / name)
    ours = load_processor(folder)
    stock = AutoProcessor.from_pretrained(with_video_part(folder))
    assert type(ours).__name__ == type(stock).__name__
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is in the image ?"}]}]
    text = ours.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    for ref in refs(*SIZES):
        given = {"text": [text], "images": [[draw(ref)]], "return_tensors": "pt"}
        assert_alike(dict(ours(**given)), dict(stock(**given)), min(ours.image_processor.image_std))


def test_a_folder_written_by_a_stock_processor_with_its_video_part_loads_with_pillow(tmp_path: Path) -> None:
    folder = with_video_part(build("qwen2_vl", tmp_path / "m"))
    AutoProcessor.from_pretrained(folder).save_pretrained(folder)
    assert "video_processor" in json.loads((folder / "processor_config.json").read_text())
    assert type(load_processor(folder).image_processor).__name__.endswith("Pil")
