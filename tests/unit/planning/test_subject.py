"""The layout that a plan counts with is the one that training takes, as far as a config says it."""

from __future__ import annotations

import pytest
import transformers as tf

from mmpref.models.known_configs import known_config
from mmpref.planning.subject import layout_of
from tests.unit.planning.shared_recipes import FULL, recipe

LAYERS = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
HYBRID = tf.Lfm2Config(**LAYERS, intermediate_size=128, layer_types=["conv", "full_attention"])
CHUNKED = tf.Llama4TextConfig(**LAYERS, attention_chunk_size=64)


@pytest.mark.parametrize(
    ("config", "keys", "layout"),
    [
        (known_config("Qwen/Qwen2.5-7B-Instruct"), {}, "shared_prefix"),
        (known_config("Qwen/Qwen2.5-7B-Instruct"), {"attn_implementation": "eager"}, "shared_prefix"),
        (known_config("Qwen/Qwen2.5-7B-Instruct"), {"attn_implementation": "paged"}, "plain"),
        (known_config("Qwen/Qwen2.5-7B-Instruct"), {"attention": "plain"}, "plain"),
        (known_config("Qwen/Qwen3-VL-8B-Instruct"), {}, "shared_prefix"),
        (known_config("Qwen/Qwen3.5-4B"), {}, "plain"),
        (HYBRID, {}, "plain"),
        (CHUNKED, {}, "shared_prefix"),
        (CHUNKED, {"attn_implementation": "eager"}, "plain"),
        (CHUNKED, {"attn_implementation": "flash_attention_2"}, "plain"),
    ],
)
def test_the_layout_of_a_config(config: tf.PretrainedConfig, keys: dict[str, str], layout: str) -> None:
    planned = recipe(FULL, *(f"model.{key}={value}" for key, value in keys.items()))
    assert layout_of(planned, config) == layout
