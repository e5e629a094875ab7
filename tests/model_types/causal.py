"""Any type of causal LM, small: its config's class with small numbers where the names of its fields say sizes.

A type whose default config cannot be made small so has settings in ``SETTINGS``; one that cannot be made here at all
stands in ``NOT_BUILT`` with the reason.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from tests.model_types.folders import NotBuiltError, Writer, ids_of, make_tokenizer, write_folder

_SEE = frozenset(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) | {"phi4_multimodal"}
TEXT_TYPES = frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - _SEE
"""Types of causal LM that see no images."""

# what fields of sizes are called -> a small size; the first that matches counts, and a smaller default stays
_SIZES: tuple[tuple[str, int], ...] = (
    (r"(num_hidden_layers|n_layers?|num_layers|(encoder|decoder)_layers|num_(en|de)coder_layers)", 2),
    (r"index_n_heads", 16),  # fewer leave ties, which are broken in another way in another batch
    (r".*(key_value_heads|kv_heads|query_groups)", 2),
    (r"(.*_)?(num_attention_heads|attention_heads|n_heads?|num_heads)", 4),
    (r"qk_head_dim", 32),
    (r"(.*_)?(head_dim|dim_head|d_head|kv_channels|attention_head_size)", 16),
    (r"rotary_dim", 8),
    (r"(.*_)?(intermediate_size|ffn_dim|ffn_hidden_size|dff|dim_ff|d_inner|feed_forward_size)(_mlp)?", 128),
    (r"(hidden_size|d_model|n_embd|emb_dim|embedding_(size|dim)|word_embed_proj_dim)", 64),
    (r"(max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length|model_max_length)", 512),
    (r"(sliding_window(_size)?|attention_window_size|window_size|local_attention)", 32),
    (r"(num_experts|n_routed_experts|num_local_experts|moe_num_experts)", 4),
    (r"(num_experts_per_tok(en)?|moe_topk|moe_k|n_group|num_expert_group)", 2),
    (r"topk_group", 1),
    (r".*lora_rank", 16),
    (r"(index_topk|keep_window_size)", 16),
    (r"(hidden_size_per_layer_input|lru_width|backbone_hidden_size)", 64),
    (r"num_kv_shared_layers", 0),
)
_NO_CHANCE = re.compile(r".*(dropout|pdrop|dropout_rate|dropout_prob|layerdrop|jitter_noise|jitter_eps)")
"""What is drawn at random while a model trains, so that two ways of computing could not be compared."""
_PER_LAYER = ("layer_types", "mlp_layer_types")
"""Lists with a word a layer; a small model has one layer of each combination."""
_DEEPSEEK = {"num_key_value_heads": 4, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16}
_SCAN = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 16}
_EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
_TWO = ["linear_attention", "hybrid"]

SETTINGS: dict[str, dict[str, Any]] = {
    "axk1": _DEEPSEEK,
    "axk2": _DEEPSEEK,
    "bailing_hybrid": _DEEPSEEK,
    "bamba": {**_SCAN, "attn_layer_indices": [1]},
    "blt": {
        **{
            f"{part}_config": {
                "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
                "intermediate_size": 128, "vocab_size": 400, "cross_attn_k": 1, "hidden_size_global": 64,
            }
            for part in ("patcher", "encoder", "decoder", "global")
        },
        "encoder_hash_byte_group_vocab": 100, "cross_attn_k": 1,
    },
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
            "full_attention": None,
        },
    },
    "cpmant": {"prompt_length": 4},
    "dbrx": {
        "attn_config": {"clip_qkv": 8.0, "kv_n_heads": 2, "rope_theta": 1e4},
        "ffn_config": {"hidden_size": 64, "ffn_hidden_size": 128},
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
    "deepseek_v2": {**_DEEPSEEK, **_EXPERTS, "n_group": 2, "topk_group": 1},
    "deepseek_v3": _DEEPSEEK,
    "deepseek_v32": _DEEPSEEK,
    "dots1": {**_EXPERTS, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1},
    "dots3_note_text": {
        **_DEEPSEEK,
        "swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "swa_q_lora_rank": 16, "swa_kv_lora_rank": 16,
        "swa_head_dim": 32, "swa_qk_nope_head_dim": 16, "swa_v_head_dim": 16,
    },
    "falcon": {"num_kv_heads": 4},
    "falcon_h1": {**_SCAN, "mamba_d_ssm": 128},
    "gemma3n_text": {"intermediate_size": [128, 128], "activation_sparsity_pattern": [0.0, 0.0], "laurel_rank": 16},
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}},
    "glm4_moe_lite": _DEEPSEEK,
    "glm_moe_dsa": _DEEPSEEK,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granite_swa": {"layer_rope_theta": [1e4, 1e4]},
    "granitemoe_swa": {"layer_rope_theta": [1e4, 1e4]},
    "granitemoehybrid": {
        **_SCAN, "shared_intermediate_size": 64, "layer_types": ["linear_attention", "full_attention"],
    },
    "kimi_linear": _DEEPSEEK,
    "laguna": {"num_attention_heads_per_layer": [4, 4]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"], "num_hidden_layers": 3, "num_dense_layers": 1},
    "llama4_text": {"attention_chunk_size": 32},
    "longcat_flash": {**_DEEPSEEK, "zero_expert_num": 2, "moe_topk": 2},
    "mamba2": {"num_heads": 8, "n_groups": 1, "state_size": 16, "chunk_size": 16},
    "minicpm3": _DEEPSEEK,
    "minimax_m3_vl_text": {"index_block_size": 16},
    "nemotron": {"head_dim": 16, "num_key_value_heads": 2},
    "nemotron_h": {
        "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 16, "n_groups": 1, "chunk_size": 16,
        "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp"],
    },
    "reformer": {
        "is_decoder": True, "axial_pos_shape": [16, 32], "axial_pos_embds_dim": [32, 32], "num_buckets": 4,
        "attn_layers": ["local", "lsh"], "local_attn_chunk_length": 16, "lsh_attn_chunk_length": 16,
    },
    "roc_bert": {"pronunciation_embed_dim": 16, "pronunciation_vocab_size": 20, "shape_embed_dim": 16,
                 "shape_vocab_size": 20},
    "xlstm": {"num_blocks": 2, "num_hidden_layers": 2},
    "qwen4_exp_text": {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16, "indexer_budget": 16,
                       "indexer_compress_ratio": 4},
    "youtu": _DEEPSEEK,
    "zamba": {"attention_hidden_size": 128, "num_hidden_layers": 4, "layers_block_type": _TWO * 2},
    "zamba2": {"num_hidden_layers": 4, "layers_block_type": _TWO * 2, "n_mamba_heads": 8, "mamba_d_state": 16,
               "adapter_rank": 8, "chunk_size": 16},
}  # fmt: skip
"""What the builder cannot see from the names of fields."""
_DERIVED = {
    "zamba2": ("attention_hidden_size", "attention_head_dim", "kv_channels", "mamba_headdim"),
    "zamba": ("attention_head_dim",),
}
"""Fields that a config computes from others."""

_CONFIG_ONLY = frozenset(
    {
        "gemma4_assistant",
        "gemma4_unified_assistant",
        "moss_transcribe_diarize",
        "musicgen",
        "musicgen_melody",
        "phi4_multimodal",
        "whisper",
    }
)
"""Models of more than text, or of less, which are refused by their config: their weights are not made."""

NOT_BUILT: dict[str, str] = {}
"""Types without a folder here -> why."""

_MOST_NUMEL = 4_000_000


def small_config(name: str, tokenizer: Any) -> tf.PretrainedConfig:
    """A config of a type, with as few and as narrow layers as show each kind of layer that it has."""
    kind: Any = CONFIG_MAPPING[name]
    settings = SETTINGS.get(name, {})
    default = kind().to_dict()
    small = {**_small(default), **_layers(default), **_words(default, len(tokenizer)), **settings, **ids_of(tokenizer)}
    return kind(**{key: value for key, value in small.items() if key not in _DERIVED.get(name, ())})


def _small(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, int) and not isinstance(value, bool):
            small = next((size for pattern, size in _SIZES if re.fullmatch(pattern, key)), None)
            if small is not None and value > small:
                found[key] = small
        if isinstance(value, float) and value and _NO_CHANCE.fullmatch(key):
            found[key] = 0.0
        if key == "head_dim" and value is None:
            found[key] = 16
    return found


def _layers(values: Mapping[str, Any]) -> dict[str, Any]:
    """One layer of each kind where a config lists the kinds of its layers."""
    lists = {key: values[key] for key in _PER_LAYER if isinstance(values.get(key), list)}
    if not lists:
        return {}
    combinations = list(dict.fromkeys(zip(*lists.values(), strict=True)))
    if len(combinations) == 1:
        combinations *= 2
    return {
        "num_hidden_layers": len(combinations),
        **{key: [one[place] for one in combinations] for place, key in enumerate(lists)},
    }


def _words(values: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Further tables with a row for each word."""
    return {key: size for key in values if key in ("vocab_size_per_layer_input", "decoder_vocab_size")}


def write_causal(name: str, folder: Path) -> Path:
    """The folder of a causal LM of any type."""
    tokenizer = make_tokenizer()
    if name in _CONFIG_ONLY:
        tokenizer.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps({"model_type": name, **SETTINGS.get(name, {})}))
        return folder
    config = small_config(name, tokenizer)
    with torch.device("meta"):
        numel = sum(one.numel() for one in tf.AutoModelForCausalLM.from_config(copy.deepcopy(config)).parameters())
    if numel > _MOST_NUMEL:
        raise NotBuiltError(f"{numel:,} weights, and nothing says which fields of its config would make it small")
    return write_folder(folder, tf.AutoModelForCausalLM.from_config(config), tokenizer)


WRITERS: dict[str, Writer] = {name: partial(write_causal, name) for name in sorted(TEXT_TYPES) if name not in NOT_BUILT}
