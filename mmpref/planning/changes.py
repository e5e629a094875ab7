"""What to change when a recipe does not fit, the least harmful first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mmpref.models.load import family_of_config
from mmpref.planning.gpus import GIB
from mmpref.planning.image_shape import pixels_for
from mmpref.planning.memory import with_changes
from mmpref.planning.parallelism import ParallelPlan
from mmpref.planning.subject import Subject
from mmpref.recipe.sections import Recipe
from mmpref.training.loss_settings import objective_of

MORE_NODES = (2, 4, 8, 16)
MIN_IMAGE_TOKENS = 256
"""What ``processing.max_pixels`` is lowered to."""
LEAST_FRAMES = 4
"""What ``processing.video_max_frames`` is lowered to."""
SHORTEST_ANSWER = 32
"""Tokens that ``processing.max_length`` leaves of an answer at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Keys of a recipe that make it need less memory.

    Attributes:
        words: the keys as they are written on the command line.
        keys: section -> key -> value.
        strategy: also go over to FSDP2.
        other_result: why another model comes out of it; empty where only speed and memory change.
    """

    words: str
    keys: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    strategy: bool = False
    other_result: str = ""

    def on(self, recipe: Recipe) -> Recipe:
        """The recipe with these keys."""
        return with_changes(recipe, **self.keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A recipe after one more change."""

    change: Change
    recipe: Recipe
    parallel: ParallelPlan
    needed: int
    """Bytes that a card must have."""

    @classmethod
    def start(cls, recipe: Recipe, parallel: ParallelPlan, subject: Subject) -> Reached:
        """The recipe before any change."""
        return cls(change=Change(words=""), recipe=recipe, parallel=parallel, needed=subject.needed(recipe, parallel))


def changes_until_it_fits(
    recipe: Recipe, parallel: ParallelPlan, subject: Subject, card_bytes: int
) -> Iterator[tuple[str, float]]:
    """One change on top of the other until it fits; each with the GiB needed then. What does not help is left out."""
    at = Reached.start(recipe, parallel, subject)
    for step in helping(at, subject, changes_of_speed(recipe, parallel, subject), card_bytes):
        at = step
        yield step.change.words, step.needed / GIB
    if at.needed <= card_bytes:
        return
    recipe, parallel = at.recipe, at.parallel
    if parallel.state_parts > 1:
        for times in MORE_NODES:
            more = replace(parallel, nodes=times * parallel.nodes)
            if subject.needed(recipe, more) <= card_bytes:
                yield f"--nodes {more.nodes} (instead of what follows)", subject.needed(recipe, more) / GIB
                break
    for step in helping(at, subject, changes_of_result(recipe, parallel, subject), card_bytes):
        yield step.change.words, step.needed / GIB


def helping(start: Reached, subject: Subject, changes: Iterator[Change], card_bytes: int) -> Iterator[Reached]:
    """The changes that lower what is needed, one on top of the other, until it fits ``card_bytes``."""
    at = start
    for change in changes:
        if at.needed <= card_bytes:
            return
        recipe = change.on(at.recipe)
        parallel = replace(at.parallel, strategy="fsdp2") if change.strategy else at.parallel
        needed = subject.needed(recipe, parallel)
        if needed < at.needed:
            at = Reached(change=change, recipe=recipe, parallel=parallel, needed=needed)
            yield at


