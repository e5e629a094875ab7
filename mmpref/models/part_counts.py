"""How many parameters of each part train, and how many stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from mmpref.models.adapters.weights import plain_name, stored_numel
from mmpref.models.unwrap import unwrap
from mmpref.processing.family import Family, PartName

ORDER: tuple[PartName, ...] = ("vision", "projector", "language", "other")


@dataclass(frozen=True, slots=True)
class PartCount:
    """Parameters of one part; weights that an adapter adds count as trained, a copy that it trains counts once."""

    trained: int = 0
    frozen: int = 0

    @property
    def total(self) -> int:
        """Trained and frozen together."""
        return self.trained + self.frozen


def count_parts(model: nn.Module, family: Family) -> dict[PartName, PartCount]:
    """Parameters of each part that the model has, in the order vision, projector, language, other.

    Args:
        model: prepared for training, with or without an adapter; on any device, the meta device too.
        family: with the model's own parts (``models.parts.with_parts``).
    """
    found = {part: [0, 0] for part in ORDER}
    for name, parameter in unwrap(model).named_parameters():
        if ".original_module." not in name:  # what an adapter's copy stands for
            found[family.part_of(plain_name(name))][not parameter.requires_grad] += stored_numel(parameter)
    return {part: PartCount(*numbers) for part, numbers in found.items() if any(numbers)}


def in_words(counts: Mapping[PartName, PartCount]) -> str:
    """All parts in one line."""
    return "; ".join(f"{part} {count.trained:,} of {count.total:,} train" for part, count in counts.items())


def as_facts(counts: Mapping[PartName, PartCount]) -> dict[str, dict[str, int]]:
    """For the manifest."""
    return {part: {"trained": count.trained, "frozen": count.frozen} for part, count in counts.items()}
