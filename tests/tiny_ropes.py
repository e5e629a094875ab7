"""Small text models whose rotary positions turn at other speeds in long sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers as tf

from tests.model_types.folders import TEXT, ids_of, make_tokenizer, write_folder

FIRST = 64
"""Tokens up to which the models here are first trained."""
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0 + 0.1 * at for at in range(8)],
    "long_factor": [2.0 + at for at in range(8)],
    "original_max_position_embeddings": FIRST,
}
PHIMOE = {"short_mscale": 1.1, "long_mscale": 1.3}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}


def _config(kind: str, tokenizer: Any) -> Any:
    given = {**TEXT, **ids_of(tokenizer)}
    if kind == "dynamic":
        return tf.LlamaConfig(**{**given, "max_position_embeddings": FIRST, "rope_parameters": DYNAMIC})
    if kind == "phi3":
        rope = {**LONG_ROPE, "partial_rotary_factor": 1.0}
        return tf.Phi3Config(**given, original_max_position_embeddings=FIRST, rope_parameters=rope)
    if kind == "phimoe":
        return tf.PhimoeConfig(**given, **EXPERTS, rope_parameters={**LONG_ROPE, **PHIMOE})
    return tf.LlamaConfig(**given, rope_parameters={**LONG_ROPE, "factor": 8.0})


def write_rope(kind: str, folder: Path) -> Path:
    """``longrope``, ``phi3`` or ``phimoe``, which switch once, or ``dynamic``, which changes with every length."""
    tokenizer = make_tokenizer()
    return write_folder(folder, tf.AutoModelForCausalLM.from_config(_config(kind, tokenizer)), tokenizer)
