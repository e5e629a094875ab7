"""Folders of Qwen's models and of those built on them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import transformers as tf

from tests.model_types import chats
from tests.model_types.folders import TEXT, NotBuiltError, Writer, ids_of, write_folder

_TOKENS = {
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
}
_ROPE = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
_TOWER = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 4,
    "out_hidden_size": 64,
    "patch_size": 16,
    "num_position_embeddings": 16,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
_LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}


def model_of(name: str, config: dict[str, Any], *, task: str = "ForConditionalGeneration") -> Any:
    """A model from the names of its classes: ``Qwen3_5`` -> ``Qwen3_5Config`` and ``Qwen3_5ForConditionalGeneration``.

    Raises:
        NotBuiltError: this release does not have them.
    """
    if not hasattr(tf, f"{name}Config"):
        raise NotBuiltError(f"transformers {tf.__version__} has no {name}")
    return getattr(tf, f"{name}{task}")(getattr(tf, f"{name}Config")(**config))


def tokenizer(template: str) -> Any:
    """Qwen's: ``<|im_end|>`` ends a turn, ``<|endoftext|>`` fills up."""
    return chats.tokenizer_of(
        template, eos="<|im_end|>", pad="<|endoftext|>", named=_TOKENS, words=("<think>", "</think>")
    )


def ids_of_images(tokens: Any) -> dict[str, int]:
    """Ids of the tokens around images and videos, as configs name them."""
    return {f"{name}_id": tokens.convert_tokens_to_ids(token) for name, token in _TOKENS.items()}


def patches(patch: int = 16, *, most: int = 4) -> Any:
    """The image processor of Qwen-VL: any size, as a number of merged patches from one to ``most``."""
    side = (2 * patch) ** 2
    return tf.Qwen2VLImageProcessorPil(
        patch_size=patch, merge_size=2, temporal_patch_size=2, size={"shortest_edge": side, "longest_edge": most * side}
    )


def _write(name: str, text: dict[str, Any], tower: dict[str, Any], template: str, folder: Path) -> Path:
    tokens = tokenizer(template)
    config = {
        "text_config": {**TEXT, **ids_of(tokens), "rope_parameters": _ROPE, **text},
        "vision_config": {**_TOWER, **tower},
        **ids_of_images(tokens),
    }
    return write_folder(folder, model_of(name, config), tokens, patches(), processor="Qwen3VLProcessor")


_DEEP = {"deepstack_visual_indexes": [0]}
_PARTIAL = {"rope_parameters": {**_ROPE, "partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}}

WRITERS: dict[str, Writer] = {
    "qwen3_vl_moe": partial(_write, "Qwen3VLMoe", _EXPERTS, _DEEP, chats.QWEN),
    "qwen3_5": partial(_write, "Qwen3_5", {**_LINEAR, **_PARTIAL}, {}, chats.QWEN_THINKS),
    "qwen3_5_moe": partial(
        _write, "Qwen3_5Moe", {**_LINEAR, **_PARTIAL, **_EXPERTS, "shared_expert_intermediate_size": 64}, {},
        chats.QWEN_THINKS,
    ),
}  # fmt: skip
NOT_BUILT: dict[str, str] = {}
