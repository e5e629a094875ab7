"""Folders of Llama 4 and MiniCPM-V."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.model_types import chats
from tests.model_types.folders import TEXT, TOWER, Writer, ids_of, image_class, write_folder
from tests.model_types.qwen import _LINEAR, _PARTIAL, model_of

_LLAMA_4 = (
    "<|header_start|>", "<|header_end|>", "<|eot|>", "<|image|>", "<|image_start|>", "<|image_end|>", "<|patch|>",
    "<|tile_x_separator|>", "<|tile_y_separator|>",
)  # fmt: skip


def write_llama4(folder: Path) -> Path:
    """Llama 4: tiles with marks between them, layers with and without rotary positions, chunked attention, experts."""
    tokens = chats.tokenizer_of(
        chats.LLAMA_4, bos="<|begin_of_text|>", eos="<|eot|>", pad="<|finetune_right_pad|>", unnamed=_LLAMA_4
    )
    to_id = tokens.convert_tokens_to_ids
    config = {
        "text_config": {
            **TEXT, **ids_of(tokens), "intermediate_size_mlp": 128, "num_local_experts": 2, "no_rope_layers": [1, 0],
            "attention_chunk_size": 16,
        },
        "vision_config": {
            **TOWER, "intermediate_size": 256, "vision_output_dim": 64, "projector_input_dim": 64,
            "projector_output_dim": 64,
        },
        "boi_token_index": to_id("<|image_start|>"),
        "eoi_token_index": to_id("<|image_end|>"),
        "image_token_index": to_id("<|patch|>"),
    }  # fmt: skip
    images = image_class("Llama4")(size={"height": 28, "width": 28}, max_patches=4)
    return write_folder(
        folder, model_of("Llama4", config), tokens, images, processor="Llama4Processor", settings={"patch_size": 14}
    )


def write_minicpmv(folder: Path, *, name: str) -> Path:
    """MiniCPM-V 4.6 on: numbered slices of large images, merged inside the tower and after it; below, Qwen3.5."""
    named = {
        "image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "image_start_token": "<image>",
        "image_end_token": "</image>", "slice_start_token": "<slice>", "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>",
    }  # fmt: skip
    tokens = chats.tokenizer_of(
        chats.MINICPM, eos="<|im_end|>", pad="<|endoftext|>", named=named, words=("<think>", "</think>")
    )
    config = {
        "text_config": {"model_type": "qwen3_5_text", **TEXT, **ids_of(tokens), **_LINEAR, **_PARTIAL},
        "vision_config": {**TOWER, "image_size": 56},
        "insert_layer_id": 0,
        "image_size": 56,
        "image_token_id": tokens.image_token_id,
        "video_token_id": tokens.video_token_id,
    }
    if name == "MiniCPMV4_7":
        for key in ("image_start", "image_end", "slice_start", "slice_end"):
            config[f"{key}_id"] = tokens.convert_tokens_to_ids(named[f"{key}_token"])
        config["newline_id"] = tokens.convert_tokens_to_ids(tokens.tokenize("\n"))[0]
    images = image_class("MiniCPMV4_6")(scale_resolution=56, max_slice_nums=4)
    return write_folder(folder, model_of(name, config), tokens, images, processor=f"{name}Processor")


WRITERS: dict[str, Writer] = {
    "llama4": write_llama4,
    "minicpmv4_6": partial(write_minicpmv, name="MiniCPMV4_6"),
    "minicpmv4_7": partial(write_minicpmv, name="MiniCPMV4_7"),
}
NOT_BUILT: dict[str, str] = {}
