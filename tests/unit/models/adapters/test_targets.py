"""Layers that get LoRA, and those that only look as if they could."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from transformers.pytorch_utils import Conv1D

from mmpref.models import AdapterSettings, LoadedModel, Tuning, prepare
from mmpref.models.adapters.targets import lora_layers
from mmpref.models.load import family_of_config
from mmpref.models.parts import with_parts

LANGUAGE = Tuning(language="lora")
SMALL: dict[str, Any] = {"vocab_size": 100, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def layers_of(model: tf.PreTrainedModel) -> set[str]:
    family = with_parts(family_of_config(model.config), model)
    return {name.rpartition(".")[2] for name in lora_layers(model, family, LANGUAGE)}


def mamba2() -> tf.PreTrainedModel:
    config = tf.Mamba2Config(hidden_size=64, num_hidden_layers=1, num_heads=8, head_dim=16, n_groups=1, state_size=16,
                             **SMALL)  # fmt: skip
    return tf.Mamba2ForCausalLM(config)


def jamba() -> tf.PreTrainedModel:
    config = tf.JambaConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                            num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1, num_experts=2,
                            **SMALL)  # fmt: skip
    return tf.JambaForCausalLM(config)


def test_a_weight_that_is_read_past_its_layer_has_no_adapter() -> None:
    """An adapter there would not be run while training, and would be added when it is merged."""
    assert layers_of(mamba2()) == {"in_proj"}
    found = layers_of(jamba())
    assert "dt_proj" not in found
    assert found >= {"in_proj", "out_proj", "x_proj", "q_proj"}


def test_layers_that_share_one_weight_have_no_adapter() -> None:
    """Zamba runs one transformer block in several places."""
    config = tf.ZambaConfig(hidden_size=64, intermediate_size=64, attention_hidden_size=128, num_hidden_layers=4,
                            num_attention_heads=4, num_key_value_heads=4, **SMALL,
                            layers_block_type=["linear_attention", "hybrid"] * 2)  # fmt: skip
    model = tf.ZambaForCausalLM(config)
    family = with_parts(family_of_config(config), model)
    found = lora_layers(model, family, LANGUAGE)
    assert found
    assert not [name for name in found if "shared_transf" in name]
    assert any("shared_transf" in name for name, _ in model.named_modules())


def gpt2() -> tf.PreTrainedModel:
    return tf.GPT2LMHeadModel(tf.GPT2Config(n_embd=64, n_layer=2, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0,
                                            attn_pdrop=0.0, **SMALL))  # fmt: skip


def test_gpt_2_s_transposed_layers_are_linear_too() -> None:
    model = gpt2()
    assert layers_of(model) == {"c_attn", "c_proj", "c_fc"}
    assert all(isinstance(model.transformer.h[0].get_submodule(name), Conv1D) for name in ("attn.c_attn", "mlp.c_fc"))
    loaded = LoadedModel(model=model, processor=None, family=family_of_config(model.config), path="gpt2")
    ready = prepare(loaded, LANGUAGE, AdapterSettings(rank=4)).model
    ready(input_ids=torch.tensor([[5, 6, 7]])).logits.sum().backward()
    assert all(value.grad is not None for name, value in ready.named_parameters() if ".lora_" in name)


@pytest.mark.parametrize("make", [gpt2, mamba2, jamba])
def test_a_model_for_text_alone_has_no_module_that_nothing_is_known_of(make: Any) -> None:
    model = make()
    assert not with_parts(family_of_config(model.config), model).unknown
