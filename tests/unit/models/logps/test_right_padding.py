"""Rows that are padded on the right, without a mask of their padding: what is read of them stays the stock model's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as tf
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from mmpref.models import LoadedModel
from mmpref.models.load import family_of_config
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.models.logps.right_padding import padded_on_the_right
from tests.plain_forward import collator_for, text_rows
from tests.tiny_vlms import make_tokenizer

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}
EXPERTS = {
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
}
INDEXER = {"index_topk": 6, "index_n_heads": 2, "index_head_dim": 16}
MODELS: dict[str, Callable[[int], tf.PreTrainedModel]] = {
    # which looks at the name of its attention, and leaves the choice of keys to kernels that it does not know
    "deepseek_v32": lambda vocab: tf.DeepseekV32ForCausalLM(
        tf.DeepseekV32Config(**TEXT, **EXPERTS, **INDEXER, vocab_size=vocab)
    ),
    "mistral": lambda vocab: tf.MistralForCausalLM(tf.MistralConfig(**TEXT, sliding_window=8, vocab_size=vocab)),
    "gemma3": lambda vocab: tf.Gemma3ForCausalLM(
        tf.Gemma3TextConfig(**TEXT, head_dim=16, sliding_window=8, vocab_size=vocab)
    ),
    "gpt2": lambda vocab: tf.GPT2LMHeadModel(tf.GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=vocab)),
    "bloom": lambda vocab: tf.BloomForCausalLM(tf.BloomConfig(hidden_size=64, n_layer=2, n_head=4, vocab_size=vocab)),
}


def text_model(name: str) -> LoadedModel:
    tokenizer = make_tokenizer()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model: Any = MODELS[name](len(tokenizer)).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.08)
    return LoadedModel(model=model, processor=tokenizer, family=family_of_config(model.config), path=name)


@pytest.mark.parametrize("name", MODELS)
def test_padded_rows_are_what_the_stock_model_makes_of_them(name: str) -> None:
    loaded = text_model(name)
    batch = collator_for(loaded, "plain")(text_rows())
    assert batch.attention_mask is not None
    assert not bool(batch.attention_mask.all())
    with torch.no_grad():
        logits = loaded.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        want = logits.flatten(0, 1)[batch.predicts].log_softmax(-1).gather(1, batch.targets[:, None])[:, 0]
        for _ in range(2):
            assert float((answer_logps(loaded.model, batch) - want).abs().max()) < 1e-5


def test_masks_of_transformers_are_its_own_again_afterwards() -> None:
    before = {name: ALL_MASK_ATTENTION_FUNCTIONS[name] for name in ("sdpa", "flash_attention_2")}
    with padded_on_the_right():
        assert ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] is not before["sdpa"]
    assert {name: ALL_MASK_ATTENTION_FUNCTIONS[name] for name in before} == before
    with padded_on_the_right(False):
        assert ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] is before["sdpa"]
