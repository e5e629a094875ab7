"""How fast an update may be: counted operations and counted bytes, at rates that are assumed."""

from __future__ import annotations

from dataclasses import dataclass

from mmpref.planning.architecture import Architecture
from mmpref.planning.gpus import UTILISATION
from mmpref.planning.pair_shape import Shape, at_once, update_of
from mmpref.planning.parallelism import ParallelPlan
from mmpref.processing.layout import LayoutName
from mmpref.recipe.sections import Recipe
from mmpref.training.loss_settings import objective_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """One update of all GPUs together.

    Attributes:
        computing: seconds that a GPU computes.
        sending: seconds that its link is busy.
        pairs: in the update: the global batch.
        tokens: that decoders run over in it.
    """

    computing: float
    sending: float
    pairs: int
    tokens: int

    @property
    def longest(self) -> float:
        """Seconds when nothing is sent while something is computed."""
        return self.computing + self.sending

    @property
    def shortest(self) -> float:
        """Seconds when the shorter of the two hides behind the longer."""
        return max(self.computing, self.sending)

    @property
    def pairs_per_hour(self) -> tuple[float, float]:
        """At worst and at best, as :attr:`longest` and :attr:`shortest`."""
        return 3600 * self.pairs / self.longest, 3600 * self.pairs / self.shortest

    @property
    def tokens_per_second(self) -> tuple[float, float]:
        """At worst and at best."""
        return self.tokens / self.longest, self.tokens / self.shortest


def speed_of(
    recipe: Recipe, parallel: ParallelPlan, *, flops: float, tokens: float, rate: float, sending: float
) -> Speed:
    """The speed of an update.

    Args:
        recipe: its micro-batch and accumulation.
        parallel: how many GPUs there are.
        flops: of one pair.
        tokens: of one pair; where its prompt has several, its share of them.
        rate: of one GPU's data sheet, operations a second.
        sending: seconds that a link is busy in one update.
    """
    batches = recipe.train.gradient_accumulation_steps
    pairs = recipe.train.per_device_train_batch_size * batches
    return Speed(
        computing=pairs * flops / (rate * UTILISATION),
        sending=sending,
        pairs=pairs * parallel.world,
        tokens=round(tokens * pairs * parallel.world),
    )


def flops_per_pair(model: Architecture, recipe: Recipe, shape: Shape, layout: LayoutName) -> float:
    """Floating-point operations of one pair; where its prompt has several, its share of them.

    Two for each weight and token, forward; attention as its triangle. Weights that a token does not compute with
    (experts it is not given to, tables) cost nothing.

    Backward costs one forward for the gradient of the activations, and one for the weights that train; checkpointing
    runs the layers' forward again. A reference that is run costs a forward, of a frozen tower none: its features serve
    both. A frozen head forms its gradient as it goes; one that trains goes over the vocabulary again.

    Constants of the update come before its first step back: KTO's estimate runs the answer of another row behind each
    prompt, by the policy and by a reference that is run; a running shift of the anchors runs the policy over all
    answers, where the update is more than one batch.
    """
    run = update_of(recipe, shape, layout)
    tokens = run.tokens
    body = model.parameters["language"] - (2 if model.untied else 1) * model.embeddings - model.idle
    linear = 2.0 * body * tokens
    attention = 4.0 * model.kept.layers * run.seen * model.hidden
    head = 2.0 * model.embeddings * run.answer_tokens
    tower = 2.0 * model.parameters["vision"] * run.patches
    trains = model.trained["language"] > 0
    backward = linear * (2 if trains else 1) + 2 * attention
    again = linear + attention if recipe.train.gradient_checkpointing else 0.0
    tower_back = 2 * tower if model.tower_trains else 0.0
    objective = objective_of(recipe)
    live = objective.needs_reference and recipe.reference.kind != "cache"
    reference = linear + attention + head + (tower if model.tower_trains else 0.0) if live else 0.0
    policy = linear + attention + (4 if model.head_trains else 2) * head + tower
    before = 0.0
    if objective.needs_kl:
        before = linear + attention + head + tower + reference
    elif objective.needs_shift and at_once(recipe, shape, layout).pairs < run.pairs:
        before = linear + attention + head + tower
    return (policy + backward + again + tower_back + reference + before) / run.pairs
