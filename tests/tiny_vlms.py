"""Real architectures, small enough for a unit test: random weights, a tokenizer trained here, nothing downloaded.

``build(name, folder)`` writes a model folder as ``save_pretrained`` does; sizes are multiples of 64, which 4-bit layers
need.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from mmpref.models.folder.image_only import image_only
from mmpref.processing import family_of
from mmpref.processing.video_settings import VideoSettings
from mmpref.records import ImageRef, Message, Part, PreferencePair, VideoFrames, VideoRef, VideoShape, user_turn

WORDS = (
    "a red square on a blue background . the image shows a green circle and two yellow boxes . "
    "what is in the image ? describe it , please . there is no dog , there is one cat . "
    "user assistant system yes it is not 0123456789 "
) * 3
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>")
QWEN_TOKENS = {
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
}
# Turns as ChatML writes them. IMAGE and VIDEO are replaced by what a family writes for such a place.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% elif part['type'] == 'video' %}VIDEO"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Turns as LLaVA-1.5's template writes them: no bos, no end-of-turn token, a blank after every text.
VICUNA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() }}: {% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


@dataclass(frozen=True)
class Tiny:
    """How to build one family: the pieces, made fresh on every call."""

    model: Callable[[], tf.PreTrainedModel]
    processor: Callable[[], Any]


def make_tokenizer(
    named: dict[str, str] | None = None,
    *,
    image_markup: str = "",
    video_markup: str = "",
    template: str = CHATML,
    add_bos: bool = False,
    unnamed: tuple[str, ...] = (),
) -> tf.PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer; ``named`` are the extra special tokens that processors look for by attribute,
    ``unnamed`` those that they write as text."""
    named = named or {}
    special = [*SPECIAL, *(token for token in [*named.values(), *unnamed] if token not in SPECIAL)]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340 + len(special),
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([WORDS], trainer)
    if add_bos:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))]
        )
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>" if template == VICUNA else "<|im_end|>",
        unk_token="<unk>",
        extra_special_tokens=named,
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
        chat_template=template.replace("IMAGE", image_markup).replace("VIDEO", video_markup),
    )


_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
_TOWER = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
_GRID = [[28, 28], [28, 56], [56, 28], [56, 56]]
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}


@lru_cache
def _tokens(kind: str) -> tf.PreTrainedTokenizerFast:
    if kind == "qwen":
        image, video = (f"<|vision_start|><|{kind}_pad|><|vision_end|>" for kind in ("image", "video"))
        return make_tokenizer(QWEN_TOKENS, image_markup=image, video_markup=video)
    if kind == "vicuna":
        return make_tokenizer({"image_token": "<image>"}, image_markup="<image>\n", template=VICUNA, add_bos=True)
    if kind == "gemma":
        named = {"image_token": "<soft>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
        return make_tokenizer(named, image_markup="<start_of_image>")
    if kind == "internvl":
        named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
        return make_tokenizer({**named, "video_token": "<video>"}, image_markup="<IMG_CONTEXT>\n")
    if kind == "idefics":
        named = {
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "end_of_utterance_token": "<end_of_utterance>",
            "video_token": "<video>",
        }
        places = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
        return make_tokenizer(named, image_markup="<image>", unnamed=places)
    if kind == "text":
        return make_tokenizer()
    named = {"image_token": "<image>", "video_token": "<video>"}
    return make_tokenizer(named, image_markup="<image>\n", video_markup="<video>\n")


def _ids(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def _llava_processor(kind: str) -> Any:
    tokenizer = _tokens(kind)
    images = tf.CLIPImageProcessorPil(size={"height": 28, "width": 28}, crop_size={"height": 28, "width": 28})
    return tf.LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )


def _llava_model(kind: str) -> tf.PreTrainedModel:
    tokenizer = _tokens(kind)
    return tf.LlavaForConditionalGeneration(
        tf.LlavaConfig(
            vision_config=tf.CLIPVisionConfig(**_TOWER),
            text_config=tf.LlamaConfig(**_TEXT, **_ids(tokenizer)),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
        )
    )


def _llava_next_processor() -> Any:
    tokenizer = _tokens("llava")
    images = tf.LlavaNextImageProcessorPil(
        size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}, image_grid_pinpoints=_GRID[1:]
    )
    return tf.LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )


