"""What may train in a model, refused before anything is attached to it."""

from __future__ import annotations

import torch
from torch import nn

from mmpref.errors import ConfigError
from mmpref.models.adapters.weights import is_four_bit
from mmpref.models.tuning import PARTS, AdapterSettings, Tuning
from mmpref.processing.family import Family


def refuse_unfit(tuning: Tuning, adapter: AdapterSettings | None, family: Family, model: nn.Module) -> None:
    """Refuse settings that contradict each other, or that this model cannot be trained with.

    Raises:
        ConfigError: with the key to change.
    """
    lora = [part for part in PARTS if tuning.of(part) == "lora"]
    if lora and adapter is None:
        raise ConfigError(f"tune.{lora[0]} is lora, and there are no LoRA settings: set adapter.kind to lora or qlora")
    if adapter is not None and not lora:
        raise ConfigError(
            "adapter.kind asks for LoRA, and no part is tuned by it: set tune.language (or another) to lora"
        )
    if adapter is not None and tuning.language == "full":
        raise ConfigError("tune.language: full beside LoRA on another part is not supported; make it lora or freeze")
    if tuning.vision == "full" and tuning.projector == "lora" and _is_inside(family.projector, family.vision):
        raise ConfigError(
            "tune.projector: lora inside a vision tower that is full (Qwen) is not supported; make it full"
        )
    if family.unknown:
        names = ", ".join(family.unknown)
        raise ConfigError(
            f"what these modules of a '{_type_of(model)}' model are cannot be read from its code: {names}; say it, "
            f"as in model.parts={{{family.unknown[0]}: other}} (vision, projector, language, or other: never trained)"
        )
    found = {family.part_of(name) for name, _ in model.named_parameters()}
    for part in PARTS:
        if tuning.of(part) != "freeze" and part not in found:
            raise ConfigError(
                f"tune.{part} is {tuning.of(part)}, and this '{family.name}' model has no {part} part that mmpref "
                f"knows; set it to freeze"
            )
    for name, parameter in model.named_parameters():
        of = family.part_of(name)
        if tuning.of(of) == "full" and (is_four_bit(parameter) or parameter.dtype == torch.int8):
            raise ConfigError(f"tune.{of} is full, and its weights are quantised ({name}): use lora")


def _type_of(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))


def _is_inside(paths: tuple[str, ...], outer: tuple[str, ...]) -> bool:
    return any(path.startswith(tower + ".") for path in paths for tower in outer)
