"""Recipes over several GPUs, and the sizes of their models."""

from __future__ import annotations

from mmpref.models.find_config import find_config
from mmpref.planning.parallelism import ParallelPlan
from mmpref.planning.plan_input import PlanInput
from mmpref.planning.subject import described
from mmpref.recipe.loading import load_recipe
from mmpref.recipe.sections import Recipe
from mmpref.training.parallel.strategy import SharedStrategy

FULL, QLORA = "qwen2_vl_2b_uni_dpo_full", "qwen2_5_vl_7b_uni_dpo_qlora"
ONE = ("train.gradient_accumulation_steps=1", "reference.kind=cache")


def recipe(name: str = FULL, *changes: str) -> Recipe:
    return load_recipe(name, list(changes))


def over(gpus: int, strategy: SharedStrategy, nodes: int = 1) -> ParallelPlan:
    return ParallelPlan(gpus=gpus, nodes=nodes, strategy=strategy)


def on(parallel: ParallelPlan, gpu: str | None = None, link: str | None = None, pairs: int | None = None) -> PlanInput:
    return PlanInput(parallel=parallel, gpu=gpu, link=link, pairs=pairs)


def sizes(name: str = FULL) -> tuple[int, int, int]:
    """(weights, weights that train themselves, adapter weights) of a recipe's model."""
    wanted = recipe(name)
    model = described(find_config(wanted.model.path)[0], wanted, "shared_prefix")
    return sum(model.parameters.values()), sum(model.trained.values()), model.lora
