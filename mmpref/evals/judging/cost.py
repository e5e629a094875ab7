"""What judging costs: prices, what is guessed before, and what is counted while calls are under way."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mmpref.errors import ConfigError
from mmpref.evals.chat_api import Completion, NotAsked

MAX_REPLY_TOKENS = 512
CHARS_PER_TOKEN = 3.5  # of English in the tokenizers of today, rounded to the dear side
_NO_MONEY = "not asked: the limit of cost was reached"


def dollars(amount: float) -> str:
    """An amount with cents; with two digits that tell something where it is less than ten cents: $12.50, $0.0042."""
    if amount <= 0:
        return "$0"
    decimals = max(2, 1 - math.floor(math.log10(amount)))
    whole, _, rest = f"{amount:.{decimals}f}".partition(".")
    return f"${whole}.{rest[:2]}{rest[2:].rstrip('0')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """US dollars per million tokens, as the server's owner asks; 0 for a server of one's own."""

    prompt: float
    completion: float

    def __post_init__(self) -> None:
        if self.prompt < 0 or self.completion < 0:
            raise ConfigError("prices must be >= 0")

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What judging will take. Tokens are guessed (3.5 characters each); ``cost`` is None without prices."""

    num_answers: int
    num_by_rule: int
    num_cached: int
    num_calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


@dataclass(slots=True)
class Spent:
    """Counts of a run, by several threads; ``promised`` is what the calls under way can cost at most."""

    prices: Prices | None
    max_cost: float | None
    calls: int = 0
    prompt: float = 0.0
    completion: float = 0.0
    promised: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def dollars(self) -> float:
        return self.prices.of(self.prompt, self.completion) if self.prices else 0.0

    @contextmanager
    def call(self, prompt_tokens: float) -> Iterator[None]:
        """One call with a prompt of so many tokens by its length, if there is money for it.

        Raises:
            NotAsked: there is not.
        """
        most = self.prices.of(prompt_tokens, MAX_REPLY_TOKENS) if self.prices else 0.0
        with self.lock:
            if self.max_cost is not None and self.dollars + self.promised + most > self.max_cost:
                raise NotAsked(_NO_MONEY)
            self.promised += most
        try:
            yield
        finally:
            with self.lock:
                self.promised -= most

    def add(self, reply: Completion, prompt_tokens: float) -> None:
        with self.lock:
            self.calls += 1
            self.prompt += reply.prompt_tokens if reply.prompt_tokens is not None else prompt_tokens
            done = reply.completion_tokens
            self.completion += done if done is not None else len(reply.text) / CHARS_PER_TOKEN
