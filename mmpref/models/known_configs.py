"""Architecture facts of the models that the shipped recipes name, so that ``mmpref plan`` needs no hub for them.

Sizes only: enough to build the model without weights. They are those of the published ``config.json`` files as far as
they are known without a connection (transformers' own defaults and conversion scripts, launch scripts and tests of
public training and inference code); a test holds the parameter counts against the published ones. A local folder, or a
config in the hub's cache, goes before this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import transformers
from transformers import PretrainedConfig


def _text(
    hidden: int, inner: int, layers: int, heads: int, kv: int, vocab: int, *, tied: bool = False
) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
    }


def _qwen_rope(*section: int) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": list(section)}}


_CLIP = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
         "image_size": 336, "patch_size": 14, "projection_dim": 768, "model_type": "clip_vision_model"}  # fmt: skip
_SIGLIP = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 26, "num_attention_heads": 16,
           "image_size": 384, "patch_size": 14, "vision_use_head": False,
           "model_type": "siglip_vision_model"}  # fmt: skip
_NEXT_GRID = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_ONEVISION_GRID = [[384 * a, 384 * b] for a in range(1, 7) for b in range(1, 7)]


def _qwen2_tower(out: int) -> dict[str, Any]:
    return {"depth": 32, "embed_dim": 1280, "hidden_size": out, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14}


def _qwen2_5_tower(out: int, inner: int = 3420) -> dict[str, Any]:
    return {"depth": 32, "hidden_size": 1280, "intermediate_size": inner, "num_heads": 16, "out_hidden_size": out,
            "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]}  # fmt: skip


def _qwen3_tower(depth: int, hidden: int, inner: int, out: int, deepstack: list[int]) -> dict[str, Any]:
    return {"depth": depth, "hidden_size": hidden, "intermediate_size": inner, "num_heads": 16, "patch_size": 16,
            "out_hidden_size": out, "num_position_embeddings": 2304, "deepstack_visual_indexes": deepstack}  # fmt: skip


def _qwen3_text(*sizes: int, tied: bool = False) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    return {**_text(*sizes, tied=tied), "head_dim": 128, "rope_parameters": rope}


def _qwen3_moe_text(*sizes: int, experts: int, used: int, inner: int) -> dict[str, Any]:
    moe = {"num_experts": experts, "num_experts_per_tok": used, "moe_intermediate_size": inner}
    return {**_qwen3_text(*sizes), **moe}


def _qwen3_5_text(
    hidden: int, inner: int, layers: int, heads: int, values: int, *, tied: bool = False
) -> dict[str, Any]:
    """Three layers of gated delta nets with ``values`` value heads, then one of full attention, and so on."""
    text = {**_text(hidden, inner, layers, heads, 4, 248320, tied=tied), "head_dim": 256}
    return {**text, "linear_num_value_heads": values, "rope_parameters": _QWEN3_5_ROPE}


_QWEN3_5_ROPE = {"rope_type": "default", "rope_theta": 1e7, "mrope_section": [11, 11, 10], "mrope_interleaved": True,
                 "partial_rotary_factor": 0.25}  # fmt: skip


def _qwen3_5_tower(depth: int, hidden: int, inner: int, out: int) -> dict[str, Any]:
    return {"depth": depth, "hidden_size": hidden, "intermediate_size": inner, "num_heads": 16, "patch_size": 16,
            "out_hidden_size": out, "num_position_embeddings": 2304}  # fmt: skip


def _gemma4_text(
    hidden: int, inner: int, heads: int, kv: int, *, layers: list[str], window: int, **others: Any
) -> dict[str, Any]:
    return {"hidden_size": hidden, "intermediate_size": inner, "num_attention_heads": heads, "num_key_value_heads": kv,
            "num_hidden_layers": len(layers), "layer_types": layers, "sliding_window": window, "head_dim": 256,
            "global_head_dim": 512, "hidden_size_per_layer_input": 0, "final_logit_softcapping": 30.0,
            **others}  # fmt: skip


# transformers' own conversion script of Gemma 4 (convert_gemma4_weights.py, its _VARIANTS) holds these sizes
_SLIDING, _FULL = "sliding_attention", "full_attention"
_SIX = [*[_SLIDING] * 5, _FULL]
_GEMMA4_LARGE = {"attention_k_eq_v": True, "use_bidirectional_attention": "vision"}
_GEMMA4_SMALL_TOWER = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 16,
                       "num_attention_heads": 12, "num_key_value_heads": 12, "head_dim": 64, "global_head_dim": 64,
                       "use_clipped_linears": True}  # fmt: skip
_GEMMA4_LARGE_TOWER = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
                       "num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 72, "global_head_dim": 72,
                       "standardize": True}  # fmt: skip

_MISTRAL_SMALL = {
    "text_config": {"model_type": "mistral", **_text(5120, 32768, 40, 32, 8, 131072), "head_dim": 128},
    "vision_config": {"model_type": "pixtral", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                      "num_attention_heads": 16, "head_dim": 64, "image_size": 1540, "patch_size": 14},
}  # fmt: skip

_QWEN_2B = _text(1536, 8960, 28, 12, 2, 151936, tied=True)
_QWEN_7B = _text(3584, 18944, 28, 28, 4, 152064)
_QWEN_72B = _text(8192, 29568, 80, 64, 8, 152064)
_ROPE = _qwen_rope(16, 24, 24)

# hub id -> (config class, its arguments)
_KNOWN: Mapping[str, tuple[str, dict[str, Any]]] = {
    "Qwen/Qwen2-VL-2B-Instruct": (
        "Qwen2VLConfig", {"text_config": {**_QWEN_2B, **_ROPE}, "vision_config": _qwen2_tower(1536)}),
    "Qwen/Qwen2-VL-7B-Instruct": (
        "Qwen2VLConfig", {"text_config": {**_QWEN_7B, **_ROPE}, "vision_config": _qwen2_tower(3584)}),
    "Qwen/Qwen2-VL-72B-Instruct": (
        "Qwen2VLConfig", {"text_config": {**_QWEN_72B, **_ROPE}, "vision_config": _qwen2_tower(8192)}),
    "Qwen/Qwen2.5-VL-3B-Instruct": (
        "Qwen2_5_VLConfig",
        {"text_config": {**_text(2048, 11008, 36, 16, 2, 151936, tied=True), **_ROPE},
         "vision_config": _qwen2_5_tower(2048)}),
    "Qwen/Qwen2.5-VL-7B-Instruct": (
        "Qwen2_5_VLConfig", {"text_config": {**_QWEN_7B, **_ROPE}, "vision_config": _qwen2_5_tower(3584)}),
    "Qwen/Qwen2.5-VL-32B-Instruct": (
        "Qwen2_5_VLConfig",
        {"text_config": {**_text(5120, 27648, 64, 40, 8, 152064), **_ROPE},
         "vision_config": _qwen2_5_tower(5120, 3456)}),
    "Qwen/Qwen2.5-VL-72B-Instruct": (
        "Qwen2_5_VLConfig", {"text_config": {**_QWEN_72B, **_ROPE}, "vision_config": _qwen2_5_tower(8192, 3456)}),
    "Qwen/Qwen3-VL-4B-Instruct": (
        "Qwen3VLConfig",
        {"text_config": _qwen3_text(2560, 9728, 36, 32, 8, 151936, tied=True),
         "vision_config": _qwen3_tower(24, 1024, 4096, 2560, [5, 11, 17])}),
    "Qwen/Qwen3-VL-8B-Instruct": (
        "Qwen3VLConfig",
        {"text_config": _qwen3_text(4096, 12288, 36, 32, 8, 151936),
         "vision_config": _qwen3_tower(27, 1152, 4304, 4096, [8, 16, 24])}),
    "Qwen/Qwen3-VL-32B-Instruct": (
        "Qwen3VLConfig",
        {"text_config": _qwen3_text(5120, 25600, 64, 64, 8, 151936),
         "vision_config": _qwen3_tower(27, 1152, 4304, 5120, [8, 16, 24])}),
    "Qwen/Qwen3-VL-30B-A3B-Instruct": (
        "Qwen3VLMoeConfig",
        {"text_config": _qwen3_moe_text(2048, 6144, 48, 32, 4, 151936, experts=128, used=8, inner=768),
         "vision_config": _qwen3_tower(27, 1152, 4304, 2048, [8, 16, 24])}),
    "Qwen/Qwen3.5-4B": (
        "Qwen3_5Config",
        {"text_config": _qwen3_5_text(2560, 9216, 32, 16, 32, tied=True),
         "vision_config": _qwen3_5_tower(24, 1024, 4096, 2560)}),
    "Qwen/Qwen3.5-9B": (
        "Qwen3_5Config",
        {"text_config": _qwen3_5_text(4096, 12288, 32, 16, 32),
         "vision_config": _qwen3_5_tower(27, 1152, 4304, 4096)}),
    "Qwen/Qwen3.5-27B": (
        "Qwen3_5Config",
        {"text_config": _qwen3_5_text(5120, 17408, 64, 24, 48),
         "vision_config": _qwen3_5_tower(27, 1152, 4304, 5120)}),
    "Qwen/Qwen3.5-35B-A3B": (
        "Qwen3_5MoeConfig",
        {"text_config": {
            "hidden_size": 2048, "num_hidden_layers": 40, "num_attention_heads": 16, "num_key_value_heads": 2,
            "head_dim": 256, "vocab_size": 248320, "linear_num_value_heads": 32, "num_experts": 256,
            "num_experts_per_tok": 8, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512,
            "tie_word_embeddings": False, "rope_parameters": _QWEN3_5_ROPE},
         "vision_config": _qwen3_5_tower(27, 1152, 4304, 2048)}),
    "google/gemma-4-E2B-it": (
        "Gemma4Config",
        {"text_config": _gemma4_text(
            1536, 6144, 8, 1, layers=[*[_SLIDING] * 4, _FULL] * 7, window=512, hidden_size_per_layer_input=256,
            num_kv_shared_layers=20, use_double_wide_mlp=True),
         "vision_config": _GEMMA4_SMALL_TOWER, "audio_config": {}, "tie_word_embeddings": True}),
    "google/gemma-4-E4B-it": (
        "Gemma4Config",
        {"text_config": _gemma4_text(
            2560, 10240, 8, 2, layers=_SIX * 7, window=512, hidden_size_per_layer_input=256, num_kv_shared_layers=18),
         "vision_config": _GEMMA4_SMALL_TOWER, "audio_config": {}, "tie_word_embeddings": True}),
    "google/gemma-4-31B-it": (
        "Gemma4Config",
        {"text_config": _gemma4_text(
            5376, 21504, 32, 16, layers=_SIX * 10, window=1024, num_global_key_value_heads=4, **_GEMMA4_LARGE),
         "vision_config": _GEMMA4_LARGE_TOWER, "tie_word_embeddings": True}),
    "google/gemma-4-26B-A4B-it": (
        "Gemma4Config",
        {"text_config": _gemma4_text(
            2816, 2112, 16, 8, layers=_SIX * 5, window=1024, num_global_key_value_heads=2, enable_moe_block=True,
            num_experts=128, top_k_experts=8, moe_intermediate_size=704, **_GEMMA4_LARGE),
         "vision_config": _GEMMA4_LARGE_TOWER, "tie_word_embeddings": True}),
    "zai-org/GLM-4.1V-9B-Thinking": (
        "Glm4vConfig",
        {"text_config": {
            **_text(4096, 13696, 40, 32, 2, 151552),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12],
                                "partial_rotary_factor": 0.5}},
         "vision_config": {
             "depth": 24, "hidden_size": 1536, "num_heads": 12, "image_size": 336, "patch_size": 14,
             "out_hidden_size": 4096, "intermediate_size": 13696}}),
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503": ("Mistral3Config", _MISTRAL_SMALL),
    "mistralai/Mistral-Small-3.2-24B-Instruct-2506": ("Mistral3Config", _MISTRAL_SMALL),
    "llava-hf/llava-1.5-7b-hf": (
        "LlavaConfig",
        {"text_config": {"model_type": "llama", **_text(4096, 11008, 32, 32, 32, 32064)}, "vision_config": _CLIP,
         "vision_feature_layer": -2}),
    "llava-hf/llava-1.5-13b-hf": (
        "LlavaConfig",
        {"text_config": {"model_type": "llama", **_text(5120, 13824, 40, 40, 40, 32064)}, "vision_config": _CLIP,
         "vision_feature_layer": -2}),
    "llava-hf/llava-v1.6-mistral-7b-hf": (
        "LlavaNextConfig",
        {"text_config": {"model_type": "mistral", **_text(4096, 14336, 32, 32, 8, 32064)}, "vision_config": _CLIP,
         "image_grid_pinpoints": _NEXT_GRID, "vision_feature_layer": -2}),
    "llava-hf/llava-v1.6-34b-hf": (
        "LlavaNextConfig",
        {"text_config": {"model_type": "llama", **_text(7168, 20480, 60, 56, 8, 64064)}, "vision_config": _CLIP,
         "image_grid_pinpoints": _NEXT_GRID, "vision_feature_layer": -2}),
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": (
        "LlavaOnevisionConfig",
        {"text_config": {"model_type": "qwen2", **_text(896, 4864, 24, 14, 2, 152000, tied=True)},
         "vision_config": _SIGLIP, "image_grid_pinpoints": _ONEVISION_GRID, "vision_feature_layer": -1,
         "tie_word_embeddings": True}),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": (
        "LlavaOnevisionConfig",
        {"text_config": {"model_type": "qwen2", **_text(3584, 18944, 28, 28, 4, 152128)}, "vision_config": _SIGLIP,
         "image_grid_pinpoints": _ONEVISION_GRID, "vision_feature_layer": -1}),
    "meta-llama/Meta-Llama-3-8B-Instruct": ("LlamaConfig", _text(4096, 14336, 32, 32, 8, 128256)),
    "Qwen/Qwen2.5-0.5B-Instruct": ("Qwen2Config", _text(896, 4864, 24, 14, 2, 151936, tied=True)),
    "Qwen/Qwen2.5-1.5B-Instruct": ("Qwen2Config", _QWEN_2B),
    "Qwen/Qwen2.5-3B-Instruct": ("Qwen2Config", _text(2048, 11008, 36, 16, 2, 151936, tied=True)),
    "Qwen/Qwen2.5-7B-Instruct": ("Qwen2Config", _QWEN_7B),
    "Qwen/Qwen2.5-Math-7B": ("Qwen2Config", _QWEN_7B),  # the same sizes, and a window of 4,096 tokens
}  # fmt: skip


@cache
def known_config(model_id: str) -> PretrainedConfig | None:
    """The config of a model by its hub id; None when it is not in the table."""
    if model_id not in _KNOWN:
        return None
    kind, arguments = _KNOWN[model_id]
    found: PretrainedConfig = getattr(transformers, kind)(**arguments)
    if "tie_word_embeddings" not in arguments and "text_config" in arguments:
        found.tie_word_embeddings = arguments["text_config"]["tie_word_embeddings"]
    return found


def known_models() -> list[str]:
    """The hub ids of the table."""
    return sorted(_KNOWN)
