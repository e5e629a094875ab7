"""Folders of models whose towers take images of any size as grids of patches, of houses other than Qwen and GLM."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from tests.model_types import chats, qwen
from tests.model_types.folders import TEXT, TOWER, Writer, ids_of, image_class, write_folder
from tests.model_types.qwen import model_of

_BAIDU = {
    "image_token": "<|IMAGE_PLACEHOLDER|>",
    "image_start_token": "<|IMAGE_START|>",
    "image_end_token": "<|IMAGE_END|>",
    "video_token": "<|VIDEO_PLACEHOLDER|>",
    "video_start_token": "<|VIDEO_START|>",
    "video_end_token": "<|VIDEO_END|>",
}
_MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}


def _budget(patch: int, *, least: int = 1, most: int = 8) -> dict[str, Any]:
    side = (2 * patch) ** 2
    return {"size": {"shortest_edge": least * side, "longest_edge": most * side}}


def write_ernie(folder: Path) -> Path:
    """ERNIE-4.5-VL: experts of their own for text and for images, told apart by token types."""
    tokens = chats.tokenizer_of(
        chats.ERNIE, eos="<|end_of_sentence|>", pad="<unk>", named=_BAIDU, unnamed=("<|begin_of_sentence|>",)
    )
    config = {
        "text_config": {
            **TEXT, **ids_of(tokens), "moe_intermediate_size": [64, 32], "moe_k": 2, "moe_num_experts": 4,
            "rope_parameters": {**_MROPE, "mrope_section": [3, 3, 2]}, "use_bias": False, "tie_word_embeddings": True,
        },
        "vision_config": {
            "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "patch_size": 14
        },
        **{f"{key}_id": tokens.convert_tokens_to_ids(token) for key, token in _BAIDU.items()},
    }  # fmt: skip
    images = image_class("Ernie4_5_VLMoe")(**_budget(14))
    model = model_of("Ernie4_5_VLMoe", config)
    return write_folder(folder, model, tokens, images, processor="Ernie4_5_VLMoeProcessor")


def write_paddleocr(folder: Path) -> Path:
    """PaddleOCR-VL: a tower of SigLIP's kind over grids, and a small ERNIE."""
    tokens = chats.tokenizer_of(chats.PADDLE, eos="</s>", pad="<unk>", named=_BAIDU, unnamed=("<|begin_of_sentence|>",))
    to_id = tokens.convert_tokens_to_ids
    config = {
        "text_config": {**TEXT, **ids_of(tokens), "rope_parameters": _MROPE},
        "vision_config": {**TOWER, "image_size": 56},
        "image_token_id": tokens.image_token_id,
        "video_token_id": tokens.video_token_id,
        "vision_start_token_id": to_id("<|IMAGE_START|>"),
        "vision_end_token_id": to_id("<|IMAGE_END|>"),
    }
    images = image_class("PaddleOCRVL")(**_budget(14))
    return write_folder(folder, model_of("PaddleOCRVL", config), tokens, images, processor="PaddleOCRVLProcessor")


