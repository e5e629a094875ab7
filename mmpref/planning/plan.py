"""``mmpref plan``: will it fit, how fast may it be, and what to change; from the recipe and the config alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from mmpref.errors import ConfigError
from mmpref.models.reference_rule import ReferenceChoice
from mmpref.planning.architecture import Architecture
from mmpref.planning.changes import changes_until_it_fits
from mmpref.planning.gpus import LINKED, on_card
from mmpref.planning.image_shape import image_shape
from mmpref.planning.kept_features import KeptFeatures, kept_features
from mmpref.planning.memory import Memory, with_changes
from mmpref.planning.network import BETWEEN_NODES, Traffic, link_rate, seconds, traffic
from mmpref.planning.pair_shape import Shape, update_of
from mmpref.planning.parallelism import ParallelPlan, precision_of, refuse_impossible
from mmpref.planning.plan_input import PlanInput
from mmpref.planning.speed import Speed, flops_per_pair, speed_of
from mmpref.planning.subject import Subject
from mmpref.recipe.sections import Recipe
from mmpref.training.loss_settings import reference_for
from mmpref.training.parallel.strategy import STRATEGIES, SharedStrategy

_LONGEST = 32768


@dataclass(frozen=True, slots=True, kw_only=True)
class OnCard:
    """What a card of a known size can do with the recipe.

    Attributes:
        memory: bytes of the card.
        longest: tokens of each of the answers, all equal, that still fit; 0 where none do.
        most_pairs: pairs in a micro-batch that still fit; as ``longest``.
        changes: what would make the recipe fit, the least harmful first: (keys, GiB needed then).
    """

    memory: int
    longest: int
    most_pairs: int
    changes: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What a GPU sends in an update.

    Attributes:
        traffic: bytes.
        link: name of the slowest link between GPUs; None for one GPU.
        seconds: that the link is busy in an update.
    """

    traffic: Traffic
    link: str | None
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What :func:`make_plan` found. Bytes are those of one GPU.

    Attributes:
        model: its sizes, what trains of each part (``parts``), and what weights are loaded in (``dtypes``).
        source: where the architecture was read.
        reference: who it will be.
        memory: with the recipe as it is.
        other_checkpointing: the same with gradient checkpointing switched.
        on_card: None without a card.
        speed: on a named card; None without one.
        features: what ``processing.feature_cache`` takes and saves; None without it, or for a pair without image.
    """

    recipe: Recipe
    parallel: ParallelPlan
    shape: Shape
    model: Architecture
    source: str
    reference: ReferenceChoice
    memory: Memory
    other_checkpointing: Memory
    on_card: OnCard | None
    flops_per_pair: float
    network: Network
    speed: Speed | None
    features: KeptFeatures | None = None

    @property
    def needed(self) -> int:
        """Bytes that a card must have: peak, CUDA's context and slack."""
        return on_card(self.memory.peak)

    @property
    def fits(self) -> bool | None:
        """Whether what is needed is within the card; None without one."""
        return None if self.on_card is None else self.needed <= self.on_card.memory

    @property
    def global_batch(self) -> int:
        """Pairs in one update, over all GPUs."""
        train = self.recipe.train
        return train.per_device_train_batch_size * train.gradient_accumulation_steps * self.parallel.world


