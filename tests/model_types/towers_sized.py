"""Folders of models whose towers take images at their own size: Pixtral's, Qwen's grids, NaViT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from tests.tiny_vlms import QWEN_TOKENS

_ROLES = ("system", "user", "assistant")
_MISTRAL = {
    "system": ("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    "user": ("[INST]", "[/INST]"),
    "assistant": ("", "</s>"),
}
_QWEN_MARKUP = "<|vision_start|><|image_pad|><|vision_end|>"
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}


def _mistral_tokenizer() -> Any:
    marks = tuple(mark for pair in _MISTRAL.values() for mark in pair if mark and mark != "</s>")
    return make_tokenizer(
        template=chat_template(_MISTRAL, image="[IMG]", ask="", bos="{{ bos_token }}"),
        unnamed=("[IMG]", "[IMG_BREAK]", "[IMG_END]", *marks),
        eos_token="</s>",
        add_bos=True,
    )


def _write_mistral(folder: Path, name: str, text: dict[str, Any]) -> Path:
    tokenizer = _mistral_tokenizer()
    images = image_class("Pixtral")(size={"longest_edge": 84}, patch_size={"height": 14, "width": 14})
    config = class_of(f"{name}Config")(
        vision_config={**TOWER, "model_type": "pixtral", "head_dim": 16, "image_size": 84, "hidden_act": "silu"},
        text_config={**text, **ids_of(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        vision_feature_layer=-1,
    )
    settings = {
        "patch_size": 14, "spatial_merge_size": 2, "image_token": "[IMG]", "image_break_token": "[IMG_BREAK]",
        "image_end_token": "[IMG_END]",
    }  # fmt: skip
    model = class_of(f"{name}ForConditionalGeneration")(config)
    return write_folder(folder, model, tokenizer, images, processor="PixtralProcessor", settings=settings)


def write_mistral3(folder: Path) -> Path:
    """Mistral Small 3.1 and 3.2: Pixtral's tower and processor, patches merged two by two, turns in [INST]."""
    return _write_mistral(folder, "Mistral3", {**TEXT, "model_type": "mistral", "sliding_window": None})


def write_mistral_large4(folder: Path) -> Path:
    """Mistral Large 4: the same eyes, and a decoder that picks the tokens that it attends to."""
    text = {key: TEXT[key] for key in ("hidden_size", "intermediate_size", "num_attention_heads")}
    more = {
        "model_type": "mistral_large4_text", "num_hidden_layers": 2, "num_key_value_heads": 4, "kv_lora_rank": 16,
        "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16, "moe_intermediate_size": 64,
        "n_routed_experts": 4, "num_experts_per_tok": 2, "index_topk": 16, "index_head_dim": 32, "index_n_heads": 16,
        "max_position_embeddings": 2048,
    }  # fmt: skip
    return _write_mistral(folder, "MistralLarge4", {**text, **more})


