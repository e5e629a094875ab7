"""Small models of types without a row of their own, or that read otherwise, beside those of ``tests.tiny_vlms``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from tokenizers import processors

from mmpref.models import LoadedModel
from mmpref.models.load import family_of_config
from tests.tiny_vlms import CHATML, make_tokenizer

# As people write one for PaliGemma, whose checkpoints have none: its processor adds bos and newline by itself.
BARE = (
    "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}<|im_end|>{% endif %}{% endfor %}"
)
_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
}
_TOWER = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}


def paligemma(text: str = "gemma", template: str = CHATML) -> LoadedModel:
    """PaliGemma, or PaliGemma 2 (``gemma2``), with its own processor."""
    tokenizer = make_tokenizer({"image_token": "<image>"}, image_markup="<image>", template=template)
    # as Gemma's tokenizer: of two texts the second, the suffix, has another type
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    images = tf.SiglipImageProcessorPil(size={"height": 28, "width": 28})
    images.image_seq_length = 4
    processor = tf.PaliGemmaProcessor(images, tokenizer, chat_template=tokenizer.chat_template)
    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    more = {"sliding_window": 8, "query_pre_attn_scalar": 16} if text == "gemma2" else {}
    config = tf.PaliGemmaConfig(
        text_config={"model_type": text, **_TEXT, **ids, **more},
        vision_config={**_TOWER, "projection_dim": 64, "vision_use_head": False},
        projection_dim=64,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = tf.PaliGemmaForConditionalGeneration(config)
    if text == "gemma2":  # which newer releases choose by themselves: sdpa knows no caps
        model.set_attn_implementation({"text_config": "eager"})
    return _loaded(model, processor, text)


def hrm_text() -> LoadedModel:
    """A text model that reads its prompt in both directions."""
    if not hasattr(tf, "HrmTextConfig"):
        pytest.skip(f"transformers {tf.__version__} does not know HRM-Text")
    tokenizer = make_tokenizer()
    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    config = tf.HrmTextConfig(**{**_TEXT, **ids, "num_key_value_heads": 4})
    return _loaded(tf.HrmTextForCausalLM(config), tokenizer, "hrm_text")


def blip2() -> tf.PreTrainedModel:
    """BLIP-2 with OPT: the tower, the Q-Former and the language model lie side by side."""
    shared = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    opt = {"hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 200}
    config = tf.Blip2Config(
        vision_config={**shared, "image_size": 28, "patch_size": 14},
        qformer_config={**shared, "encoder_hidden_size": 64, "vocab_size": 200},
        text_config={"model_type": "opt", **opt, "word_embed_proj_dim": 64, "max_position_embeddings": 256},
        num_query_tokens=4,
        image_token_index=199,
    )
    return tf.Blip2ForConditionalGeneration(config)


def llama4() -> tf.PreTrainedModel:
    """Llama 4: ``vision_model`` and ``language_model`` stand at the top, without a ``model`` around them."""
    tower = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = tf.Llama4Config(
        vision_config={
            **tower,
            "image_size": 28,
            "patch_size": 14,
            "vision_output_dim": 64,
            "projector_input_dim": 64,
            "projector_output_dim": 64,
        },
        text_config={**_TEXT, "intermediate_size_mlp": 128, "num_local_experts": 2, "vocab_size": 200},
        image_token_index=199,
    )
    return tf.Llama4ForConditionalGeneration(config)


def janus() -> tf.PreTrainedModel:
    """Janus draws images as well: heads and a tokenizer of images that reading never runs."""
    tower = {**_TOWER, "projection_dim": 64, "depth": 2, "mlp_ratio": 2.0}
    config = tf.JanusConfig(
        text_config={**_TEXT, "model_type": "llama", "vocab_size": 200},
        vision_config=tower,
        vq_config={"embed_dim": 8, "num_embeddings": 32, "base_channels": 32, "channel_multiplier": [1],
                   "projection_dim": 64, "image_token_embed_dim": 64, "num_hidden_layers": 2, "num_patches": 4},
        image_token_id=199,
    )  # fmt: skip
    return tf.JanusForConditionalGeneration(config)


OTHERS: dict[str, Any] = {"blip2": blip2, "llama4": llama4, "janus": janus}


def bare(name: str) -> LoadedModel:
    """A model of :data:`OTHERS` without a processor."""
    model = OTHERS[name]()
    return LoadedModel(model=model, processor=None, family=family_of_config(model.config), path=name)


def write_paligemma(folder: Path) -> Path:
    """PaliGemma's folder, as ``save_pretrained`` writes it."""
    loaded = paligemma(template=BARE)
    loaded.model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    return folder


