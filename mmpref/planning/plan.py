"""``mmpref plan``: will it fit, how fast may it be, and what to change; from the recipe and the config alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from mmpref.errors import ConfigError
from mmpref.models.find_config import find_config
from mmpref.models.part_counts import PartCount
from mmpref.models.reference_rule import ReferenceChoice
from mmpref.planning.architecture import Architecture
from mmpref.planning.changes import Subject, changes_until_it_fits
from mmpref.planning.gpus import GIB, LINKED, card_named, on_card
from mmpref.planning.memory import Memory, Shape, estimate, with_changes
from mmpref.planning.network import BETWEEN_NODES, Traffic, link_rate, seconds, traffic
from mmpref.planning.parallelism import ALONE, ParallelPlan, precision_of, refuse_contradictions
from mmpref.planning.speed import Speed, flops_per_pair, speed_of
from mmpref.planning.subject import described, image_shape, layout_of
from mmpref.processing.family import PartName
from mmpref.processing.layout import LayoutName
from mmpref.recipe.sections import Recipe
from mmpref.training.loss_settings import objective_of, reference_for
from mmpref.training.parallel.strategy import STRATEGIES, SharedStrategy
from mmpref.training.precision import bf16_by_default, with_bf16

_LONGEST = 32768


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What :func:`make_plan` found. Bytes are those of one GPU.

    Attributes:
        memory: with the recipe as it is.
        other_checkpointing: the same with gradient checkpointing switched.
        needed: bytes on the card: peak, context and slack.
        room: bytes of the card; None without one.
        longest: tokens of each of two equal answers that still fit; 0 where none do, None without a card.
        most_pairs: pairs in a micro-batch that still fit; as ``longest``.
        traffic: what a GPU sends in an update.
        link: name of the slowest link between GPUs; None for one GPU.
        network: seconds that the link is busy in an update.
        speed: on a named card; None without one.
        changes: what would make it fit, the least harmful first: (keys, GiB needed then).
        reference: who it will be.
        source: where the architecture was read.
    """

    recipe: Recipe
    parallel: ParallelPlan
    shape: Shape
    memory: Memory
    other_checkpointing: Memory
    needed: int
    room: int | None
    longest: int | None
    most_pairs: int | None
    flops_per_pair: float
    traffic: Traffic
    link: str | None
    network: float
    speed: Speed | None
    changes: tuple[tuple[str, float], ...]
    reference: ReferenceChoice
    source: str
    parts: Mapping[PartName, PartCount]
    """What trains of each part, as the run tells it."""
    dtypes: Mapping[PartName, torch.dtype]
    """What the weights of each part are loaded in."""

    @property
    def fits(self) -> bool | None:
        """Whether what is needed is within the card; None without one."""
        return None if self.room is None else self.needed <= self.room

    @property
    def global_batch(self) -> int:
        """Pairs in one update, over all GPUs."""
        train = self.recipe.train
        return train.per_device_train_batch_size * train.gradient_accumulation_steps * self.parallel.world


