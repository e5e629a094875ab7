"""What judging costs: prices, what is guessed before, and what is counted while calls are under way.

What a server says it used is believed where it can be: at least a tenth of the tokens that the length suggests, and no
more than any model reads. That holds for a reply without a verdict too, such as a refusal. Otherwise, and for a request
whose reply was lost, the most that it can have been is counted, and the outcome says of how many calls.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from mmpref.errors import ConfigError
from mmpref.generation.chat_reply import Completion
from mmpref.generation.concurrency import NotAsked
from mmpref.generation.token_usage import Usage

MAX_REPLY_TOKENS = 512
CHARS_PER_TOKEN = 3.5  # of English in the tokenizers of today, rounded to the dear side
FEWEST = 0.1  # of the tokens that the length suggests; a server that counts fewer does not count
TOKENS_PER_OTHER_CHAR = 2.0  # outside of ASCII: one to three bytes of a token each
_PIXELS_PER_TOKEN = 750  # servers take between 600 and 1400; rounded to the dear side
_FEWEST_PER_IMAGE, _MOST_PER_IMAGE = 85.0, 4000.0
_NO_MONEY = "not asked: the limit of cost was reached"


def dollars(amount: float) -> str:
    """An amount with cents; with two significant digits where it is less than ten cents: $12.50, $0.0042."""
    if amount <= 0:
        return "$0"
    decimals = max(2, 1 - math.floor(math.log10(amount)))
    whole, _, rest = f"{amount:.{decimals}f}".partition(".")
    return f"${whole}.{rest[:2]}{rest[2:].rstrip('0')}"


def tokens_of(text: str) -> float:
    """About how many tokens a text has, rounded to the dear side."""
    plain = sum(char.isascii() for char in text)
    return plain / CHARS_PER_TOKEN + (len(text) - plain) * TOKENS_PER_OTHER_CHAR


def image_tokens(width: int, height: int) -> float:
    """About how many tokens an image of so many pixels is: one for 750 pixels, 85 at least and 4000 at most.

    Models differ: most make small images larger and large ones smaller before they look. What is spent is counted by
    what the server says.
    """
    return min(max(width * height / _PIXELS_PER_TOKEN, _FEWEST_PER_IMAGE), _MOST_PER_IMAGE)


def _can_be(tokens: int | None, by_length: float) -> bool:
    return tokens is not None and FEWEST * by_length <= tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """US dollars per million tokens, as the server's owner asks; 0 for a server of one's own."""

    prompt: float
    completion: float

    def __post_init__(self) -> None:
        if not (0 <= self.prompt < math.inf and 0 <= self.completion < math.inf):
            raise ConfigError("prices must be numbers >= 0")

    @classmethod
    def given(cls, prompt: float | None, completion: float | None) -> Prices | None:
        """Prices as options give them; None where neither is given.

        Raises:
            ConfigError: only one is given.
        """
        if (prompt is None) != (completion is None):
            raise ConfigError("give both prices, --price-in and --price-out, or none")
        return cls(prompt=prompt, completion=completion) if prompt is not None and completion is not None else None

    def of(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Dollars for so many tokens."""
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What asking a judge will take. Tokens are guessed (3.5 characters each); ``cost`` is None without prices.

    ``elsewhere`` counts the cached replies that are from other servers, by address, "" where that is not known.
    """

    num_cached: int
    elsewhere: Mapping[str, int]
    num_calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None


@dataclass(slots=True)
class Spent:
    """Counts of a run, by several threads; ``promised`` is what the calls under way may cost.

    With a limit of cost the first call goes alone, and none begins that would pass the limit if it were as dear as the
    dearest so far: a judge that thinks at length is known after one call, and not after all that begin together.
    """

    prices: Prices | None
    max_cost: float | None
    most_reply: int = MAX_REPLY_TOKENS
    """Tokens of one reply, at most."""
    calls: int = 0
    prompt: float = 0.0
    completion: float = 0.0
    promised: float = 0.0
    guessed: int = 0
    """Calls whose cost the server did not give."""
    dearest: float = 0.0
    lock: threading.Condition = field(default_factory=threading.Condition)
    _under_way: int = 0
    _one_ended: bool = False

    @property
    def dollars(self) -> float:
        """What was spent; 0 without prices."""
        return self.prices.of(self.prompt, self.completion) if self.prices else 0.0

    @contextmanager
    def call(self, prompt_tokens: float) -> Iterator[None]:
        """One call with a prompt of so many tokens by its length, if there is money for it; waits for those under way
        where it depends on what they will have cost.

        Raises:
            NotAsked: there is none.
        """
        with self.lock:
            most = self._most(prompt_tokens)
            while self.max_cost is not None and self._others_first(most):
                self.lock.wait()
                most = self._most(prompt_tokens)
            self._refuse_beyond(most)
            self.promised += most
            self._under_way += 1
        try:
            yield
        finally:
            with self.lock:
                self.promised -= most
                self._under_way -= 1
                self._one_ended = True
                self.lock.notify_all()

    def lost(self, prompt_tokens: float, usage: Usage | None = None) -> None:
        """A request that may have to be paid for though no usable reply came; it is made again if there is money left.

        Args:
            usage: what the server says that it took, if a reply came.

        Raises:
            NotAsked: there is none.
        """
        with self.lock:
            self._count(usage or Usage(), prompt_tokens, 0.0)
            self._refuse_beyond(0.0)  # the call under way has promised what its next request can cost

    def add(self, reply: Completion, prompt_tokens: float) -> None:
        """Count a reply to a prompt of so many tokens by its length."""
        usage = Usage(prompt=reply.prompt_tokens, completion=reply.completion_tokens)
        with self.lock:
            self._count(usage, prompt_tokens, tokens_of(reply.text), reply.num_unseen)

    def _count(self, usage: Usage, prompt_tokens: float, text: float, num_unseen: int = 0) -> None:
        """One request; ``text`` is what came by its length, ``num_unseen`` the characters of thinking beside it."""
        sent, written = usage.prompt or 0, usage.completion or 0
        seen = text + num_unseen / CHARS_PER_TOKEN
        before = self.dollars
        self.calls += 1
        if _can_be(usage.prompt, prompt_tokens) and _can_be(usage.completion, seen) and (written or not seen):
            self.prompt += sent
            self.completion += written
        else:
            self.guessed += 1
            self.prompt += max(prompt_tokens, sent)
            self.completion += max(self.most_reply, text, num_unseen, written)
        self.dearest = max(self.dearest, self.dollars - before)

    def _most(self, prompt_tokens: float) -> float:
        return max(self.dearest, self.prices.of(prompt_tokens, self.most_reply)) if self.prices else 0.0

    def _others_first(self, most: float) -> bool:
        """Whether a call has to wait: it is not the first, or there is money for it if the others need less."""
        if not self._under_way or self.max_cost is None:
            return False
        return not self._one_ended or self.dollars + most <= self.max_cost < self.dollars + self.promised + most

    def _refuse_beyond(self, more: float) -> None:
        if self.max_cost is not None and self.dollars + self.promised + more > self.max_cost:
            raise NotAsked(_NO_MONEY, why="max_cost")
