"""A pair becomes one prompt and two answers; image tokens are the row's own; truncation spares prompts and images."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from mmpref.errors import ConfigError
from mmpref.models.load import family_of_config, load_config, load_processor
from mmpref.processing import EncodeError, PairCollator, PairEncoder, family_of
from mmpref.processing.errors import fault
from mmpref.processing.pixels import ImageSettings
from mmpref.records import ImageRef, user_turn
from tests.model_types.registry import WRITERS
from tests.tiny_vlms import TINY, VISION, draw, pair, refs, turn

SIZES = ("28x28-1", "60x30-2", "31x95-3")


def encoder_for(name: str, **settings: Any) -> PairEncoder:
    model_type = {"llava_vicuna": "llava", "text": "llama"}.get(name, name)
    return PairEncoder(TINY[name].processor(), family_of(model_type, has_vision=name != "text"), **settings)


@pytest.mark.parametrize("name", VISION)
@pytest.mark.parametrize("images", [(), SIZES[:1], SIZES])
def test_the_prompt_is_what_the_stock_processor_makes(name: str, images: tuple[str, ...]) -> None:
    encoder = encoder_for(name)
    encoded = encoder.encode(pair(images=images), draw)
    content = [{"type": "image", "image": draw(ref)} for ref in refs(*images)]
    stock = (
        TINY[name]
        .processor()
        .apply_chat_template(
            [{"role": "user", "content": [*content, {"type": "text", "text": "what is in the image ?"}]}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
        )
    )
    assert encoded.prompt_ids.tolist() == stock.pop("input_ids")[0].tolist()
    stock.pop("attention_mask")
    planes = encoded.prompt.token_types
    assert set(stock) == set(encoded.vision) | set(planes)
    for key, value in encoded.vision.items():
        torch.testing.assert_close(value, stock[key])
    for key, value in planes.items():
        assert value.tolist() == stock[key][0].tolist()


@pytest.mark.parametrize("name", ["llava", "idefics3"])
def test_a_template_of_strings_alone_is_given_the_token_of_an_image(name: str) -> None:
    """As Phi-4-multimodal's, which adds the content to other text."""
    ours = encoder_for(name)
    row = pair(images=SIZES[:2], prompt=(turn("user", "is ", None, " like ", None, " ?"),))
    want = ours.encode(row, draw)
    processor = TINY[name].processor()
    processor.chat_template = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    found = PairEncoder(processor, ours.family).encode(row, draw)
    blanks = processor.tokenizer("\n", add_special_tokens=False)["input_ids"]  # LLaVA's template ends an image with one
    dropped = [token for token in want.prompt_ids.tolist() if token not in blanks]
    assert [token for token in found.prompt_ids.tolist() if token not in blanks] == dropped
    assert torch.equal(found.chosen_ids, want.chosen_ids)
    for key, value in found.vision.items():
        assert torch.equal(value, want.vision[key])


def test_one_prompt_and_both_answers() -> None:
    encoder = encoder_for("qwen2_vl")
    encoded = encoder.encode(pair("x", score_chosen=1.5, score_rejected=0.5), draw)
    assert encoded.pair_id == "x"
    assert encoder.chat.tokenizer.decode(encoded.chosen_ids) == "a red square .<|im_end|>"
    assert encoded.rejected_ids is not None
    assert encoder.chat.tokenizer.decode(encoded.rejected_ids) == "two yellow boxes and a dog .<|im_end|>"
    assert encoded.rejected_prompt is None
    assert (encoded.score_chosen, encoded.score_rejected) == (1.5, 0.5)
    assert encoder.encode(pair(rejected=None), draw).rejected_ids is None


