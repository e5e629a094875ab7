"""Small mixture-of-experts models of several types, with random weights, and pairs of made-up tokens for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import peft
import torch
import transformers as tf
from packaging.version import Version

from mmpref.models import AdapterSettings, LoadedModel, Tuning, prepare
from mmpref.models.load import family_of_config, load_model
from mmpref.models.parts import with_parts
from mmpref.processing.encoded import EncodedPair, EncodedPrompt
from mmpref.processing.positions import in_sequence

_ROPE = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True}
_TOWER = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32,
          "num_position_embeddings": 16}  # fmt: skip


def _text(**more: Any) -> dict[str, Any]:
    return {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "num_experts_per_tok": 2, **more}  # fmt: skip


def _qwen(**more: Any) -> dict[str, Any]:
    return _text(num_experts=4, moe_intermediate_size=24, head_dim=8, **more)


def _qwen3_5() -> dict[str, Any]:
    rope = {
        "rope_type": "default",
        "mrope_section": [1, 0, 0],
        "mrope_interleaved": True,
        "partial_rotary_factor": 0.25,
    }
    linear = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
              "linear_num_value_heads": 4, "layer_types": ["linear_attention", "full_attention"]}  # fmt: skip
    return _qwen(shared_expert_intermediate_size=24, rope_parameters=rope, **linear)


EXPERTS: Mapping[str, Callable[[], tf.PretrainedConfig]] = {
    "mixtral": lambda: tf.MixtralConfig(**_text(num_local_experts=4)),
    "qwen2_moe": lambda: tf.Qwen2MoeConfig(
        **_text(num_experts=4, moe_intermediate_size=24, shared_expert_intermediate_size=24)
    ),
    "qwen3_moe": lambda: tf.Qwen3MoeConfig(**_qwen()),
    "olmoe": lambda: tf.OlmoeConfig(**_text(num_experts=4)),
    "gpt_oss": lambda: tf.GptOssConfig(**_text(num_local_experts=4, head_dim=8)),
    "granitemoe": lambda: tf.GraniteMoeConfig(**_text(num_local_experts=4)),
    "phimoe": lambda: tf.PhimoeConfig(**_text(num_local_experts=4)),
    "qwen3_vl_moe": lambda: tf.Qwen3VLMoeConfig(
        text_config=_qwen(rope_parameters=_ROPE), vision_config={**_TOWER, "deepstack_visual_indexes": [0]}
    ),
    "qwen3_5_moe": lambda: tf.Qwen3_5MoeConfig(text_config=_qwen3_5(), vision_config=_TOWER),
    "llama4_text": lambda: tf.Llama4TextConfig(
        **{**_text(num_local_experts=4, intermediate_size_mlp=48, head_dim=8, moe_layers=[0, 1]),
           "num_experts_per_tok": 1}),
    "gemma4_text": lambda: tf.Gemma4TextConfig(
        **_text(head_dim=8, global_head_dim=16, enable_moe_block=True, num_experts=4, top_k_experts=2,
                moe_intermediate_size=24, hidden_size_per_layer_input=0,
                layer_types=["sliding_attention", "full_attention"])),
    "deepseek_v3": lambda: tf.DeepseekV3Config(
        **{**_text(n_routed_experts=4, moe_intermediate_size=24, n_group=1, topk_group=1, first_k_dense_replace=0,
                   kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8),
           "num_key_value_heads": 4}),
}  # fmt: skip
"""Type -> the config of a model with two layers of four experts."""
BALANCED = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "gpt_oss", "granitemoe", "phimoe", "qwen3_vl_moe",
            "qwen3_5_moe")  # fmt: skip
"""Types that transformers has a load-balancing loss for."""


HOLDS_TWO = Version(peft.__version__) >= Version("0.20")
"""Whether peft takes two adapters on experts."""
UNRECORDED = ("granitemoe",) if Version(tf.__version__) < Version("5.23") else ()
"""Types whose routers' logits the installed transformers does not give."""


def build_experts(name: str, *, seed: int = 0, scale: float = 3.0) -> tf.PreTrainedModel:
    """A model with weights large enough that routers and answers differ from token to token, in eval mode."""
    torch.manual_seed(seed)
    config = EXPERTS[name]()
    kind: Any = tf.AutoModelForImageTextToText if hasattr(config, "vision_config") else tf.AutoModelForCausalLM
    model = kind.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(scale)
    return model  # type: ignore[no-any-return]


def write_experts(name: str, folder: Path) -> Path:
    """The folder of such a model, without a tokenizer."""
    build_experts(name).save_pretrained(folder)
    return folder


def loaded_experts(folder: Path, adapter: AdapterSettings | None = None) -> LoadedModel:
    """A model of a folder, under LoRA where there are settings for it."""
    model = load_model(folder)
    family = with_parts(family_of_config(model.config), model)
    loaded = LoadedModel(model=model, processor=None, family=family, path=str(folder))
    return loaded if adapter is None else prepare(loaded, Tuning(language="lora"), adapter)


def pairs_of_tokens(count: int = 3, *, seed: int = 0) -> list[EncodedPair]:
    """Pairs of different lengths, text only; the answers of the first begin alike."""
    draw = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        prompt, chosen, rejected = (
            torch.randint(2, 128, (length,), generator=draw) for length in (6 + 3 * number, 5 + number, 9 - number)
        )
        if number == 0:
            rejected[:2] = chosen[:2]
        places = in_sequence(len(prompt))
        encoded = EncodedPrompt(sample_id=str(number), input_ids=prompt, position_ids=places)
        found.append(EncodedPair(prompt=encoded, chosen_ids=chosen, rejected_ids=rejected))
    return found
