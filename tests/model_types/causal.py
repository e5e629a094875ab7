"""Any type of causal LM, small: its config's class with small numbers where the names of its fields say sizes.

A type whose default config cannot be made small so has settings in ``SETTINGS``; one that cannot be made here at all
stands in ``NOT_BUILT`` with the reason.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
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

TEXT_TYPES = tuple(
    sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES))
)
"""Types of causal LM that are no image-text models too."""

# what fields of sizes are called -> a small size; the first that matches counts, and a smaller default stays
_SIZES: tuple[tuple[str, int], ...] = (
    (r"(num_hidden_layers|n_layers?|num_layers|(encoder|decoder)_layers|num_(en|de)coder_layers)", 2),
    (r".*(key_value_heads|kv_heads|query_groups)", 2),
    (r"(.*_)?(num_attention_heads|attention_heads|n_heads?|num_heads)", 4),
    (r"(head_dim|dim_head|d_head|kv_channels|v_head_dim|qk_nope_head_dim|attention_head_(dim|size)|.*_head_dim)", 16),
    (r"(qk_rope_head_dim|rotary_dim)", 8),
    (r"(.*_)?(intermediate_size|ffn_dim|ffn_hidden_size|dff|dim_ff|d_inner|feed_forward_size)(_mlp)?", 128),
    (r"(hidden_size|d_model|n_embd|emb_dim|embedding_(size|dim)|word_embed_proj_dim|attention_hidden_size)", 64),
    (r"(max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length|model_max_length)", 512),
    (r"(sliding_window(_size)?|attention_window_size|window_size|local_attention)", 32),
    (r"(num_experts|n_routed_experts|num_local_experts|moe_num_experts)", 4),
    (r"(num_experts_per_tok|moe_topk|moe_k)", 2),
    (r".*lora_rank", 16),
)
_PER_LAYER = ("layer_types", "mlp_layer_types")
"""Lists with a word a layer; a small model has one layer of each combination."""

_MOST_NUMEL = 4_000_000

SETTINGS: dict[str, dict[str, Any]] = {}
"""What the builder cannot see from the names of fields."""

NOT_BUILT: dict[str, str] = {}
"""Types without a folder here -> why."""


def small_config(name: str, tokenizer: Any) -> tf.PretrainedConfig:
    """A config of a type, with as few and as narrow layers as show each kind of layer that it has."""
    kind: Any = CONFIG_MAPPING[name]
    settings = SETTINGS.get(name, {})
    default = kind(**settings).to_dict() if name in NEED_SETTINGS else kind().to_dict()
    sizes = {**_small(default), **_layers(default), **settings}
    return kind(**sizes, **{key: value for key, value in ids_of(tokenizer).items() if key not in settings})


NEED_SETTINGS: frozenset[str] = frozenset()


def _small(values: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for key, value in values.items():
        if isinstance(value, int) and not isinstance(value, bool):
            small = next((size for pattern, size in _SIZES if re.fullmatch(pattern, key)), None)
            if small is not None and value > small:
                found[key] = small
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


def write_causal(name: str, folder: Path) -> Path:
    """The folder of a causal LM of any type."""
    tokenizer = make_tokenizer()
    config = small_config(name, tokenizer)
    with torch.device("meta"):
        numel = sum(one.numel() for one in tf.AutoModelForCausalLM.from_config(copy.deepcopy(config)).parameters())
    if numel > _MOST_NUMEL:
        raise NotBuiltError(f"{numel:,} numbers, and nothing says which fields of its config would make it small")
    return write_folder(folder, tf.AutoModelForCausalLM.from_config(config), tokenizer)


WRITERS: dict[str, Writer] = {name: partial(write_causal, name) for name in TEXT_TYPES if name not in NOT_BUILT}