def make_plan(recipe: Recipe, asked: PlanInput | None = None) -> Plan:
    """Estimate a recipe's need. Nothing is downloaded but a config that is neither here nor in the built-in table.

    Args:
        recipe: as it would be trained.
        asked: the pair, the card and the GPUs; None for the defaults.

    Raises:
        ConfigError: an unknown card or link, a model whose config cannot be had, a recipe that training would refuse,
            or that the strategy cannot run.
    """
    asked = asked or PlanInput()
    card, card_bytes, parallel = asked.card, asked.card_bytes, asked.parallel
    subject = Subject.of(recipe, asked)
    recipe = subject.with_precision(recipe)
    subject.refuse_groups(recipe)
    subject.refuse_no_room(recipe)
    shape, model = subject.shape(recipe), subject.architecture(recipe, parallel)
    loaded = {part: dtype.itemsize for part, dtype in model.dtypes.items()}
    refuse_impossible(recipe, parallel, dtype_bytes=loaded["language"], pairs=asked.pairs)
    reference = reference_for(recipe)
    link, rate = _link(asked.link, parallel, None if card is None else card[0])
    memory = subject.memory(recipe, parallel)
    flipped = with_changes(recipe, train={"gradient_checkpointing": not recipe.train.gradient_checkpointing})
    flops = flops_per_pair(model, recipe, shape, subject.layout)
    sent = traffic(model, recipe, precision_of(recipe, loaded, parallel), parallel)
    network = Network(traffic=sent, link=link, seconds=0.0 if rate is None else seconds(sent.total, rate))
    speed = None
    if card is not None:
        rate_of_card, sending = card[2] * 1e12, network.seconds
        run = update_of(recipe, shape, subject.layout)
        tokens = run.tokens / run.pairs
        speed = speed_of(recipe, parallel, flops=flops, tokens=tokens, rate=rate_of_card, sending=sending)
    return Plan(
        recipe=recipe,
        parallel=parallel,
        shape=shape,
        model=model,
        source=subject.source,
        reference=reference,
        memory=memory,
        other_checkpointing=subject.memory(flipped, parallel),
        on_card=None if card_bytes is None else _on_card(recipe, subject, card_bytes),
        flops_per_pair=flops,
        network=network,
        speed=speed,
        features=_features(recipe, subject, model, flops),
    )


def _features(recipe: Recipe, subject: Subject, model: Architecture, flops: float) -> KeptFeatures | None:
    size = subject.asked.image_size
    if recipe.processing.feature_cache is None or size is None:
        return None
    image, pairs = image_shape(subject.config, recipe, size), subject.asked.pairs
    of_prompt = subject.asked.num_pairs  # which have one image
    images = None if pairs is None else -(-pairs // of_prompt)
    return kept_features(model, subject.config, recipe, image=image, flops=flops * of_prompt, pairs=images)


def compare_strategies(recipe: Recipe, asked: PlanInput) -> list[tuple[SharedStrategy, Plan | str]]:
    """A plan with every strategy, or why it cannot be.

    Raises:
        ConfigError: what no strategy can run, for the reason that the last of them gives.
    """
    found: list[tuple[SharedStrategy, Plan | str]] = []
    refusal: ConfigError | None = None
    for strategy in STRATEGIES:
        one = replace(asked, parallel=replace(asked.parallel, strategy=strategy))
        try:
            found.append((strategy, make_plan(recipe, one)))
        except ConfigError as err:
            refusal = err
            found.append((strategy, str(err)))
    if refusal is not None and all(isinstance(plan, str) for _, plan in found):
        raise refusal
    return found


def longest_answers(recipe: Recipe, subject: Subject, card_bytes: int) -> int:
    """Tokens of each of the equal answers that still fit, whatever ``processing.max_length`` is; 0 where none do."""
    parallel, shape = subject.asked.parallel, subject.shape(recipe)

    def fits(tokens: int) -> bool:
        pair = replace(shape, chosen=tokens, rejected=tokens if shape.rejected else 0)
        return on_card(subject.memory(recipe, parallel, pair).peak) <= card_bytes

    return _largest(fits)


def _on_card(recipe: Recipe, subject: Subject, card_bytes: int) -> OnCard:
    parallel = subject.asked.parallel

    def fits(pairs: int) -> bool:  # at once, and not in parts
        train = {"per_device_train_batch_size": pairs}
        changed = with_changes(recipe, train=train, processing={"row_tokens": None})
        return subject.needed(changed, parallel) <= card_bytes

    changes: tuple[tuple[str, float], ...] = ()
    if subject.needed(recipe, parallel) > card_bytes:
        changes = tuple(changes_until_it_fits(recipe, parallel, subject, card_bytes))
    return OnCard(
        memory=card_bytes,
        longest=longest_answers(recipe, subject, card_bytes),
        most_pairs=_largest(fits),
        changes=changes,
    )


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
