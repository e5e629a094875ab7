"""Folders of models with a CLIP or SigLIP tower, a projector and a decoder, and the processors that cut images."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import transformers as tf

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

_SQUARE = {"height": 28, "width": 28}
_GRID = [[28, 56], [56, 28], [56, 56]]


def write_aria(folder: Path) -> Path:
    """Aria: an Idefics3 tower, queries that read it, and a decoder of experts. It writes FIM tokens around an image."""
    markup = "<fim_prefix><|img|><fim_suffix>"
    tokenizer = make_tokenizer(
        {"image_token": "<|img|>"}, image_markup=markup, unnamed=("<fim_prefix>", "<fim_suffix>")
    )
    images = image_class("Aria")(max_image_size=980, min_image_size=336)  # its processor asks for 980 whatever it says
    text = {key: value for key, value in TEXT.items() if key != "max_position_embeddings"}
    config = class_of("AriaConfig")(
        vision_config={**TOWER, "model_type": "idefics3_vision", "image_size": 980, "patch_size": 140},
        text_config={
            **text, **ids_of(tokenizer), "model_type": "aria_text", "moe_num_experts": 4, "moe_topk": 2,
            "moe_num_shared_experts": 1, "max_position_embeddings": 2048,
        },
        projector_patch_to_query_dict={49: 8},
        image_token_index=tokenizer.convert_tokens_to_ids("<|img|>"),
    )  # fmt: skip
    model = class_of("AriaForConditionalGeneration")(config)
    settings = {"size_conversion": {"490": 8, "980": 8}}
    return write_folder(folder, model, tokenizer, images, processor="AriaProcessor", settings=settings)


def write_aya_vision(folder: Path) -> Path:
    """Aya Vision: tiles with names of their own, and turns between Cohere's tokens."""
    start, end = "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"
    who = {"system": "<|SYSTEM_TOKEN|>", "user": "<|USER_TOKEN|>", "assistant": "<|CHATBOT_TOKEN|>"}
    answer = ("<|START_RESPONSE|>", "<|END_RESPONSE|>")
    turns = {role: (start + mark, end) for role, mark in who.items()}
    turns["assistant"] = (start + who["assistant"] + answer[0], answer[1] + end)
    parts = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>", "<image>")
    tokenizer = make_tokenizer(
        template=chat_template(turns, image="<image>", ask=turns["assistant"][0], bos="{{ bos_token }}"),
        unnamed=(start, end, *who.values(), *answer, *parts),
        eos_token=end,
        add_bos=True,
    )
    images = image_class("GotOcr2")(size=_SQUARE, crop_to_patches=True, min_patches=1, max_patches=4)
    config = class_of("AyaVisionConfig")(
        vision_config={**TOWER, "model_type": "siglip_vision_model", "vision_use_head": False},
        text_config={
            **TEXT, **ids_of(tokenizer), "model_type": "cohere2", "sliding_window": 64, "logit_scale": 0.25,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        downsample_factor=2,
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
    )  # fmt: skip
    model = class_of("AyaVisionForConditionalGeneration")(config)
    settings = {"patch_size": 14, "img_size": 28, "downsample_factor": 2}
    return write_folder(folder, model, tokenizer, images, processor="AyaVisionProcessor", settings=settings)


def _deepseek_tokenizer() -> Any:
    end = "<｜end▁of▁sentence｜>"
    turns = {"system": ("", "\n\n"), "user": ("User: ", "\n\n"), "assistant": ("Assistant: ", end)}
    return make_tokenizer(
        {"image_token": "<image_placeholder>"},
        template=chat_template(turns, image="<image_placeholder>", ask="Assistant:"),
        unnamed=(end,),
        eos_token=end,
        add_bos=True,
    )


def write_deepseek_vl(folder: Path) -> Path:
    """DeepSeek-VL 1.3B: one SigLIP tower and an aligner; turns are plain words."""
    tokenizer = _deepseek_tokenizer()
    images = image_class("DeepseekVL")(size=_SQUARE, min_size=14)
    config = class_of("DeepseekVLConfig")(
        vision_config={**TOWER, "model_type": "siglip_vision_model", "vision_use_head": False},
        text_config={**TEXT, **ids_of(tokenizer), "model_type": "llama"},
        image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
    )
    model = class_of("DeepseekVLForConditionalGeneration")(config)
    settings = {"num_image_tokens": 4}
    return write_folder(folder, model, tokenizer, images, processor="DeepseekVLProcessor", settings=settings)


def write_deepseek_vl_hybrid(folder: Path) -> Path:
    """DeepSeek-VL 7B: a second tower (SAM) for the same image at a higher resolution."""
    tokenizer = _deepseek_tokenizer()
    images = image_class("DeepseekVLHybrid")(
        size={"height": 64, "width": 64}, high_res_size={"height": 128, "width": 128}, min_size=14
    )
    config = class_of("DeepseekVLHybridConfig")(
        vision_config={
            **TOWER, "model_type": "siglip_vision_model", "vision_use_head": False, "image_size": 64, "patch_size": 16,
        },
        high_res_vision_config={
            **TOWER, "model_type": "sam_vision_model", "image_size": 128, "patch_size": 16, "output_channels": 16,
            "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 128,
        },
        text_config={**TEXT, **ids_of(tokenizer), "model_type": "llama"},
        image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
    )  # fmt: skip
    model = class_of("DeepseekVLHybridForConditionalGeneration")(config)
    settings = {"num_image_tokens": 16}
    return write_folder(folder, model, tokenizer, images, processor="DeepseekVLHybridProcessor", settings=settings)


def write_got_ocr2(folder: Path) -> Path:
    """GOT-OCR 2.0: 256 tokens an image. Its checkpoint has no chat template; this writes turns as its processor does
    where it is given no text."""
    turns = {role: (f"<|im_start|>{role}\n", "<|im_end|>") for role in ("system", "user", "assistant")}
    tokenizer = make_tokenizer(
        template=chat_template(turns, image="<img><imgpad></img>\n", ask="<|im_start|>assistant\n"),
        unnamed=("<img>", "</img>", "<imgpad>"),
    )
    images = image_class("GotOcr2")(size={"height": 128, "width": 128})
    config = class_of("GotOcr2Config")(
        vision_config={
            "hidden_size": 64, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
            "image_size": 128, "patch_size": 2, "window_size": 8, "global_attn_indexes": [], "mlp_dim": 128,
        },
        text_config={**TEXT, **ids_of(tokenizer), "model_type": "qwen2"},
        image_token_index=tokenizer.convert_tokens_to_ids("<imgpad>"),
        image_seq_length=256,
    )  # fmt: skip
    model = class_of("GotOcr2ForConditionalGeneration")(config)
    return write_folder(folder, model, tokenizer, images, processor="GotOcr2Processor")


def write_vipllava(folder: Path) -> Path:
    """ViP-LLaVA: features of several layers of the tower, and turns that its template marks with ###."""
    turns = {"system": ("", "###"), "user": ("Human: ", "###"), "assistant": ("Assistant: ", "###")}
    tokenizer = make_tokenizer(
        {"image_token": "<image>"},
        template=chat_template(turns, image="<image>\n", ask="Assistant:"),
        eos_token="</s>",
        add_bos=True,
    )
    images = image_class("CLIP")(size={"shortest_edge": 28}, crop_size=_SQUARE)
    config = tf.VipLlavaConfig(
        vision_config={**TOWER, "model_type": "clip_vision_model"},
        text_config={**TEXT, **ids_of(tokenizer), "model_type": "llama"},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layers=[-2, 1],
        image_seq_length=4,
    )
    settings = {"patch_size": 14, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"}
    model = tf.VipLlavaForConditionalGeneration(config)
    return write_folder(folder, model, tokenizer, images, processor="LlavaProcessor", settings=settings)


def write_ovis2(folder: Path) -> Path:
    """Ovis 2: the tower gives probabilities over visual words; indicator tokens mark rows and columns of tiles."""
    signs = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
    tokenizer = make_tokenizer({"image_token": "<image>"}, image_markup="<image>\n", unnamed=("<IMG_ATOM>", *signs))
    images = image_class("Ovis2")(size=_SQUARE, crop_to_patches=True, min_patches=1, max_patches=4)
    tower = {key: TOWER[key] for key in ("num_hidden_layers", "num_attention_heads", "image_size", "patch_size")}
    config = class_of("Ovis2Config")(
        vision_config={
            **tower, "hidden_size": 64, "intermediate_size": 128, "vocab_size": 96, "hidden_stride": 2,
            "num_visual_indicator_tokens": 5,
        },
        text_config={**TEXT, **ids_of(tokenizer), "model_type": "qwen2"},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=tokenizer.convert_tokens_to_ids(list(signs)),
        vocab_size=len(tokenizer),
        hidden_size=64,
    )  # fmt: skip
    model = class_of("Ovis2ForConditionalGeneration")(config)
    settings = {"image_token": "<image>", "image_seq_length": 1}
    return write_folder(folder, model, tokenizer, images, processor="Ovis2Processor", settings=settings)


def write_qianfan_ocr(folder: Path) -> Path:
    """Qianfan-OCR: InternVL's way of tiles, with another token in the template than in the text."""
    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    tokenizer = make_tokenizer(named, image_markup="<image>\n")
    images = image_class("GotOcr2")(size=_SQUARE, crop_to_patches=True, min_patches=1, max_patches=4)
    config = class_of("QianfanOCRConfig")(
        vision_config={**TOWER, "image_size": [28, 28], "patch_size": [14, 14], "drop_path_rate": 0.0},
        text_config={**TEXT, **ids_of(tokenizer), "model_type": "qwen3"},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=1,
        downsample_ratio=0.5,
    )
    model = class_of("QianfanOCRForConditionalGeneration")(config)
    settings = {"image_seq_length": 1}
    return write_folder(folder, model, tokenizer, images, processor="QianfanOCRProcessor", settings=settings)


def write_granite4_vision(folder: Path) -> Path:
    """Granite 4 Vision: LLaVA-NeXT's tiles through Q-Formers, features added in several layers of the decoder."""
    turns = {
        role: (f"<|start_of_role|>{role}<|end_of_role|>", "<|end_of_text|>\n")
        for role in ("system", "user", "assistant")
    }
    tokenizer = make_tokenizer(
        {"image_token": "<image>"},
        template=chat_template(turns, image="<image>\n", ask="<|start_of_role|>assistant<|end_of_role|>"),
        unnamed=("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
        eos_token="<|end_of_text|>",
    )
    images = image_class("LlavaNext")(
        size={"height": 56, "width": 56}, crop_size={"height": 56, "width": 56},
        image_grid_pinpoints=[[56, 112], [112, 56], [112, 112]],
    )  # fmt: skip
    config = class_of("Granite4VisionConfig")(
        vision_config={**TOWER, "model_type": "siglip_vision_model", "vision_use_head": False, "image_size": 56},
        text_config={
            **{key: value for key, value in TEXT.items() if key != "head_dim"}, **ids_of(tokenizer),
            "num_hidden_layers": 5, "embedding_multiplier": 2.0, "logits_scaling": 2.0, "residual_multiplier": 0.5,
            "attention_multiplier": 0.25,
        },
        image_grid_pinpoints=[[56, 112], [112, 56], [112, 112]],
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="full",
        downsample_rate="1/2",
        projector_dropout=0.0,
        deepstack_layer_map=[[-2, 0]],
        spatial_vision_layer=-1,
        spatial_target_layers=[1, 2, 3, 4],
        qformer_config={
            "model_type": "blip_2_qformer", "num_hidden_layers": 1, "intermediate_size": 128, "hidden_size": 64,
            "encoder_hidden_size": 64, "num_attention_heads": 1,
            "cross_attention_frequency": 1, "use_qformer_text_input": False, "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
    )  # fmt: skip
    model = class_of("Granite4VisionForConditionalGeneration")(config)
    settings = {
        "patch_size": 14, "vision_feature_select_strategy": "full", "num_additional_image_tokens": 0,
        "downsample_rate": "1/2",
    }  # fmt: skip
    return write_folder(folder, model, tokenizer, images, processor="Granite4VisionProcessor", settings=settings)


def write_fast_vlm(folder: Path) -> Path:
    """FastVLM: a tower of the timm library, with LLaVA's processor, which only its folder names."""
    if importlib.util.find_spec("timm") is None:
        raise NotBuiltError("its vision tower is one of the timm library, which is not installed here")
    tokenizer = make_tokenizer({"image_token": "<image>"}, image_markup="<image>\n")
    images = image_class("CLIP")(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, do_normalize=False)
    config = class_of("FastVlmConfig")(
        vision_config={
            "model_type": "timm_wrapper", "architecture": "fastvit_t8", "do_pooling": True, "global_pool": "avg",
            "hidden_size": 768, "model_args": {"inference_mode": True},
        },
        text_config={**TEXT, **ids_of(tokenizer), "model_type": "qwen2"},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )  # fmt: skip
    settings = {"patch_size": 32, "num_additional_image_tokens": 0, "vision_feature_select_strategy": "full"}
    model = class_of("FastVlmForConditionalGeneration")(config)
    return write_folder(
        folder, model, tokenizer, images, processor="LlavaProcessor", settings=settings, tower_scale=0.22
    )


WRITERS: dict[str, Writer] = {
    "aria": write_aria,
    "aya_vision": write_aya_vision,
    "deepseek_vl": write_deepseek_vl,
    "deepseek_vl_hybrid": write_deepseek_vl_hybrid,
    "fast_vlm": write_fast_vlm,
    "got_ocr2": write_got_ocr2,
    "granite4_vision": write_granite4_vision,
    "ovis2": write_ovis2,
    "qianfan_ocr": write_qianfan_ocr,
    "vipllava": write_vipllava,
}
NOT_BUILT: dict[str, str] = {}
