"""The tiny Qwen2-VL is a real checkpoint: loaded without torchvision, one image token a cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

from mmpref.demo.annotate import CAPTION_PROMPT, question, reply, vocabulary
from mmpref.demo.scenes import GRID, SIDE
from mmpref.demo.tiny_qwen2_vl import TOKENS, build_qwen2_vl_processor, build_tiny_qwen2_vl
from mmpref.demo.world import WorldFiles
from mmpref.models.load import load
from mmpref.models.loaded import LoadedModel

PROMPT = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": CAPTION_PROMPT}]}]


@pytest.fixture(scope="module")
def loaded(untrained_qwen: Path) -> LoadedModel:
    return load(untrained_qwen)


@pytest.fixture(scope="module")
def drawn(small_world: WorldFiles) -> Image.Image:
    with Image.open(small_world.root / "images" / "train_000001.png") as opened:
        return opened.convert("RGB")


def inputs_of(processor: Any, image: Image.Image) -> Any:
    text = processor.apply_chat_template(PROMPT, add_generation_prompt=True)
    return processor(images=[image], text=[text], return_tensors="pt")


def test_it_loads_as_any_checkpoint(loaded: LoadedModel, untrained_qwen: Path) -> None:
    model: Any = loaded.model
    assert isinstance(model, Qwen2VLForConditionalGeneration)
    assert loaded.family.name == "qwen2_vl"
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
    assert model.lm_head.weight is model.get_input_embeddings().weight
    tokenizer = AutoTokenizer.from_pretrained(untrained_qwen)
    assert model.get_input_embeddings().num_embeddings == len(tokenizer) == len(set(vocabulary())) + 10
    for name, token in TOKENS.items():
        assert getattr(model.config, f"{name}_id") == tokenizer.convert_tokens_to_ids(token) < len(tokenizer)


def test_the_seed_decides_the_weights(untrained_qwen: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    for seed in (3, 4):
        build_tiny_qwen2_vl(tmp_path / str(seed), seed=seed)
    assert torch.equal(torch.get_rng_state(), before)
    weights = "model.safetensors"
    assert (tmp_path / "3" / weights).read_bytes() == (untrained_qwen / weights).read_bytes()
    assert (tmp_path / "4" / weights).read_bytes() != (untrained_qwen / weights).read_bytes()


def test_the_loaded_processor_gives_what_the_built_one_gives(loaded: LoadedModel, drawn: Image.Image) -> None:
    first, second = (inputs_of(processor, drawn) for processor in (loaded.processor, build_qwen2_vl_processor()))
    assert torch.equal(first["input_ids"], second["input_ids"])
    assert torch.equal(first["pixel_values"], second["pixel_values"])
    image_token = loaded.processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert (first["input_ids"] == image_token).sum() == GRID * GRID
    text = loaded.processor.tokenizer.decode(first["input_ids"][0])
    assert text.startswith("<user> <|vision_start|> <|image_pad|> <|image_pad|>")
    assert text.endswith(f"<|image_pad|> <|vision_end|> {CAPTION_PROMPT} <assistant>")


@pytest.mark.parametrize(("width", "height", "tokens"), [(72, 72, 9), (144, 144, 9), (240, 60, 6), (60, 240, 6)])
def test_images_of_any_size_are_taken_whole_in_their_own_shape(
    loaded: LoadedModel, width: int, height: int, tokens: int
) -> None:
    found = inputs_of(loaded.processor, Image.new("RGB", (width, height), "red"))
    time, rows, columns = found["image_grid_thw"][0].tolist()
    assert (time, rows * columns // 4) == (1, tokens)
    assert (rows > columns) == (height > width)


def test_the_prompt_is_a_token_prefix_of_prompt_and_answer(loaded: LoadedModel, drawn: Image.Image) -> None:
    said = reply("cup", "red")
    messages = [PROMPT[0], {"role": "assistant", "content": [{"type": "text", "text": said}]}]
    messages += [{"role": "user", "content": question("key")}]
    processor: Any = loaded.processor
    whole = processor(images=[drawn], text=[processor.apply_chat_template(messages)], return_tensors="pt")["input_ids"]
    prompt = inputs_of(processor, drawn)["input_ids"]
    assert torch.equal(whole[:, : prompt.shape[1]], prompt)
    answer = processor.tokenizer(said)["input_ids"]
    after = whole[0, prompt.shape[1] :].tolist()
    assert after[: len(answer) + 1] == [*answer, processor.tokenizer.eos_token_id]
    assert processor.tokenizer.unk_token_id not in whole


def test_the_place_of_a_thing_reaches_the_answer(loaded: LoadedModel) -> None:
    """The same thing in another cell is another image for the language model: positions have height and width."""
    logits = []
    for corner in ((2, 2), (50, 50)):
        image = Image.new("RGB", (SIDE, SIDE), "white")
        image.paste("red", (*corner, corner[0] + 20, corner[1] + 20))
        with torch.no_grad():
            model: Any = loaded.model
            logits.append(model(**inputs_of(loaded.processor, image)).logits[0, -1])
    assert not torch.allclose(*logits, atol=1e-4)


def test_generation_stops_at_eos_and_pads(loaded: LoadedModel, drawn: Image.Image) -> None:
    model: Any = loaded.model
    tokenizer: Any = loaded.processor.tokenizer
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    found = inputs_of(loaded.processor, drawn)
    with torch.no_grad():
        out = model.generate(**found, max_new_tokens=4)
    assert out.shape[1] <= found["input_ids"].shape[1] + 4
