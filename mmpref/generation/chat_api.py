"""A client of OpenAI-compatible chat APIs (vLLM, SGLang, ``transformers serve``, hosted ones).

Every failure is one of three kinds. What may pass (429, 5xx, a lost or silent connection, a reply that is no JSON) is
tried again with growing, jittered pauses, and ``Retry-After`` is honoured; a reply that did not come in time is waited
for once more only. What concerns one request only (a 400, a filtered reply, the retries used up) is an ``ItemFailed``.
What would fail for every request (a refused key, an unknown model, a used-up quota) is an error of mmpref at once.

What the server says is decoded in one place (``chat_reply``), and the keys are cut out there. Redirects are not
followed.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmpref.errors import ConfigError
from mmpref.generation.api_server import OPENAI_KEY_ENV, Server
from mmpref.generation.chat_reply import Completion, PaidFor, Passing, clean, decoded, error_of, read_completion
from mmpref.generation.concurrency import ItemFailed
from mmpref.generation.http_calls import CallFailed, HttpCalls, HttpReply, OutOfTime
from mmpref.generation.token_usage import Usage

_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_NOT_BEGUN = frozenset({501, 503, 505, 521, 522, 523, 525, 526})
"""Of 500 and more: the server, or the way to it, did not begin. The others may follow work that is paid for."""
_AFTER_WORK = frozenset({408, 499})
"""Below 500: the time of the server, or of a proxy, was over."""
_MAX_REPLY_BYTES = 8 * 2**20
_LONGEST_PAUSE = 60.0
_WAITED_FOR = 2  # attempts that may run out of time: a server that was silent twice is not waited for again
_A_DAY = 86_400.0
_TOO_LONG_CODE = re.compile("context_length|context_size|string_above_max_length")
_TOO_LONG = re.compile(
    r"context.(length|size|window)|maximum model length|max_model_len"
    r"|\b(prompt|input|request)\b.{0,40}\b(is|are) (too (long|large)|longer)"
    r"|\btokens?\b.{0,60}\bexceed|\bexceed.{0,60}\btokens?\b|`?inputs`? tokens \+ ",
    re.IGNORECASE,
)
"""How vLLM, SGLang, llama.cpp, TGI, OpenAI, Anthropic, Gemini and Mistral say that a request does not fit."""
_OPTIONAL = ("seed", "top_p")
"""Fields of a request that servers may not know."""
_LISTED = ("id", "root", "parent", "revision", "sha", "meta")


class _FieldRefused(Exception):  # noqa: N818  # asked again without
    """The server does not know a field of the request."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class ChatClient:
    """Asks one server; may be used by several threads."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.num_requests = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._resume_at = 0.0  # no request before: set by a 429, for all threads
        self._limit_name = "max_tokens"
        self.left_out: frozenset[str] = frozenset()
        """Fields that the server refused, and that it is asked without."""
        # a proxy of the environment does not know this machine's servers
        self._http = HttpCalls(connections=server.concurrency, trust_env=not server.is_local)

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
            listed = decoded(reply.content)["data"] if reply.status == 200 else []
            found = next(entry for entry in listed if entry["id"] == self.server.model)
        except Passing:
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
        top_p: float | None = None,
        seed: int | None = None,
        response_format: Mapping[str, Any] | None = None,
        lost: Callable[[Usage], None] = lambda usage: None,
    ) -> Completion:
        """One reply to ``messages``.

        A server that refuses ``seed``, or ``top_p`` where that is 1, is asked without it; see ``left_out`` and the
        reply's ``seed``.

        Args:
            top_p: None leaves it to the server, which may have a value of its own for the model.
            lost: called for each request that the server may have answered, and wants to be paid for, though no usable
                reply came, with what it says that this took; an ``ItemFailed`` that it raises ends the attempts.

        Raises:
            ItemFailed: this request failed permanently.
            ConfigError: the server refuses the key, the model, the path or a ``top_p`` below 1: no request can work.
        """
        left_out = self.left_out
        reason, why, late, attempt = "", "", 0, 0
        while attempt < self.server.attempts and late < _WAITED_FOR:
            if self._stop.is_set():
                raise ItemFailed("stopped", why="stopped")
            self._wait_turn()
            body: dict[str, Any] = {
                "model": self.server.model,
                "messages": messages,
                "temperature": temperature,
                self._limit_name: max_tokens,
                "stream": False,
            }
            more = {"top_p": top_p, "seed": seed, "response_format": response_format}
            body |= {name: value for name, value in more.items() if value is not None and name not in left_out}
            try:
                reply = self._ask(body)
                self.left_out |= left_out  # only a reply proves that they were the reason
                return replace(reply, seed=body.get("seed"))
            except _FieldRefused as err:
                left_out |= {err.name}
            except Passing as err:
                reason, why, attempt, late = str(err), err.why, attempt + 1, late + err.late
                if err.worked:
                    lost(err.usage)
                if attempt < self.server.attempts and late < _WAITED_FOR:
                    self._pause(attempt - 1, err.wait)
            except PaidFor as err:
                with contextlib.suppress(ItemFailed):  # this one has failed anyway, and says why
                    lost(err.usage)
                raise
        raise ItemFailed(f"{reason} ({attempt} attempts)", why=why)

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
        return read_completion(reply.content, self.server.model)

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
            raise Passing(f"{what} {clean(str(err))}", why="timeout", late=True, worked=True) from None
        except CallFailed as err:
            said = f"no connection to {self.server.url}: {clean(str(err))}"
            raise Passing(said, why="no_connection", worked=err.sent) from None

    def _refused(self, reply: HttpReply, body: Mapping[str, Any]) -> None:
        status, (said, code) = reply.status, error_of(reply.content)
        where = f"{self.server.url} answered {status}"
        detail = f": {said}" if said else ""
        too_long = status == 413 or _TOO_LONG_CODE.search(code) or _TOO_LONG.search(said)
        if status == 400 and "max_completion_tokens" in said and "max_tokens" in body and not too_long:
            self._limit_name = "max_completion_tokens"  # how newer models of OpenAI call it
            raise Passing(f"{where}{detail}", why="bad_request")
        if status == 402 or (status == 429 and code == "insufficient_quota"):
            raise ConfigError(f"{where}, the quota is used up{detail}")
        if status in (401, 403):
            name = self.server.key_env or OPENAI_KEY_ENV
            raise ConfigError(f"{where}, it refuses the API key (from {name}){detail}")
        if status in (404, 405):
            raise ConfigError(f"{where}, the address or the model '{self.server.model}' is wrong{detail}")
        if 300 <= status < 400:
            raise ConfigError(f"{where}, a redirect, which is not followed; give the final address")
        refused = [name for name in _OPTIONAL if name in body and re.search(rf"\b{name}\b", said)]
        if status in (400, 422) and refused and not too_long:
            if refused[0] == "top_p" and body["top_p"] != 1:
                raise ConfigError(f"{where}, it takes no top_p of {body['top_p']}; leave that at 1{detail}")
            raise _FieldRefused(refused[0])
        worked = status in _AFTER_WORK or (status >= 500 and status not in _NOT_BEGUN)
        if status in _RETRIED or status >= 500:
            wait = _seconds(reply.headers.get("retry-after", ""))
            why = "too_many_requests" if status == 429 else "server_error"
            raise Passing(f"{where}{detail}", why=why, wait=wait, worked=worked)
        if code == "content_filter":  # Azure is paid for reading what its filter then refuses
            raise PaidFor(f"{where}{detail}", why="filtered")
        if worked:
            raise PaidFor(f"{where}{detail}", why="timeout", again=True)
        if too_long:
            raise ItemFailed(f"{where}{detail}", why="over_limit", again=False)
        raise ItemFailed(f"{where}{detail}", why="bad_request")


def _seconds(retry_after: str) -> float:
    try:
        return max(0.0, float(retry_after))
    except ValueError:  # a date, which servers of this kind do not send; our own pauses do
        return 0.0
