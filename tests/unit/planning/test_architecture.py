"""The built-in architectures are those of the published checkpoints."""

from __future__ import annotations

from typing import Any

import pytest

from mmpref.models.known_configs import known_config, known_models
from mmpref.planning.meta_model import skeleton

# the published sizes of the checkpoints, in weights
PUBLISHED = {
    "Qwen/Qwen2-VL-2B-Instruct": 2.209, "Qwen/Qwen2-VL-7B-Instruct": 8.291, "Qwen/Qwen2.5-VL-3B-Instruct": 3.755,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8.292, "Qwen/Qwen3-VL-4B-Instruct": 4.438, "Qwen/Qwen3-VL-8B-Instruct": 8.767,
    "llava-hf/llava-1.5-7b-hf": 7.063, "llava-hf/llava-v1.6-mistral-7b-hf": 7.567,
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": 0.894, "llava-hf/llava-onevision-qwen2-7b-ov-hf": 8.031,
    "meta-llama/Meta-Llama-3-8B-Instruct": 8.030, "Qwen/Qwen2.5-0.5B-Instruct": 0.494,
    "Qwen/Qwen2-VL-72B-Instruct": 73.406, "Qwen/Qwen2.5-VL-32B-Instruct": 33.453,
    "Qwen/Qwen2.5-VL-72B-Instruct": 73.411, "Qwen/Qwen3-VL-32B-Instruct": 33.357,
    "Qwen/Qwen3-VL-30B-A3B-Instruct": 31.071, "Qwen/Qwen3.5-4B": 4.660, "Qwen/Qwen3.5-9B": 9.653,
    "Qwen/Qwen3.5-27B": 27.781, "Qwen/Qwen3.5-35B-A3B": 35.952, "google/gemma-4-E2B-it": 5.123,
    "google/gemma-4-E4B-it": 7.996, "google/gemma-4-26B-A4B-it": 25.806, "google/gemma-4-31B-it": 31.273,
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503": 24.011, "mistralai/Mistral-Small-3.2-24B-Instruct-2506": 24.011,
    "Qwen/Qwen2.5-1.5B-Instruct": 1.544, "Qwen/Qwen2.5-3B-Instruct": 3.086, "Qwen/Qwen2.5-7B-Instruct": 7.616,
    "Qwen/Qwen2.5-Math-7B": 7.616,
}  # fmt: skip


# published with one decimal only
PUBLISHED_ROUNDED = {
    "llava-hf/llava-1.5-13b-hf": 13.4, "llava-hf/llava-v1.6-34b-hf": 34.8, "zai-org/GLM-4.1V-9B-Thinking": 10.3,
}  # fmt: skip


def only_in_the_files(config: Any) -> int:
    """Weights of a published checkpoint that transformers does not build.

    Qwen3.5 has one more layer that predicts a token ahead, with a matrix of its own before it. The small Gemma 4 models
    have keys and values in layers that read those of an earlier layer.
    """
    text, kind = config.get_text_config(), config.model_type
    hidden = text.hidden_size
    if kind in ("qwen3_5", "qwen3_5_moe"):
        heads, kv, size = text.num_attention_heads, text.num_key_value_heads, text.head_dim
        attention = hidden * size * (3 * heads + 2 * kv)  # queries have a gate
        if kind == "qwen3_5":
            return attention + 3 * hidden * text.intermediate_size + 2 * hidden**2
        experts = text.num_experts * (3 * text.moe_intermediate_size + 1) * hidden
        return attention + experts + 3 * hidden * text.shared_expert_intermediate_size + 2 * hidden**2
    if kind == "gemma4" and text.num_kv_shared_layers:
        shared = text.layer_types[-text.num_kv_shared_layers :]
        heads = dict(text.to_dict())["num_key_value_heads"]
        sizes = {"sliding_attention": 256, "full_attention": 512}
        return sum(2 * hidden * heads * sizes[layer] for layer in shared)
    return 0


@pytest.mark.parametrize("model", known_models())
def test_the_built_in_architectures_have_the_published_number_of_weights(model: str) -> None:
    import torch

    config = known_config(model)
    assert config is not None
    found = sum(p.numel() for p in skeleton(config, model, torch.bfloat16).model.parameters())
    found += only_in_the_files(config)
    if model in PUBLISHED_ROUNDED:
        assert round(found / 1e9, 1) == PUBLISHED_ROUNDED[model]
    else:
        assert found / 1e9 == pytest.approx(PUBLISHED[model], abs=6e-4)
