"""Folders of Gemma's models of sight."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tests.model_types import chats
from tests.model_types.folders import TEXT, TOWER, Writer, ids_of, image_class, write_folder
from tests.model_types.qwen import model_of

_GEMMA_4 = {
    "image_token": "<|image|>",
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
}
_TURNS_4 = ("<|turn>", "<turn|>", "<|think|>", "<|channel>", "<channel|>", "<|video|>")


_TOWER_4 = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 16, "patch_size": 16, "position_embedding_size": 64, "pooling_kernel_size": 3,
}  # fmt: skip
_UNIFIED = {"mm_embed_dim": 64, "mm_posemb_size": 64, "output_proj_dims": 64}


def _tokenizer_4() -> Any:
    return chats.tokenizer_of(chats.GEMMA_4, bos="<bos>", eos="<eos>", pad="<pad>", named=_GEMMA_4, unnamed=_TURNS_4)


def write_gemma4(
    folder: Path, *, name: str = "Gemma4", images: str = "Gemma4", text: dict[str, Any] | None = None, kind: str = ""
) -> Path:
    """Gemma 4: sliding and full layers of other head sizes, per-layer embeddings, images seen in both directions."""
    tokens = _tokenizer_4()
    to_id = tokens.convert_tokens_to_ids
    embeddings = {"vocab_size_per_layer_input": len(tokens), "hidden_size_per_layer_input": 16}
    config = {
        "text_config": {
            **TEXT, **ids_of(tokens), "num_hidden_layers": 3, "sliding_window": 16, "global_head_dim": 32,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "use_bidirectional_attention": "vision", **(embeddings if text is None else text),
        },
        "vision_config": _UNIFIED if name == "Gemma4Unified" else _TOWER_4,
        "audio_config": None,
        "boi_token_id": to_id("<|image>"),
        "eoi_token_id": to_id("<image|>"),
        "image_token_id": to_id("<|image|>"),
        "video_token_id": to_id("<|video|>"),
        "boa_token_id": to_id("<|audio>"),
        "eoa_token_index": to_id("<audio|>"),
        "audio_token_id": to_id("<|audio|>"),
    }  # fmt: skip
    pixels = image_class(images)(max_soft_tokens=70)
    settings = {
        "image_seq_length": 70,
        "audio_seq_length": 750,
        "image_processor": pixels.to_dict(),
        "feature_extractor": {
            "feature_extractor_type": f"{images}AudioFeatureExtractor", "feature_size": 128, "sampling_rate": 16000
        },
        "video_processor": {"video_processor_type": f"{images}VideoProcessor", "max_soft_tokens": 70, "num_frames": 32},
    }  # fmt: skip
    model = model_of(name, config, kind=kind)
    write_folder(folder, model, tokens, pixels, processor=f"{images}Processor", settings=settings)
    (folder / "preprocessor_config.json").unlink()  # all stands in processor_config.json
    return folder


def write_t5gemma2(folder: Path) -> Path:
    """T5Gemma 2, whose prompt is read by an encoder."""
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokens = chats.tokenizer_of(
        chats.GEMMA_3, bos="<bos>", eos="<eos>", pad="<pad>", named=named, unnamed=("<start_of_turn>", "<end_of_turn>")
    )
    to_id = tokens.convert_tokens_to_ids
    text = {**TEXT, **ids_of(tokens), "sliding_window": 16, "query_pre_attn_scalar": 16}
    config = {
        "encoder": {
            "text_config": text, "vision_config": {**TOWER, "image_size": 56, "vision_use_head": False},
            "mm_tokens_per_image": 4, "image_token_index": to_id("<image_soft_token>"), "vocab_size": len(tokens),
        },
        "decoder": text,
        "image_token_index": to_id("<image_soft_token>"),
        "eoi_token_index": to_id("<end_of_image>"),
    }  # fmt: skip
    images = image_class("Gemma3")(size={"height": 56, "width": 56})
    return write_folder(folder, model_of("T5Gemma2", config), tokens, images, processor="Gemma3Processor")


_EXPERTS = {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 64}

WRITERS: dict[str, Writer] = {
    "gemma4": write_gemma4,
    "gemma4 (experts)": partial(
        write_gemma4, text={**_EXPERTS, "enable_moe_block": True, "hidden_size_per_layer_input": 0}
    ),
    "gemma4_unified": partial(write_gemma4, name="Gemma4Unified", images="Gemma4Unified", text={}),
    "diffusion_gemma": partial(
        write_gemma4, name="DiffusionGemma", text=_EXPERTS, kind="DiffusionGemmaForBlockDiffusion"
    ),
    "t5gemma2": write_t5gemma2,
}
NOT_BUILT: dict[str, str] = {
    "gemma3n": "its vision tower is MobileNetV5 of the timm package, which needs torchvision",
}
