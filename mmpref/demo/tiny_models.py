"""A vision-language model small enough for one CPU thread, made of the real parts of transformers.

`LlavaForConditionalGeneration` (CLIP tower, projector, Llama) with a `LlavaProcessor`, a PIL image processor, a word
tokenizer and a chat template. It is saved like any checkpoint, so `AutoProcessor` and `AutoModelForImageTextToText`
load it with no knowledge of this file. It knows nothing until it is trained. The tokenizer is also that of
`tiny_qwen2_vl`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from mmpref.demo.annotate import vocabulary
from mmpref.demo.scenes import CELL, GRID, SIDE

CONTROL_TOKENS = ("<pad>", "<unk>", "<eos>")
ROLE_TOKENS = {"system_token": "<system>", "user_token": "<user>", "assistant_token": "<assistant>"}
IMAGE_TOKENS = {"image_token": "<image>"}
SPECIAL_TOKENS = (*CONTROL_TOKENS, *IMAGE_TOKENS.values(), *ROLE_TOKENS.values())

LONGEST_ANSWER = 48  # tokens; the longest truthful caption of this world has about 30


def chat_template(image: str) -> str:
    """Turns as `<role> text`, with `<eos>` after an assistant's; `image` stands where an image is.

    Tokens are whole words, so the prompt with its closing `<assistant>` is an exact token prefix of the prompt with the
    answer.
    """
    return (
        "{%- for message in messages -%}"
        "{{- '<' + message['role'] + '>' -}}"
        "{%- if message['content'] is string -%}{{- ' ' + message['content'] -}}"
        "{%- else -%}{%- for part in message['content'] -%}"
        "{%- if part['type'] == 'image' -%}{{- ' IMAGE' -}}{%- else -%}{{- ' ' + part['text'] -}}{%- endif -%}"
        "{%- endfor -%}{%- endif -%}"
        "{%- if message['role'] == 'assistant' -%}{{- ' <eos>' -}}{%- endif -%}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<assistant>' -}}{%- endif -%}"
    ).replace("IMAGE", image)


CHAT_TEMPLATE = chat_template("<image>")


def build_tokenizer(
    image_tokens: Mapping[str, str] = IMAGE_TOKENS, template: str = CHAT_TEMPLATE
) -> PreTrainedTokenizerFast:
    """One token a word of the world, plus punctuation; case is ignored and any other word becomes `<unk>`.

    Args:
        image_tokens: the tokens around and in place of images, by the names under which the processor looks for them.
        template: the chat template, which writes them.
    """
    special = (*CONTROL_TOKENS, *image_tokens.values(), *ROLE_TOKENS.values())
    ids = {token: number for number, token in enumerate((*special, *vocabulary()))}
    core = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    core.normalizer = normalizers.Lowercase()
    # ``cup?`` is two words; the text of an answer is words joined by single spaces, which is also how it is decoded.
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), behavior="removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<eos>",
        extra_special_tokens={**image_tokens, **ROLE_TOKENS},
        clean_up_tokenization_spaces=False,
        chat_template=template,
        model_max_length=512,
    )


def build_processor() -> LlavaProcessor:
    """The tokenizer and an image processor that brings any image to `SIDE` x `SIDE`, nothing cut away."""
    images = CLIPImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        do_center_crop=False,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_tokenizer(),
        patch_size=CELL,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLIP's class token, which the strategy "default" drops again
        chat_template=CHAT_TEMPLATE,
    )


def tiny_llava_config(tokenizer: PreTrainedTokenizerFast) -> LlavaConfig:
    """GRID*GRID image tokens (one a cell), 128 wide, two decoder layers: about 0.7 M parameters."""
    special: dict[str, Any] = {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    vision = CLIPVisionConfig(
        image_size=GRID * CELL,
        patch_size=CELL,
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=96,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        initializer_range=0.06,  # at the usual .02 a model this small stays blind for hundreds of steps
        tie_word_embeddings=True,
        **special,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=GRID * GRID,
        tie_word_embeddings=True,
        **special,
    )


def build_tiny_llava(out: Path, *, seed: int) -> None:
    """Write an untrained model and its processor to `out`; the same seed gives the same weights."""
    processor = build_processor()
    tokenizer = processor.tokenizer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(tiny_llava_config(tokenizer))
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=LONGEST_ANSWER,
    )
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    processor.save_pretrained(out)
