"""The tiny model is a real checkpoint: what `from_pretrained` loads is what was built, and its chat template holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

from mmpref.demo.annotate import CAPTION_PROMPT, INVENTORY_PROMPT, caption, question, reply, vocabulary
from mmpref.demo.scenes import COLOURS, GRID, KINDS, SIDE
from mmpref.demo.tiny_models import SPECIAL_TOKENS, build_processor, build_tiny_llava, build_tokenizer
from mmpref.demo.world import WorldFiles

IMAGE_AND = {"type": "image"}


def turn(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [IMAGE_AND, {"type": "text", "text": text}]}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


@pytest.fixture(scope="module")
def processor(untrained: Path) -> Any:
    return AutoProcessor.from_pretrained(untrained)


@pytest.fixture(scope="module")
def model(untrained: Path) -> Any:
    return AutoModelForImageTextToText.from_pretrained(untrained)


@pytest.fixture(scope="module")
def drawn(small_world: WorldFiles) -> Image.Image:
    with Image.open(small_world.root / "images" / "train_000001.png") as opened:
        return opened.convert("RGB")


def test_it_loads_as_any_checkpoint(processor: Any, model: Any) -> None:
    assert isinstance(processor, LlavaProcessor)
    assert isinstance(model, LlavaForConditionalGeneration)
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.get_input_embeddings().num_embeddings == len(processor.tokenizer) == len(set(vocabulary())) + 7


def test_the_seed_decides_the_weights(untrained: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    for seed in (3, 4):
        build_tiny_llava(tmp_path / str(seed), seed=seed)
    assert torch.equal(torch.get_rng_state(), before)
    weights = "model.safetensors"
    assert (tmp_path / "3" / weights).read_bytes() == (untrained / weights).read_bytes()
    assert (tmp_path / "4" / weights).read_bytes() != (untrained / weights).read_bytes()


def test_the_loaded_processor_gives_what_the_built_one_gives(processor: Any, drawn: Image.Image) -> None:
    prompt = processor.apply_chat_template([turn(CAPTION_PROMPT)], add_generation_prompt=True)
    loaded, built = (p(images=drawn, text=prompt, return_tensors="pt") for p in (processor, build_processor()))
    assert torch.equal(loaded["input_ids"], built["input_ids"])
    assert torch.equal(loaded["pixel_values"], built["pixel_values"])
    assert loaded["pixel_values"].shape == (1, 3, SIDE, SIDE)
    assert (loaded["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<image>")).sum() == GRID * GRID


def test_images_of_any_size_are_taken_whole(processor: Any) -> None:
    pixels = processor.image_processor(images=[Image.new("RGB", (200, 90), "red")], return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, SIDE, SIDE)


@pytest.mark.parametrize(
    "text",
    [
        CAPTION_PROMPT,
        INVENTORY_PROMPT,
        *[question(kind) for kind in KINDS],
        *[reply(kind, colour) for kind, colour in zip(KINDS, [*COLOURS, *[None] * 6], strict=True)],
        caption([("red", "cup"), ("blue", "pot"), ("black", "key")]),
        caption([]),
    ],
)
def test_text_of_the_world_round_trips(text: str) -> None:
    tokenizer = build_tokenizer()
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert len(ids) == len(text.split())
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text


def test_any_text_can_be_encoded() -> None:
    tokenizer = build_tokenizer()
    ids = tokenizer("Is there a CUP? zebra ☃")["input_ids"]
    assert tokenizer.decode(ids) == "is there a cup ? <unk> <unk>"
    assert tokenizer("")["input_ids"] == []


def test_special_tokens_are_one_token_each_and_named(processor: Any) -> None:
    tokenizer = processor.tokenizer
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(len(SPECIAL_TOKENS)))
    assert tokenizer("<user> cup <image><eos>")["input_ids"] == [5, *tokenizer("cup")["input_ids"], 3, 2]
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.image_token) == ("<pad>", "<eos>", "<image>")


CONVERSATIONS = {
    "picture": [turn(CAPTION_PROMPT)],
    "text only": [{"role": "user", "content": [{"type": "text", "text": "is there a cup ?"}]}],
    "text as string": [{"role": "user", "content": "is there a cup ?"}],
    "several turns": [turn(question("cup")), said(reply("cup", "red")), {"role": "user", "content": question("key")}],
    "system": [{"role": "system", "content": "describe the image ."}, turn(question("cup"))],
    "two pictures": [{"role": "user", "content": [IMAGE_AND, IMAGE_AND, {"type": "text", "text": "which ?"}]}],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_prompt_is_a_token_prefix_of_prompt_and_answer(processor: Any, drawn: Image.Image, name: str) -> None:
    messages = CONVERSATIONS[name]
    answer = "a red cup and a blue pot ."

    def ids(chat: list[dict[str, Any]], **options: Any) -> list[int]:
        text = processor.apply_chat_template(chat, **options)
        images = [drawn] * text.count("<image>") or None
        return list(processor(images=images, text=text)["input_ids"][0])

    prompt, whole = ids(messages, add_generation_prompt=True), ids([*messages, said(answer)])
    expected = [*processor.tokenizer(answer)["input_ids"], processor.tokenizer.eos_token_id]
    assert whole == prompt + expected


def test_a_system_turn_and_a_second_turn_are_rendered(processor: Any) -> None:
    assert processor.apply_chat_template(CONVERSATIONS["several turns"], add_generation_prompt=True) == (
        "<user> <image> is there a cup ?<assistant> yes , cup red . <eos><user> is there a key ?<assistant>"
    )
    assert processor.apply_chat_template(CONVERSATIONS["system"]).startswith("<system> describe the image .<user>")


def test_generation_stops_at_eos_and_pads(model: Any, processor: Any, drawn: Image.Image) -> None:
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id == model.config.eos_token_id
    assert model.generation_config.pad_token_id == processor.tokenizer.pad_token_id
    prompt = processor.apply_chat_template([turn(CAPTION_PROMPT)], add_generation_prompt=True)
    inputs = processor(images=[drawn] * 2, text=[prompt] * 2, return_tensors="pt")
    with torch.no_grad():
        out = model.generate(**inputs, max_new_tokens=4)
    assert out.shape[1] <= inputs["input_ids"].shape[1] + 4
    assert torch.equal(out[0], out[1])


def test_the_image_reaches_the_answer(model: Any, processor: Any, drawn: Image.Image) -> None:
    prompt = processor.apply_chat_template([turn(CAPTION_PROMPT)], add_generation_prompt=True)
    with torch.no_grad():
        one, other = (
            model(**processor(images=image, text=prompt, return_tensors="pt")).logits[0, -1]
            for image in (drawn, Image.new("RGB", (SIDE, SIDE), "black"))
        )
    assert not torch.allclose(one, other, atol=1e-3)
