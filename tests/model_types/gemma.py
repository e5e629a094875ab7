"""Folders of Gemma's models of sight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.model_types import chats
from tests.model_types.folders import TEXT, Writer, ids_of, image_class, write_folder
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


def _tokenizer_4() -> Any:
    return chats.tokenizer_of(chats.GEMMA_4, bos="<bos>", eos="<eos>", pad="<pad>", named=_GEMMA_4, unnamed=_TURNS_4)


def write_gemma4(folder: Path) -> Path:
    """Gemma 4: sliding and full layers of other head sizes, per-layer embeddings, images seen in both directions."""
    tokens = _tokenizer_4()
    to_id = tokens.convert_tokens_to_ids
    config = {
        "text_config": {
            **TEXT, **ids_of(tokens), "num_hidden_layers": 3, "sliding_window": 16, "global_head_dim": 32,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
            "vocab_size_per_layer_input": len(tokens), "hidden_size_per_layer_input": 16,
            "use_bidirectional_attention": "vision",
        },
        "vision_config": {
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 4, "head_dim": 16, "patch_size": 16, "position_embedding_size": 64,
            "pooling_kernel_size": 3,
        },
        "audio_config": None,
        "boi_token_id": to_id("<|image>"),
        "eoi_token_id": to_id("<image|>"),
        "image_token_id": to_id("<|image|>"),
        "video_token_id": to_id("<|video|>"),
        "boa_token_id": to_id("<|audio>"),
        "eoa_token_index": to_id("<audio|>"),
        "audio_token_id": to_id("<|audio|>"),
    }  # fmt: skip
    images = image_class("Gemma4")(max_soft_tokens=70)
    sound = {"feature_extractor_type": "Gemma4AudioFeatureExtractor", "feature_size": 128, "sampling_rate": 16000}
    settings = {
        "image_seq_length": 70,
        "audio_seq_length": 750,
        "image_processor": images.to_dict(),
        "feature_extractor": sound,
        "video_processor": {"video_processor_type": "Gemma4VideoProcessor", "max_soft_tokens": 70, "num_frames": 32},
    }
    write_folder(folder, model_of("Gemma4", config), tokens, images, processor="Gemma4Processor", settings=settings)
    (folder / "preprocessor_config.json").unlink()  # all stands in processor_config.json
    return folder


WRITERS: dict[str, Writer] = {"gemma4": write_gemma4}
NOT_BUILT: dict[str, str] = {}
