"""Folders of models that fit no group: two towers, images in layers of their own, prompts that a processor writes."""

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

_ROLES = ("system", "user", "assistant")


def write_janus(folder: Path) -> Path:
    """Janus Pro: an aligner for what it sees, heads and codes for what it draws; its processor writes a system prompt
    of its own."""
    end = "<｜end▁of▁sentence｜>"
    turns = {"system": ("", "\n\n"), "user": ("<|User|>: ", "\n\n"), "assistant": ("<|Assistant|>: ", end)}
    named = {"image_token": "<image_placeholder>", "boi_token": "<begin_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = make_tokenizer(
        named,
        template=chat_template(turns, image="<image_placeholder>\n", ask="<|Assistant|>:"),
        unnamed=("<|User|>", "<|Assistant|>", end),
        eos_token=end,
        add_bos=True,
    )
    images = image_class("Janus")(size={"height": 28, "width": 28}, min_size=14)
    tower = {**TOWER, "projection_dim": 64, "depth": 2, "mlp_ratio": 2.0, "num_image_tokens": 4}
    config = class_of("JanusConfig")(
        text_config={**TEXT, **ids_of(tokenizer), "model_type": "llama"},
        vision_config=tower,
        vq_config={
            "embed_dim": 8, "num_embeddings": 32, "base_channels": 32, "channel_multiplier": [1], "projection_dim": 64,
            "image_token_embed_dim": 64, "num_hidden_layers": 2,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
    )  # fmt: skip
    model = class_of("JanusForConditionalGeneration")(config)
    settings = {"num_image_tokens": 4, "use_default_system_prompt": True}
    return write_folder(folder, model, tokenizer, images, processor="JanusProcessor", settings=settings)


def write_granite_docling(folder: Path) -> Path:
    """Granite for Docling: Idefics 3's tiles through a tower whose layers also feed the decoder's."""
    turns = {role: (f"<|start_of_role|>{role}<|end_of_role|>", "<|end_of_text|>\n") for role in _ROLES}
    places = tuple(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5))
    tokenizer = make_tokenizer(
        {"image_token": "<image>"},
        template=chat_template(turns, image="<image>", ask="<|start_of_role|>assistant<|end_of_role|>"),
        unnamed=(
            "<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>", "<fake_token_around_image>", "<global-img>",
            *places,
        ),
        eos_token="<|end_of_text|>",
    )  # fmt: skip
    images = image_class("GraniteDocling")(size={"height": 28, "width": 28}, max_patches=4)
    config = class_of("GraniteDoclingConfig")(
        vision_config={
            **TOWER, "num_hidden_layers": 3, "patch_size": 7, "out_hidden_size": 64, "scale_factor": 2,
            "deepstack_visual_indexes": [0, 1], "use_fine_route": False,
        },
        text_config={
            **{key: value for key, value in TEXT.items() if key != "head_dim"}, **ids_of(tokenizer),
            "num_hidden_layers": 3, "embedding_multiplier": 2.0, "logits_scaling": 2.0, "residual_multiplier": 0.5,
            "attention_multiplier": 0.25,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = class_of("GraniteDoclingForConditionalGeneration")(config)
    settings = {"image_seq_len": 4}
    return write_folder(folder, model, tokenizer, images, processor="GraniteDoclingProcessor", settings=settings)


def write_deepseek_ocr2(folder: Path) -> Path:
    """DeepSeek-OCR 2: SAM, then a language model whose queries read its features; 256 + 144 tokens a tile + 1."""
    end = "<｜end▁of▁sentence｜>"
    turns = {"system": ("", "\n"), "user": ("<|User|>: ", "\n\n"), "assistant": ("<|Assistant|>: ", end)}
    tokenizer = make_tokenizer(
        {"image_token": "<image>"},
        template=chat_template(turns, image="<image>\n", ask="<|Assistant|>:"),
        unnamed=("<|User|>", "<|Assistant|>", end),
        eos_token=end,
        add_bos=True,
    )
    images = image_class("DeepseekOcr2")(size={"height": 256, "width": 256}, tile_size=192)
    encoder = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = class_of("DeepseekOcr2Config")(
        vision_config={
            "sam_config": {
                "hidden_size": 64, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
                "image_size": 256, "patch_size": 4, "window_size": 8, "global_attn_indexes": [], "mlp_dim": 128,
                "downsample_channels": [32, 64],
            },
            "encoder_config": {**encoder, "num_key_value_heads": 2, "vocab_size": 8},
        },
        text_config={
            **{key: value for key, value in TEXT.items() if key != "head_dim"}, **ids_of(tokenizer),
            "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
            "mlp_layer_types": ["dense", "sparse"],
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    model = class_of("DeepseekOcr2ForConditionalGeneration")(config)
    settings = {"patch_size": 4, "downsample_ratio": 4}
    return write_folder(folder, model, tokenizer, images, processor="DeepseekOcr2Processor", settings=settings)


def write_idefics(folder: Path) -> Path:
    """IDEFICS: images in layers of their own between those of the decoder. Its checkpoint has no chat template; this
    writes turns as its model card does."""
    turns = {
        "system": ("", "<end_of_utterance>\n"), "user": ("User: ", "<end_of_utterance>\n"),
        "assistant": ("Assistant: ", "<end_of_utterance>\n"),
    }  # fmt: skip
    markup = "<fake_token_around_image><image><fake_token_around_image>"
    tokenizer = make_tokenizer(
        template=chat_template(turns, image=markup, ask="Assistant:", bos="{{ bos_token }}"),
        unnamed=("<fake_token_around_image>", "<image>", "<end_of_utterance>"),
        eos_token="</s>",
    )
    images = image_class("Idefics")(image_size=28)
    config = class_of("IdeficsConfig")(
        **{key: TEXT[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")},
        **ids_of(tokenizer), cross_layer_interval=1, use_resampler=True, max_position_embeddings=512,
        alpha_initializer="ones", qk_layer_norms=True,
        vision_config={
            "embed_dim": 64, "image_size": 28, "intermediate_size": 128, "patch_size": 14, "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        perceiver_config={
            "use_resampler": True, "resampler_n_latents": 4, "resampler_depth": 1, "resampler_n_heads": 4,
            "resampler_head_dim": 16,
        },
    )  # fmt: skip
    model = class_of("IdeficsForVisionText2Text")(config)
    return write_folder(folder, model, tokenizer, images, processor="IdeficsProcessor", settings={"image_size": 28})


def write_shieldgemma2(folder: Path) -> Path:
    """ShieldGemma 2: Gemma 3's parts under a classifier, whose processor asks its own questions of every image."""
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    turns: dict[str, Any] = {"user": ("<start_of_turn>user\n", "<end_of_turn>\n")}
    turns["assistant"] = ("<start_of_turn>model\n", "<end_of_turn>\n")
    tokenizer = make_tokenizer(
        named,
        template=chat_template(turns, image="<start_of_image>", ask="<start_of_turn>model\n", bos="{{ bos_token }}"),
        unnamed=("<start_of_turn>", "<end_of_turn>"),
        eos_token="<end_of_turn>",
        add_bos=True,
    )
    images = image_class("Gemma3")(size={"height": 56, "width": 56})
    to_id = tokenizer.convert_tokens_to_ids
    config = class_of("ShieldGemma2Config")(
        text_config={**TEXT, **ids_of(tokenizer), "model_type": "gemma3_text", "sliding_window": 64},
        vision_config={**TOWER, "model_type": "siglip_vision_model", "image_size": 56, "vision_use_head": False},
        mm_tokens_per_image=4,
        boi_token_index=to_id("<start_of_image>"),
        eoi_token_index=to_id("<end_of_image>"),
        image_token_index=to_id("<image_soft_token>"),
    )
    model = class_of("ShieldGemma2ForImageClassification")(config)
    return write_folder(
        folder, model, tokenizer, images, processor="ShieldGemma2Processor", settings={"image_seq_length": 4}
    )


WRITERS: dict[str, Writer] = {
    "deepseek_ocr2": write_deepseek_ocr2,
    "granite_docling": write_granite_docling,
    "idefics": write_idefics,
    "janus": write_janus,
    "shieldgemma2": write_shieldgemma2,
}
NOT_BUILT: dict[str, str] = {}