def write_pixtral(folder: Path) -> Path:
    """Pixtral 12B's layout: a config of LLaVA with Pixtral's tower, and PixtralProcessor's files."""
    image, line, end = "[IMG]", "[IMG_BREAK]", "[IMG_END]"
    tokenizer = make_tokenizer({"image_token": image}, image_markup=image, unnamed=(line, end))
    images = tf.models.pixtral.image_processing_pil_pixtral.PixtralImageProcessorPil(
        size={"longest_edge": 64}, patch_size={"height": 16, "width": 16}
    )
    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    config = tf.LlavaConfig(
        text_config={"model_type": "mistral", **_TEXT, **ids},
        vision_config={"model_type": "pixtral", **_TOWER, "head_dim": 16, "image_size": 64, "patch_size": 16},
        image_token_index=tokenizer.convert_tokens_to_ids(image),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    _loaded(tf.LlavaForConditionalGeneration(config), None, "pixtral").model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "PixtralProcessor", "patch_size": 16}))
    return folder


def write_llava_next_video(folder: Path) -> Path:
    """LLaVA-NeXT-Video, whose processor takes its video part before all others."""
    tokenizer = make_tokenizer({"image_token": "<image>", "video_token": "<video>"}, image_markup="<image>\n")
    size = {"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}
    images = tf.LlavaNextImageProcessorPil(**size, image_grid_pinpoints=[[28, 56], [56, 28]])
    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    config = tf.LlavaNextVideoConfig(
        vision_config=tf.CLIPVisionConfig(**_TOWER),
        text_config=tf.LlamaConfig(**_TEXT, **ids),
        image_grid_pinpoints=[[28, 56], [56, 28]],
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return _written(tf.LlavaNextVideoForConditionalGeneration(config), tokenizer, images, folder, "LlavaNextVideo")


def write_video_llava(folder: Path) -> Path:
    """Video-LLaVA, whose processor takes its video part between the others."""
    tokenizer = make_tokenizer({"image_token": "<image>", "video_token": "<video>"}, image_markup="<image>\n")
    kind = getattr(tf, "VideoLlavaImageProcessor", tf.CLIPImageProcessorPil)  # of its own in older releases
    images = kind(size={"height": 28, "width": 28}, crop_size={"height": 28, "width": 28})
    ids = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    config = tf.VideoLlavaConfig(
        vision_config=tf.CLIPVisionConfig(**_TOWER),
        text_config=tf.LlamaConfig(**_TEXT, **ids),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return _written(tf.VideoLlavaForConditionalGeneration(config), tokenizer, images, folder, "VideoLlava")


def mllama() -> LoadedModel:
    """Llama 3.2 Vision, whose language model looks at images in layers of its own."""
    tokenizer = make_tokenizer({"image_token": "<|image|>"}, image_markup="<|image|>")
    images = tf.models.mllama.image_processing_pil_mllama.MllamaImageProcessorPil(
        size={"height": 28, "width": 28}, max_image_tiles=2
    )
    tower = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "attention_heads": 4}
    config = tf.MllamaConfig(
        vision_config={
            **tower, "num_global_layers": 1, "image_size": 28, "patch_size": 14, "max_num_tiles": 2,
            "vision_output_dim": 128, "intermediate_layers_indices": [0],
            "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
        },
        text_config={
            **_TEXT, "vocab_size": len(tokenizer), "num_hidden_layers": 4, "cross_attention_layers": [1, 3],
            "pad_token_id": 0,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<|image|>"),
    )  # fmt: skip
    processor = tf.MllamaProcessor(images, tokenizer, chat_template=tokenizer.chat_template)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)  # its class embedding is a vector
        loaded = _loaded(tf.MllamaForConditionalGeneration(config), processor, "mllama")
        for name, parameter in loaded.model.named_parameters():
            if "gate" in name and parameter.numel() == 1:  # closed in a new model: images would not matter
                parameter.fill_(0.8)
    return loaded


def write_mllama(folder: Path) -> Path:
    """Its folder."""
    loaded = mllama()
    loaded.model.save_pretrained(folder)
    loaded.processor.save_pretrained(folder)
    return folder


def _written(model: tf.PreTrainedModel, tokenizer: Any, images: Any, folder: Path, name: str) -> Path:
    _loaded(model, None, name).model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images.save_pretrained(folder)
    settings = {
        "processor_class": f"{name}Processor",
        "patch_size": 14,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }
    (folder / "processor_config.json").write_text(json.dumps(settings))
    return folder


def _loaded(model: tf.PreTrainedModel, processor: Any, name: str) -> LoadedModel:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.08)
    model.eval()
    return LoadedModel(model=model, processor=processor, family=family_of_config(model.config), path=name)
