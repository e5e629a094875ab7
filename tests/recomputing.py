"""Activation checkpointing under the name that the release of transformers has for it."""

from __future__ import annotations

from typing import Any

from transformers import TrainingArguments

IS_RENAMED = "activation_checkpointing" in TrainingArguments.__dataclass_fields__
"""Whether ``gradient_checkpointing`` is the older name."""


def recompute(model: Any) -> None:
    """Switch non-reentrant checkpointing on."""
    settings = {"use_reentrant": False}
    if IS_RENAMED:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)


def recomputing_arguments(*, use_reentrant: bool = False) -> dict[str, Any]:
    """The same for ``TrainingArguments``, or the old way."""
    name = "activation_checkpointing" if IS_RENAMED else "gradient_checkpointing"
    return {name: True, f"{name}_kwargs": {"use_reentrant": use_reentrant}}
