"""The weights of an adapted model: their names and how many numbers each stands for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmpref.models.unwrap import unwrap


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """(parameters that train, all parameters); two weights in one byte are counted as two."""
    sizes = [(p.requires_grad, stored_numel(p)) for p in model.parameters()]
    return sum(size for trains, size in sizes if trains), sum(size for _, size in sizes)


def whole_numel(parameter: Tensor) -> int:
    """Numbers in a weight, of which DeepSpeed ZeRO-3 may leave an empty tensor where it was."""
    return int(getattr(parameter, "ds_numel", 0)) or parameter.numel()


def stored_numel(parameter: Tensor) -> int:
    """Weights that a tensor stands for: 4-bit layers keep two in a byte, whatever the dtype of the packed tensor."""
    shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
    if isinstance(shape, torch.Size):
        return shape.numel()
    return whole_numel(parameter) * (2 if is_four_bit(parameter) else 1)


def has_adapter(model: nn.Module) -> bool:
    """Whether a peft adapter is attached."""
    return hasattr(unwrap(model), "disable_adapter")


def is_adapter_weight(name: str) -> bool:
    """Whether a parameter of a peft model belongs to the adapter, and so vanishes when the adapter is off."""
    return ".lora_" in name or ".modules_to_save." in name


def plain_name(name: str) -> str:
    """The name that a weight of a peft model has, or would have, in the model itself."""
    return name.removeprefix("base_model.model.").replace(".modules_to_save.default", "").replace(".base_layer", "")


def is_four_bit(parameter: Tensor) -> bool:
    """Whether a weight is packed, two in a byte."""
    return parameter.dtype == torch.uint8


def adapter_changes_nothing(model: nn.Module) -> bool:
    """Whether the adapter is as peft starts it, adding zero: then the adapter switched off is the same model."""
    inner = unwrap(model)
    for name, parameter in inner.named_parameters():
        if (".lora_B." in name or ".lora_embedding_B." in name) and bool(parameter.detach().any()):
            return False
        if ".modules_to_save." in name:
            path, _, rest = name.partition(".modules_to_save.")
            original = inner.get_parameter(f"{path}.original_module.{rest.partition('.')[2]}")
            if not torch.equal(original.detach(), parameter.detach()):
                return False
    return True
