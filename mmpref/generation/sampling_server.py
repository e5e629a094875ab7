"""Sampled answers from one or several servers with an OpenAI-compatible chat API, all of which have the same model."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError, DataError, EvalIncompleteError
from mmpref.generation.answer_log import served_differently
from mmpref.generation.api_server import Server
from mmpref.generation.chat_api import ChatClient
from mmpref.generation.chat_reply import Completion
from mmpref.generation.concurrency import ItemFailed, NotAsked, in_parallel
from mmpref.generation.server import chat_messages
from mmpref.generation.settings import SampleSettings
from mmpref.records import Answer, EvalSample

_OF_THE_PROMPT = frozenset({"over_limit", "bad_request", "image"})
"""Failures that the other samples of the same prompt would have as well."""
_OF_THE_SERVER = frozenset({"no_connection", "timeout", "server_error"})
"""Failures that another server of the same model may not have."""
_DOWN_AFTER = 3
_LOOKED_AT_AGAIN = 30.0


class ServerSampler:
    """Asks for one sample at a time, many at once, and gives them as they come.

    One request a sample, and those of a prompt after each other and at the same server: vLLM and SGLang compute the
    prompt and its images once for them (prefix caching). A prompt that a server refuses is not sent again for its other
    samples. Of several servers one that is down is left alone for a while, and its prompts go to the others.

    A sample's ``meta`` has its ``seed``, and ``prompt_id``, which is the same for the samples of one prompt. A server
    that takes no seed is asked without one, and the ``seed`` of the answer is None.

    Args:
        servers: where they are and how each is asked; all call the model by the same name.
        sampling: temperature and ``top_p``, both sent with every request.
        images_root: relative image paths start here.
        max_new_tokens: an answer stops here if it did not end before.

    Raises:
        ConfigError: no server, or two names of the model.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        *,
        sampling: SampleSettings,
        images_root: str | Path | None = None,
        max_new_tokens: int = 256,
    ) -> None:
        from mmpref.data.images.loader import ImageLoader

        if len({server.model for server in servers}) != 1:
            raise ConfigError(f"{len(servers)} servers must have one model, under one name")
        if len({server.url for server in servers}) < len(servers):
            raise ConfigError("a server is given twice; raise --concurrency to ask it more at once")
        self._servers, self._sampling, self._max_new_tokens = list(servers), sampling, max_new_tokens
        self._encode = ImageLoader(images_root).encoded
        self._lock = threading.Lock()
        self.named: str | None = None
        """The model's name in the replies; set it to that of answers which are there already."""
        self.failures: dict[str, str] = {}
        self.failure_codes: dict[str, str] = {}
        self.left_out: frozenset[str] = frozenset()
        """Fields of requests that a server refused, and that it is asked without."""
        for server in servers:
            server.key()  # a missing key is an error before anything is asked

    @property
    def facts(self) -> Mapping[str, Any]:
        """What is to be written down of who answered."""
        facts: dict[str, Any] = {"servers": [server.url for server in self._servers], "served_as": self.named}
        return facts | ({"asked_without": sorted(self.left_out)} if self.left_out else {})

    def served(self) -> dict[str, Any] | None:
        """What the servers say of the model beside its answers; None where none can be reached.

        Raises:
            ConfigError: they have different models under one name.
        """
        first: tuple[Server, dict[str, Any]] | None = None
        for server in self._servers:
            client = ChatClient(server)
            try:
                found = client.served()
            finally:
                client.close()
            if found is None:
                continue
            if first is not None and (differs := served_differently(first[1], found)):
                raise ConfigError(f"{first[0].url} and {server.url} have different models under one name: {differs}")
            first = first or (server, found)
        return None if first is None else first[1]

    def answer(self, samples: Sequence[EvalSample]) -> Iterator[Answer]:
        """Answers as the replies come; why others have none is in ``failures``, and as a word in ``failure_codes``.

        Raises:
            ConfigError: a server refuses every request.
            EvalIncompleteError: many requests in a row failed, or another model answers.
        """
        asking = _Asking(self._servers)

        def ask(sample: EvalSample) -> Completion:
            prompt_id = str(sample.meta.get("prompt_id", sample.id))
            if (before := asking.refused.get(prompt_id)) is not None:
                raise NotAsked(str(before), why=before.why)
            try:
                shown = asking.shown(prompt_id)
                messages = shown.messages(lambda: self._messages(sample))
                reply = asking.at_servers(shown, lambda client: self._complete(client, messages, sample))
            except ItemFailed as err:
                if err.why in _OF_THE_PROMPT and asking.refused.setdefault(prompt_id, err) is not err:
                    raise NotAsked(str(err), why=err.why) from err  # the prompt counts once, however many were sent
                raise
            self._refuse_another(reply.model)
            return reply

        try:
            for sample, reply in in_parallel(samples, ask, workers=asking.workers, stop=asking.close):
                if isinstance(reply, ItemFailed):
                    self.failures[sample.id], self.failure_codes[sample.id] = str(reply), reply.why
                    continue
                yield Answer(
                    id=sample.id,
                    text=reply.text.strip(),
                    cut=reply.cut,
                    served_as=reply.model,
                    server_state=reply.fingerprint or "",
                    seed=reply.seed,
                )
        finally:
            self.left_out |= asking.left_out()

    def _complete(self, client: ChatClient, messages: list[dict[str, Any]], sample: EvalSample) -> Completion:
        return client.complete(
            messages,
            max_tokens=self._max_new_tokens,
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            seed=sample.meta.get("seed"),
        )

    def _messages(self, sample: EvalSample) -> list[dict[str, Any]]:
        try:
            return chat_messages(sample, self._encode)
        except DataError as err:  # an image that went away meanwhile: the other prompts go on
            raise ItemFailed(str(err), why="image", again=False) from err

    def _refuse_another(self, named: str) -> None:
        with self._lock:
            self.named = self.named or named
            if named != self.named:
                who = self._servers[0].url if len(self._servers) == 1 else "a server"
                raise EvalIncompleteError(
                    f"{who} answers as '{named}' now and as '{self.named}' before, and samples of two models do not "
                    "belong together; those of the first are kept: ask for it by its full name, or choose another --out"
                )


