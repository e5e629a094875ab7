"""A client of OpenAI-compatible chat APIs (vLLM, SGLang, ``transformers serve``, hosted ones).

Every failure is one of three kinds. What may pass (429, 5xx, a lost or silent connection, a reply that is no JSON) is
tried again with growing, jittered pauses, and ``Retry-After`` is honoured; a reply that did not come in time is waited
for once more only. What concerns one request only (a 400, a filtered reply, the retries used up) is an ``ItemFailed``.
What would fail for every request (a refused key, an unknown model, a used-up quota) is an error of mmpref at once.

The API key is read from an environment variable when a request is made. It is in no attribute, message or file.
What the server says is decoded in one place, and the keys are cut out there, in every text of it (``api_keys``).
Redirects are not followed.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mmpref import api_keys
from mmpref.errors import ConfigError
from mmpref.generation.concurrency import ItemFailed, NotAsked, in_parallel
from mmpref.generation.http_calls import CallFailed, HttpCalls, HttpReply, OutOfTime
from mmpref.generation.token_usage import Usage, usage_of

__all__ = ["ChatClient", "Completion", "ItemFailed", "NotAsked", "Server", "in_parallel"]

ATTEMPTS = 6
CONCURRENCY = 8
TIMEOUT = 120.0
OPENAI_HOST = "api.openai.com"
OPENAI_KEY_ENV = "OPENAI_API_KEY"
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_NOT_BEGUN = frozenset({501, 503, 505, 521, 522, 523, 525, 526})
"""Of 500 and more: the server, or the way to it, did not begin. The others may follow work that is paid for."""
_AFTER_WORK = frozenset({408, 499})
"""Below 500: the time of the server, or of a proxy, was over."""
_MAX_REPLY_BYTES = 8 * 2**20
_LONGEST_PAUSE = 60.0
_WAITED_FOR = 2  # attempts that may run out of time: a server that was silent twice is not waited for again
_SHOWN = 300
_A_DAY = 86_400.0
_AS_WRITTEN = "write it as http://127.0.0.1:8000/v1"
_HOST = re.compile(r"([\w-]{1,63}\.)*[\w-]{1,63}\.?")
_NUMBERS = re.compile(r"[0-9]+(\.[0-9]+)*")
_LONGEST_HOST = 253
_LISTED = ("id", "root", "parent", "revision", "sha", "meta")


class _Passing(Exception):  # noqa: N818
    """A failure that may pass.

    Args:
        wait: what the server asked for, in seconds.
        late: the time limit was reached.
        worked: the server may have written a reply, and may want to be paid for it.
        usage: what it says that this took.
    """

    def __init__(
        self, reason: str, *, wait: float = 0.0, late: bool = False, worked: bool = False, usage: Usage | None = None
    ) -> None:
        super().__init__(reason)
        self.wait = wait
        self.late = late
        self.worked = worked
        self.usage = usage or Usage()


class _PaidFor(ItemFailed):
    """A reply that is of no use and would be the same again, such as one that a filter held back, with its usage."""

    def __init__(self, reason: str, usage: Usage | None = None) -> None:
        super().__init__(reason)
        self.usage = usage or Usage()


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a chat API is and how it is asked.

    Args:
        url: base address, with or without ``/v1``; http or https.
        model: the model's name there.
        key_env: environment variable with the API key. None: no key, but for api.openai.com ``OPENAI_API_KEY``, which
            is sent nowhere else unless it is named here.
        timeout: seconds in which a whole reply must have come, from the name server to the last byte; a request that
            reaches them is made once more.
        attempts: how often one request is tried.
        concurrency: requests under way at once.
        pause: seconds before the second attempt; doubled each time.
    """

    url: str
    model: str
    key_env: str | None = None
    timeout: float = TIMEOUT
    attempts: int = ATTEMPTS
    concurrency: int = CONCURRENCY
    pause: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", _base_url(self.url))
        if self.key_env is not None and self.key_env not in os.environ and api_keys.may_be_key(self.key_env):
            if len(self.key_env) >= 16:  # as keys are; from here on it is cut out everywhere
                api_keys.remember(self.key_env)
            raise ConfigError(
                "--key-env (and --judge-key-env) takes the NAME of an environment variable that holds the API key, for "
                f"example {OPENAI_KEY_ENV}. What was given names none that is set, and is not repeated here: it may be "
                "the key itself"
            )
        if not self.model:
            raise ConfigError(f"no model is named for the server {self.url}")
        if not 0 < self.timeout < float("inf") or self.attempts < 1 or self.concurrency < 1:
            raise ConfigError("timeout must be a number of seconds > 0, attempts and concurrency >= 1")

    def key(self) -> str | None:
        """The API key of this moment.

        Raises:
            ConfigError: ``key_env`` is named and not set.
        """
        name = self.key_env
        if name is None:
            if urlsplit(self.url).hostname != OPENAI_HOST:
                return None
            name = OPENAI_KEY_ENV
        value = os.environ.get(name, "").strip()
        if not value:
            if self.key_env is None:
                return None
            raise ConfigError(f"the environment variable {name}, which should hold the API key, is not set")
        if not value.isascii() or not value.isprintable():
            raise ConfigError(f"{name} holds characters that no API key has")
        api_keys.remember(value)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One reply.

    Token counts are what the server says, None where that is no number; reasoning is in ``completion_tokens``. ``cut``
    says that the reply ran into ``max_tokens``, ``fingerprint`` what the server calls its present state
    (``system_fingerprint``), ``num_unseen`` how many characters of thinking came beside the text.
    """

    text: str
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cut: bool
    fingerprint: str | None = None
    num_unseen: int = 0


class ChatClient:
    """Asks one server; may be used by several threads."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.num_requests = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._resume_at = 0.0  # no request before: set by a 429, for all threads
        self._limit_name = "max_tokens"
        # a proxy of the environment does not know this machine's servers
        self._http = HttpCalls(connections=server.concurrency, trust_env=not _is_local(server.url))

    def close(self) -> None:
        """End the pauses of waiting threads; what is under way is abandoned."""
        self._stop.set()
        self._http.close()

    def served(self) -> dict[str, Any] | None:
        """What ``/models`` says of the model: ``id``, ``root`` and the like; {} where it says nothing of it.

        ``created`` counts where it is older than a day: several servers give the time of the question. None: the server
        could not be reached.
        """
        try:
            reply = self._send("GET", "models")
            listed = _decoded(reply.content)["data"] if reply.status == 200 else []
            found = next(entry for entry in listed if entry["id"] == self.server.model)
        except _Passing:
            return None
        except (ValueError, LookupError, TypeError, StopIteration):
            return {}
        facts = {name: found[name] for name in _LISTED if found.get(name) not in (None, "")}
        created = found.get("created")
        if isinstance(created, int) and 0 < created < time.time() - _A_DAY:
            facts["created"] = created
        return facts

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        response_format: Mapping[str, Any] | None = None,
        lost: Callable[[Usage], None] = lambda usage: None,
    ) -> Completion:
        """One reply to ``messages``.

        Args:
            lost: called for each request that the server may have answered, and wants to be paid for, though no usable
                reply came, with what it says that this took; an ``ItemFailed`` that it raises ends the attempts.

        Raises:
            ItemFailed: this request failed permanently.
            ConfigError: the server refuses the key, the model or the path: no request can work.
        """
        reason, late, attempt = "", 0, 0
        while attempt < self.server.attempts and late < _WAITED_FOR:
            if self._stop.is_set():
                raise ItemFailed("stopped")
            self._wait_turn()
            body: dict[str, Any] = {
                "model": self.server.model,
                "messages": messages,
                "temperature": temperature,
                self._limit_name: max_tokens,
                "stream": False,
            }
            if response_format is not None:
                body["response_format"] = response_format
            try:
                return self._ask(body)
            except _Passing as err:
                reason, attempt, late = str(err), attempt + 1, late + err.late
                if err.worked:
                    lost(err.usage)
                if attempt < self.server.attempts and late < _WAITED_FOR:
                    self._pause(attempt - 1, err.wait)
            except _PaidFor as err:
                with contextlib.suppress(ItemFailed):  # this one has failed anyway, and says why
                    lost(err.usage)
                raise
        raise ItemFailed(f"{reason} ({attempt} attempts)")

    def _pause(self, attempt: int, asked: float) -> None:
        pause = min(self.server.pause * 2**attempt, _LONGEST_PAUSE) * random.uniform(0.5, 1.0)
        if asked > 0:  # the server named a time: it holds for all threads
            with self._lock:
                self._resume_at = max(self._resume_at, time.monotonic() + min(asked, _LONGEST_PAUSE))
        self._stop.wait(pause)

    def _wait_turn(self) -> None:
        while (left := self._resume_at - time.monotonic()) > 0 and not self._stop.is_set():
            self._stop.wait(left)

    def _ask(self, body: Mapping[str, Any]) -> Completion:
        with self._lock:
            self.num_requests += 1
        reply = self._send("POST", "chat/completions", json.dumps(body).encode())
        if reply.status != 200:
            self._refused(reply, body)
        return _completion(reply.content, self.server.model)

    def _send(self, method: str, path: str, content: bytes = b"") -> HttpReply:
        key = self.server.key()
        headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        try:
            return self._http.request(
                method,
                f"{self.server.url}/{path}",
                headers=headers,
                content=content,
                seconds=self.server.timeout,
                most_bytes=_MAX_REPLY_BYTES,
            )
        except OutOfTime as err:
            what = "no whole reply" if err.begun else "no reply"
            raise _Passing(f"{what} {_clean(str(err))}", late=True, worked=True) from None
        except CallFailed as err:
            raise _Passing(f"no connection to {self.server.url}: {_clean(str(err))}", worked=err.sent) from None

    def _refused(self, reply: HttpReply, body: Mapping[str, Any]) -> None:
        status, (said, code) = reply.status, _error_of(reply.content)
        where = f"{self.server.url} answered {status}"
        detail = f": {said}" if said else ""
        if status == 400 and "max_completion_tokens" in said and "max_tokens" in body:
            self._limit_name = "max_completion_tokens"  # how newer models of OpenAI call it
            raise _Passing(f"{where}{detail}")
        if status == 429 and code == "insufficient_quota":
            raise ConfigError(f"{where}, the quota is used up{detail}")
        if status in (401, 403):
            name = self.server.key_env or OPENAI_KEY_ENV
            raise ConfigError(f"{where}, it refuses the API key (from {name}){detail}")
        if status in (404, 405):
            raise ConfigError(f"{where}, the address or the model '{self.server.model}' is wrong{detail}")
        if 300 <= status < 400:
            raise ConfigError(f"{where}, a redirect, which is not followed; give the final address")
        worked = status in _AFTER_WORK or (status >= 500 and status not in _NOT_BEGUN)
        if status in _RETRIED or status >= 500:
            raise _Passing(f"{where}{detail}", wait=_seconds(reply.headers.get("retry-after", "")), worked=worked)
        if worked or code == "content_filter":  # Azure is paid for reading what its filter then refuses
            raise _PaidFor(f"{where}{detail}")
        raise ItemFailed(f"{where}{detail}")


