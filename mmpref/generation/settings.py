"""How a model answers, in this process or in several of this machine: batches, limits, device, and how it samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mmpref.errors import ConfigError

BATCH_SIZE = 32
TOKENS_PER_BATCH = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerSettings:
    """Batches, decoding and device of an answerer; plain data, so that another process can have it too.

    Args:
        batch_size: questions answered together, at most; of pairs, both sides count.
        tokens_per_batch: tokens of a batch, at most: (longest prompt + ``max_new_tokens``) x questions x beams.
        max_new_tokens: an answer stops here if it did not end before.
        num_beams: 1 is greedy decoding.
        device: where the model goes; None takes the first CUDA device if there is one.
        cpu_threads: threads torch may use on the CPU; None leaves its choice. Sums change in the last digit with it.

    Raises:
        ConfigError: a size below 1.
    """

    batch_size: int = BATCH_SIZE
    tokens_per_batch: int = TOKENS_PER_BATCH
    max_new_tokens: int = 64
    num_beams: int = 1
    device: str | None = None
    cpu_threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "tokens_per_batch", "max_new_tokens", "num_beams"):
            if (value := getattr(self, name)) < 1:
                raise ConfigError(f"{name} must be >= 1, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSettings:
    """How the tokens of a sampled answer are drawn.

    Args:
        temperature: divides the logits; 0 always takes the likeliest token, so that every seed gives the same answer.
        top_p: only the likeliest tokens that together have this probability are drawn from; 1 draws from all.

    Raises:
        ConfigError: a temperature below 0, or a ``top_p`` outside (0, 1].
    """

    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature must be a number >= 0, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be above 0 and at most 1, got {self.top_p}")

    @property
    def is_greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0
