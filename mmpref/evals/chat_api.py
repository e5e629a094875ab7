"""A client of OpenAI-compatible chat APIs (vLLM, SGLang, ``transformers serve``, hosted ones). The one door to httpx2.

Every failure is one of three kinds. What may pass (429, 5xx, a lost or silent connection, a reply that is no JSON) is
tried again with growing, jittered pauses, and ``Retry-After`` is honoured. What concerns one request only (a 400, a
filtered reply, the retries used up) is an ``ItemFailed``. What would fail for every request (a refused key, an unknown
model, a used-up quota) is an error of mmpref at once.

The API key is read from an environment variable when a request is made. It stands in no attribute, message or file, and
is cut out of everything the server says. Redirects are not followed.
"""

from __future__ import annotations

import json
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from mmpref.errors import ConfigError, EvalIncompleteError

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")
R = TypeVar("R")

ATTEMPTS = 6
CONCURRENCY = 8
TIMEOUT = 120.0
OPENAI_HOST = "api.openai.com"
OPENAI_KEY_ENV = "OPENAI_API_KEY"
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_MAX_REPLY_BYTES = 8 * 2**20
_LONGEST_PAUSE = 60.0
_FAILURES_IN_A_ROW = 16  # with no reply in between: the server is gone, or refuses all there is
_SHOWN = 300


class ItemFailed(Exception):  # noqa: N818  # not an error of the program: one request that came to nothing
    """One request came to nothing; the text says why."""


class NotAsked(ItemFailed):
    """It was never made, for a reason of our own; that says nothing about the server."""


class _Passing(Exception):  # noqa: N818
    """A failure that may pass. ``wait`` is what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where a chat API is and how it is asked.

    Args:
        url: base address, with or without ``/v1``; http or https.
        model: the model's name there.
        key_env: environment variable with the API key. None: no key, but for api.openai.com ``OPENAI_API_KEY``, which
            is sent nowhere else unless it is named here.
        timeout: seconds in which a whole reply must have come.
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
        if not self.model:
            raise ConfigError(f"no model is named for the server {self.url}")
        if self.timeout <= 0 or self.attempts < 1 or self.concurrency < 1:
            raise ConfigError("timeout must be > 0, attempts and concurrency >= 1")

    def key(self) -> str | None:
        """The API key of this moment.

        Raises:
            ConfigError: ``key_env`` is named and not set.
        """
        if self.key_env is None:
            return os.environ.get(OPENAI_KEY_ENV) or None if urlsplit(self.url).hostname == OPENAI_HOST else None
        value = os.environ.get(self.key_env, "").strip()
        if not value:
            raise ConfigError(f"the environment variable {self.key_env}, which should hold the API key, is not set")
        if not value.isascii() or not value.isprintable():
            raise ConfigError(f"{self.key_env} holds characters that no API key has")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One reply. Token counts are None where the server gave none; ``cut`` says that it ran into ``max_tokens``."""

    text: str
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    cut: bool


class ChatClient:
    """Asks one server; may be used by several threads."""

    def __init__(self, server: Server) -> None:
        import httpx2

        self.server = server
        self.num_requests = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._resume_at = 0.0  # no request before: set by a 429, for all threads
        self._limit_name = "max_tokens"
        self._http = httpx2.Client(
            timeout=httpx2.Timeout(server.timeout, connect=min(server.timeout, 15.0), pool=None),
            limits=httpx2.Limits(max_connections=server.concurrency, max_keepalive_connections=server.concurrency),
            follow_redirects=False,
            trust_env=not _is_local(server.url),  # a proxy of the environment does not know this machine's servers
        )

    def close(self) -> None:
        """End the pauses of waiting threads; what is under way is abandoned."""
        self._stop.set()
        self._http.close()

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        response_format: Mapping[str, Any] | None = None,
    ) -> Completion:
        """One reply to ``messages``.

        Raises:
            ItemFailed: this request came to nothing.
            ConfigError: the server refuses the key, the model or the path: no request can work.
        """
        reason = ""
        for attempt in range(self.server.attempts):
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
                reason = str(err)
                if attempt + 1 < self.server.attempts:
                    self._pause(attempt, err.wait)
        raise ItemFailed(f"{reason} ({self.server.attempts} attempts)")

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
        import httpx2

        key = self.server.key()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        with self._lock:
            self.num_requests += 1
        try:
            request = self._http.stream(
                "POST", f"{self.server.url}/chat/completions", content=json.dumps(body).encode(), headers=headers
            )
            with request as response:
                content = self._read(response)
                status, asked = response.status_code, response.headers.get("retry-after", "")
        except httpx2.TimeoutException as err:
            raise _Passing(f"no reply within {self.server.timeout:g} s") from err
        except (httpx2.HTTPError, httpx2.StreamError, RuntimeError) as err:  # RuntimeError: the client was closed
            raise _Passing(
                f"no connection to {self.server.url}: {_clean(str(err) or type(err).__name__, key)}"
            ) from None
        text = content.decode("utf-8", errors="replace")
        if key:
            text = text.replace(key, "[API key]")
        if status != 200:
            self._refused(status, text, asked, body)
        return _completion(text, self.server.model)

    def _read(self, response: httpx2.Response) -> bytes:
        """The whole body, within the time and a size: a server may also trickle."""
        until = time.monotonic() + self.server.timeout
        out = bytearray()
        for piece in response.iter_bytes():
            out += piece
            if len(out) > _MAX_REPLY_BYTES:
                raise _Passing(f"the reply is larger than {_MAX_REPLY_BYTES} bytes")
            if time.monotonic() > until:
                raise _Passing(f"no whole reply within {self.server.timeout:g} s")
        return bytes(out)

    def _refused(self, status: int, text: str, asked: str, body: Mapping[str, Any]) -> None:
        said, code = _error_of(text)
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
        if status in _RETRIED or status >= 500:
            raise _Passing(f"{where}{detail}", _seconds(asked))
        raise ItemFailed(f"{where}{detail}")


