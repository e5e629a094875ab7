"""A Qwen2-VL small enough for one CPU thread: the other architecture on which the demo can be told.

`Qwen2VLForConditionalGeneration` as transformers has it: a tower without a class token, whose patches know their place
by rotations, a merger that makes one image token of 2 x 2 patches, images between `<|vision_start|>` and
`<|vision_end|>`, and a language model whose positions have three planes (time, height, width). Twelve pixels a patch,
so that a merged token sees one cell of the world, as a patch of the tiny LLaVA does. Sizes are the tiny LLaVA's where
both have them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
)

from mmpref.demo.scenes import CELL, SIDE
from mmpref.demo.tiny_models import LONGEST_ANSWER, build_tokenizer, chat_template
from mmpref.models.folder.image_only import image_only

MERGE = 2  # patches of an image token, per side
PATCH = CELL // MERGE
FRAMES = 2  # an image is doubled to fill the two frames of a patch, as every Qwen2-VL does
TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
TEMPLATE = chat_template("<|vision_start|><|image_pad|><|vision_end|>")


def build_qwen2_vl_processor() -> Any:
    """The tokenizer and an image processor that brings any image to about `SIDE` x `SIDE` pixels, its shape kept."""
    images = Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=FRAMES,
        size={"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    # transformers' class also asks for the part that reads videos, which needs torchvision
    return image_only(Qwen2VLProcessor)(images, build_tokenizer(TOKENS, TEMPLATE), chat_template=TEMPLATE)


def tiny_qwen2_vl_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2VLConfig:
    """One image token a cell, 128 wide, two decoder layers: about 0.8 M parameters."""
    ids = {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in TOKENS.items()}
    special: dict[str, Any] = {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 512,
        "initializer_range": 0.06,  # as the tiny LLaVA's
        # of the 16 rotated pairs of numbers of a head: time, height, width, in the proportions of Qwen2-VL
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
        "tie_word_embeddings": True,
        **special,
    }
    vision = {
        "depth": 2,
        "embed_dim": 96,
        "hidden_size": 128,
        "num_heads": 4,
        "mlp_ratio": 2,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": FRAMES,
    }
    return Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids, **special)


def build_tiny_qwen2_vl(out: Path, *, seed: int) -> None:
    """Write an untrained model and its processor to `out`; the same seed gives the same weights."""
    processor = build_qwen2_vl_processor()
    tokenizer = processor.tokenizer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2VLForConditionalGeneration(tiny_qwen2_vl_config(tokenizer))
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
        max_new_tokens=LONGEST_ANSWER,
    )
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    processor.save_pretrained(out)
