"""Folders of models whose image processor transformers has for torchvision alone: written where that is installed."""

from __future__ import annotations

from pathlib import Path

from tests.model_types.folders import (
    TEXT,
    TOWER,
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


def write_cohere2_vision(folder: Path) -> Path:
    """Command A Vision: tiles of a fixed size, each ended by a token, turns between Cohere's."""
    images = image_class("Cohere2Vision")(size={"height": 28, "width": 28}, max_patches=4, patch_size=2)
    start, end = "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"
    who = {"system": "<|SYSTEM_TOKEN|>", "user": "<|USER_TOKEN|>", "assistant": "<|CHATBOT_TOKEN|>"}
    text = ("<|START_TEXT|>", "<|END_TEXT|>")
    turns = {role: (start + mark, end) for role, mark in who.items()}
    turns["assistant"] = (start + who["assistant"] + "<|START_RESPONSE|>", "<|END_RESPONSE|>" + end)
    named = {
        "boi_token": "<|START_OF_IMG|>", "eoi_token": "<|END_OF_IMG|>", "image_token": "<|IMG_PATCH|>",
        "img_line_break_token": "<|IMG_LINE_BREAK|>",
    }  # fmt: skip
    tokenizer = make_tokenizer(
        named,
        template=chat_template(turns, image="<|IMG_PATCH|>", ask=turns["assistant"][0], bos="{{ bos_token }}"),
        unnamed=(start, end, *who.values(), *text, "<|START_RESPONSE|>", "<|END_RESPONSE|>"),
        eos_token=end,
        add_bos=True,
    )
    config = class_of("Cohere2VisionConfig")(
        vision_config={**TOWER, "model_type": "siglip_vision_model", "vision_use_head": False, "patch_size": 7},
        text_config={
            **TEXT, **ids_of(tokenizer), "model_type": "cohere2", "sliding_window": 64, "logit_scale": 0.25,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        downsample_factor=2,
        alignment_intermediate_size=128,
        image_token_id=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
    )  # fmt: skip
    model = class_of("Cohere2VisionForConditionalGeneration")(config)
    return write_folder(folder, model, tokenizer, images, processor="Cohere2VisionProcessor")


def write_lfm2_vl(folder: Path) -> Path:
    """LFM 2 VL: SigLIP 2's tower that takes images at their own size, tiles with names, a decoder of convolutions."""
    images = image_class("Lfm2Vl")(
        tile_size=64, encoder_patch_size=16, min_image_tokens=1, max_image_tokens=4, max_tiles=4,
        size={"height": 64, "width": 64},
    )  # fmt: skip
    named = {
        "image_token": "<image>", "image_start_token": "<|image_start|>", "image_end_token": "<|image_end|>",
        "image_thumbnail_token": "<|img_thumbnail|>",
    }  # fmt: skip
    places = tuple(f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5))
    turns = {role: (f"<|im_start|>{role}\n", "<|im_end|>\n") for role in _ROLES}
    tokenizer = make_tokenizer(
        named,
        template=chat_template(turns, image="<image>", ask="<|im_start|>assistant\n", bos="{{ bos_token }}"),
        unnamed=places,
        add_bos=True,
    )
    tower = {key: TOWER[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers")}
    config = class_of("Lfm2VlConfig")(
        vision_config={
            **tower, "model_type": "siglip2_vision_model", "num_attention_heads": 4, "patch_size": 16,
            "num_patches": 16, "vision_use_head": False,
        },
        text_config={
            **_PLAIN_TEXT, **ids_of(tokenizer), "model_type": "lfm2", "layer_types": ["conv", "full_attention"],
            "block_ff_dim": 128, "block_auto_adjust_ff_dim": False,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_size=64,
        downsample_factor=2,
    )  # fmt: skip
    model = class_of("Lfm2VlForConditionalGeneration")(config)
    return write_folder(folder, model, tokenizer, images, processor="Lfm2VlProcessor")


def write_kimi_k25(folder: Path) -> Path:
    """Kimi K2.5: MoonViT's grids and DeepSeek V3's decoder."""
    images = image_class("Kimi_K25")(size={"max_height": 84, "max_width": 84}, max_patches=64)
    marks = ("<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>", "<|media_begin|>")
    marks += ("<|media_content|>", "<|media_end|>", "<|kimi_k25_video_placeholder|>")
    turns = {role: (f"<|im_{role}|>{role}<|im_middle|>", "<|im_end|>") for role in _ROLES}
    markup = "<|media_begin|>image<|media_content|><|media_pad|><|media_end|>\n"
    tokenizer = make_tokenizer(
        {"image_token": "<|media_pad|>"},
        template=chat_template(turns, image=markup, ask=turns["assistant"][0]),
        unnamed=marks,
    )
    to_id = tokenizer.convert_tokens_to_ids
    config = class_of("Kimi_K25Config")(
        vision_config={
            "patch_size": 14, "pos_emb_height": 8, "pos_emb_width": 8, "num_attention_heads": 4,
            "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128,
        },
        text_config={
            "model_type": "deepseek_v3", **ids_of(tokenizer), "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "moe_intermediate_size": 64,
            "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "q_lora_rank": 16,
            "kv_lora_rank": 16, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16,
            "first_k_dense_replace": 1, "max_position_embeddings": 2048,
        },
        projection_hidden_size=64,
        image_token_id=to_id("<|media_pad|>"),
        video_token_id=to_id("<|kimi_k25_video_placeholder|>"),
        vision_start_token_id=to_id("<|media_begin|>"),
        vision_end_token_id=to_id("<|media_end|>"),
    )  # fmt: skip
    model = class_of("Kimi_K25ForConditionalGeneration")(config)
    return write_folder(folder, model, tokenizer, images, processor="Kimi_K25Processor")


def write_step3p7(folder: Path) -> Path:
    """Step 3.7: crops by a sliding window, each between tokens of its own, and a whole view."""
    images = image_class("Step3p7")(size={"height": 112, "width": 112}, patch_size=56, max_image_size=224)
    signs = ("<patch_start>", "<patch_end>", "<patch_newline>", "<im_start>", "<im_end>")
    tokenizer = make_tokenizer(image_markup="<im_patch>", unnamed=("<im_patch>", *signs))
    config = class_of("Step3p7Config")(
        vision_config={
            "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 112, "patch_size": 14,
            "mlp_ratio": 2.0, "max_position_embeddings": 64,
        },
        text_config={
            **TEXT, **ids_of(tokenizer), "num_experts_per_tok": 2, "n_routed_experts": 4, "num_local_experts": 4,
            "moe_intermediate_size": 64, "share_expert_dim": 64, "mlp_layer_types": ["dense", "sparse"],
            "layer_types": ["full_attention", "sliding_attention"], "sliding_window": 64,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<im_patch>"),
    )  # fmt: skip
    model = class_of("Step3p7ForConditionalGeneration")(config)
    return write_folder(folder, model, tokenizer, images, processor="Step3p7Processor")


def write_phi4_multimodal(folder: Path) -> Path:
    """Phi-4-multimodal: sound beside images, and transformers lists it among the models for text."""
    images = image_class("Phi4Multimodal")(size={"height": 64, "width": 64}, patch_size=2, dynamic_hd=4)
    template = (  # of strings alone: a list of parts is refused, and an image is a token that people write
        "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokenizer = make_tokenizer(
        {"image_token": "<|image|>", "audio_token": "<|audio|>"},
        template=template,
        unnamed=("<|end|>", *(f"<|{role}|>" for role in _ROLES)),
        eos_token="<|end|>",
    )
    to_id = tokenizer.convert_tokens_to_ids
    config = class_of("Phi4MultimodalConfig")(
        **_PLAIN_TEXT,
        **ids_of(tokenizer),
        vision_config={
            **TOWER, "num_hidden_layers": 3, "image_size": 64, "crop_size": 64, "patch_size": 2,
            "image_token_id": to_id("<|image|>"),
        },
        audio_config={
            "hidden_size": 64, "intermediate_size": 64, "num_blocks": 2, "num_attention_heads": 4,
            "ext_pw_out_channel": 64, "nemo_conv_channels": 64, "audio_token_id": to_id("<|audio|>"),
        },
    )  # fmt: skip
    model = class_of("Phi4MultimodalForCausalLM")(config)
    settings = {"audio_processor": class_of("Phi4MultimodalFeatureExtractor")().to_dict()}
    return write_folder(folder, model, tokenizer, images, processor="Phi4MultimodalProcessor", settings=settings)


WRITERS: dict[str, Writer] = {
    "cohere2_vision": write_cohere2_vision,
    "kimi_k25": write_kimi_k25,
    "lfm2_vl": write_lfm2_vl,
    "phi4_multimodal": write_phi4_multimodal,
    "step3p7": write_step3p7,
}
NOT_BUILT: dict[str, str] = {}