def _llava_next_model() -> tf.PreTrainedModel:
    tokenizer = _tokens("llava")
    return tf.LlavaNextForConditionalGeneration(
        tf.LlavaNextConfig(
            vision_config=tf.CLIPVisionConfig(**_TOWER),
            text_config=tf.MistralConfig(**_TEXT, **_ids(tokenizer)),
            image_grid_pinpoints=_GRID[1:],
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
        )
    )


def _onevision_processor() -> Any:
    tokenizer = _tokens("llava")
    images = tf.LlavaOnevisionImageProcessorPil(size={"height": 28, "width": 28}, image_grid_pinpoints=_GRID)
    processor = image_only(tf.LlavaOnevisionProcessor)(
        images,
        tokenizer,
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=tokenizer.chat_template,
    )
    return _with_videos(processor, "llava_onevision")


def _onevision_model() -> tf.PreTrainedModel:
    tokenizer = _tokens("llava")
    return tf.LlavaOnevisionForConditionalGeneration(
        tf.LlavaOnevisionConfig(
            vision_config=tf.SiglipVisionConfig(**_TOWER, vision_use_head=False),
            text_config=tf.Qwen2Config(**_TEXT, **_ids(tokenizer)),
            image_grid_pinpoints=_GRID,
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )
    )


def video_config(name: str) -> dict[str, Any] | None:
    """What the folder of a tiny model says of videos, as ``video_preprocessor_config.json``."""
    if name == "llava_onevision":
        return {"video_processor_type": "LlavaOnevisionVideoProcessor", "size": {"height": 28, "width": 28}}
    if not name.startswith("qwen"):
        return None
    kind, side, times = ("Qwen3VL", 32, 32) if name.startswith("qwen3") else ("Qwen2VL", 28, 4)
    return {
        "video_processor_type": f"{kind}VideoProcessor",
        "size": {"shortest_edge": side * side, "longest_edge": times * side * side},
        "patch_size": side // 2,
        "merge_size": 2,
        "temporal_patch_size": 2,
    }


def _with_videos(processor: Any, name: str) -> Any:
    """The processor as loading makes it for a folder that says how videos are processed."""
    facts, written = family_of(name, has_vision=True).video, video_config(name)
    assert facts is not None
    assert written is not None
    a_second = 4.0 if name == "qwen2_5_vl" else 1.0  # as the config says where it says nothing
    processor.video_settings = VideoSettings.of(written, facts, positions_a_second=a_second)
    return processor


def _qwen_processor(name: str, stock: str, patch: int) -> Any:
    tokenizer = _tokens("qwen")
    side = 2 * patch
    images = tf.Qwen2VLImageProcessorPil(
        patch_size=patch,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": side * side, "longest_edge": 4 * side * side},
    )
    processor = image_only(getattr(tf, stock))(images, tokenizer, chat_template=tokenizer.chat_template)
    return _with_videos(processor, name)


def _qwen_ids(tokenizer: Any) -> dict[str, int]:
    to_id = tokenizer.convert_tokens_to_ids
    return {
        "image_token_id": to_id("<|image_pad|>"),
        "video_token_id": to_id("<|video_pad|>"),
        "vision_start_token_id": to_id("<|vision_start|>"),
        "vision_end_token_id": to_id("<|vision_end|>"),
    }


def _qwen2_model() -> tf.PreTrainedModel:
    tokenizer = _tokens("qwen")
    vision = {"depth": 2, "embed_dim": 64, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2, "patch_size": 14}
    text = {**_TEXT, **_ids(tokenizer), "rope_parameters": {**_ROPE, "mrope_section": [2, 3, 3]}}
    return tf.Qwen2VLForConditionalGeneration(
        tf.Qwen2VLConfig(text_config=text, vision_config=vision, **_qwen_ids(tokenizer))
    )


def _qwen2_5_model() -> tf.PreTrainedModel:
    tokenizer = _tokens("qwen")
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 4,
        "out_hidden_size": 64,
        "patch_size": 14,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    text = {**_TEXT, **_ids(tokenizer), "rope_parameters": {**_ROPE, "mrope_section": [2, 3, 3]}}
    return tf.Qwen2_5_VLForConditionalGeneration(
        tf.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_qwen_ids(tokenizer))
    )


