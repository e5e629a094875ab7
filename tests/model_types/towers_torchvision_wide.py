"""More folders of models whose image processor needs torchvision: crops with rows and columns, sound, mixtures."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tests.model_types.folders import (
    TEXT,
    TOWER,
    NotBuiltError,
    Writer,
    chat_template,
    class_of,
    ids_of,
    image_class,
    make_tokenizer,
    write_folder,
)

_ROLES = ("system", "user", "assistant")
_PLAIN_TEXT = {key: value for key, value in TEXT.items() if key != "head_dim"}


def write_molmo2(folder: Path) -> Path:
    """Molmo 2: overlapping crops, pooled by attention, with a token at the end of every row."""
    images = image_class("Molmo2")(
        size={"height": 56, "width": 56}, max_crops=3, overlap_margins=[1, 1], patch_size=14, pooling_size=[2, 2]
    )
    signs = ("<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<im_end>", "<im_low>")
    turns = {role: (f"<|im_start|>{role}\n", "<|im_end|>\n") for role in _ROLES}
    tokenizer = make_tokenizer(
        template=chat_template(turns, image="<|image|>", ask="<|im_start|>assistant\n"),
        unnamed=("<|image|>", "<|video|>", "<frame_start>", "<frame_end>", *signs),
    )
    to_id = tokenizer.convert_tokens_to_ids
    config = class_of("Molmo2Config")(
        vision_config={
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 4, "head_dim": 16, "image_size": [56, 56], "patch_size": 14,
        },
        adapter_config={
            "vision_feature_layer": [2, 1], "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4,
            "head_dim": 16, "intermediate_size": 128, "text_hidden_size": 64,
        },
        text_config={**TEXT, **ids_of(tokenizer), "additional_vocab_size": 8},
        image_start_token_id=to_id("<im_start>"),
        low_res_image_start_token_id=to_id("<low_res_im_start>"),
        image_end_token_id=to_id("<im_end>"),
        image_patch_id=to_id("<im_patch>"),
        frame_start_token_id=to_id("<frame_start>"),
        frame_end_token_id=to_id("<frame_end>"),
    )  # fmt: skip
    model = class_of("Molmo2ForConditionalGeneration")(config)
    return write_folder(folder, model, tokenizer, images, processor="Molmo2Processor")


def write_minicpm_ocr(folder: Path) -> Path:
    """MiniCPM-OCR: numbered images and slices of them, a decoder with linear attention."""
    images = image_class("MiniCPMOcr")(max_slice_nums=4, scale_resolution=56, patch_size=14)
    named = {
        "image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "image_start_token": "<image>",
        "image_end_token": "</image>", "slice_start_token": "<slice>", "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>", "image_id_end_token": "</image_id>",
    }  # fmt: skip
    tokenizer = make_tokenizer(named, image_markup="<|image_pad|>\n")
    config = class_of("MiniCPMOcrConfig")(
        text_config={
            "model_type": "qwen3_5_text", **TEXT, **ids_of(tokenizer), "linear_conv_kernel_dim": 2,
            "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2,
            "linear_num_value_heads": 4, "layer_types": ["linear_attention", "full_attention"],
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
                "mrope_section": [2, 1, 1], "mrope_interleaved": True,
            },
        },
        vision_config={**TOWER, "image_size": 56},
        insert_layer_id=0,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
    )  # fmt: skip
    model = class_of("MiniCPMOcrForConditionalGeneration")(config)
    return write_folder(folder, model, tokenizer, images, processor="MiniCPMOcrProcessor")


def write_unlimited_ocr(folder: Path) -> Path:
    """Unlimited-OCR: SAM and CLIP one behind the other, a decoder whose text looks at images and a window."""
    images = image_class("UnlimitedOcr")(size={"height": 64, "width": 64}, tile_size=64, max_patches=4)
    end = "<｜end▁of▁sentence｜>"
    turns = {"system": ("", "\n"), "user": ("<|User|>: ", "\n\n"), "assistant": ("<|Assistant|>: ", end)}
    tokenizer = make_tokenizer(
        {"image_token": "<image>"},
        template=chat_template(turns, image="<image>\n", ask="<|Assistant|>:"),
        unnamed=("<|User|>", "<|Assistant|>", end),
        eos_token=end,
        add_bos=True,
    )
    config = class_of("UnlimitedOcrConfig")(
        vision_config={
            "sam_config": {
                "hidden_size": 64, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
                "image_size": 64, "patch_size": 4, "window_size": 4, "global_attn_indexes": [], "mlp_dim": 128,
                "downsample_channels": [32, 64],
            },
            "encoder_config": {
                "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
                "image_size": 56, "patch_size": 14,
            },
        },
        text_config={
            **_PLAIN_TEXT, **ids_of(tokenizer), "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
            "moe_intermediate_size": 64, "mlp_layer_types": ["dense", "sparse"], "sliding_window": 64,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    model = class_of("UnlimitedOcrForConditionalGeneration")(config)
    settings = {"patch_size": 4, "downsample_ratio": 4}
    return write_folder(folder, model, tokenizer, images, processor="UnlimitedOcrProcessor", settings=settings)


def write_nemotron_h_omni(folder: Path) -> Path:
    """Nemotron 3 Omni: a RADIO tower, an ear, and a decoder of state spaces, attention and experts."""
    images = image_class("NemotronH_Omni_Reasoning_V3")(patch_size=16, min_num_patches=4, max_num_patches=16)
    named = {
        "image_token": "<image>", "video_token": "<video>", "audio_token": "<so_embedding>",
        "image_start_token": "<img>", "image_end_token": "</img>",
    }  # fmt: skip
    tokenizer = make_tokenizer(named, image_markup="<image>\n", unnamed=("<so_start>", "<so_end>"))
    to_id = tokenizer.convert_tokens_to_ids
    config = class_of("NemotronH_Omni_Reasoning_V3_Config")(
        vision_config={
            "model_type": "radio", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "patch_size": 16, "image_size": 64, "max_img_size": 128, "num_cls_tokens": 1, "num_registers": 1,
            "mlp_ratio": 2.0, "video_temporal_patch_size": 2,
        },
        text_config={
            "model_type": "nemotron_h", **ids_of(tokenizer), "hidden_size": 64, "intermediate_size": 128,
            "layers_block_type": ["mamba", "attention", "moe"], "num_attention_heads": 4, "num_key_value_heads": 2,
            "head_dim": 16, "ssm_state_size": 16, "mamba_num_heads": 8, "mamba_head_dim": 16, "n_groups": 2,
            "chunk_size": 32, "n_routed_experts": 4, "moe_intermediate_size": 64,
            "moe_shared_expert_intermediate_size": 64, "max_position_embeddings": 2048,
        },
        audio_config={
            "model_type": "parakeet_encoder", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 128, "subsampling_conv_channels": 16, "num_mel_bins": 80,
            "projection_hidden_size": 64, "projection_bias": False,
        },
        projector_hidden_size=64,
        vision_hidden_size=64,
        image_token_id=to_id("<image>"),
        video_token_id=to_id("<video>"),
        audio_token_id=to_id("<so_embedding>"),
    )  # fmt: skip
    model = class_of("NemotronH_Omni_Reasoning_V3")(config)
    settings = {"feature_extractor": class_of("ParakeetFeatureExtractor")().to_dict()}
    name = "NemotronH_Omni_Reasoning_V3Processor"
    return write_folder(folder, model, tokenizer, images, processor=name, settings=settings)


_INKLING_TEXT = {
    **{key: value for key, value in TEXT.items() if key != "intermediate_size"},
    "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 16, "sliding_window_size": 64,
    "d_rel": 8, "rel_extent": 64, "layer_types": ["hybrid_sliding", "hybrid"], "moe_intermediate_size": 64,
    "n_routed_experts": 4, "num_experts_per_tok": 2,
}  # fmt: skip
_INKLING_TURNS = {role: (f"<|im_start|>{role}\n", "<|im_end|>\n") for role in _ROLES}


def write_inkling2(folder: Path) -> Path:
    """Inkling 2: a tower that merges patches, relative positions and convolutions in the decoder's attention."""
    images = image_class("Inkling2")(size={"height": 40, "width": 40})
    tokenizer = make_tokenizer(
        {"image_token": "<|unused_200054|>"},
        template=chat_template(_INKLING_TURNS, image="<|unused_200054|>", ask="<|im_start|>assistant\n"),
    )
    config = class_of("Inkling2Config")(
        vision_config={
            "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_ratio": 2.0,
            "posemb_grid_size": 8, "projection_hidden_dim": 64, "text_hidden_size": 64,
        },
        text_config={
            **_INKLING_TEXT, **ids_of(tokenizer), "unpadded_vocab_size": len(tokenizer),
            "n_layers_per_attn_res_block": 1,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<|unused_200054|>"),
    )  # fmt: skip
    model = class_of("Inkling2ForConditionalGeneration")(config)
    return write_folder(folder, model, tokenizer, images, processor="Inkling2Processor")


def write_inkling(folder: Path) -> Path:
    """Inkling: patches mapped step by step without attention, sound as codes."""
    images = image_class("Inkling")(size={"height": 8, "width": 8})
    tokenizer = make_tokenizer(
        {"image_token": "<|unused_200054|>", "audio_token": "<|unused_200053|>"},
        template=chat_template(
            _INKLING_TURNS, image="<|content_image|><|unused_200054|>", ask="<|im_start|>assistant\n"
        ),
        unnamed=("<|content_image|>", "<|content_audio_input|>"),
    )
    to_id = tokenizer.convert_tokens_to_ids
    config = class_of("InklingConfig")(
        vision_config={"patch_size": 8, "hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4},
        text_config={
            **_INKLING_TEXT, **ids_of(tokenizer), "intermediate_size": 128, "mlp_layer_types": ["dense", "sparse"],
            "logits_mup_width_multiplier": 2.0,
        },
        audio_config={"n_mel_bins": 8, "mel_vocab_size": 16},
        image_token_id=to_id("<|unused_200054|>"),
        audio_token_id=to_id("<|unused_200053|>"),
        image_bos_token_id=to_id("<|content_image|>"),
        audio_bos_token_id=to_id("<|content_audio_input|>"),
    )  # fmt: skip
    model = class_of("InklingForConditionalGeneration")(config)
    settings = {"feature_extractor": class_of("InklingFeatureExtractor")().to_dict()}
    return write_folder(folder, model, tokenizer, images, processor="InklingProcessor", settings=settings)


def write_perception_lm(folder: Path) -> Path:
    """Perception LM: a tower of timm, tiles and a thumbnail."""
    images = image_class("PerceptionLM")(tile_size=56, max_num_tiles=4, size={"height": 56, "width": 56})
    if importlib.util.find_spec("timm") is None:
        raise NotBuiltError("its vision tower is one of the timm library, which is not installed here")
    turns = {role: (f"<|start_header_id|>{role}<|end_header_id|>\n\n", "<|eot_id|>") for role in _ROLES}
    tokenizer = make_tokenizer(
        {"image_token": "<|image|>", "video_token": "<|video|>"},
        template=chat_template(turns, image="<|image|>", ask=turns["assistant"][0]),
        unnamed=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        eos_token="<|eot_id|>",
    )
    config = class_of("PerceptionLMConfig")(
        vision_config={
            "model_type": "timm_wrapper", "architecture": "vit_pe_core_tiny_patch16_384",
            "model_args": {"img_size": [56, 56], "embed_dim": 64, "depth": 2, "num_heads": 4, "patch_size": 14},
        },
        text_config={**TEXT, **ids_of(tokenizer), "model_type": "llama"},
        projector_pooling_ratio=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
    )  # fmt: skip
    model = class_of("PerceptionLMForConditionalGeneration")(config)
    settings = {"patch_size": 14, "pooling_ratio": 2}
    return write_folder(folder, model, tokenizer, images, processor="PerceptionLMProcessor", settings=settings)


WRITERS: dict[str, Writer] = {
    "inkling2": write_inkling2,
    "inkling_mm_model": write_inkling,
    "minicpm_ocr": write_minicpm_ocr,
    "molmo2": write_molmo2,
    "nemotron_h_omni": write_nemotron_h_omni,
    "perception_lm": write_perception_lm,
    "unlimited_ocr": write_unlimited_ocr,
}
NOT_BUILT: dict[str, str] = {}
