"""What a server says that a request used, in the ways in which servers say it.

OpenAI counts reasoning inside of ``completion_tokens``, so that the total is prompt and completion. xAI and Gemini
leave it out there and count it in the total alone, and some servers give nothing else. All of it is paid for as
completion, so the largest of these readings is taken, which counts nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_TOKENS = 10_000_000
"""No model reads or writes more in one request; a server that says so does not count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one request; None where the server gives no number. ``completion`` has the reasoning in it."""

    prompt: int | None = None
    completion: int | None = None


def usage_of(reply: object) -> Usage:
    """The usage of a reply of the chat API, whatever else is in it."""
    given = reply.get("usage") if isinstance(reply, Mapping) else None
    if not isinstance(given, Mapping):
        return Usage()
    prompt = _first(given, "prompt_tokens", "input_tokens")
    written = _first(given, "completion_tokens", "output_tokens")
    total, thought = _first(given, "total_tokens"), _reasoning(given)
    found = [] if written is None else [written]
    if thought is not None and (written is None or thought > written):  # more than fits inside
        found.append(thought + (written or 0))
    if total is not None:
        found.append(total - (prompt or 0))
    return Usage(prompt=prompt, completion=max(found, default=None))


def _reasoning(given: Mapping[str, Any]) -> int | None:
    for name in ("completion_tokens_details", "output_tokens_details"):
        if (
            isinstance(details := given.get(name), Mapping)
            and (found := _first(details, "reasoning_tokens")) is not None
        ):
            return found
    return _first(given, "reasoning_tokens")


def _first(given: Mapping[str, Any], *names: str) -> int | None:
    return next((number for name in names if (number := _count(given.get(name))) is not None), None)


def _count(value: object) -> int | None:
    """A number of tokens; also one that was written with a decimal point."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_TOKENS:
        return None
    return int(value) if value == int(value) else None