def write_mistral4(folder: Path) -> Path:
    """Mistral 4's text model, which transformers lists among those that see; it has no tower."""
    tokenizer = _mistral_tokenizer()
    config = class_of("Mistral4Config")(
        **{key: TEXT[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")},
        **ids_of(tokenizer), num_key_value_heads=4, moe_intermediate_size=64, n_routed_experts=4,
        num_experts_per_tok=2, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=16, qk_nope_head_dim=16,
        v_head_dim=16, max_position_embeddings=2048,
    )  # fmt: skip
    return write_folder(folder, class_of("Mistral4ForCausalLM")(config), tokenizer)


def write_lighton_ocr(folder: Path) -> Path:
    """LightOnOCR: Pixtral's tower with Qwen 3, whose tokens for images it uses; no token ends a row of an image."""
    named = {
        "image_token": "<|image_pad|>", "image_break_token": "<|vision_pad|>", "image_end_token": "<|vision_end|>",
    }  # fmt: skip
    tokenizer = make_tokenizer(named, image_markup="<|image_pad|>")
    images = image_class("Pixtral")(size={"longest_edge": 84}, patch_size={"height": 28, "width": 28})
    config = class_of("LightOnOcrConfig")(
        vision_config={**TOWER, "model_type": "pixtral", "head_dim": 16, "image_size": 84},
        text_config={**TEXT, **ids_of(tokenizer), "model_type": "qwen3"},
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        spatial_merge_size=2,
    )
    settings = {"patch_size": 14, "spatial_merge_size": 2}
    model = class_of("LightOnOcrForConditionalGeneration")(config)
    return write_folder(folder, model, tokenizer, images, processor="LightOnOcrProcessor", settings=settings)


def write_idefics2(folder: Path) -> Path:
    """Idefics 2: images at their own proportions, padded to the largest, read by a fixed number of latents."""
    turns = {role: (f"{role.capitalize()}: ", "<end_of_utterance>\n") for role in _ROLES}
    tokenizer = make_tokenizer(
        template=chat_template(turns, image="<image>", ask="Assistant:"),
        unnamed=("<fake_token_around_image>", "<image>", "<end_of_utterance>"),
        eos_token="</s>",
        add_bos=True,
    )
    images = image_class("Idefics2")(size={"shortest_edge": 28, "longest_edge": 70}, do_image_splitting=False)
    config = class_of("Idefics2Config")(
        vision_config={**TOWER, "image_size": 70},
        perceiver_config={
            "hidden_size": 64, "resampler_n_latents": 4, "resampler_depth": 2, "resampler_n_heads": 4,
            "resampler_head_dim": 16, "num_key_value_heads": 2,
        },
        text_config={**TEXT, **ids_of(tokenizer), "model_type": "mistral"},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    model = class_of("Idefics2ForConditionalGeneration")(config)
    settings = {"image_seq_len": 4}
    return write_folder(folder, model, tokenizer, images, processor="Idefics2Processor", settings=settings)


def _write_grid(
    folder: Path,
    name: str,
    *,
    vision: dict[str, Any],
    text: dict[str, Any],
    patch: int,
    tokenizer: Any = None,
    image_token: str = "<|image_pad|>",
    video_token: str = "<|video_pad|>",
    images: str = "Qwen2VL",
    processor: str | None = None,
    **more: Any,
) -> Path:
    """A model that takes Qwen's grids of patches."""
    tokenizer = tokenizer or make_tokenizer(QWEN_TOKENS, image_markup=_QWEN_MARKUP)
    side = 2 * patch
    size = {"shortest_edge": side * side, "longest_edge": 4 * side * side}
    cut = image_class(images)(patch_size=patch, merge_size=2, temporal_patch_size=2, size=size)
    config = class_of(f"{name}Config")(
        vision_config=vision,
        text_config={**TEXT, **text, **ids_of(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids(image_token),
        video_token_id=tokenizer.convert_tokens_to_ids(video_token),
        **more,
    )
    model = class_of(f"{name}ForConditionalGeneration")(config)
    return write_folder(folder, model, tokenizer, cut, processor=processor or f"{name}Processor")


_QWEN_TOWER = {
    "depth": 2, "hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": 64, "patch_size": 14,
    "window_size": 56, "fullatt_block_indexes": [1],
}  # fmt: skip


def write_exaone4_5(folder: Path) -> Path:
    """EXAONE 4.5: Qwen's grids with grouped attention in the tower, a decoder with sliding windows."""
    turns = {role: (f"[|{role}|]\n", "[|endofturn|]\n") for role in _ROLES}
    tokenizer = make_tokenizer(
        {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
        template=chat_template(turns, image="<vision><|image_pad|></vision>", ask="[|assistant|]\n"),
        unnamed=("<vision>", "</vision>", "[|endofturn|]", *(f"[|{role}|]" for role in _ROLES)),
        eos_token="[|endofturn|]",
    )
    text = {"model_type": "exaone4", "sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"]}
    vision = {**_QWEN_TOWER, "num_key_value_heads": 2}
    return _write_grid(
        folder, "Exaone4_5_", vision=vision, text=text, patch=14, tokenizer=tokenizer, processor="Exaone4_5_Processor"
    )


def write_hyperclovax_vision_v2(folder: Path) -> Path:
    """HyperCLOVA X Vision v2: the tower of Qwen2.5-VL and a decoder with multipliers."""
    text = {
        "model_type": "hyperclovax", "embedding_multiplier": 2.0, "logits_scaling": 0.5, "residual_multiplier": 0.5,
        "attention_multiplier": 0.25,
    }  # fmt: skip
    vision = {**_QWEN_TOWER, "model_type": "qwen2_5_vl_vision"}
    return _write_grid(folder, "HyperCLOVAXVisionV2", vision=vision, text=text, patch=14)


def write_cohere_compass(folder: Path) -> Path:
    """Cohere Compass: Qwen 3's deepstack tower, Cohere's decoder and turns."""
    start, end = "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"
    who = {"system": "<|SYSTEM_TOKEN|>", "user": "<|USER_TOKEN|>", "assistant": "<|CHATBOT_TOKEN|>"}
    markup = "<|VISION_START|><|IMAGE_PAD|><|VISION_END|>"
    turns = {role: (start + mark, end) for role, mark in who.items()}
    tokenizer = make_tokenizer(
        template=chat_template(turns, image=markup, ask=start + who["assistant"], bos="{{ bos_token }}"),
        unnamed=(start, end, *who.values(), "<|VISION_START|>", "<|IMAGE_PAD|>", "<|VIDEO_PAD|>", "<|VISION_END|>"),
        eos_token=end,
        add_bos=True,
    )
    vision = {
        **{key: _QWEN_TOWER[key] for key in ("depth", "hidden_size", "intermediate_size", "num_heads")},
        "out_hidden_size": 64, "patch_size": 16, "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    to_id = tokenizer.convert_tokens_to_ids
    return _write_grid(
        folder, "CohereCompass", vision=vision, patch=16, tokenizer=tokenizer, image_token="<|IMAGE_PAD|>",
        video_token="<|VIDEO_PAD|>", images="CohereCompass",
        text={
            "logit_scale": 0.5, "sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"],
            "rope_parameters": {
                kind: {**_ROPE, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
                for kind in ("sliding_attention", "full_attention")
            },
        },
        vision_start_token_id=to_id("<|VISION_START|>"), vision_end_token_id=to_id("<|VISION_END|>"),
    )  # fmt: skip


def write_lfm3_vl(folder: Path) -> Path:
    """LFM 3 VL: convolutions beside attention, in the tower and in the decoder."""
    vision = {
        "hidden_size": 64, "intermediate_size": 128, "patch_size": 16, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention", "conv"],
    }  # fmt: skip
    text = {
        "model_type": "lfm3", "num_hidden_layers": 3, "sliding_window": 64,
        "layer_types": ["conv", "sliding_attention", "full_attention"], "conv_L_cache": 3,
    }  # fmt: skip
    tokenizer = make_tokenizer(QWEN_TOKENS, image_markup=_QWEN_MARKUP)
    to_id = tokenizer.convert_tokens_to_ids
    return _write_grid(
        folder, "Lfm3Vl", vision=vision, text=text, patch=16, tokenizer=tokenizer, projector_hidden_size=64,
        vision_start_token_id=to_id("<|vision_start|>"), vision_end_token_id=to_id("<|vision_end|>"),
    )  # fmt: skip


WRITERS: dict[str, Writer] = {
    "cohere_compass": write_cohere_compass,
    "exaone4_5": write_exaone4_5,
    "hyperclovax_vision_v2": write_hyperclovax_vision_v2,
    "idefics2": write_idefics2,
    "lfm3_vl": write_lfm3_vl,
    "lighton_ocr": write_lighton_ocr,
    "mistral3": write_mistral3,
    "mistral4": write_mistral4,
    "mistral_large4": write_mistral_large4,
}
NOT_BUILT: dict[str, str] = {}
