"""What trains: which parts of a model, how each, and the settings of a new LoRA adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mmpref.processing.family import PartName

Tuned = Literal["freeze", "full", "lora"]
PARTS: tuple[Literal["vision", "projector", "language"], ...] = ("vision", "projector", "language")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What happens to each part of the model.

    ``language`` includes embeddings and the output head when it is ``full``. What is neither part never trains.
    """

    vision: Tuned = "freeze"
    projector: Tuned = "freeze"
    language: Tuned = "full"

    def of(self, part: PartName) -> Tuned:
        """What happens to a part."""
        if part == "other":
            return "freeze"
        return {"vision": self.vision, "projector": self.projector, "language": self.language}[part]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    """LoRA as peft names it: rank r, scale alpha / r (alpha / sqrt(r) with ``use_rslora``).

    ``init`` is ``zero`` (the adapter starts by adding nothing), ``pissa`` or ``pissa_niter_N`` (arXiv 2404.02948: it
    starts from the principal singular vectors, exactly or in N rounds, and the base keeps the rest). ``experts`` puts
    LoRA on the matrices of experts as well, which are no linear layers.
    """

    rank: int = 16
    alpha: float = 32
    dropout: float = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    init: str = "zero"
    experts: bool = False