def _qwen3_model() -> tf.PreTrainedModel:
    tokenizer = _tokens("qwen")
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 4,
        "out_hidden_size": 64,
        "patch_size": 16,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    rope = {**_ROPE, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    text = {**_TEXT, **_ids(tokenizer), "head_dim": 16, "rope_parameters": rope}
    return tf.Qwen3VLForConditionalGeneration(
        tf.Qwen3VLConfig(text_config=text, vision_config=vision, **_qwen_ids(tokenizer))
    )


def _gemma_processor() -> Any:
    tokenizer = _tokens("gemma")
    images = tf.Gemma3ImageProcessorPil(size={"height": 56, "width": 56})
    return tf.Gemma3Processor(images, tokenizer, chat_template=tokenizer.chat_template, image_seq_length=4)


def _gemma_model() -> tf.PreTrainedModel:
    tokenizer = _tokens("gemma")
    to_id = tokenizer.convert_tokens_to_ids
    return tf.Gemma3ForConditionalGeneration(
        tf.Gemma3Config(
            text_config={**_TEXT, **_ids(tokenizer), "head_dim": 16, "sliding_window": 64, "query_pre_attn_scalar": 16},
            vision_config={**_TOWER, "image_size": 56, "vision_use_head": False},
            mm_tokens_per_image=4,
            boi_token_index=to_id("<start_of_image>"),
            eoi_token_index=to_id("<end_of_image>"),
            image_token_index=to_id("<soft>"),
        )
    )


def _internvl_processor() -> Any:
    tokenizer = _tokens("internvl")
    images = tf.GotOcr2ImageProcessorPil(
        size={"height": 28, "width": 28}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    return image_only(tf.InternVLProcessor)(
        images, tokenizer, image_seq_length=1, chat_template=tokenizer.chat_template
    )


def _internvl_model() -> tf.PreTrainedModel:
    tokenizer = _tokens("internvl")
    return tf.InternVLForConditionalGeneration(
        tf.InternVLConfig(
            vision_config={**_TOWER, "image_size": [28, 28], "patch_size": [14, 14], "num_channels": 3},
            text_config=tf.Qwen2Config(**_TEXT, **_ids(tokenizer)),
            image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
            image_seq_length=1,
            downsample_ratio=0.5,
        )
    )


def _idefics_processor(name: str) -> Any:
    tokenizer = _tokens("idefics")
    kind = getattr(tf, f"{name}ImageProcessorPil")
    if hasattr(kind, "_backends"):  # a placeholder of older releases
        pytest.skip(f"{name}'s processor needs torchvision in transformers {tf.__version__}")
    images = kind(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    settings = {"image_seq_len": 1, "chat_template": tokenizer.chat_template}
    return image_only(getattr(tf, f"{name}Processor"))(images, tokenizer, **settings)


def _idefics_model(name: str) -> tf.PreTrainedModel:
    tokenizer = _tokens("idefics")
    config = getattr(tf, f"{name}Config")(
        text_config=tf.LlamaConfig(**_TEXT, **_ids(tokenizer)),
        vision_config=_TOWER,
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return getattr(tf, f"{name}ForConditionalGeneration")(config)


def _text_model() -> tf.PreTrainedModel:
    return tf.LlamaForCausalLM(tf.LlamaConfig(**_TEXT, **_ids(_tokens("text"))))


TINY: dict[str, Tiny] = {
    "llava": Tiny(lambda: _llava_model("llava"), lambda: _llava_processor("llava")),
    "llava_next": Tiny(_llava_next_model, _llava_next_processor),
    "llava_onevision": Tiny(_onevision_model, _onevision_processor),
    "qwen2_vl": Tiny(_qwen2_model, lambda: _qwen_processor("qwen2_vl", "Qwen2VLProcessor", 14)),
    "qwen2_5_vl": Tiny(_qwen2_5_model, lambda: _qwen_processor("qwen2_5_vl", "Qwen2_5_VLProcessor", 14)),
    "qwen3_vl": Tiny(_qwen3_model, lambda: _qwen_processor("qwen3_vl", "Qwen3VLProcessor", 16)),
    "gemma3": Tiny(_gemma_model, _gemma_processor),
    "internvl": Tiny(_internvl_model, _internvl_processor),
    "idefics3": Tiny(lambda: _idefics_model("Idefics3"), lambda: _idefics_processor("Idefics3")),
    "smolvlm": Tiny(lambda: _idefics_model("SmolVLM"), lambda: _idefics_processor("SmolVLM")),
    "text": Tiny(_text_model, lambda: _tokens("text")),
    "llava_vicuna": Tiny(lambda: _llava_model("vicuna"), lambda: _llava_processor("vicuna")),
}
VISION = tuple(name for name in TINY if name != "text")


def build_model(name: str, *, seed: int = 0, scale: float = 3.0) -> tf.PreTrainedModel:
    """The model with random weights, scaled up so that attention and images matter to the output."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TINY[name].model()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1 and not parameter.any():
                    parameter.normal_(std=0.1)  # a projection that starts at zero would hide the image
                elif parameter.dim() > 1:
                    parameter.mul_(scale)
    return model.eval()


def build(name: str, folder: Path, *, seed: int = 0, original_names: bool = True) -> Path:
    """A model folder with weights, processor, tokenizer and template."""
    build_model(name, seed=seed).save_pretrained(folder, save_original_format=original_names)
    TINY[name].processor().save_pretrained(folder)
    if (videos := video_config(name)) is not None:
        (folder / "video_preprocessor_config.json").write_text(json.dumps(videos), encoding="utf-8")
    return folder


def draw(ref: ImageRef) -> Image.Image:
    """A stand-in for a loader: the path ``WxH-N`` gives a WxH image that differs with N."""
    size, _, number = (ref.path or "28x28-0").partition("-")
    width, _, height = size.partition("x")
    image = Image.new("RGB", (int(width), int(height)), (40 * int(number) % 256, 90, 200))
    for x in range(0, int(width), 2):
        for y in range(int(number or 0) % 3, int(height), 3):
            image.putpixel((x, y), ((x * 9) % 256, (y * 7 + int(number)) % 256, 30))
    return image


def film(ref: VideoRef) -> VideoFrames:
    """A stand-in for a loader of videos: the path ``WxHxF-N`` gives F different frames, two a second."""
    shape = film_shape(ref)
    number = int((ref.path or "").partition("-")[2] or 0)
    name = f"{shape.width}x{shape.height}"
    frames = tuple(draw(ImageRef(path=f"{name}-{number + 3 * at}")) for at in range(shape.num_frames))
    return VideoFrames(frames, shape.times)


def film_shape(ref: VideoRef) -> VideoShape:
    """What :func:`film` gives, before any frame is drawn."""
    width, height, count = map(int, (ref.path or "").partition("-")[0].split("x"))
    return VideoShape(width, height, tuple(at / 2 for at in range(count)))


def refs(*names: str) -> tuple[ImageRef, ...]:
    return tuple(ImageRef(path=name) for name in names)


def pair(
    pair_id: str = "p",
    *,
    images: tuple[str, ...] = ("28x28-1",),
    videos: tuple[str, ...] = (),
    question: str = "what is in the image ?",
    chosen: str = "a red square .",
    rejected: str | None = "two yellow boxes and a dog .",
    prompt: tuple[Message, ...] | None = None,
    **rest: Any,
) -> PreferencePair:
    """A pair with drawn images: ``images`` are names for :func:`draw`, and ``videos`` for :func:`film`."""
    messages = prompt if prompt is not None else user_turn(question, num_images=len(images))
    if prompt is None and videos:
        places = [Part("video") for _ in videos]
        messages = (Message("user", (*places, *messages[0].parts)),)
    films = tuple(VideoRef(path=name) for name in videos)
    return PreferencePair(
        id=pair_id, images=refs(*images), prompt=messages, chosen=chosen, rejected=rejected, videos=films, **rest
    )


def turn(role: Any, *parts: str | None) -> Message:
    """A message; None stands for an image place."""
    return Message(role, tuple(Part("image") if part is None else Part("text", part) for part in parts))
