"""``mmpref plan --fit``: a recipe's settings for a card, with the pairs of an update unchanged.

Where the recipe does not fit, the changes of :mod:`mmpref.planning.changes` are made until it does, the least harmful
first. Where the card is larger than needed, the fastest settings that fit are taken: those with the fewest operations a
pair (no gradient checkpointing), then those with more pairs at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mmpref.data.videos.sampling import TOGETHER
from mmpref.errors import ConfigError
from mmpref.planning.changes import (
    LEAST_FRAMES,
    MIN_IMAGE_TOKENS,
    Change,
    Reached,
    changes_of_result,
    changes_of_speed,
    cut_answers,
    fewer_frames,
    helping,
    micro_batch,
    smaller_images,
)
from mmpref.planning.gpus import GIB, SLACK, on_card
from mmpref.planning.memory import with_changes
from mmpref.planning.pair_shape import at_once
from mmpref.planning.plan import Plan, make_plan
from mmpref.planning.plan_input import PlanInput
from mmpref.planning.speed import flops_per_pair
from mmpref.planning.subject import Subject
from mmpref.recipe.sections import Recipe

LONGER_ANSWERS = 4
"""Faster settings are taken only where a micro-batch of answers so many times as long fits as well: data has pairs
longer than the one that was planned, and one that does not fit ends the run."""
UNCHECKPOINTED_SLACK = 0.25
"""Of the card without gradient checkpointing: an H200 lost 23 % to its allocator then (docs/memory.md)."""
IMAGE_TOKEN_STEP = 64
"""Between two sizes of images that are tried."""
BUSY = 16_384
"""Tokens in a micro-batch from which on more pairs at once are taken for no faster; assumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Settings of a recipe for a card.

    Attributes:
        overrides: ``key=value`` texts that turn the recipe into this one; empty where it is best as it is.
        other_result: why another model comes out than with the recipe as it was; empty where only speed changes.
        plan: of the recipe with these overrides, on the card.
    """

    overrides: tuple[str, ...]
    other_result: tuple[str, ...]
    plan: Plan


def fit(recipe: Recipe, asked: PlanInput) -> Fitted:
    """The least harmful settings that fit the card, and the fastest of those.

    Args:
        recipe: where the search starts.
        asked: the card (its memory must be known), the pair and the GPUs.

    Raises:
        ConfigError: nothing fits; with the least memory that would do, and the changes that it takes.
    """
    card_bytes = asked.card_bytes
    assert card_bytes is not None
    subject = Subject.of(recipe, asked)
    started = subject.with_precision(recipe)
    subject.refuse_groups(started)
    subject.refuse_no_room(started)
    changes = _until_it_fits(started, subject, card_bytes)
    changes = [*changes, *_faster(_with(started, changes), subject, card_bytes)]
    return Fitted(
        overrides=_overrides(changes, started),
        other_result=tuple(change.other_result for change in changes if change.other_result),
        plan=make_plan(_with(recipe, changes), asked),
    )


def _until_it_fits(recipe: Recipe, subject: Subject, card_bytes: int) -> list[Change]:
    parallel = subject.asked.parallel
    steps = [Reached.start(recipe, parallel, subject)]
    same_strategy = (change for change in changes_of_speed(recipe, parallel, subject) if not change.strategy)
    steps += helping(steps[-1], subject, same_strategy, card_bytes)
    steps += helping(steps[-1], subject, changes_of_result(steps[-1].recipe, parallel, subject), card_bytes)
    at, changes = steps[-1], [step.change for step in steps[1:]]
    if at.needed <= card_bytes:
        return _seeing_more(recipe, _pruned(recipe, changes, subject, card_bytes), subject, card_bytes)
    if (last := cut_answers(at.recipe, subject, card_bytes)) is None:
        raise _nothing_fits(at, _overrides(changes, recipe), card_bytes)
    return [*changes, last]


def _nothing_fits(at: Reached, overrides: Sequence[str], card_bytes: int) -> ConfigError:
    words = f"with `{' '.join(overrides)}`" if overrides else "as it is"
    return ConfigError(
        f"no settings fit {card_bytes / GIB:.1f} GiB: the least that would do is {at.needed / GIB:.1f} GiB, {words}; "
        f"use a larger card (--fit {-(-at.needed // GIB)}GiB), shorter answers or more GPUs"
    )


def _pruned(recipe: Recipe, changes: list[Change], subject: Subject, card_bytes: int) -> list[Change]:
    """Without the changes that turned out not to be needed, once later ones were made."""
    for change in list(changes):
        others = [other for other in changes if other is not change]
        if subject.needed(_with(recipe, others), subject.asked.parallel) <= card_bytes:
            changes = others
    return changes


def _seeing_more(recipe: Recipe, changes: list[Change], subject: Subject, card_bytes: int) -> list[Change]:
    """With the most frames of a video and then the largest images that fit, where either is lowered."""
    parallel = subject.asked.parallel
    for key in ("video_max_frames", "max_pixels"):
        least = next((change for change in changes if key in change.keys.get("processing", {})), None)
        if least is None:
            continue
        others = [change for change in changes if change is not least]
        for change in _larger(key, _with(recipe, others), subject):
            if subject.needed(_with(recipe, [*others, change]), parallel) <= card_bytes:
                changes = [*others, change]
                break
    return changes


def _larger(key: str, recipe: Recipe, subject: Subject) -> Iterator[Change]:
    """All values of a key of ``processing`` that show less than the recipe does, the largest first."""
    if key == "video_max_frames":
        yield from map(fewer_frames, reversed(range(LEAST_FRAMES, subject.frames(recipe), TOGETHER)))
        return
    for tokens in reversed(range(MIN_IMAGE_TOKENS, subject.shape(recipe).image, IMAGE_TOKEN_STEP)):
        yield smaller_images(subject, tokens)


def _faster(recipe: Recipe, subject: Subject, card_bytes: int) -> list[Change]:
    """What makes it faster and still fits with longer answers; nothing where it is as fast as it can be."""
    now = _cost(recipe, subject)
    best: Change | None = None
    for change in _ways(recipe):
        cost = _cost(change.on(recipe), subject)
        if cost < now and _fits_well(change.on(recipe), subject, card_bytes):
            now, best = cost, change
    return [] if best is None else [best]


def _cost(recipe: Recipe, subject: Subject) -> tuple[float, int]:
    """What is made small: operations a pair, then micro-batches an update."""
    model, shape = subject.architecture(recipe, subject.asked.parallel), subject.shape(recipe)
    return flops_per_pair(model, recipe, shape, subject.layout), recipe.train.gradient_accumulation_steps


def _ways(recipe: Recipe) -> Iterator[Change]:
    """Every micro-batch from the recipe's on, with and without checkpointing."""
    pairs = recipe.train.per_device_train_batch_size
    total = pairs * recipe.train.gradient_accumulation_steps
    for checkpointing in {recipe.train.gradient_checkpointing, False}:
        for more in (size for size in range(1, total + 1) if total % size == 0):
            if more < pairs and checkpointing == recipe.train.gradient_checkpointing:
                continue
            keys = {**micro_batch(recipe, more), "gradient_checkpointing": checkpointing}
            yield Change(words="", keys={"train": keys})