def write_video_llama_3(folder: Path) -> Path:
    """VideoLLaMA 3: patches are not merged for images, and Qwen2.5 below."""
    tokens = chats.tokenizer_of(
        chats.QWEN.replace("<|vision_start|>", "").replace("<|vision_end|>", "{{ '\\n' }}"), eos="<|im_end|>",
        pad="<|endoftext|>", named={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    )  # fmt: skip
    config = {
        "text_config": {"model_type": "qwen2", **TEXT, **ids_of(tokens)},
        "vision_config": {**TOWER, "image_size": 56},
        "image_token_id": tokens.image_token_id,
        "video_token_id": tokens.video_token_id,
    }
    images = image_class("VideoLlama3")(**_budget(14, most=4))
    return write_folder(folder, model_of("VideoLlama3", config), tokens, images, processor="VideoLlama3Processor")


def write_hunyuan(folder: Path) -> Path:
    """HunYuan-VL: a token more at the end of each row of an image, and positions of four planes."""
    place = "<｜hy_place▁holder▁no▁{}｜>".format
    named = {"image_token": place(102), "image_start_token": place(100), "image_end_token": place(101)}
    tokens = chats.tokenizer_of(
        chats.HUNYUAN, eos="<｜hy_Assistant｜>", pad="<｜hy_▁pad▁｜>", named=named,
        unnamed=("<｜hy_begin▁of▁sentence｜>", "<｜hy_User｜>", place(3), place(103)),
    )  # fmt: skip
    to_id = tokens.convert_tokens_to_ids
    config = {
        "text_config": {**TEXT, **ids_of(tokens), "rope_parameters": {**_MROPE, "mrope_section": [2, 2, 2, 2]}},
        "vision_config": {
            **TOWER, "patch_size": 16, "out_hidden_size": 64, "text_hidden_size": 64, "max_image_size": 128,
            "img_max_token_num": 64,
        },
        "image_token_id": to_id(place(102)),
        "im_start_id": to_id(place(100)),
        "im_end_id": to_id(place(101)),
        "im_newline_id": to_id(place(103)),
    }  # fmt: skip
    images = image_class("HunYuanVL")(**_budget(16))
    return write_folder(folder, model_of("HunYuanVL", config), tokens, images, processor="HunYuanVLProcessor")


def write_dots3_note(folder: Path) -> Path:
    """dots3-note: sees and hears; latent attention with an index of what to look at, experts in tower and decoder.

    With few heads of the index many tokens would have the same score of 0, and which of equals is taken depends on
    padding.
    """
    tokens = chats.tokenizer_of(
        chats.DOTS, eos="<|endofassistant|>", pad="<|endoftext|>",
        unnamed=("<|img|>", "<|imgpad|>", "<|endofimg|>", "<|video_pad|>", "<|audio_comp_pad|>", "<|user|>",
                 "<|endofuser|>", "<|assistant|>", "<|system|>", "<|endofsystem|>"),
    )  # fmt: skip
    to_id = tokens.convert_tokens_to_ids
    config = {
        "text_config": {
            **TEXT, **ids_of(tokens), "num_key_value_heads": 4, "moe_intermediate_size": 64, "n_routed_experts": 4,
            "num_experts_per_tok": 2, "kv_lora_rank": 16, "q_lora_rank": 32, "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8, "v_head_dim": 16, "index_topk": 16, "index_head_dim": 16, "index_n_heads": 16,
            "mlp_layer_types": ["dense", "sparse"], "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 16, "shared_experts_intermediate_size": 64,
        },
        "vision_config": {
            **TOWER, "moe_intermediate_size": 64, "mlp_layer_types": ["dense", "sparse"], "num_local_experts": 4,
            "num_experts_per_tok": 2, "adapter_in_dim": 64, "adapter_out_dim": 64,
        },
        "audio_config": {
            "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
            "adapter_input_size": 64, "adapter_out_dim": 64, "feature_size": 16, "downsample_hidden_size": 16,
        },
        "image_token_id": to_id("<|imgpad|>"),
        "video_token_id": to_id("<|video_pad|>"),
        "audio_token_id": to_id("<|audio_comp_pad|>"),
    }  # fmt: skip
    write_folder(
        folder, model_of("Dots3Note", config), tokens, qwen.patches(14, frames=1), processor="Dots3NoteProcessor"
    )
    file = folder / "preprocessor_config.json"
    hearing = {"feature_extractor_type": "Dots3NoteFeatureExtractor", "feature_size": 16}
    file.write_text(json.dumps(json.loads(file.read_text()) | hearing))
    return folder


def write_cosmos3_edge(folder: Path) -> Path:
    """Cosmos3 Edge: SigLIP 2 over grids, and a decoder with squared ReLUs."""
    tokens = qwen.tokenizer(chats.QWEN)
    config = {
        "text_config": {**TEXT, **ids_of(tokens), "rope_parameters": {**_MROPE, "mrope_section": [3, 3, 2]}},
        "vision_config": {**TOWER, "patch_size": 16, "num_patches": 16},
        "projector_hidden_size": 64,
        **qwen.ids_of_images(tokens),
    }
    images = image_class("Cosmos3Edge")(**_budget(16))
    return write_folder(folder, model_of("Cosmos3Edge", config), tokens, images, processor="Cosmos3EdgeProcessor")


def write_minimax(folder: Path) -> Path:
    """MiniMax-M3: marks of punctuation around images, experts, and attention to blocks that an index chooses."""
    marks = ("]~!b[", "]~b]", "[e~[", "]<]image[>[", "]<]video[>[", "]<]start of image[>[", "]<]end of image[>[")
    tokens = chats.tokenizer_of(chats.MINIMAX, eos="[e~[", pad="]!p~[", unnamed=marks, words=("<think>", "</think>"))
    config = {
        "text_config": {
            **TEXT, **ids_of(tokens), "dense_intermediate_size": 128, "shared_intermediate_size": 64,
            "intermediate_size": 64, "num_local_experts": 4, "num_experts_per_tok": 2, "rotary_dim": 8,
            "mlp_layer_types": ["dense", "sparse"], "layer_types": ["full_attention", "minimax_m3_sparse"],
            "index_n_heads": 2, "index_head_dim": 16, "index_block_size": 16, "index_topk_blocks": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        },
        "vision_config": {**TOWER, "image_size": 56},
        "image_token_index": tokens.convert_tokens_to_ids("]<]image[>["),
        "video_token_index": tokens.convert_tokens_to_ids("]<]video[>["),
        "projector_hidden_size": 64,
    }  # fmt: skip
    images = image_class("MiniMaxM3VL")(min_pixels=28 * 28, max_pixels=8 * 28 * 28)
    model = model_of("MiniMaxM3VL", config, kind="MiniMaxM3SparseForConditionalGeneration")
    return write_folder(folder, model, tokens, images, processor="MiniMaxM3VLProcessor")


def write_muse(folder: Path, *, name: str) -> Path:
    """Muse: layers of several rotary bases and windows; Spark hears as well and has experts."""
    marks = (
        "<|start|>", "<|message|>", "<|eot|>", "<|eom|>", "<|patch|>", "<|image_start|>", "<|image_end|>", "<|video|>",
        "<|vid_frame_separator|>", "<|vid_start|>", "<|vid_end|>", "<|audio|>", "<|soft_audio_start|>",
        "<|soft_audio_end|>",
    )  # fmt: skip
    tokens = chats.tokenizer_of(
        chats.MUSE, bos="<|begin_of_text|>", eos="<|eot|>", pad="<|finetune_right_pad|>", unnamed=marks
    )
    text: dict[str, Any] = {
        **TEXT, **ids_of(tokens), "sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]
    }  # fmt: skip
    if name == "MuseSpark":
        text |= {
            "moe_intermediate_size": 64, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_hidden_size": 64,
            "mlp_layer_types": ["dense", "sparse"],
        }  # fmt: skip
    config = {
        "text_config": text,
        "vision_config": {
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "patch_size": 14, "pos_emb_height": 8, "pos_emb_width": 8, "max_position_embeddings": 64,
        },
        "image_token_id": tokens.convert_tokens_to_ids("<|patch|>"),
        "video_token_id": tokens.convert_tokens_to_ids("<|video|>"),
        "out_hidden_size": 256,
        "projector_hidden_size": 64,
    }  # fmt: skip
    if name == "MuseSpark":
        config |= {
            "audio_token_id": tokens.convert_tokens_to_ids("<|audio|>"),
            "audio_config": {"hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1], "out_hidden_size": 64},
        }
    images = image_class("MuseGlimmer")(max_image_tokens=8)
    write_folder(folder, model_of(name, config), tokens, images, processor=f"{name}Processor")
    if name == "MuseSpark":
        file = folder / "preprocessor_config.json"
        hearing = {"feature_extractor_type": "MuseSparkFeatureExtractor"}
        file.write_text(json.dumps(json.loads(file.read_text()) | hearing))
    return folder


WRITERS: dict[str, Writer] = {
    "ernie4_5_vl_moe": write_ernie,
    "paddleocr_vl": write_paddleocr,
    "video_llama_3": write_video_llama_3,
    "hunyuan_vl": write_hunyuan,
    "dots3_note": write_dots3_note,
    "cosmos3_edge": write_cosmos3_edge,
    "minimax_m3_vl": write_minimax,
    "muse_glimmer": partial(write_muse, name="MuseGlimmer"),
    "muse_spark": partial(write_muse, name="MuseSpark"),
}
NOT_BUILT: dict[str, str] = {}
