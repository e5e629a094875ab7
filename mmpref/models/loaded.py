"""A loaded model with what is needed to feed it: the type that loading, adapters, training and generation share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from mmpref.processing.family import Family


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A model with what is needed to feed it."""

    model: PreTrainedModel
    processor: Any  # a ProcessorMixin, or the tokenizer of a text-only model
    family: Family
    path: str
    dtype: str = "asked"
    """``auto`` where it is as saved because nothing else was asked for."""

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer, or the processor of a text-only model itself."""
        return getattr(self.processor, "tokenizer", self.processor)
