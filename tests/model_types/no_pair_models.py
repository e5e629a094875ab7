"""Types of image-text models of older or other kinds, which are refused by name from what their folders say."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import transformers as tf
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.model_types.folders import TOWER, Writer, make_tokenizer, write_folder


def write_config(name: str, settings: dict[str, Any], folder: Path) -> Path:
    """What a folder says of a model that is refused by its config: no weights are made, and none are looked at."""
    make_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": name, **settings}))
    return folder


_CONFIGS: dict[str, dict[str, Any]] = {
    "blip": {},
    "blip-2": {},
    "chameleon": {"vq_config": {}, "vocabulary_map": {"<image>": 4, "IMGIMGA": 5}},
    "emu3": {"vocabulary_map": {"<image>": 4}},
    "evolla": {},
    "florence2": {},
    "fuyu": {},
    "git": {},
    "instructblip": {},
    "instructblipvideo": {},
    "kosmos-2": {},
    "kosmos-2.5": {},
    "pi0": {},
    "pix2struct": {},
    "pp_chart2table": {},
    "pp_formulanet": {},
    "t5gemma2": {},
    "udop": {},
}


def write_vision_encoder_decoder(folder: Path) -> Path:
    """A vision encoder and a decoder of its own (TrOCR, Donut)."""
    vision = tf.ViTConfig(**TOWER)
    text = tf.TrOCRConfig(d_model=64, decoder_layers=1, decoder_attention_heads=4, decoder_ffn_dim=64, vocab_size=400)
    config = tf.VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    return write_folder(folder, tf.VisionEncoderDecoderModel(config), make_tokenizer())


WRITERS: dict[str, Writer] = {
    **{name: partial(write_config, name, settings) for name, settings in _CONFIGS.items() if name in CONFIG_MAPPING},
    "vision-encoder-decoder": write_vision_encoder_decoder,
}
NOT_BUILT: dict[str, str] = {}
