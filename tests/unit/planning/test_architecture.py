"""The built-in architectures are those of the published checkpoints."""

from __future__ import annotations

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
    "Qwen/Qwen2.5-1.5B-Instruct": 1.544, "Qwen/Qwen2.5-3B-Instruct": 3.086, "Qwen/Qwen2.5-7B-Instruct": 7.616,
}  # fmt: skip


# published with one decimal only
PUBLISHED_ROUNDED = {"llava-hf/llava-1.5-13b-hf": 13.4, "llava-hf/llava-v1.6-34b-hf": 34.8}


@pytest.mark.parametrize("model", known_models())
def test_the_built_in_architectures_have_the_published_number_of_weights(model: str) -> None:
    import torch

    config = known_config(model)
    assert config is not None
    found = sum(p.numel() for p in skeleton(config, model, torch.bfloat16).model.parameters())
    if model in PUBLISHED_ROUNDED:
        assert round(found / 1e9, 1) == PUBLISHED_ROUNDED[model]
    else:
        assert found / 1e9 == pytest.approx(PUBLISHED[model], abs=6e-4)
