"""What to change when a recipe does not fit, the least harmful first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PretrainedConfig

from mmpref.models.load import family_of_config
from mmpref.planning.gpus import GIB, on_card
from mmpref.planning.memory import Shape, estimate, with_changes
from mmpref.planning.parallelism import ParallelPlan
from mmpref.planning.subject import described, image_shape
from mmpref.processing.layout import LayoutName
from mmpref.recipe.sections import Recipe
from mmpref.training.loss_settings import objective_of

MORE_NODES = (2, 4, 8, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What stays the same whatever is changed: the model and the pairs."""

    config: PretrainedConfig
    shape: Shape
    layout: LayoutName
    image_size: tuple[int, int]

    def needed(self, recipe: Recipe, parallel: ParallelPlan) -> int:
        """Bytes that a card must have."""
        image, patches = image_shape(self.config, recipe, self.image_size)
        pair = replace(self.shape, image=image, patches=patches)
        model = described(self.config, recipe, self.layout, parallel)
        return on_card(estimate(model, recipe, pair, layout=self.layout, parallel=parallel).peak)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    words: str
    keys: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    strategy: bool = False
    """Also go over to FSDP2."""


def changes_until_it_fits(
    recipe: Recipe, parallel: ParallelPlan, subject: Subject, room: int
) -> Iterator[tuple[str, float]]:
    """One change on top of the other until it fits; each with the GiB needed then. What does not help is left out."""
    needed = subject.needed(recipe, parallel)
    for change in _changes_of_speed(recipe, parallel):
        recipe, parallel, less = _tried(recipe, parallel, subject, change, needed)
        if less < needed:
            needed = less
            yield change.words, needed / GIB
        if needed <= room:
            return
    if parallel.state_parts > 1:
        for times in MORE_NODES:
            more = replace(parallel, nodes=times * parallel.nodes)
            if subject.needed(recipe, more) <= room:
                yield f"--nodes {more.nodes} (instead of what follows)", subject.needed(recipe, more) / GIB
                break
    for change in _changes_of_result(recipe, parallel, subject):
        recipe, parallel, less = _tried(recipe, parallel, subject, change, needed)
        if less < needed:
            needed = less
            yield change.words, needed / GIB
        if needed <= room:
            return


def _tried(
    recipe: Recipe, parallel: ParallelPlan, subject: Subject, change: _Change, needed: int
) -> tuple[Recipe, ParallelPlan, int]:
    """The recipe and parallelism after a change, and the bytes needed then; as they were where it does not help."""
    changed = with_changes(recipe, **change.keys)
    over = replace(parallel, strategy="fsdp2") if change.strategy else parallel
    less = subject.needed(changed, over)
    return (changed, over, less) if less < needed else (recipe, parallel, needed)


def _changes_of_speed(recipe: Recipe, parallel: ParallelPlan) -> Iterator[_Change]:
    """Changes that cost time, and give the same model."""
    train = recipe.train
    if recipe.reference.kind != "cache" and objective_of(recipe).needs_reference:
        yield _Change(words="reference.kind=cache", keys={"reference": {"kind": "cache"}})
    if train.optim == "adamw_torch":
        yield _Change(words="train.optim=adamw_torch_fused", keys={"train": {"optim": "adamw_torch_fused"}})
    if not train.gradient_checkpointing:
        yield _Change(words="train.gradient_checkpointing=true", keys={"train": {"gradient_checkpointing": True}})
    if train.per_device_train_batch_size > 1:
        total = train.per_device_train_batch_size * train.gradient_accumulation_steps
        one = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": total}
        yield _Change(words=" ".join(f"train.{key}={value}" for key, value in one.items()), keys={"train": one})
    if parallel.strategy in ("ddp", "zero2") and not parallel.is_alone and recipe.adapter.stored_as is None:
        sliced = {"optim": "adamw_torch_fused"} if "8bit" in train.optim or "paged" in train.optim else {}
        words = "--strategy fsdp2" + (" with train.optim=adamw_torch_fused" if sliced else "")
        yield _Change(words=words, keys={"train": sliced}, strategy=True)


def _changes_of_result(recipe: Recipe, parallel: ParallelPlan, subject: Subject) -> Iterator[_Change]:
    """Changes that train something else."""
    train = recipe.train
    if recipe.adapter.kind == "none":
        tune = {"vision": "freeze", "projector": "freeze", "language": "lora"}
        words = "adapter.kind=lora with tune.language=lora"
        yield _Change(words=words, keys={"adapter": {"kind": "lora"}, "tune": tune})
    if "8bit" not in train.optim and parallel.state_parts == 1:
        yield _Change(words="train.optim=adamw_8bit", keys={"train": {"optim": "adamw_8bit"}})
    fresh = recipe.adapter.init == "zero"  # PiSSA needs the weights whole
    if recipe.adapter.stored_as is None and not parallel.is_deepspeed and fresh:
        yield _Change(words="adapter.kind=qlora", keys={"adapter": {"kind": "qlora", "quantization": None}})
    if family_of_config(subject.config).has_pixel_budget and subject.shape.image > 256:
        vision = subject.config.vision_config
        half = 256 * (vision.patch_size * vision.spatial_merge_size) ** 2
        yield _Change(words=f"processing.max_pixels={half}", keys={"processing": {"max_pixels": half}})
