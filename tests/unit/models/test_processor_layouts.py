"""Processor files as real folders have them, of all years: each gives the ids and pixels of the usual layout."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmpref.errors import ConfigError
from mmpref.models import load, load_processor
from mmpref.models.load import family_of_config, load_config
from mmpref.processing import PairBatch, PairCollator, PairEncoder
from tests.tiny_vlms import build, draw, pair

pytestmark = pytest.mark.model_types

Layout = Callable[[Path], None]
_BASES = ("llava", "qwen2_vl", "idefics3")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family, made once; a family that this release cannot make skips its tests alone."""
    root = tmp_path_factory.mktemp("bases")
    return functools.cache(lambda name: build(name, root / name))


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def two_files(folder: Path) -> None:
    """preprocessor_config.json for images, processor_config.json for the rest, as before 2025."""
    settings = read(folder / "processor_config.json")
    images = settings.pop("image_processor")
    (folder / "preprocessor_config.json").write_text(
        json.dumps({**images, "processor_class": settings["processor_class"]})
    )
    (folder / "processor_config.json").write_text(json.dumps(settings))


def feature_extractor(folder: Path) -> None:
    """As in 2022: an image processor was called a feature extractor."""
    two_files(folder)
    file = folder / "preprocessor_config.json"
    settings = read(file)
    kind = settings.pop("image_processor_type").replace("Pil", "")
    file.write_text(
        json.dumps({**settings, "feature_extractor_type": kind.replace("ImageProcessor", "FeatureExtractor")})
    )


def fast(folder: Path) -> None:
    """Written where torchvision was: a class with the ending Fast."""
    file = folder / "processor_config.json"
    settings = read(file)
    kind = settings["image_processor"]["image_processor_type"].replace("Pil", "")
    settings["image_processor"]["image_processor_type"] = f"{kind}Fast"
    file.write_text(json.dumps(settings))


def no_class(folder: Path) -> None:
    for file in folder.glob("*.json"):
        content = read(file)
        if content.pop("processor_class", None) is not None:
            file.write_text(json.dumps(content))


def video_file(folder: Path) -> None:
    kind = read(folder / "processor_config.json")["processor_class"]
    (folder / "video_preprocessor_config.json").write_text(
        json.dumps({"video_processor_type": "Qwen2VLVideoProcessor", "processor_class": kind})
    )


def taken(folder: Path) -> str:
    text = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    return text


def template_json(folder: Path) -> None:
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": taken(folder)}))


def named_template_json(folder: Path) -> None:
    named = [{"name": "default", "template": taken(folder)}, {"name": "tool_use", "template": "x"}]
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": named}))


def named_templates(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    named = [{"name": "default", "template": taken(folder)}, {"name": "tool_use", "template": "x"}]
    file.write_text(json.dumps({**read(file), "chat_template": named}))


def more_templates(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("x")


LAYOUTS = (
    two_files, feature_extractor, fast, no_class, video_file, template_json, named_template_json, named_templates,
    more_templates,
)  # fmt: skip


def batch_of(folder: Path) -> PairBatch:
    encoder = PairEncoder(load_processor(folder), family_of_config(load_config(folder)))
    return PairCollator(encoder, draw)([pair(images=("60x40-2",)), pair("none", images=(), question="why ?")])


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
@pytest.mark.parametrize("base", _BASES)
def test_a_layout_gives_the_same_ids_and_pixels(
    base: str, layout: Layout, whole: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole(base), tmp_path / base))
    want = batch_of(folder)
    layout(folder)
    got = batch_of(folder)
    assert torch.equal(got.input_ids, want.input_ids)
    assert got.vision.keys() == want.vision.keys()
    for name, value in want.vision.items():
        assert torch.equal(got.vision[name], value), name


def test_the_tokens_of_a_tile_that_an_old_folder_does_not_say_are_counted(
    whole: Callable[[str], Path], tmp_path: Path
) -> None:
    """LLaVA-OneVision with the file for images alone: 28 x 28 pixels in patches of 14 are 4 tokens."""
    folder = Path(shutil.copytree(whole("llava_onevision"), tmp_path / "m"))
    want = batch_of(folder)
    two_files(folder)
    (folder / "processor_config.json").unlink()
    assert load_processor(folder).num_image_tokens == 4
    assert torch.equal(batch_of(folder).input_ids, want.input_ids)


def test_a_template_file_without_its_key_is_refused(whole: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole("llava"), tmp_path / "m"))
    (folder / "chat_template.json").write_text(json.dumps({"default": taken(folder)}))
    with pytest.raises(ConfigError, match=r"chat_template\.json has no key chat_template"):
        load(folder)


def test_a_list_of_something_else_is_no_template(whole: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole("llava"), tmp_path / "m"))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": [taken(folder)]}))
    with pytest.raises(ConfigError, match="is a list, and not of names and templates"):
        load(folder)
