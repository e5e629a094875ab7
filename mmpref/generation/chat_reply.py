"""Replies of a chat API as they are read, and the failures of those that are of no use.

All that a server says comes in through :func:`decoded`, where API keys are cut out of every text (``api_keys``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmpref import api_keys
from mmpref.generation.concurrency import ItemFailed
from mmpref.generation.token_usage import Usage, usage_of

_SHOWN = 300


class Passing(Exception):  # noqa: N818
    """A failure that may pass.

    Args:
        why: the reason in a word that can be counted.
        wait: what the server asked for, in seconds.
        late: the time limit was reached.
        worked: the server may have written a reply, and may want to be paid for it.
        usage: what it says that this took.
    """

    def __init__(
        self,
        reason: str,
        *,
        why: str,
        wait: float = 0.0,
        late: bool = False,
        worked: bool = False,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(reason)
        self.why = why
        self.wait = wait
        self.late = late
        self.worked = worked
        self.usage = usage or Usage()


class PaidFor(ItemFailed):
    """A reply that is of no use and would be the same again, such as one that a filter held back, with its usage."""

    def __init__(self, reason: str, usage: Usage | None = None, *, why: str, again: bool = False) -> None:
        super().__init__(reason, why=why, again=again)
        self.usage = usage or Usage()


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One reply.

    Token counts are what the server says, None where that is no number; reasoning is in ``completion_tokens``. ``cut``
    says that the reply ran into ``max_tokens``, ``fingerprint`` what the server calls its present state
    (``system_fingerprint``), ``num_unseen`` how many characters of thinking came beside the text. ``seed`` is the one
    that was sent with the request; None where the server took none.
    """

    text: str
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cut: bool
    fingerprint: str | None = None
    num_unseen: int = 0
    seed: int | None = None


def decoded(content: bytes) -> Any:
    """A reply's JSON without the API keys: everything that a server says comes in through here.

    Raises:
        ValueError: it is no JSON, or brackets without end.
    """
    try:
        return api_keys.cut_all(json.loads(_text(content)))
    except RecursionError as err:
        raise ValueError("it is nested too deeply") from err


def _text(content: bytes) -> str:
    """A body as text; UTF-16 and UTF-32 are known by their mark, or by the places of zeros in the first characters."""
    return content.decode(json.detect_encoding(content), errors="replace")


def error_of(content: bytes) -> tuple[str, str]:
    """(message, code) of an error reply in whatever shape it has."""
    try:
        found = decoded(content)
    except ValueError:
        return clean(_text(content)), ""
    for key in ("error", "detail", "message"):
        if isinstance(found, Mapping) and found.get(key):
            found = found[key]
            break
    code = str(found.get("code") or found.get("type") or "") if isinstance(found, Mapping) else ""
    said = found.get("message", found) if isinstance(found, Mapping) else found
    return clean(said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)), code


def clean(text: str) -> str:
    """What a server or the connection says, as one short line without API keys."""
    text = api_keys.cut(text, of_message=True)  # before marks that nobody sees become blanks between its letters
    text = "".join(char if char.isprintable() else " " if char.isspace() else "" for char in text)
    text = " ".join(text.split())
    text = api_keys.cut(text, of_message=True)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def read_completion(content: bytes, model: str) -> Completion:
    """The reply of ``chat/completions``; ``model`` is the name that was asked for.

    Raises:
        Passing: it is no reply of this API; another try may bring one.
        PaidFor: it was refused or filtered.
    """
    usage = Usage()
    try:
        reply = decoded(content)
        usage = usage_of(reply)
        choice = reply["choices"][0]
        message = choice["message"]
        text, refusal = message.get("content"), message.get("refusal")
        finish = choice.get("finish_reason")
        named, state = reply.get("model"), reply.get("system_fingerprint")
        thought = next((message[name] for name in ("reasoning_content", "reasoning") if message.get(name)), "")
    except (ValueError, LookupError, TypeError, AttributeError) as err:
        raise Passing("the reply is not one of the chat API", why="bad_reply", worked=True, usage=usage) from err
    if finish == "content_filter":
        raise PaidFor("the server's filter held the reply back", usage, why="filtered")
    if isinstance(text, list):  # parts, which a key may be split over
        text = api_keys.cut("".join(str(part.get("text", "")) for part in text if isinstance(part, Mapping)))
    if text is None and refusal:
        raise PaidFor(f"the server refused: {clean(str(refusal))}", usage, why="refused")
    if text is None and finish == "length":
        text = ""  # cut while it was thinking
    if not isinstance(text, str):
        raise Passing("the reply has no text", why="bad_reply", worked=True, usage=usage)
    return Completion(
        text=text,
        model=clean(named) if isinstance(named, str) and named else model,
        prompt_tokens=usage.prompt,
        completion_tokens=usage.completion,
        cut=finish == "length",
        fingerprint=clean(state) if isinstance(state, str) and state else None,
        num_unseen=len(thought) if isinstance(thought, str) else 0,
    )
