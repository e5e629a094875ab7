"""Real architectures at their real size with random weights, made where they run: seconds, and nothing is downloaded.

Sizes are those of ``mmpref.models.known_configs``. Every word of the tokenizer is a token, so that the lengths of
answers are exact, and the vocabulary keeps its real size, so that the output head costs what it costs.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from bench_models import tokenizer

from mmpref.models import LoadedModel
from mmpref.models.folder.image_only import image_only
from mmpref.models.known_configs import known_config
from mmpref.processing import family_of

LLAVA_7B, QWEN_7B, QWEN_3B = (
    "llava-hf/llava-1.5-7b-hf", "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen2.5-VL-3B-Instruct"
)  # fmt: skip
LLAVA_TOKENS = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
QWEN_TOKENS = ["<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
               "<|image_pad|>", "<|video_pad|>"]  # fmt: skip
WORDS = 8192
"""Words of the tokenizer at most; the model's vocabulary is larger."""


@dataclass(frozen=True, kw_only=True)
class RandomModel:
    """A model that nobody trained.

    Attributes:
        hub: the hub id whose sizes it has.
        config: of the model.
        processor: turns text and images into its inputs.
        image_markup: what stands for an image in a text.
        image: width and height of the images it is measured with.
        image_tokens: that such an image becomes.
        tiny: a few narrow layers instead of the real size.
    """

    hub: str
    config: tf.PretrainedConfig
    processor: Any
    image_markup: str
    image: tuple[int, int]
    image_tokens: int
    tiny: bool

    @property
    def family(self) -> str:
        """The ``model_type`` of its config."""
        return str(self.config.model_type)

    def build(self, device: str, dtype: torch.dtype = torch.bfloat16) -> tf.PreTrainedModel:
        """The model with random weights on the device, the same for the same hub id."""
        kind = getattr(tf, type(self.config).__name__.replace("Config", "ForConditionalGeneration"))
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                model: tf.PreTrainedModel = kind(copy.deepcopy(self.config))
        finally:
            torch.set_default_dtype(before)
        return model.eval()

    def loaded(self, model: tf.PreTrainedModel) -> LoadedModel:
        """A built model as ``mmpref.models.load`` gives it."""
        return LoadedModel(
            model=model, processor=self.processor, family=family_of(self.family, has_vision=True), path=self.hub
        )

    def save(self, folder: Path, device: str, dtype: torch.dtype = torch.bfloat16) -> Path:
        """Weights, config and processor as a model folder."""
        self.build(device, dtype).save_pretrained(folder)
        self.processor.save_pretrained(folder)
        return folder


def random_model(hub: str, *, tiny: bool = False) -> RandomModel:
    """A model of the size that the hub id names; its weights are made by :meth:`RandomModel.build`."""
    known = known_config(hub)
    assert known is not None, f"mmpref.models.known_configs does not know {hub}"
    config = copy.deepcopy(known)
    if tiny:
        _shrink(config)
    return _llava(hub, config, tiny) if config.model_type == "llava" else _qwen(hub, config, tiny)


def _llava(hub: str, config: Any, tiny: bool) -> RandomModel:
    vision, text = config.vision_config, config.get_text_config()
    number = LLAVA_TOKENS.index
    config.image_token_id = number("<image>")
    config.vision_feature_select_strategy = "default"
    text.update({"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3})
    words = tokenizer(min(WORDS, text.vocab_size), LLAVA_TOKENS, image="<image>", eos="</s>", pad_token="<pad>",
                      extra_special_tokens={"image_token": "<image>"})  # fmt: skip
    side = vision.image_size
    images = tf.CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    processor = tf.LlavaProcessor(
        images, words, patch_size=vision.patch_size, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=words.chat_template,
    )  # fmt: skip
    tokens = (side // vision.patch_size) ** 2
    config.image_seq_length = tokens
    return RandomModel(hub=hub, config=config, processor=processor, image_markup="<image>", image=(side, side),
                       image_tokens=tokens, tiny=tiny)  # fmt: skip


def _qwen(hub: str, config: Any, tiny: bool) -> RandomModel:
    vision, text = config.vision_config, config.get_text_config()
    places = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    config.update({f"{name}_token_id": QWEN_TOKENS.index(f"<|{token}|>") for name, token in places.items()})
    text.update({"bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 1})
    markup = "<|vision_start|> <|image_pad|> <|vision_end|>"
    named = {f"{name}_token": f"<|{token}|>" for name, token in places.items()}
    words = tokenizer(min(WORDS, text.vocab_size), QWEN_TOKENS, image=markup, eos="<|im_end|>",
                      pad_token="<|endoftext|>", extra_special_tokens=named)  # fmt: skip
    cell = vision.patch_size * vision.spatial_merge_size
    images = tf.Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size, merge_size=vision.spatial_merge_size, temporal_patch_size=2,
        size={"shortest_edge": 4 * cell**2, "longest_edge": 1024 * cell**2},
    )  # fmt: skip
    kind = getattr(tf, type(config).__name__.replace("Config", "Processor"))
    processor = image_only(kind)(images, words, chat_template=words.chat_template)
    cells = 4 if tiny else 32  # 1,024 image tokens
    return RandomModel(hub=hub, config=config, processor=processor, image_markup=markup,
                       image=(cells * cell, cells * cell), image_tokens=cells**2, tiny=tiny)  # fmt: skip


def _shrink(config: Any) -> None:
    """Two narrow layers, a small tower, 512 words."""
    text, vision = config.get_text_config(), config.vision_config
    text.update({
        "num_hidden_layers": 2, "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 512,
    })  # fmt: skip
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:2]
    if config.model_type == "llava":
        text.num_key_value_heads = 4
        vision.update({"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
                       "image_size": 56})  # fmt: skip
        return
    text.rope_parameters = {**text.rope_parameters, "mrope_section": [4, 6, 6]}
    vision.depth = 2
    if config.model_type == "qwen2_vl":
        vision.update({"embed_dim": 64, "hidden_size": 128, "num_heads": 4})
    else:
        vision.update({"hidden_size": 64, "intermediate_size": 128, "num_heads": 4, "out_hidden_size": 128})
    if hasattr(vision, "fullatt_block_indexes"):
        vision.fullatt_block_indexes = [1]
    if hasattr(vision, "deepstack_visual_indexes"):
        vision.deepstack_visual_indexes = [0]