def test_images_of_the_rejected_side() -> None:
    encoded = encoder_for("qwen2_vl").encode(pair(rejected_images=refs("90x90-2")), draw)
    assert encoded.rejected_prompt is not None
    assert encoded.rejected_prompt.image_tokens != encoded.prompt.image_tokens
    assert encoded.rejected_vision is not None


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3"])
@pytest.mark.parametrize(("places", "images"), [(2, SIZES[:1]), (0, SIZES[:1]), (1, ())])
def test_image_places_must_be_the_row_s_images(name: str, places: int, images: tuple[str, ...]) -> None:
    """Two rows that make up for each other would pass the processor's and the model's checks with images swapped."""
    row = pair("swap", images=images, prompt=user_turn("what ?", num_images=places))
    with pytest.raises(
        EncodeError, match=f"'swap' has {places} image places in its prompt and {len(images)} images"
    ) as err:
        encoder_for(name).encode(row, draw)
    assert err.value.reason == "placeholder_count"


def test_a_template_without_a_place_for_images_is_named() -> None:
    processor = TINY["llava"].processor()
    processor.chat_template = processor.chat_template.replace("<image>\n", "")
    with pytest.raises(EncodeError, match="template wrote 0 places") as caught:
        PairEncoder(processor, family_of("llava", has_vision=True)).encode(pair(), draw)
    assert caught.value.reason == "placeholder_count"


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "text"])
def test_truncation_cuts_answers_only_and_by_one_rule(name: str) -> None:
    row = pair(images=() if name == "text" else SIZES[:1])
    whole = encoder_for(name).encode(row, draw)
    assert whole.rejected_ids is not None
    prompt, chosen, rejected = len(whole.prompt), len(whole.chosen_ids), len(whole.rejected_ids)
    assert chosen < rejected
    for room in (1, chosen - 1, chosen, rejected - 1, rejected, rejected + 5):
        got = encoder_for(name, max_length=prompt + room).encode(row, draw)
        assert got.rejected_ids is not None
        assert got.prompt_ids.tolist() == whole.prompt_ids.tolist()
        assert got.chosen_ids.tolist() == whole.chosen_ids.tolist()[:room]
        assert got.rejected_ids.tolist() == whole.rejected_ids.tolist()[:room]
        assert got.num_cut == max(chosen - room, 0) + max(rejected - room, 0)
    with pytest.raises(EncodeError, match=f"'p' has a prompt of {prompt} tokens") as caught:
        encoder_for(name, max_length=prompt).encode(row, draw)
    assert caught.value.reason == "too_long_prompt"
    with pytest.raises(EncodeError, match="too_long_prompt"):
        encoder_for(name, max_length=prompt).encode_prompt("q", row.prompt, row.images, draw)


def test_the_error_keeps_its_kind_on_the_way_from_a_worker() -> None:
    error = fault("p", "template", "is odd")
    again = pickle.loads(pickle.dumps(error))
    assert (again.row_id, again.reason, str(again)) == ("p", "template", "'p' is odd [template]")
    collate = PairCollator(encoder_for("llava", max_length=5), draw)
    loader = DataLoader([pair("long")], collate_fn=collate, num_workers=1)  # type: ignore[arg-type]
    with pytest.raises(EncodeError, match="'long' has a prompt of"):
        next(iter(loader))


def test_a_resolution_budget_changes_the_number_of_tokens() -> None:
    row = pair(images=("120x120-1",))
    wide = encoder_for("qwen2_vl").encode(row, draw).prompt.image_tokens
    least = ImageSettings(min_pixels=28 * 28, max_pixels=28 * 28)
    narrow = encoder_for("qwen2_vl", images=least).encode(row, draw).prompt.image_tokens
    assert wide == (4,)
    assert narrow == (1,)
    with pytest.raises(ConfigError, match="family 'llava' does not"):
        encoder_for("llava", images=ImageSettings(max_pixels=1000))
    with pytest.raises(ConfigError, match=r"min_pixels .* above max_pixels"):
        encoder_for("qwen2_vl", images=ImageSettings(min_pixels=5000, max_pixels=1000))


