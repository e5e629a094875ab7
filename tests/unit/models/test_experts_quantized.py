"""Experts stay in 16 bits under quantisation, because they are no linear layers; loading says so."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from mmpref.models import LoadSettings
from mmpref.models.experts import fused_experts, num_expert_weights
from mmpref.models.load import load_model
from tests.tiny_experts import write_experts


@pytest.mark.parametrize("name", ["mixtral", "qwen3_vl_moe", "qwen3_5_moe", "llama4_text"])
def test_only_linear_layers_are_packed(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    with caplog.at_level(logging.WARNING, logger="mmpref.models.quantize"):
        model = load_model(write_experts(name, tmp_path), LoadSettings(quantization="nf4", dtype="bfloat16"))
    packed = [path for path, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)]
    assert packed
    assert not any((".gate" in path and path.endswith("gate")) or path.endswith("router") for path in packed)
    for layer in fused_experts(model):
        experts = model.get_submodule(layer.path)
        assert all(experts.get_parameter(tensor).dtype == torch.bfloat16 for tensor in layer.tensors)
    count = num_expert_weights(model)
    assert count
    assert f"{count:,} weights of experts are no linear layers" in caplog.text
    assert "only linear layers are quantised" in caplog.text
    assert model(input_ids=torch.arange(2, 12)[None]).logits.isfinite().all()
