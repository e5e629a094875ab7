"""Models for benchmarks: real architectures with random weights, scaled so that their parts cost what they cost at 7B.

LLaVA-like: CLIP tower with 576 image tokens, Llama with V = 32,000. Qwen2-VL-like: an image of 896 x 896 becomes 4,096
patches and 1,024 image tokens, V = 152,064, tied embeddings. The share of the vision tower is that of a 7B model or a
little more; the output head weighs more than in a 7B model, so speed is compared with a peer whose head is as good.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers as tf
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from mmpref.models.folder.image_only import image_only
from mmpref.records import ImageRef, PreferencePair, user_turn

QUESTION_WORDS = 40
# a turn is its text: no role names, so that every library runs over the same tokens
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %} EOS{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE {% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %} {% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Scaled:
    """One scaled model with its processor, and what its parts weigh."""

    name: str
    family: str
    build: Callable[[], tf.PreTrainedModel]
    processor: Any
    image_markup: str
    image: tuple[int, int]
    """Width and height of the benchmark's images."""
    patches: int
    """Tokens inside the vision tower for one image."""
    image_tokens: int


def tokenizer(size: int, special: list[str], *, image: str, eos: str, **named: Any) -> tf.PreTrainedTokenizerFast:
    words = {token: number for number, token in enumerate(special)}
    words.update({f"w{number}": len(special) + number for number in range(size - len(special))})
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(special)
    template = TEMPLATE.replace("IMAGE", image).replace("EOS", eos)
    return tf.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token=eos, chat_template=template, **named)  # fmt: skip # noqa: E501


def llava_like() -> Scaled:
    vocabulary, side = 32_000, 336
    special = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
    words = tokenizer(vocabulary, special, image="<image>", eos="</s>", pad_token="<pad>",
                      extra_special_tokens={"image_token": "<image>"})  # fmt: skip
    images = tf.CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    processor = tf.LlavaProcessor(
        images, words, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=words.chat_template,
    )  # fmt: skip

    def build() -> tf.PreTrainedModel:
        torch.manual_seed(0)
        vision = tf.CLIPVisionConfig(
            hidden_size=192, intermediate_size=768, num_hidden_layers=6, num_attention_heads=3, image_size=side,
            patch_size=14, projection_dim=128,
        )  # fmt: skip
        text = tf.LlamaConfig(
            vocab_size=vocabulary, hidden_size=640, intermediate_size=1728, num_hidden_layers=12,
            num_attention_heads=10, num_key_value_heads=10, max_position_embeddings=4096, pad_token_id=3,
            bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        config = tf.LlavaConfig(vision_config=vision, text_config=text, image_token_index=4, image_seq_length=576)
        return tf.LlavaForConditionalGeneration(config)

    return Scaled("LLaVA-like", "llava", build, processor, "<image>", (448, 448), 577, 576)


def qwen2_vl_like() -> Scaled:
    vocabulary, pixels = 152_064, 896 * 896
    special = ["<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
               "<|image_pad|>", "<|video_pad|>"]  # fmt: skip
    named = {"vision_start_token": special[4], "vision_end_token": special[5], "image_token": special[6],
             "video_token": special[7]}  # fmt: skip
    markup = "<|vision_start|> <|image_pad|> <|vision_end|>"
    words = tokenizer(vocabulary, special, image=markup, eos="<|im_end|>", pad_token="<|endoftext|>",
                      extra_special_tokens=named)  # fmt: skip
    images = tf.Qwen2VLImageProcessorPil(size={"shortest_edge": 4 * 28 * 28, "longest_edge": pixels}, patch_size=14)
    processor = image_only(tf.Qwen2VLProcessor)(images, words, chat_template=words.chat_template)

    def build() -> tf.PreTrainedModel:
        torch.manual_seed(0)
        text = {
            "vocab_size": vocabulary, "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
            "num_attention_heads": 8, "num_key_value_heads": 2, "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12]},
            "bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 1, "use_sliding_window": False,
        }  # fmt: skip
        vision = {"depth": 6, "embed_dim": 256, "hidden_size": 512, "num_heads": 4}
        config = tf.Qwen2VLConfig(
            text_config=text, vision_config=vision, tie_word_embeddings=True, image_token_id=6, video_token_id=7,
            vision_start_token_id=4, vision_end_token_id=5,
        )  # fmt: skip
        return tf.Qwen2VLForConditionalGeneration(config)

    return Scaled("Qwen2-VL-like", "qwen2_vl", build, processor, markup, (896, 896), 4096, 1024)


SCALED: dict[str, Callable[[], Scaled]] = {"llava": llava_like, "qwen2_vl": qwen2_vl_like}


def make_pairs(count: int, *, shortest: int, longest: int, seed: int, vocabulary: int = 20_000) -> list[PreferencePair]:
    """Pairs of random words over one image each; answers of ``shortest`` to ``longest`` words.

    Args:
        vocabulary: of so many words; a tokenizer that knows fewer would see unknown ones.
    """
    draw = random.Random(seed)

    def words(number: int) -> str:
        return " ".join(f"w{draw.randrange(vocabulary)}" for _ in range(number))

    return [
        PreferencePair(
            id=str(number),
            images=(ImageRef(path=str(number)),),
            prompt=user_turn(words(QUESTION_WORDS), num_images=1),
            chosen=words(draw.randint(shortest, longest)),
            rejected=words(draw.randint(shortest, longest)),
        )
        for number in range(count)
    ]


def image(ref: ImageRef, size: tuple[int, int]) -> Image.Image:
    noise = np.random.default_rng(int(ref.path or 0)).integers(0, 255, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