@pytest.mark.parametrize("name", ["qwen3_vl_moe", "glm4v", "glm46v", "glmga", "qwen3_5"])
def test_a_budget_is_pixels_of_an_image_however_its_processor_counts_them(name: str, tmp_path: Path) -> None:
    """GLM-V's processors count each pixel twice, once for each of the frames that they make of an image."""
    WRITERS[name](tmp_path)
    patch = load_processor(tmp_path).image_processor.patch_size
    budget = 12 * (2 * patch) ** 2  # twelve tokens
    processor = load_processor(tmp_path, max_pixels=budget)
    family = family_of_config(load_config(tmp_path))
    encoder = PairEncoder(processor, family)
    tokens = encoder.encode(pair(images=("400x400-1",)), draw).prompt.image_tokens
    assert tokens == (9,)  # three by three fit, and no more
    assert encoder.images.count("p", [(400, 400)]) == tokens
    assert encoder.images.highest_max_pixels() == budget
    own = PairEncoder(load_processor(tmp_path), family, images=ImageSettings(max_pixels=budget))
    assert own.encode(pair(images=("400x400-1",)), draw).prompt.image_tokens == tokens
    assert own.images.count("p", [(400, 400)]) == tokens


def test_an_image_the_processor_refuses_names_row_and_image() -> None:
    with pytest.raises(EncodeError, match=r"'p' has images the model cannot take.*4x1200-1") as caught:
        encoder_for("qwen2_vl").encode(pair(images=("4x1200-1",)), draw)
    assert caught.value.reason == "image_processing"


def test_the_pixel_cache_is_bounded_and_stays_home() -> None:
    calls: Counter[str] = Counter()

    def counting(ref: ImageRef) -> Image.Image:
        calls[ref.path or ""] += 1
        return draw(ref)

    one_image = 3 * 28 * 28 * 4
    encoder = encoder_for("llava", images=ImageSettings(cache_bytes=2 * one_image + 100))
    first = encoder.encode(pair(images=("28x28-1",)), counting)
    again = encoder.encode(pair(images=("28x28-1",)), counting)
    assert calls["28x28-1"] == 1
    torch.testing.assert_close(first.vision["pixel_values"], again.vision["pixel_values"])
    for number in (2, 3):  # the third pushes the first out
        encoder.encode(pair(images=(f"28x28-{number}",)), counting)
    encoder.encode(pair(images=("28x28-3",)), counting)
    encoder.encode(pair(images=("28x28-1",)), counting)
    assert calls == {"28x28-1": 2, "28x28-2": 1, "28x28-3": 1}
    copied = pickle.loads(pickle.dumps(encoder))
    copied.encode(pair(images=("28x28-1",)), draw)
    assert len(pickle.dumps(encoder)) < len(pickle.dumps(TINY["llava"].processor())) + 20_000
    uncached = encoder_for("llava")
    for _ in range(2):
        uncached.encode(pair(images=("28x28-9",)), counting)
    assert calls["28x28-9"] == 2


def test_text_may_be_encoded_apart() -> None:
    encoder = encoder_for("qwen2_vl")
    row = pair(images=SIZES[:2])
    kept = encoder.encode_text(row)
    a, b = encoder.encode(row, draw, text=kept), encoder.encode(row, draw)
    assert a.prompt_ids.tolist() == b.prompt_ids.tolist()
    assert a.chosen_ids.tolist() == b.chosen_ids.tolist()


@pytest.mark.parametrize("name", ["llava", "gemma3"])
def test_a_question_is_encoded_like_a_pair_s_prompt(name: str) -> None:
    encoder = encoder_for(name)
    row = pair(response_prefix="it is", chosen=" red", rejected=" blue")
    question = encoder.encode_prompt("q", row.prompt, row.images, draw, response_prefix="it is")
    assert question.sample_id == "q"
    assert question.input_ids.tolist() == encoder.encode(row, draw).prompt_ids.tolist()
    assert encoder.chat.tokenizer.decode(question.input_ids).endswith("assistant\nit is")
