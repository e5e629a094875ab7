"""Folders of Qwen's models and of those built on them."""

from __future__ import annotations

import json
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


def model_of(name: str, config: dict[str, Any], *, kind: str = "") -> Any:
    """A model from the names of its classes: ``Qwen3_5`` -> ``Qwen3_5Config`` and ``Qwen3_5ForConditionalGeneration``.

    Args:
        kind: the model's class, where it has another name.

    Raises:
        NotBuiltError: this release does not have them.
    """
    settings, model = (
        getattr(tf, found, None) for found in (f"{name}Config", kind or f"{name}ForConditionalGeneration")
    )
    if settings is None or model is None:
        raise NotBuiltError(f"transformers {tf.__version__} has no {name}")
    return model(settings(**config))


def tokenizer(template: str) -> Any:
    """Qwen's: ``<|im_end|>`` ends a turn, ``<|endoftext|>`` fills up."""
    return chats.tokenizer_of(
        template, eos="<|im_end|>", pad="<|endoftext|>", named=_TOKENS, words=("<think>", "</think>")
    )


def ids_of_images(tokens: Any) -> dict[str, int]:
    """Ids of the tokens around images and videos, as configs name them."""
    return {f"{name}_id": tokens.convert_tokens_to_ids(token) for name, token in _TOKENS.items()}


def patches(patch: int = 16, *, most: int = 4, frames: int = 2) -> Any:
    """The image processor of Qwen-VL: any size, as a number of merged patches from one to ``most``."""
    side = (2 * patch) ** 2
    return tf.Qwen2VLImageProcessorPil(
        patch_size=patch,
        merge_size=2,
        temporal_patch_size=frames,
        size={"shortest_edge": side, "longest_edge": most * side},
    )


def _write(name: str, text: dict[str, Any], tower: dict[str, Any], template: str, folder: Path) -> Path:
    tokens = tokenizer(template)
    config = {
        "text_config": {**TEXT, **ids_of(tokens), "rope_parameters": _ROPE, **text},
        "vision_config": {**_TOWER, **tower},
        **ids_of_images(tokens),
    }
    return write_folder(folder, model_of(name, config), tokens, patches(), processor="Qwen3VLProcessor")


def write_omni(name: str, marks: dict[str, str], patch: int, text: dict[str, Any], folder: Path) -> Path:
    """The thinker of Qwen-Omni, which hears and sees; its processor has a part for sound beside those for sight."""
    template = chats.QWEN
    for usual in ("vision_start", "vision_end", "image", "video"):
        template = template.replace(_TOKENS[f"{usual}_token"], marks[usual])
    named = {
        "image_token": marks["image"],
        "video_token": marks["video"],
        "audio_token": marks["audio"],
        "vision_bos_token": marks["vision_start"],
        "vision_eos_token": marks["vision_end"],
        "audio_bos_token": marks["audio_start"],
        "audio_eos_token": marks["audio_end"],
    }
    tokens = chats.tokenizer_of(template, eos="<|im_end|>", pad="<|endoftext|>", named=named)
    ids = {key: tokens.convert_tokens_to_ids(token) for key, token in marks.items()}
    config = {
        "text_config": {**TEXT, **ids_of(tokens), **text},
        "vision_config": {**_TOWER, **_DEEP, "patch_size": patch, "window_size": 56, "fullatt_block_indexes": [1]},
        "audio_config": {
            "num_mel_bins": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "d_model": 32,
            "max_source_positions": 100, "output_dim": 64,
        },
        **{f"{key}_token_{word}": ids[key] for key in ("image", "video", "audio") for word in ("id", "index")},
        **{f"{key}_token_id": ids[key] for key in ("audio_start", "audio_end", "vision_start")},
    }  # fmt: skip
    write_folder(folder, model_of(f"{name}Thinker", config), tokens, patches(patch), processor=f"{name}Processor")
    file = folder / "preprocessor_config.json"  # one file for sight and sound
    hearing = tf.WhisperFeatureExtractor(feature_size=16).to_dict()
    file.write_text(json.dumps({**hearing, **json.loads(file.read_text()), "feature_extractor_type": _WHISPER}))
    return folder


_WHISPER = "WhisperFeatureExtractor"
_OMNI_2_5 = {
    "image": "<|IMAGE|>", "video": "<|VIDEO|>", "audio": "<|AUDIO|>", "vision_start": "<|vision_bos|>",
    "vision_end": "<|vision_eos|>", "audio_start": "<|audio_bos|>", "audio_end": "<|audio_eos|>",
}  # fmt: skip
_OMNI_3 = {
    "image": "<|image_pad|>", "video": "<|video_pad|>", "audio": "<|audio_pad|>", "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>", "audio_start": "<|audio_start|>", "audio_end": "<|audio_end|>",
}  # fmt: skip
_ROPE_2_5 = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}}
_DEEP = {"deepstack_visual_indexes": [0]}
_INDEXED = {
    "layer_types": ["linear_attention", "full_attention"], "hc_count": 2, "hc_lowrank": 16, "ple_layer_ids": [1],
    "ple_embed_dim": 64, "ngram_vocab_size_base": 64, "make_ngram_vocab_size_divisible_by": 8, "heads_per_ngram": 2,
    "split_ngram_parts": 2, "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 64,
    "indexer_compress_ratio": 4, "shared_expert_intermediate_size": 64,
}  # fmt: skip
_PARTIAL = {"rope_parameters": {**_ROPE, "partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}}

WRITERS: dict[str, Writer] = {
    "qwen3_vl_moe": partial(_write, "Qwen3VLMoe", _EXPERTS, _DEEP, chats.QWEN),
    "qwen3_5": partial(_write, "Qwen3_5", {**_LINEAR, **_PARTIAL}, {}, chats.QWEN_THINKS),
    "qwen3_5_moe": partial(
        _write, "Qwen3_5Moe", {**_LINEAR, **_PARTIAL, **_EXPERTS, "shared_expert_intermediate_size": 64}, {},
        chats.QWEN_THINKS,
    ),
    "qwen4_exp": partial(_write, "Qwen4Exp", {**_LINEAR, **_PARTIAL, **_EXPERTS, **_INDEXED}, {}, chats.QWEN_THINKS),
    "cosmos3_omni": partial(_write, "Cosmos3Omni", {}, _DEEP, chats.QWEN),
    "qwen2_5_omni_thinker": partial(write_omni, "Qwen2_5Omni", _OMNI_2_5, 14, _ROPE_2_5),
    "qwen3_omni_moe_thinker": partial(
        write_omni, "Qwen3OmniMoe", _OMNI_3, 16, {"rope_parameters": _ROPE, **_EXPERTS}
    ),
}  # fmt: skip
NOT_BUILT: dict[str, str] = {}