def make_plan(
    recipe: Recipe,
    *,
    gpu_memory: int | None = None,
    gpu: str | None = None,
    image_size: tuple[int, int] = (640, 480),
    prompt_tokens: int = 100,
    answer_tokens: int = 250,
    layout: LayoutName | None = None,
    parallel: ParallelPlan = ALONE,
    link: str | None = None,
    pairs: int | None = None,
) -> Plan:
    """Estimate a recipe's need. Nothing is downloaded but a config that is neither here nor in the built-in table.

    Args:
        recipe: as it would be trained.
        gpu_memory: bytes of the card; None takes the named card's, or makes no statement about fitting.
        gpu: a name of ``gpus.GPUS``, for the rate.
        image: width and height of the one image of a pair, before the processor.
        prompt_tokens: of the prompt's text.
        answer_tokens: of each answer.
        layout: None takes the recipe's, shared prefix where the family can.
        parallel: over which GPUs.
        link: a name of ``network.LINKS``: the slowest link between any two of the GPUs. None takes the card's own
            inside one node, and 100 Gb/s between nodes.
        pairs: that there are to train on; an update must not want more.

    Raises:
        ConfigError: an unknown card or link, a model whose config cannot be had, a recipe that training would refuse,
            or that the strategy cannot run.
    """
    card = None if gpu is None else card_named(gpu)
    if gpu_memory is None and card is not None:
        gpu_memory = card[1] * GIB
    config, source = find_config(recipe.model.path)
    if recipe.train.bf16 is None:  # as a card with bfloat16 would
        recipe = with_bf16(recipe, not recipe.train.use_cpu and bf16_by_default(recipe, lambda: config))
    layout = layout or layout_of(recipe, config)
    image, patches = image_shape(config, recipe, image_size)
    rejected = answer_tokens if objective_of(recipe).needs_rejected else 0
    shape = Shape(prompt=prompt_tokens, image=image, patches=patches, chosen=answer_tokens, rejected=rejected)
    model = described(config, recipe, layout, parallel)
    loaded = {part: dtype.itemsize for part, dtype in model.dtypes.items()}
    refuse_contradictions(recipe, parallel, dtype_bytes=loaded["language"], pairs=pairs)
    reference = reference_for(recipe)
    wire, rate = _link(link, parallel, None if card is None else card[0])

    def memory_of(changed: Recipe, pair: Shape = shape, looked_at: Architecture = model) -> Memory:
        return estimate(looked_at, changed, pair, layout=layout, parallel=parallel)

    memory = memory_of(recipe)
    flipped = with_changes(recipe, train={"gradient_checkpointing": not recipe.train.gradient_checkpointing})
    needed = on_card(memory.peak)
    flops = flops_per_pair(model, recipe, shape, layout)
    sent = traffic(model, recipe, precision_of(recipe, loaded, parallel), parallel)
    network = 0.0 if rate is None else seconds(sent.total, rate)
    longest = most_pairs = None
    changes: tuple[tuple[str, float], ...] = ()
    if gpu_memory is not None:
        room = gpu_memory
        longest = _largest(lambda n: on_card(memory_of(recipe, replace(shape, chosen=n, rejected=n)).peak) <= room)
        batch = "per_device_train_batch_size"
        most_pairs = _largest(lambda n: on_card(memory_of(with_changes(recipe, train={batch: n})).peak) <= room)
        if needed > room:
            subject = Subject(config=config, shape=shape, layout=layout, image_size=image_size)
            changes = tuple(changes_until_it_fits(recipe, parallel, subject, room))
    speed = None
    if card is not None:
        speed = speed_of(recipe, parallel, flops=flops, tokens=memory.tokens, rate=card[2] * 1e12, sending=network)
    return Plan(
        recipe=recipe,
        parallel=parallel,
        shape=shape,
        memory=memory,
        other_checkpointing=memory_of(flipped),
        needed=needed,
        room=gpu_memory,
        longest=longest,
        most_pairs=most_pairs,
        flops_per_pair=flops,
        traffic=sent,
        link=wire,
        network=network,
        speed=speed,
        changes=changes,
        reference=reference,
        source=source,
        parts=model.parts,
        dtypes=model.dtypes,
    )


def compare_strategies(
    recipe: Recipe, parallel: ParallelPlan, **options: Any
) -> list[tuple[SharedStrategy, Plan | str]]:
    """A plan with every strategy, or why it cannot be; ``options`` are those of :func:`make_plan`.

    Raises:
        ConfigError: what no strategy can run, for the reason that the last of them gives.
    """
    found: list[tuple[SharedStrategy, Plan | str]] = []
    refusal: ConfigError | None = None
    for strategy in STRATEGIES:
        try:
            found.append((strategy, make_plan(recipe, parallel=replace(parallel, strategy=strategy), **options)))
        except ConfigError as err:
            refusal = err
            found.append((strategy, str(err)))
    if refusal is not None and all(isinstance(plan, str) for _, plan in found):
        raise refusal
    return found


def _link(named: str | None, parallel: ParallelPlan, card: str | None) -> tuple[str | None, float | None]:
    """Name and bytes a second of the slowest link between the GPUs; (None, None) for one GPU."""
    if parallel.is_alone:
        if named is not None:
            raise ConfigError(f"--link {named} is given for one GPU, which has nobody to send to; give --gpus as well")
        return None, None
    inside = LINKED.get(card or "", "PCIe 4")
    return link_rate(named or (inside if parallel.nodes == 1 else BETWEEN_NODES))


def _largest(fits: Callable[[int], bool]) -> int:
    """The largest number up to :data:`_LONGEST` that fits; 0 where 1 does not."""
    low, high = 0, _LONGEST
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
