"""What GPUs send each other in one update, and how long a link takes for it. Counted, not measured."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mmpref.errors import ConfigError
from mmpref.planning.architecture import Architecture
from mmpref.planning.parallelism import ParallelPlan, Precision, batches_reduced
from mmpref.recipe.sections import Recipe
from mmpref.training.loss_settings import objective_of

EFFICIENCY = 0.8
"""Share of a link's rate that a large collective reaches; an assumption, not measured here."""
GB = 1e9
# link -> GB/s in one direction, for one GPU (inside a node) or one network card (between nodes); from data sheets
LINKS: Mapping[str, float] = {
    "NVLink 4": 450.0, "NVLink 3": 300.0, "PCIe 5": 64.0, "PCIe 4": 32.0, "PCIe 3": 16.0,
    "400 Gb/s InfiniBand": 50.0, "200 Gb/s InfiniBand": 25.0, "100 Gb/s InfiniBand": 12.5, "100 GbE": 12.5,
    "25 GbE": 3.125, "10 GbE": 1.25,
}  # fmt: skip
BETWEEN_NODES = "100 Gb/s InfiniBand"
"""What is taken for the network of several nodes when none is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes that one GPU sends in one update.

    Attributes:
        gradients: reduced, once an update or after every micro-batch.
        weights: gathered: split ones for every pass over the layers, ZeRO-2's after the optimizer.
    """

    gradients: int
    weights: int

    @property
    def total(self) -> int:
        """Bytes of both."""
        return self.gradients + self.weights


def traffic(model: Architecture, recipe: Recipe, precision: Precision, parallel: ParallelPlan) -> Traffic:
    """Ring collectives: a gather or a scatter of S bytes over N GPUs sends S (N-1)/N from each, a reduction to all
    twice that.

    Split weights are gathered for the forward and the backward pass of every micro-batch, and for the forward pass of
    a reference that is run. Packed (quantised) weights are whole everywhere and stay.
    """
    if parallel.is_alone:
        return Traffic(gradients=0, weights=0)
    train, full = recipe.train, sum(model.trained.values())
    share = (parallel.world - 1) / parallel.world
    batches = train.gradient_accumulation_steps
    if parallel.strategy == "ddp":
        size = model.lora * precision.adapter + full * precision.trained
        return Traffic(gradients=int(2 * share * size), weights=0)
    trained = (model.lora + full) * precision.computed
    gradients = int(share * trained * batches_reduced(recipe, parallel))
    if parallel.strategy == "zero2":
        return Traffic(gradients=gradients, weights=int(share * trained))
    packed = 0 if recipe.adapter.stored_as is None else model.quantizable
    split = (sum(model.parameters.values()) - packed + model.lora) * precision.computed
    live = objective_of(recipe).needs_reference and recipe.reference.kind != "cache"
    passes = batches * (3 if live else 2)
    return Traffic(gradients=gradients, weights=int(share * split * passes))


def link_rate(name: str) -> tuple[str, float]:
    """A link's name as the table writes it, and its bytes a second; ``8x400 Gb/s InfiniBand`` is eight of them.

    Raises:
        ConfigError: a link that is not in the table.
    """
    found = re.fullmatch(r"\s*(?:([1-9][0-9]?)\s*x\s*)?(.+?)\s*", name)
    count, kind = (int(found[1] or 1), found[2]) if found else (1, name)
    for known, rate in LINKS.items():
        if _plain(known) == _plain(kind):
            return (known if count == 1 else f"{count}x {known}"), count * rate * GB
    raise ConfigError(f"no link '{name}' in the table; known: {', '.join(LINKS)}; 8x before a name means eight of them")


def seconds(sent: int, rate: float) -> float:
    """Time that a link of ``rate`` bytes a second takes; a ring is as fast as its slowest link."""
    return sent / (rate * EFFICIENCY)


def _plain(name: str) -> str:
    """``400 Gb/s InfiniBand``, ``400gb/s`` and ``400g`` are one link; so are ``25 GbE`` and ``25gbe``."""
    short = re.sub(r"[^a-z0-9]", "", name.lower()).removesuffix("infiniband").removesuffix("ib")
    return re.sub(r"(?<=[0-9])(gbs|gbps|gbits)$", "g", short)
