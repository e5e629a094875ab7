"""From cases to a judge's replies: the estimate first, then the calls, each reply cached the moment it is paid for.

A case is one request: a task and the sections and images that it shows. Its key is made from the judge's name, the task
with its version and everything that the judge is shown, images by the bytes of their files, so equal cases are asked
once, a run that was killed asks only what it had not asked, and a cache can be shared by several runs, one after the
other.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError, DataError, EvalIncompleteError
from mmpref.files.locking import only_writer
from mmpref.files.writing import json_text, open_to_append, real_path, refuse_special, writing_to
from mmpref.generation.api_server import Server
from mmpref.generation.chat_api import ChatClient
from mmpref.generation.chat_reply import Completion
from mmpref.generation.concurrency import ItemFailed, in_parallel
from mmpref.generation.server import Encode, image_part
from mmpref.generation.token_usage import Usage
from mmpref.judging.cache import Reply, cache_line, read_cache
from mmpref.judging.contract import JudgeTask, Sections, ShownImage
from mmpref.judging.cost import CHARS_PER_TOKEN, Estimate, Prices, Spent, dollars, tokens_of
from mmpref.judging.fence import UnusableReplyError, draw_fence, messages, read_reply, response_format

ATTEMPTS = 3
"""How often a case is asked whose reply is not usable."""
_USUAL_REPLY_TOKENS = 90
_OVERHEAD_TOKENS = 12
_RULES_CHARS = 700  # of the rules around a task's instruction

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Case:
    """One request to the judge, about the answer ``id``; cases with one ``key`` are one request."""

    id: str
    task: JudgeTask
    sections: Sections
    key: str
    images: tuple[ShownImage, ...] = ()

    @property
    def tokens(self) -> float:
        """About how many tokens the request has, by its length."""
        shown = sum(tokens_of(title) + tokens_of(text) for title, text in self.sections)
        shown += sum(image.tokens for image in self.images)
        return shown + (len(self.task.instruction) + _RULES_CHARS) / CHARS_PER_TOKEN + _OVERHEAD_TOKENS


def case_of(name: str, task: JudgeTask, sections: Sections, judge: str, images: tuple[ShownImage, ...] = ()) -> Case:
    """The case of the answer ``name`` for the judge of that name."""
    shown: list[Any] = [judge, task.name, task.version, sections]
    if images:  # without them the key is the one of caches that are older than images
        shown.append([image.digest for image in images])
    return Case(name, task, sections, hashlib.sha256(json_text(shown).encode()).hexdigest(), images)


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A judge and what it is to be asked.

    Args:
        cases: all of them; those with a reply in the cache are not asked.
        server: where the judge is.
        cache: file of the replies, read and appended to.
        replies: those that are known, by key of the case; filled while cases are asked.
        prices: None where cost is not counted.
        encode: media type and file of an image; needed where cases have images.
        one_name: a reply that names another model than those before it, the known ones too, ends the work.
    """

    cases: tuple[Case, ...]
    server: Server
    cache: Path
    replies: dict[str, Reply]
    prices: Prices | None
    encode: Encode | None = None
    one_name: bool = False

    def open_cases(self) -> list[Case]:
        """The cases without a reply, each content once."""
        found = {case.key: case for case in self.cases if case.key not in self.replies}
        return list(found.values())

    def elsewhere(self) -> Counter[str]:
        """Number of known replies that are from other servers, by address, "" where that is not known."""
        known = [self.replies[case.key].server for case in self.cases if case.key in self.replies]
        return Counter(server for server in known if server != self.server.url)

    def estimate(self) -> Estimate:
        """What asking will take; nothing is sent."""
        open_cases = self.open_cases()
        prompt = sum(case.tokens for case in open_cases)
        completion = float(_USUAL_REPLY_TOKENS * len(open_cases))
        return Estimate(
            num_cached=sum(case.key in self.replies for case in self.cases),
            elsewhere=self.elsewhere(),
            num_calls=len(open_cases),
            prompt_tokens=round(prompt),
            completion_tokens=round(completion),
            cost=self.prices.of(prompt, completion) if self.prices else None,
        )

    def refuse_above(self, max_cost: float | None) -> None:
        """Refuse to ask where the estimate is above a limit in dollars.

        Raises:
            ConfigError: it is, or there are no prices to make it from.
        """
        if max_cost is None:
            return
        estimate = self.estimate()
        if estimate.cost is None:
            raise ConfigError("a limit of cost needs the prices of the judge: give both, in dollars per million tokens")
        if estimate.cost > max_cost:
            raise ConfigError(
                f"judging would cost about {dollars(estimate.cost)} ({estimate.num_calls} calls), more than "
                f"{dollars(max_cost)}; raise the limit or judge fewer answers; nothing was sent"
            )

    @contextmanager
    def cache_locked(self, tasks: Iterable[JudgeTask]) -> Iterator[None]:
        """The cache for this process alone, and everything in it known: another judge may have ended meanwhile.

        Raises:
            ConfigError: another process has it.
            CheckpointError: it can be no file.
        """
        refuse_special(real_path(self.cache))
        with only_writer(self.cache, "choose another --cache (of a scorer: NAME.cache=FILE)"):
            self.replies.update(read_cache(self.cache, tasks))
            yield

    def ask(self, spent: Spent, progress: Progress | None = None) -> dict[str, str]:
        """Ask the open cases; replies go to ``replies`` and the cache as they come.

        Args:
            spent: counts what is used, ends the calls at its limit of cost, and says how long a reply may be.
            progress: called with (asked, to ask).

        Returns:
            Why there is no reply, by key, of the cases that failed.

        Raises:
            ConfigError, EvalIncompleteError: as :meth:`asking`.
        """
        total, errors = len(self.open_cases()), dict[str, str]()
        with contextlib.closing(self.asking(spent)) as results:
            for asked, (case, reply) in enumerate(results, 1):
                if isinstance(reply, ItemFailed):
                    errors[case.key] = str(reply)
                if progress is not None:
                    progress(asked, total)
        return errors

    def asking(self, spent: Spent) -> Generator[tuple[Case, Reply | ItemFailed]]:
        """Each open case with its reply, or why there is none, as they come; a reply is in ``replies`` and the cache
        before it is given.

        Raises:
            ConfigError: the server refuses every request.
            EvalIncompleteError: many requests in a row failed, or with ``one_name`` another model replies; what was
                paid for is in the cache.
        """
        client = ChatClient(self.server)
        named = frozenset(reply.judge for reply in self.replies.values()) if self.one_name else frozenset()
        caller = _Caller(client, spent, self.encode)
        results = in_parallel(self.open_cases(), caller.ask, workers=self.server.concurrency, stop=client.close)
        with open_to_append(self.cache) as stream, contextlib.closing(results):
            for case, reply in results:
                if isinstance(reply, Reply):
                    if self.one_name:
                        named = self._same_name(named, reply.judge)
                    self.replies[case.key] = reply
                    with writing_to(self.cache):
                        stream.write(cache_line(case.key, case.task, reply))
                        stream.flush()
                yield case, reply

    def _same_name(self, before: frozenset[str], name: str) -> frozenset[str]:
        """The one name of the replies, where it is one.

        Raises:
            EvalIncompleteError: it is not.
        """
        if before - {name}:
            raise EvalIncompleteError(
                f"the judge at {self.server.url} answers as '{name}' now and as '{min(before - {name})}' before, and "
                f"scores of two judges are not compared; those of the first are kept in {self.cache}: ask for it by "
                "its full name, or choose another cache and another folder"
            )
        return frozenset({name})