def _base_url(url: str) -> str:
    """The address up to and with ``/v1``.

    Raises:
        ConfigError: no request could be sent there. What follows a login or ``?`` is not said: it may be a key.
    """
    shown = re.split("[?#]", _without_login(url), maxsplit=1)[0]
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError as err:
        raise ConfigError(f"server address {shown!r:.200} is none ({err}); {_AS_WRITTEN}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"server address {shown!r:.200} must begin with http:// or https:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("the server address holds a login; put the key into an environment variable and name that")
    if parts.query or parts.fragment:
        raise ConfigError(f"the server address {parts.scheme}://{parts.netloc}{parts.path} must end there")
    path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    base = f"{parts.scheme}://{parts.netloc}{path or '/v1'}"
    named = ":" in host or (len(host) <= _LONGEST_HOST and _HOST.fullmatch(host) is not None)
    if not named or port == 0 or not base.isprintable() or (_NUMBERS.fullmatch(host) and not _is_ip(host)):
        raise ConfigError(f"server address {shown!r:.200} is none (no host or port is called so); {_AS_WRITTEN}")
    return base


def _is_ip(host: str) -> bool:
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _without_login(url: str) -> str:
    return url.rpartition("@")[2]


def _decoded(content: bytes) -> Any:
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


def _error_of(content: bytes) -> tuple[str, str]:
    """(message, code) of an error reply in whatever shape it has."""
    try:
        found = _decoded(content)
    except ValueError:
        return _clean(_text(content)), ""
    for key in ("error", "detail", "message"):
        if isinstance(found, Mapping) and found.get(key):
            found = found[key]
            break
    code = str(found.get("code") or found.get("type") or "") if isinstance(found, Mapping) else ""
    said = found.get("message", found) if isinstance(found, Mapping) else found
    return _clean(said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)), code


