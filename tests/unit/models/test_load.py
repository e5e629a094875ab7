"""Models come from folders and go back to folders, whole; what is not a model is refused with what to do."""

from __future__ import annotations

import json
import logging
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

from mmpref.errors import CheckpointError, ConfigError
from mmpref.models import LoadSettings, Tuning, load, load_model, load_processor, pair_logps, prepare, save_model
from mmpref.models import save as save_module
from mmpref.processing import PairCollator, PairEncoder, collate_prompts
from tests.tiny_vlms import TINY, VISION, build, draw, pair

FAMILIES = tuple(name for name in TINY if name != "llava_vicuna")


def batch_for(loaded: Any) -> Any:
    images = ("40x60-2",) if loaded.family.has_vision else ()
    return PairCollator(PairEncoder(loaded.processor, loaded.family), draw)([pair(images=images)])


@pytest.mark.parametrize("name", FAMILIES)
def test_trained_weights_come_back_from_the_saved_folder(name: str, tmp_path: Path) -> None:
    """Full fine-tuning: every tensor, by its name in the running model, and so the log-probs."""
    loaded = prepare(load(build(name, tmp_path / "base"), trainable=True), Tuning(language="full"))
    batch = batch_for(loaded)
    optimizer = torch.optim.SGD([p for p in loaded.model.parameters() if p.requires_grad], lr=0.05)
    before = pair_logps(loaded.model, batch).chosen
    (-before.sum()).backward()
    optimizer.step()
    with torch.no_grad():
        trained = pair_logps(loaded.model.eval(), batch).chosen
    assert not torch.equal(before, trained)

    save_model(loaded.model, tmp_path / "base", tmp_path / "out")
    again = load(tmp_path / "out")
    torch.testing.assert_close(pair_logps(again.model, batch_for(again)).chosen, trained, atol=0, rtol=0)
    for key, value in loaded.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[key], value), key
    assert {p.name for p in tmp_path.iterdir()} == {"base", "out"}, "nothing is left beside"


def test_the_processor_is_copied_byte_for_byte(tmp_path: Path) -> None:
    base = build("qwen2_vl", tmp_path / "base")
    (base / "video_preprocessor_config.json").write_text('{"video_processor_type": "Qwen2VLVideoProcessor"}')
    (base / "additional_chat_templates").mkdir()
    (base / "additional_chat_templates" / "tool.jinja").write_text("x")
    save_model(load_model(base), base, tmp_path / "out")
    for file in ("processor_config.json", "tokenizer.json", "chat_template.jinja", "video_preprocessor_config.json"):
        assert (tmp_path / "out" / file).read_bytes() == (base / file).read_bytes()
    assert (tmp_path / "out" / "additional_chat_templates" / "tool.jinja").is_file()
    assert load_processor(tmp_path / "out").image_token == "<|image_pad|>"


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = build("llava", tmp_path / "base")

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(save_module, "copy_processor_files", full_disk)
    with pytest.raises(CheckpointError, match="No space left"):
        save_model(load_model(base), base, tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"base"}