@dataclass(slots=True)
class _Caller:
    """Makes the calls of one case; used by several threads."""

    client: ChatClient
    spent: Spent
    encode: Encode | None = None
    structured: bool = True

    def ask(self, case: Case) -> Reply:
        """One usable reply.

        Raises:
            ItemFailed: the server gave none, or what it gave was not usable, several times over.
        """
        said, why = "", ""
        images = self._images(case)
        for _ in range(ATTEMPTS):
            fence = draw_fence(case.sections)
            with self.spent.call(case.tokens):
                reply = self._complete(case, fence, images)
                self.spent.add(reply, case.tokens)
            if reply.cut:
                said, why = f"the reply was cut after {self.spent.most_reply} tokens", "cut"
                continue
            try:
                value, reason = read_reply(case.task, reply.text, fence)
            except UnusableReplyError as err:
                said, why = str(err), err.why
                continue
            return Reply(value, reason, reply.model, self.client.server.url)
        raise ItemFailed(f"no usable reply in {ATTEMPTS}: {said}", why=why)

    def _images(self, case: Case) -> list[dict[str, Any]]:
        """The images as parts of a message.

        Raises:
            ItemFailed: one cannot be opened.
        """
        if not case.images:
            return []
        assert self.encode is not None, "a case has images, and nothing opens them"
        try:
            return [image_part(*self.encode(image.ref)) for image in case.images]
        except DataError as err:
            raise ItemFailed(str(err), why=getattr(err, "reason", "") or "image") from err

    def _complete(self, case: Case, fence: str, images: Sequence[Mapping[str, Any]]) -> Completion:
        asked, most = messages(case.task, case.sections, fence, images), self.spent.most_reply

        def lost(usage: Usage) -> None:
            self.spent.lost(case.tokens, usage)

        if self.structured:
            try:
                form = response_format(case.task, fence)
                return self.client.complete(asked, max_tokens=most, response_format=form, lost=lost)
            except ItemFailed as err:
                if not any(word in str(err) for word in ("response_format", "json_schema", "guided", "schema")):
                    raise
                self.structured = False  # a server that knows no schemas; the reply is checked all the same
        return self.client.complete(asked, max_tokens=most, lost=lost)
