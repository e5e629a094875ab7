"""Folders of the GLM-V family."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from tests.model_types import chats
from tests.model_types.folders import TEXT, Writer, ids_of, image_class, write_folder
from tests.model_types.qwen import model_of

_MARKS = (
    "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<|begin_of_image|>",
    "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>", "<|image|>", "<|video|>",
)  # fmt: skip
_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}
_TOWER = {
    "depth": 2,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_heads": 4,
    "out_hidden_size": 64,
    "image_size": 56,
    "patch_size": 14,
}


def _tokenizer(template: str) -> Any:
    return chats.tokenizer_of(
        template, eos="<|endoftext|>", pad="<|endoftext|>", unnamed=_MARKS,
        words=("<think>", "</think>", "<answer>", "</answer>"),
    )  # fmt: skip


def _write(
    name: str,
    processor: str,
    text: dict[str, Any],
    template: str,
    folder: Path,
    *,
    kind: str = "",
    images: str = "Glm4v",
    tower: dict[str, Any] | None = None,
    budget: dict[str, Any] | None = None,
) -> Path:
    tokens = _tokenizer(template)
    to_id = tokens.convert_tokens_to_ids
    side = 28 * 28
    config = {
        "text_config": {**TEXT, **ids_of(tokens), "rope_parameters": _ROPE, **text},
        "vision_config": {**_TOWER, **(tower or {})},
        "image_token_id": to_id("<|image|>"),
        "video_token_id": to_id("<|video|>"),
        "image_start_token_id": to_id("<|begin_of_image|>"),
        "image_end_token_id": to_id("<|end_of_image|>"),
        "video_start_token_id": to_id("<|begin_of_video|>"),
        "video_end_token_id": to_id("<|end_of_video|>"),
    }
    model = model_of(name, config, kind=kind)
    pixels = image_class(images)(**(budget or {"size": {"shortest_edge": side, "longest_edge": 8 * side}}))
    return write_folder(folder, model, tokens, pixels, processor=processor)


_EXPERTS = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
}
_MOE = {**_EXPERTS, "model_type": "glm4v_moe_text"}
_DELTA = {
    "layer_types": ["linear_attention", "full_attention"], "mlp_layer_types": ["dense", "sparse"],
    "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
    "kv_lora_rank": 16, "q_lora_rank": 32, "v_head_dim": 16, "qk_nope_head_dim": 16, "index_topk": 32,
    "index_head_dim": 16, "index_n_heads": 2, "linear_head_dim": 16, "linear_num_heads": 4, "hc_mult": 2,
}  # fmt: skip

WRITERS: dict[str, Writer] = {
    "glm4v": partial(_write, "Glm4v", "Glm4vProcessor", {}, chats.GLM_4_1),
    "glm4v_moe": partial(_write, "Glm4vMoe", "Glm4vProcessor", _EXPERTS, chats.GLM_THINKS),
    "glm46v": partial(_write, "Glm46V", "Glm46VProcessor", {}, chats.GLM_THINKS, images="Glm46V"),
    "glm46v (experts)": partial(_write, "Glm46V", "Glm46VProcessor", _MOE, chats.GLM_THINKS, images="Glm46V"),
    "glm_ocr": partial(_write, "GlmOcr", "Glm46VProcessor", {}, chats.GLM_THINKS, images="Glm46V"),
    "glmga": partial(
        _write, "Glmga", "Glm46VProcessor", {}, chats.GLM_THINKS, kind="Glm46VForConditionalGeneration", images="Glmga"
    ),
    "glm5_next": partial(
        _write, "Glm5Next", "Glm5NextProcessor", _DELTA, chats.GLM_THINKS, images="Glm5Next",
        tower={"projection_intermediate_size": 128}, budget={"min_image_tokens": 1, "max_image_tokens": 8},
    ),
}  # fmt: skip
NOT_BUILT: dict[str, str] = {}
