"""What a plan is asked: the pair, the card and the GPUs; everything but the recipe."""

from __future__ import annotations

from dataclasses import dataclass

from mmpref.planning.gpus import GIB, card_named
from mmpref.planning.parallelism import ALONE, ParallelPlan
from mmpref.processing.layout import LayoutName


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """The video of a planned pair: ``size`` (width, height) of its frames in pixels, before the processor."""

    size: tuple[int, int]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInput:
    """What :func:`mmpref.planning.plan.make_plan` is asked about a recipe.

    Attributes:
        gpu_memory: bytes of the card; None takes the named card's, or makes no statement about fitting.
        gpu: a name of ``gpus.GPUS``, for its speed.
        image_size: width and height of the one image of a pair, before the processor; None for a pair without.
        video: the one video of a pair; None for a pair without.
        prompt_tokens: of the prompt's text.
        answer_tokens: of each answer.
        answers_per_prompt: different answers that the pairs of a prompt have.
        pairs_per_prompt: pairs that they make; None takes each two of them.
        layout: None takes the recipe's, shared prefix where the family can.
        parallel: over which GPUs.
        link: a name of ``network.LINKS``: the slowest link between any two of the GPUs. None takes the card's own
            inside one node, and 100 Gb/s between nodes.
        pairs: that there are to train on; an update must not want more.
    """

    gpu_memory: int | None = None
    gpu: str | None = None
    image_size: tuple[int, int] | None = (640, 480)
    video: Clip | None = None
    prompt_tokens: int = 100
    answer_tokens: int = 250
    answers_per_prompt: int = 2
    pairs_per_prompt: int | None = None
    layout: LayoutName | None = None
    parallel: ParallelPlan = ALONE
    link: str | None = None
    pairs: int | None = None

    @property
    def num_pairs(self) -> int:
        """Pairs of a prompt."""
        answers = self.answers_per_prompt
        return answers * (answers - 1) // 2 if self.pairs_per_prompt is None else self.pairs_per_prompt

    @property
    def card(self) -> tuple[str, int, float] | None:
        """Name, GiB and TFLOP/s of the named card; None without a name.

        Raises:
            ConfigError: a card that is not in the table.
        """
        return None if self.gpu is None else card_named(self.gpu)

    @property
    def card_bytes(self) -> int | None:
        """Memory of the card: as given, else that of the named card; None where neither is known."""
        if self.gpu_memory is not None:
            return self.gpu_memory
        return None if self.card is None else self.card[1] * GIB