def test_nothing_is_overwritten_and_files_can_be_read_by_others(tmp_path: Path) -> None:
    base = build("llava", tmp_path / "base")
    model = load_model(base)
    before = os.umask(0o022)
    try:
        save_model(model, base, tmp_path / "out")
    finally:
        os.umask(before)
    assert (tmp_path / "out" / "model.safetensors").stat().st_mode & 0o777 == 0o644
    with pytest.raises(CheckpointError, match="already exists"):
        save_model(model, base, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no tokenizer or processor files"):
        save_model(model, tmp_path / "empty", tmp_path / "other")


@pytest.mark.parametrize("name", VISION)
def test_processors_load_without_torchvision_and_travel_to_workers(name: str, tmp_path: Path) -> None:
    folder = build(name, tmp_path / name)
    processor = load_processor(folder)
    made = TINY[name].processor()
    asked = {
        "images": [[draw(pair().images[0])]],
        "text": [getattr(made, "boi_token", None) or made.image_token],
        "return_tensors": "pt",
    }
    want = made(**asked)
    for candidate in (processor, pickle.loads(pickle.dumps(processor))):
        got = candidate(**asked)
        torch.testing.assert_close(got["pixel_values"], want["pixel_values"])
        assert type(candidate).__name__ == type(made).__name__


def test_a_folder_saved_with_a_video_part_loads(tmp_path: Path) -> None:
    folder = build("qwen2_vl", tmp_path / "m")
    config = json.loads((folder / "processor_config.json").read_text())
    config["video_processor"] = {"video_processor_type": "Qwen2VLVideoProcessor", "max_frames": 9}
    (folder / "processor_config.json").write_text(json.dumps(config))
    assert load_processor(folder).image_processor.merge_size == 2


NESTED = {"video_processor_type": "Qwen2VLVideoProcessor", "size": {"shortest_edge": 784, "longest_edge": 9 * 784}}


def test_video_settings_are_found_where_transformers_looks_for_them(tmp_path: Path) -> None:
    folder = build("qwen2_5_vl", tmp_path / "m")
    of_videos, whole = folder / "video_preprocessor_config.json", folder / "processor_config.json"
    assert load_processor(folder).video_settings.size == {"shortest_edge": 784, "longest_edge": 4 * 784}
    assert load_processor(folder).video_settings.positions_a_second == 4
    content = json.loads(whole.read_text())
    whole.write_text(json.dumps({**content, "video_processor": NESTED}))
    assert load_processor(folder).video_settings.size["longest_edge"] == 9 * 784  # goes before the file of its own
    of_videos.unlink()
    whole.write_text(json.dumps(content))
    assert not hasattr(load_processor(folder), "video_settings")
    written = {**content["image_processor"], "min_pixels": 1568, "max_pixels": 3136}
    (folder / "preprocessor_config.json").write_text(json.dumps({**written, "size": None}))
    found = load_processor(folder).video_settings  # as folders of 2024 have it: one file for images and videos
    assert found.size == {"shortest_edge": 1568, "longest_edge": 3136}
    assert (found.patch_size, found.merge_size, found.temporal_patch_size) == (14, 2, 2)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["tokens_per_second"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    assert load_processor(folder).video_settings.positions_a_second == 2
    assert not hasattr(load_processor(build("llava", tmp_path / "l")), "video_settings")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch_size": 16}, "gives videos patch_size 16, and config.json has patch_size 14"),
        ({"temporal_patch_size": 1}, "gives videos temporal_patch_size 1"),
        ({"size": {"shortest_edge": 784, "longest_edge": 10**12}}, r"says size\.longest_edge"),
        ({"image_mean": ["red"]}, "says image_mean"),
        ({"image_mean": [0.5, 0.5]}, r"says image_mean: \[0.5, 0.5\], and three numbers can be used"),
        ({"image_std": [0.5, 0, 0.5]}, "and three numbers above 0 can be used"),
        ({"merge_size": 1}, "gives videos merge_size 1, and config.json has spatial_merge_size 2"),
        ({"size": 384}, "says size: 384, and shortest_edge and longest_edge can be used"),
    ],
)
def test_video_settings_that_cannot_be_meant_are_refused_with_the_file(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    folder = build("qwen2_5_vl", tmp_path / "m")
    file = folder / "video_preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ConfigError, match=message) as caught:
        load_processor(folder)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("size", "found"),
    [
        (56, (56, 56)),
        ({"shortest_edge": 56}, (56, 56)),
        ({"height": 28, "width": 56}, (28, 56)),
        ({"height": 28}, "says size: {'height': 28}, and height and width can be used"),
        ([28, 28], "says size"),
    ],
)
def test_frames_of_onevision_have_a_size_in_every_form_that_folders_write(
    size: object, found: object, tmp_path: Path
) -> None:
    folder = build("llava_onevision", tmp_path / "m")
    (folder / "video_preprocessor_config.json").write_text(json.dumps({"size": size}))
    if isinstance(found, str):
        with pytest.raises(ConfigError, match=found):
            load_processor(folder)
    else:
        settings = load_processor(folder).video_settings
        assert (settings.size["height"], settings.size["width"]) == found


def test_the_resolution_budget_reaches_the_processor(tmp_path: Path) -> None:
    folder = build("qwen2_vl", tmp_path / "m")
    image = [[draw(pair(images=("120x120-1",)).images[0])]]
    small = load_processor(folder, min_pixels=784, max_pixels=784)(images=image, return_tensors="pt")
    assert small["image_grid_thw"].tolist() == [[1, 2, 2]]
    with pytest.raises(ConfigError, match="remove these keys"):
        load_processor(build("llava", tmp_path / "l"), max_pixels=784)


def test_what_is_not_a_model_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="does not exist"):
        load("./nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no config\.json"):
        load(tmp_path / "empty")
    (tmp_path / "empty" / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="is an adapter"):
        load(tmp_path / "empty")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is a file"):
        load(tmp_path / "file")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text('{"model_type": "no_such_model"}')
    with pytest.raises(ConfigError, match="no_such_model"):
        load(tmp_path / "odd")


def test_a_hub_id_that_cannot_be_reached_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with pytest.raises(ConfigError, match=r"org/name.*give a local folder"):
        load("org/name")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = build("llava", tmp_path / "m")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="pickle"):
        load(folder)


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = build("llava", tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    for key in ("image_token_id", "image_token_index"):
        if key in config:
            config[key] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="would not see its images"):
        load(folder)


def test_modes_and_gradients(tmp_path: Path) -> None:
    folder = build("llava", tmp_path / "m")
    ready = load(folder, LoadSettings(dtype="bfloat16"))
    assert not ready.model.training
    assert not any(p.requires_grad for p in ready.model.parameters())
    assert ready.model.dtype == torch.bfloat16
    assert load(folder, trainable=True).model.training
    with pytest.raises(ConfigError, match="dtype must be"):
        load(folder, LoadSettings(dtype="float8"))


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_generation_takes_collated_prompts(name: str, tmp_path: Path) -> None:
    """A batch padded on the left answers as each question alone, with the stock class of transformers."""
    loaded = load(build(name, tmp_path / "m"))
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "m").eval()
    encoder = PairEncoder(loaded.processor, loaded.family)
    rows = [pair("a", images=("90x60-1",)), pair("b", images=(), question="what ?"), pair("c", images=("28x28-3",))]
    prompts = [encoder.encode_prompt(row.id, row.prompt, row.images, draw) for row in rows]

    def answers(chosen: list[Any]) -> list[list[int]]:
        inputs = collate_prompts(chosen, encoder.chat.pad_token_id)
        out = model.generate(**inputs, max_new_tokens=4, do_sample=False, eos_token_id=-1, pad_token_id=0)
        return [row[inputs["input_ids"].shape[1] :].tolist() for row in out]

    assert answers(prompts) == [answers([prompt])[0] for prompt in prompts]