@dataclass(slots=True)
class _At:
    """One server while it is asked."""

    client: ChatClient
    under_way: int = 0
    failed_in_a_row: int = 0
    left_alone_until: float = 0.0

    @property
    def is_down(self) -> bool:
        return self.failed_in_a_row >= _DOWN_AFTER and time.monotonic() < self.left_alone_until

    @property
    def has_room(self) -> bool:
        return self.under_way < self.client.server.concurrency


@dataclass(slots=True)
class _Shown:
    """The messages of one prompt, made by whoever needs them first, and the server that its samples go to."""

    home: _At | None = None
    _messages: list[dict[str, Any]] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def messages(self, make: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
        with self._lock:
            if self._messages is None:
                self._messages = make()
            return self._messages


@dataclass(slots=True)
class _Asking:
    """What the threads have in common while they ask."""

    servers: list[Server]
    refused: dict[str, ItemFailed] = field(default_factory=dict)
    """Prompt -> why it is not sent again."""
    _shown: OrderedDict[str, _Shown] = field(default_factory=OrderedDict)
    _lock: threading.Condition = field(default_factory=threading.Condition)
    _at: list[_At] = field(default_factory=list)
    _waiting: int = 0
    _is_closed: bool = False

    def __post_init__(self) -> None:
        self._at = [_At(ChatClient(server)) for server in self.servers]

    @property
    def workers(self) -> int:
        """How many samples are at work: as many as the servers take, and those that may wait."""
        return sum(server.concurrency for server in self.servers) + self._may_wait

    @property
    def _may_wait(self) -> int:
        """How many samples wait for their prompt's server at most, while others keep all servers busy."""
        return max(server.concurrency for server in self.servers) if len(self.servers) > 1 else 0

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            self._lock.notify_all()
        for at in self._at:
            at.client.close()

    def left_out(self) -> frozenset[str]:
        return frozenset().union(*(at.client.left_out for at in self._at))

    def shown(self, prompt_id: str) -> _Shown:
        """The messages of a prompt, kept while its samples are asked for: about as many as are under way."""
        with self._lock:
            found = self._shown.setdefault(prompt_id, _Shown())
            self._shown.move_to_end(prompt_id)
            while len(self._shown) > self.workers + 1:
                self._shown.popitem(last=False)
            return found

    def at_servers(self, shown: _Shown, ask: Callable[[ChatClient], Completion]) -> Completion:
        """One reply, of the prompt's server or, where that fails, of another.

        Raises:
            ItemFailed: as the last of them said.
        """
        tried: list[_At] = []
        while True:
            at = self._choose(shown, tried)
            tried.append(at)
            try:
                reply = ask(at.client)
            except ItemFailed as err:
                self._done(at, is_well=err.why not in _OF_THE_SERVER)
                if err.why not in _OF_THE_SERVER or len(tried) == len(self._at):
                    raise
            except BaseException:
                self._done(at, is_well=True)
                raise
            else:
                self._done(at, is_well=True)
                return reply

    def _choose(self, shown: _Shown, tried: Sequence[_At]) -> _At:
        """The prompt's server, as soon as that has room; the one with the least to do for a prompt that has none yet,
        where it is down, and where too many wait already: a server that hangs must not stop the others."""
        with self._lock:
            while True:
                left = [at for at in self._at if not any(at is other for other in tried)]
                up = [at for at in left if not at.is_down] or left
                home = [at for at in up if at is shown.home]
                at = min(home or up, key=lambda one: one.under_way)
                if not at.has_room and self._waiting >= self._may_wait:
                    at = min(up, key=lambda one: one.under_way)
                if at.has_room or self._is_closed or not self._may_wait:
                    break
                self._waiting += 1
                self._lock.wait()
                self._waiting -= 1
            shown.home = shown.home or at
            at.under_way += 1
            return at

    def _done(self, at: _At, *, is_well: bool) -> None:
        with self._lock:
            at.under_way -= 1
            at.failed_in_a_row = 0 if is_well else at.failed_in_a_row + 1
            at.left_alone_until = time.monotonic() + _LOOKED_AT_AGAIN
            self._lock.notify_all()
