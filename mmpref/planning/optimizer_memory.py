"""Memory of gradients and of the optimizer: its state, and what it works with."""

from __future__ import annotations

from dataclasses import dataclass

from mmpref.planning.architecture import Architecture
from mmpref.planning.parallelism import SUB_GROUP, ParallelPlan, Precision
from mmpref.recipe.sections import Recipe

_STATES = {"sgd": 0.0, "adafactor": 0.1, "lion": 1.0, "adam": 2.0}  # numbers kept for each trained weight


_EMBEDDINGS_IN_32 = 4  # 8-bit optimizers keep the states of embeddings whole


def trained_bytes(model: Architecture, precision: Precision) -> int:
    """Of everything that trains, as the optimizer sees it."""
    return model.lora * precision.adapter + sum(model.trained.values()) * precision.trained


@dataclass(frozen=True, slots=True)
class Gradients:
    """Bytes of gradients at the points of an update."""

    between: int
    """From one micro-batch to the next; 0 without accumulation."""
    at_step: int
    """When the optimizer runs."""
    fresh_head: int
    """Of a head that trains, as backward makes it: whole, whatever is split afterwards."""
    fresh_last: int
    """Of the embeddings that train: the last that backward makes, whole."""

    @classmethod
    def of(cls, model: Architecture, recipe: Recipe, precision: Precision, parallel: ParallelPlan) -> Gradients:
        """Of one GPU under a recipe."""
        size = precision.computed if parallel.splits_weights or parallel.is_deepspeed else precision.trained
        split = trained_bytes(model, precision) // parallel.state_parts
        table = model.embeddings * size if model.head_trains else 0
        accumulates = recipe.train.gradient_accumulation_steps > 1
        again = accumulates or not model.untied  # a gradient that is there already is added to, not written over
        return cls(split if accumulates else 0, split, table, table if again or parallel.splits_weights else 0)


def _states(optim: str) -> float:
    return next((count for name, count in _STATES.items() if name in optim), 2.0)


def optimizer_bytes(model: Architecture, recipe: Recipe, precision: Precision) -> float:
    """What the optimizer keeps, over all GPUs: its state, and a copy of what trains where there is one."""
    full, optim = sum(model.trained.values()), recipe.train.optim
    states, master = _states(optim), precision.master * (model.lora + full)
    if "8bit" not in optim:
        return states * (max(4, precision.state) * model.lora + precision.state * full) + master
    table = model.embeddings if model.trained["language"] else 0
    small = states * (model.lora + full - table) * (1 + 4 / 256)  # a byte each, and a float32 for 256 of them
    return small + states * table * _EMBEDDINGS_IN_32 + master


def optimizer_work(
    model: Architecture, recipe: Recipe, trained: int, precision: Precision, parallel: ParallelPlan
) -> float:
    """On a GPU, torch's optimizers work on all weights at once; on the CPU on one after another.

    DeepSpeed first turns its slice of the gradients into float32, ZeRO-3 a part of it after the other.
    """
    slice_of = trained / precision.trained / parallel.state_parts
    widened = 4 * (min(slice_of, SUB_GROUP) if parallel.strategy == "zero3" else slice_of) if precision.master else 0.0
    if "8bit" in recipe.train.optim or "fused" in recipe.train.optim:
        return widened
    if recipe.train.use_cpu:
        return 2.0 * max(model.largest_trained * precision.trained, 0)
    return 2 * widened if precision.master else trained / parallel.state_parts
