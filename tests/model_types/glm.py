"""Folders of the GLM-V family."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import transformers as tf

from tests.model_types import chats
from tests.model_types.folders import TEXT, Writer, ids_of, write_folder
from tests.model_types.qwen import model_of

_MARKS = (
    "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<|begin_of_image|>",
    "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>", "<|image|>", "<|video|>",
)  # fmt: skip
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}
_TOWER = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 4,
    "out_hidden_size": 64,
    "image_size": 56,
    "patch_size": 14,
}


def _tokenizer(template: str) -> Any:
    return chats.tokenizer_of(
        template, eos="<|endoftext|>", pad="<|endoftext|>", unnamed=_MARKS,
        words=("<think>", "</think>", "<answer>", "</answer>"),
    )  # fmt: skip


def _write(name: str, processor: str, text: dict[str, Any], template: str, folder: Path) -> Path:
    tokens = _tokenizer(template)
    to_id = tokens.convert_tokens_to_ids
    side = 28 * 28
    config = {
        "text_config": {**TEXT, **ids_of(tokens), "rope_parameters": _ROPE, **text},
        "vision_config": _TOWER,
        "image_token_id": to_id("<|image|>"),
        "video_token_id": to_id("<|video|>"),
        "image_start_token_id": to_id("<|begin_of_image|>"),
        "image_end_token_id": to_id("<|end_of_image|>"),
        "video_start_token_id": to_id("<|begin_of_video|>"),
        "video_end_token_id": to_id("<|end_of_video|>"),
    }
    images = tf.Glm4vImageProcessorPil(size={"shortest_edge": side, "longest_edge": 8 * side})
    return write_folder(folder, model_of(name, config), tokens, images, processor=processor)


WRITERS: dict[str, Writer] = {
    "glm4v": partial(_write, "Glm4v", "Glm4vProcessor", {}, chats.GLM_4_1),
}
NOT_BUILT: dict[str, str] = {}
