"""What a decoder is counted to keep without weights is what it keeps with them, whatever its layers are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

from mmpref.models import AdapterSettings, LoadedModel, Tuning, prepare
from mmpref.models.load import family_of_config
from mmpref.models.parts import with_parts
from mmpref.planning.architecture import describe
from mmpref.recipe.loading import build_recipe

_SIZES = {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4,
          "num_key_value_heads": 2}  # fmt: skip
_EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 96}
_LINEAR = {"linear_key_head_dim": 32, "linear_value_head_dim": 32, "linear_num_key_heads": 2,
           "linear_num_value_heads": 4, "head_dim": 32}  # fmt: skip
_SLIDING = ["sliding_attention"] * 3 + ["full_attention"]

MODELS: dict[str, Callable[[], tf.PretrainedConfig]] = {
    "llama": lambda: tf.LlamaConfig(**_SIZES, num_hidden_layers=5),
    "qwen3_moe": lambda: tf.Qwen3MoeConfig(**_SIZES, **_EXPERTS, head_dim=32, num_hidden_layers=5),
    "qwen3_moe, dense layers between": lambda: tf.Qwen3MoeConfig(
        **_SIZES, **_EXPERTS, head_dim=32, num_hidden_layers=5, mlp_only_layers=[0, 3]
    ),
    "qwen3_5": lambda: tf.Qwen3_5TextConfig(**_SIZES, **_LINEAR, num_hidden_layers=8),
    "gemma4": lambda: tf.Gemma4TextConfig(
        **_SIZES, head_dim=32, global_head_dim=64, num_hidden_layers=8, layer_types=_SLIDING * 2, sliding_window=64,
        vocab_size_per_layer_input=512, hidden_size_per_layer_input=32, num_kv_shared_layers=4,
    ),
    "gemma4, experts": lambda: tf.Gemma4TextConfig(
        **_SIZES, head_dim=32, global_head_dim=64, num_hidden_layers=4, layer_types=_SLIDING, sliding_window=64,
        hidden_size_per_layer_input=0, enable_moe_block=True, num_experts=8, top_k_experts=2, moe_intermediate_size=96,
    ),
}  # fmt: skip


def kept(model: Any, tokens: int) -> int:
    """Bytes that a forward pass of the real decoder keeps for its backward pass, weights left out."""
    weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
    seen: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            seen.setdefault(storage._cdata, tensor)  # which is kept, so that its address is nobody else's
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.get_base_model().model(input_ids=torch.arange(tokens)[None] % 500, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


@pytest.mark.parametrize("name", MODELS)
def test_what_is_counted_without_weights_is_kept_with_them(name: str) -> None:
    config = MODELS[name]()
    recipe = build_recipe(
        {"output": "x", "model": {"path": "none", "dtype": "float32"}, "data": {"train": "x.jsonl"},
         "loss": {"name": "dpo"}, "tune": {"language": "lora"}, "adapter": {"kind": "lora", "rank": 4},
         "train": {"learning_rate": 1e-5, "bf16": False}},
        where="test",
    )  # fmt: skip
    # a mask of a window has keys repeated for it, as rows with padding have
    found = describe(config, recipe, "plain" if "gemma4" in name else "shared_prefix")
    kind = tf.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
    loaded = LoadedModel(model=kind, processor=None, family=with_parts(family_of_config(config), kind), path="none")
    model = prepare(loaded, Tuning(language="lora"), AdapterSettings(rank=4)).model
    few, more = (kept(model, tokens) for tokens in (128, 256))
    counted = found.kept.layers * found.kept.per_layer + max(found.kept.outside_layers, 0.0)
    assert counted == pytest.approx((more - few) / 128, rel=0.1)
    assert found.kept.layers == config.num_hidden_layers


def test_layers_of_several_kinds_are_counted_each_and_the_largest_is_known() -> None:
    recipe = build_recipe(
        {"output": "x", "model": {"path": "none"}, "data": {"train": "x.jsonl"}, "loss": {"name": "dpo"},
         "tune": {"language": "lora"}, "adapter": {"kind": "lora"}, "train": {"learning_rate": 1e-5}},
        where="test",
    )  # fmt: skip
    mixed = describe(MODELS["qwen3_5"](), recipe).kept
    attention = MODELS["qwen3_5"]()
    attention.layer_types = ["full_attention"] * 8
    linear = MODELS["qwen3_5"]()
    linear.layer_types = ["linear_attention"] * 8
    one, other = (describe(config, recipe).kept for config in (attention, linear))
    assert mixed.per_layer == pytest.approx((2 * one.per_layer + 6 * other.per_layer) / 8, rel=0.03)
    assert mixed.largest == pytest.approx(max(one.per_layer, other.per_layer), rel=0.03)
    assert other.keys_and_values == 0  # linear attention has a state, and no keys and values of each token
    assert mixed.keys_and_values == pytest.approx(one.keys_and_values / 4, abs=1)