def _clean(text: str) -> str:
    """What a server or the connection says, as one short line without API keys."""
    text = api_keys.cut(text, of_message=True)  # before marks that nobody sees become blanks between its letters
    text = "".join(char if char.isprintable() else " " if char.isspace() else "" for char in text)
    text = " ".join(text.split())
    text = api_keys.cut(text, of_message=True)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _seconds(retry_after: str) -> float:
    try:
        return max(0.0, float(retry_after))
    except ValueError:  # a date, which servers of this kind do not send; our own pauses do
        return 0.0


def _completion(content: bytes, model: str) -> Completion:
    usage = Usage()
    try:
        reply = _decoded(content)
        usage = usage_of(reply)
        choice = reply["choices"][0]
        message = choice["message"]
        text, refusal = message.get("content"), message.get("refusal")
        finish = choice.get("finish_reason")
        named, state = reply.get("model"), reply.get("system_fingerprint")
        thought = next((message[name] for name in ("reasoning_content", "reasoning") if message.get(name)), "")
    except (ValueError, LookupError, TypeError, AttributeError) as err:
        raise _Passing("the reply is not one of the chat API", worked=True, usage=usage) from err
    if finish == "content_filter":
        raise _PaidFor("the server's filter held the reply back", usage)
    if isinstance(text, list):  # parts, which a key may be split over
        text = api_keys.cut("".join(str(part.get("text", "")) for part in text if isinstance(part, Mapping)))
    if text is None and refusal:
        raise _PaidFor(f"the server refused: {_clean(str(refusal))}", usage)
    if text is None and finish == "length":
        text = ""  # cut while it was thinking
    if not isinstance(text, str):
        raise _Passing("the reply has no text", worked=True, usage=usage)
    return Completion(
        text=text,
        model=_clean(named) if isinstance(named, str) and named else model,
        prompt_tokens=usage.prompt,
        completion_tokens=usage.completion,
        cut=finish == "length",
        fingerprint=_clean(state) if isinstance(state, str) and state else None,
        num_unseen=len(thought) if isinstance(thought, str) else 0,
    )