def changes_of_speed(recipe: Recipe, parallel: ParallelPlan, subject: Subject) -> Iterator[Change]:
    """Changes that cost time, and give the same model."""
    train, shape = recipe.train, subject.shape(recipe)
    if recipe.reference.kind != "cache" and objective_of(recipe).needs_reference:
        yield Change(words="reference.kind=cache", keys={"reference": {"kind": "cache"}})
    if train.optim == "adamw_torch":
        yield Change(words="train.optim=adamw_torch_fused", keys={"train": {"optim": "adamw_torch_fused"}})
    if not train.gradient_checkpointing:
        yield Change(words="train.gradient_checkpointing=true", keys={"train": {"gradient_checkpointing": True}})
    if train.per_device_train_batch_size > 1:
        one = micro_batch(recipe, 1)
        yield Change(words=" ".join(f"train.{key}={value}" for key, value in one.items()), keys={"train": one})
    if shape.pairs > 1:  # prompts are divided: first into parts of half of their answers, then into pairs
        halved = replace(shape, answers=max(2, -(-shape.answers // 2)))
        for tokens in dict.fromkeys(part.tokens(subject.layout) for part in (halved, shape.some_pairs(1))):
            yield Change(words=f"processing.row_tokens={tokens}", keys={"processing": {"row_tokens": tokens}})
    if parallel.strategy in ("ddp", "zero2") and not parallel.is_alone and recipe.adapter.stored_as is None:
        sliced = {"optim": "adamw_torch_fused"} if "8bit" in train.optim or "paged" in train.optim else {}
        words = "--strategy fsdp2" + (" with train.optim=adamw_torch_fused" if sliced else "")
        yield Change(words=words, keys={"train": sliced}, strategy=True)


def micro_batch(recipe: Recipe, pairs: int) -> dict[str, int]:
    """Keys of ``train`` for micro-batches of ``pairs``, with as many pairs in an update; ``pairs`` divides them."""
    train = recipe.train
    total = train.per_device_train_batch_size * train.gradient_accumulation_steps
    return {"per_device_train_batch_size": pairs, "gradient_accumulation_steps": total // pairs}


def changes_of_result(recipe: Recipe, parallel: ParallelPlan, subject: Subject) -> Iterator[Change]:
    """Changes that train something else."""
    train = recipe.train
    if "8bit" not in train.optim and parallel.state_parts == 1:
        why = "the optimizer's state is rounded to 8 bits"
        yield Change(words="train.optim=adamw_8bit", keys={"train": {"optim": "adamw_8bit"}}, other_result=why)
    whole = recipe.adapter.kind == "none"
    tune = {"tune": {"vision": "freeze", "projector": "freeze", "language": "lora"}} if whole else {}
    if whole:
        words = "adapter.kind=lora with tune.language=lora"
        why = "an adapter is trained in place of the weights, which wants a larger learning rate"
        yield Change(words=words, keys={"adapter": {"kind": "lora"}, **tune}, other_result=why)
    fresh = recipe.adapter.init == "zero"  # PiSSA needs the weights whole
    if recipe.adapter.stored_as is None and not parallel.is_deepspeed and fresh:
        why = "the base is rounded to 4 bits"
        if whole:
            why = f"an adapter is trained in place of the weights, which wants a larger learning rate, and {why}"
        keys: dict[str, dict[str, Any]] = {"adapter": {"kind": "qlora", "quantization": None}, **tune}
        yield Change(words="adapter.kind=qlora", keys=keys, other_result=why)
    if family_of_config(subject.config).has_pixel_budget and subject.shape(recipe).image > MIN_IMAGE_TOKENS:
        yield smaller_images(subject, MIN_IMAGE_TOKENS)
    if subject.frames(recipe) > LEAST_FRAMES:
        yield fewer_frames(LEAST_FRAMES)


def smaller_images(subject: Subject, tokens: int) -> Change:
    """Images of at most so many tokens, for a family with a pixel budget."""
    pixels = pixels_for(subject.config, tokens)
    why = f"images are shown in at most {tokens:,} tokens, with less detail"
    keys = {"processing": {"max_pixels": pixels}}
    return Change(words=f"processing.max_pixels={pixels}", keys=keys, other_result=why)


def fewer_frames(frames: int) -> Change:
    """Videos of at most so many frames."""
    why = f"of a video at most {frames} frames are shown"
    keys = {"processing": {"video_max_frames": frames}}
    return Change(words=f"processing.video_max_frames={frames}", keys=keys, other_result=why)


def cut_answers(recipe: Recipe, subject: Subject, card_bytes: int) -> Change | None:
    """The largest ``processing.max_length`` at which the pair fits; None where even short answers do not.

    The last resort: a longer answer loses its end.
    """
    shape, parallel = subject.shape(recipe), subject.asked.parallel

    def change(answer: int) -> Change:
        length = shape.before + answer
        why = f"answers are cut where prompt and answer have more than {length:,} tokens"
        keys = {"processing": {"max_length": length}}
        return Change(words=f"processing.max_length={length}", keys=keys, other_result=why)

    low, high = SHORTEST_ANSWER - 1, max(shape.chosen, shape.rejected)
    while low + 1 < high:
        middle = (low + high) // 2
        fits = subject.needed(change(middle).on(recipe), parallel) <= card_bytes
        low, high = (middle, high) if fits else (low, middle)
    return None if low < SHORTEST_ANSWER else change(low)