def in_parallel(
    items: Iterable[T], work: Callable[[T], R], *, workers: int, stop: Callable[[], None]
) -> Iterator[tuple[T, R | ItemFailed]]:
    """``(item, work(item))`` as they are done, ``workers`` at a time; an ``ItemFailed`` is a result like any other.

    The threads are daemons: an interrupted program does not wait for a silent server.

    Args:
        stop: called when the caller leaves or something raised, to wake threads that wait.

    Raises:
        EvalIncompleteError: many items in a row failed and none worked.
        Exception: whatever else ``work`` raises.
    """
    todo: queue.SimpleQueue[T | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[T, R | BaseException]] = queue.SimpleQueue()

    def run() -> None:
        while (item := todo.get()) is not None:
            try:
                done.put((item, work(item)))
            except BaseException as err:  # handed to the caller, whatever it is
                done.put((item, err))

    waiting = iter(items)
    under_way = failed_in_a_row = 0
    for _ in range(workers):
        threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            while under_way < workers and (item := next(waiting, None)) is not None:
                todo.put(item)
                under_way += 1
            if not under_way:
                return
            item, result = done.get()
            under_way -= 1
            if isinstance(result, BaseException):
                if not isinstance(result, ItemFailed):
                    raise result
                failed_in_a_row += not isinstance(result, NotAsked)
            else:
                failed_in_a_row = 0
            yield item, result
            if failed_in_a_row >= _FAILURES_IN_A_ROW:
                raise EvalIncompleteError(
                    f"the last {failed_in_a_row} requests all failed, so no more are made: {result}; "
                    "what was answered is kept, run again to go on"
                )
    finally:
        stop()
        for _ in range(workers):
            todo.put(None)


def _base_url(url: str) -> str:
    """The address up to and with ``/v1``."""
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"server address {_without_login(url)!r} must begin with http:// or https:// and name a host")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("the server address holds a login; put the key into an environment variable and name that")
    if parts.query or parts.fragment:
        raise ConfigError(f"the server address {parts.scheme}://{parts.netloc}{parts.path} must end there")
    path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def _without_login(url: str) -> str:
    return url.rpartition("@")[2]


def _error_of(text: str) -> tuple[str, str]:
    """(message, code) of an error reply in whatever shape it has."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return _clean(text, None), ""
    for key in ("error", "detail", "message"):
        if isinstance(found, Mapping) and found.get(key):
            found = found[key]
            break
    code = str(found.get("code") or found.get("type") or "") if isinstance(found, Mapping) else ""
    said = found.get("message", found) if isinstance(found, Mapping) else found
    return _clean(said if isinstance(said, str) else json.dumps(said), None), code


def _clean(text: str, key: str | None) -> str:
    text = " ".join(text.replace(key, "[API key]").split() if key else text.split())
    text = "".join(char for char in text if char.isprintable())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _seconds(retry_after: str) -> float:
    try:
        return max(0.0, float(retry_after))
    except ValueError:  # a date, which servers of this kind do not send; our own pauses do
        return 0.0


def _completion(text: str, model: str) -> Completion:
    try:
        reply = json.loads(text)
        choice = reply["choices"][0]
        content = choice["message"].get("content")
        usage = reply.get("usage") or {}
        finish = choice.get("finish_reason")
        named = reply.get("model")
        tokens = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as err:
        raise _Passing("the reply is not one of the chat API") from err
    if finish == "content_filter":
        raise ItemFailed("the server's filter held the reply back")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    if content is None and choice["message"].get("refusal"):
        raise ItemFailed(f"the server refused: {_clean(str(choice['message']['refusal']), None)}")
    if not isinstance(content, str):
        raise _Passing("the reply has no text")
    counts = [n if isinstance(n, int) and not isinstance(n, bool) and n >= 0 else None for n in tokens]
    return Completion(
        text=content,
        model=named if isinstance(named, str) and named else model,
        prompt_tokens=counts[0],
        completion_tokens=counts[1],
        cut=finish == "length",
    )
