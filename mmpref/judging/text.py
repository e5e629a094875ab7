"""What judging takes and took, in words."""

from __future__ import annotations

from collections.abc import Mapping

from mmpref.judging.cost import Estimate, Spent, dollars


def used(calls: int, prompt_tokens: float, completion_tokens: float, cost: float | None) -> str:
    """``12 calls, 3,400 + 560 tokens, $0.01``; without the cost where it is not known."""
    money = "" if cost is None else f", {dollars(cost)}"
    return f"{calls} calls, {prompt_tokens:,.0f} + {completion_tokens:,.0f} tokens{money}"


def guessed(calls: int) -> str:
    """The end of a sentence, of so many calls whose use the server did not give; "" for none."""
    text = f"; of {calls} calls the server gave no usable token counts: the most they can be is counted"
    return text if calls else ""


def broken_off(spent: Spent) -> str:
    """What was spent when judging ended early."""
    cost = None if spent.prices is None else spent.dollars
    return f"broken off after {used(spent.calls, spent.prompt, spent.completion, cost)}{guessed(spent.guessed)}"


def from_elsewhere(servers: Mapping[str, int]) -> str:
    """Of which other servers cached replies are: taken all the same, as a model may have moved."""
    named = [f"{n} from {server or 'a server that the cache does not name'}" for server, n in sorted(servers.items())]
    return f" ({', '.join(named)})" if named else ""


def estimated(found: Estimate, *, prices: str = "--price-in and --price-out") -> list[tuple[str, str]]:
    """An estimate as rows of a table; ``prices`` is how the options of the prices are called."""
    cost = f"unknown: give {prices}" if found.cost is None else f"about {dollars(found.cost)}"
    return [
        ("judged before", f"{found.num_cached}{from_elsewhere(found.elsewhere)}"),
        ("calls", str(found.num_calls)),
        ("tokens", f"about {found.prompt_tokens:,} sent and {found.completion_tokens:,} received, by length"),
        ("cost", cost),
    ]