def _fits_well(recipe: Recipe, subject: Subject, card_bytes: int) -> bool:
    """Whether pairs with answers several times as long fit too, and the micro-batch is not larger than it helps."""
    parallel, shape = subject.asked.parallel, subject.shape(recipe)
    whole = at_once(with_changes(recipe, processing={"row_tokens": None}), shape, subject.layout)
    if whole.pairs > shape.pairs and whole.tokens > BUSY:
        return False
    before, most = shape.before, recipe.processing.max_length
    tokens = LONGER_ANSWERS * shape.chosen
    tokens = tokens if most is None else max(1, min(tokens, most - before))
    longer = replace(shape, chosen=tokens, rejected=tokens if shape.rejected else 0)
    # where processing.row_tokens divides the longer ones, it may be the pairs as planned that need more
    needed = on_card(max(subject.memory(recipe, parallel, one).peak for one in (shape, longer)))
    if not recipe.train.gradient_checkpointing:
        needed = int(needed * (1 + UNCHECKPOINTED_SLACK) / (1 + SLACK))
    return needed <= card_bytes


def _with(recipe: Recipe, changes: Sequence[Change]) -> Recipe:
    for change in changes:
        recipe = change.on(recipe)
    return recipe


def _overrides(changes: Sequence[Change], recipe: Recipe) -> tuple[str, ...]:
    """``key=value`` texts of the last value of each changed key, where it is not what the recipe has."""
    found: dict[tuple[str, str], object] = {}
    for change in changes:
        for section, keys in change.keys.items():
            found |= {(section, key): value for key, value in keys.items()}
    return tuple(
        f"{section}.{key}={value if isinstance(value, str) else json.dumps(value)}"
        for (section, key), value in found.items()
        if getattr(getattr(recipe, section), key) != value
    )
