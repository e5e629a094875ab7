"""Experts of mixture-of-experts layers, and what chooses among them.

transformers keeps the matrices of all experts of a layer in one tensor, which is no linear layer: what works on linear
layers (4-bit storage, LoRA by modules) passes over it, and this module says so in numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import nn
from transformers import PretrainedConfig

_USED = ("num_experts_per_tok", "top_k_experts", "num_experts_per_token", "moe_top_k", "moe_topk", "moe_k")


@dataclass(frozen=True, slots=True)
class FusedExperts:
    """The experts of one layer.

    Attributes:
        path: of the module that holds them, without what adapters add to names.
        tensors: name in that module -> shape, [experts, ..., ...].
    """

    path: str
    tensors: Mapping[str, tuple[int, ...]]

    @property
    def num_experts(self) -> int:
        """How many there are."""
        return next(iter(self.tensors.values()))[0]


def fused_experts(model: nn.Module) -> list[FusedExperts]:
    """Every module of a model that holds the matrices of several experts in one tensor.

    Told by what it holds: a number of experts, and tensors of three sides of which the first is that number.
    """
    found = []
    for path, module in model.named_modules():
        count: Any = getattr(module, "num_experts", None)
        if type(count) is not int or count < 2 or hasattr(module, "base_layer"):
            continue
        tensors = {
            name: tuple(getattr(weight, "ds_shape", weight.shape))
            for name, weight in module.named_parameters(recurse=False)
        }
        stacked = {name: shape for name, shape in tensors.items() if len(shape) == 3 and shape[0] == count}
        if stacked:
            found.append(FusedExperts(path.removeprefix("base_model.model.").replace(".base_layer", ""), stacked))
    return found


def num_expert_weights(model: nn.Module) -> int:
    """Weights in the matrices of all experts of all layers."""
    return sum(prod(shape) for layer in fused_experts(model) for shape in layer.tensors.values())


def experts_used(config: PretrainedConfig) -> int | None:
    """How many experts of a layer a token is given to; None where the config of the language model does not say it."""
    text = config.get_text_config()
    for key in _USED:
        value: Any = getattr(text, key, None)
        if type(value) is int and value > 0:
            return value
    inner: Any = getattr(text, "ffn_config", None)  # DBRX keeps it there
    value = getattr(inner, "moe_top_k", None)
    return value if type(value) is int and value > 0 else None


def describe_experts(model: nn.Module, *, adapter: bool, adapted: bool, packed: bool) -> str:
    """What becomes of a model's experts, in one line; empty where there are none, or nothing passes over them.

    Args:
        adapter: whether the model is trained through an adapter.
        adapted: whether that has LoRA on the experts.
        packed: whether the model is stored in 4 or 8 bits.
    """
    count = num_expert_weights(model)
    said = ["they stay in 16 or 32 bits, because only linear layers are quantised"] if packed else []
    if adapter and not adapted:
        said.append("they get no LoRA and stay as they are (adapter.experts: true adapts them)")
    return f"experts: {count:,} weights of experts are no linear layers; {'; '.join(said)}" if count and said else ""
