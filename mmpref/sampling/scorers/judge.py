"""Scores by a model that judges: it sees the prompt, its images and the answer, and rates it on a scale by a rubric.

The judge is behind an OpenAI-compatible API and is asked through :mod:`mmpref.judging`: each reply is in a cache the
moment it is paid for, and nothing that an answer says is an instruction to the judge. Answers are rated one at a time,
so a rating depends on no other answer (a judge that compares two prefers the first, or the longer one: Zheng et al.
2023, arXiv 2306.05685).
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mmpref.data.images.loader import ImageLoader
from mmpref.data.quarantine import RowError
from mmpref.errors import ConfigError
from mmpref.generation.api_server import CONCURRENCY, TIMEOUT, Server
from mmpref.generation.concurrency import ItemFailed
from mmpref.judging import text
from mmpref.judging.cache import Reply, read_cache, refuse_other_file
from mmpref.judging.contract import JudgeTask, Sections, ShownImage
from mmpref.judging.cost import MAX_REPLY_TOKENS, Prices, Spent, image_tokens
from mmpref.judging.engine import Case, Engine, case_of
from mmpref.judging.rating import rating_task, rating_version
from mmpref.records import Candidates, ImageRef, Message, Prompt
from mmpref.sampling.scorers.contract import AnswerPlace, RawScore, ScoreContext, Scorer, options_of, scale_of
from mmpref.sampling.scorers.local import missing, without_score
from mmpref.sampling.scorers.rubrics import DEFAULT, rubric_text

CACHE = "judge_cache.jsonl"
_LONGEST_REASON = 300
_MAY_COME_BACK = frozenset({"image_missing", "image_no_root", "image_outside_root", "image_unreadable"})
"""What is wrong with the place of an image and not with the image: another run may find it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which model judges, by what, and what that may cost.

    Args:
        server: address of an OpenAI-compatible API.
        model: the judge's name there.
        key_env: environment variable with the API key.
        rubric: a built-in one by name, or a text file.
        scale: LOWEST..HIGHEST.
        decimals: whether numbers between whole ones are ratings.
        images: whether the judge is shown the images.
        concurrency: requests under way at once.
        timeout: seconds in which a whole reply must have come.
        max_reply_tokens: of one reply with its thinking, at most.
        price_in: dollars per million prompt tokens.
        price_out: dollars per million reply tokens.
        max_cost: dollars of one run, at most.
        cache: file of the replies, which several folders may share; None: in the folder of the step.

    Raises:
        ConfigError: a value that makes no sense, or an API key that is not set.
    """

    server: str
    model: str
    key_env: str | None = None
    rubric: str = DEFAULT
    scale: str = "1..5"
    decimals: bool = False
    images: bool = True
    concurrency: int = CONCURRENCY
    timeout: float = TIMEOUT
    max_reply_tokens: int = MAX_REPLY_TOKENS
    price_in: float | None = None
    price_out: float | None = None
    max_cost: float | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        for entry in fields(self):
            _check(entry.name, str(entry.type), getattr(self, entry.name))
        self.at().key()  # one that is not set is known before another scorer works
        self.task()
        if self.prices() is None and self.max_cost is not None:
            raise ConfigError("option max_cost needs the prices of the judge, price_in and price_out")

    def at(self) -> Server:
        """Where the judge is."""
        return Server(
            url=self.server,
            model=self.model,
            key_env=self.key_env,
            concurrency=self.concurrency,
            timeout=self.timeout,
        )

    def prices(self) -> Prices | None:
        """The judge's prices, where they are given."""
        if (self.price_in is None) != (self.price_out is None):
            raise ConfigError("give both prices, price_in and price_out, or none")
        given = self.price_in is not None and self.price_out is not None
        return Prices(prompt=self.price_in or 0.0, completion=self.price_out or 0.0) if given else None

    def task(self) -> JudgeTask:
        """What the judge is asked."""
        return rating_task(
            rubric_text(self.rubric, "rubric"),
            scale_of(self.scale, "scale"),
            whole=not self.decimals,
            judge=self.model,
            sections=sections_of,
        )


def build(name: str, options: Mapping[str, Any], context: ScoreContext) -> Scorer:
    """The scorer; nothing is sent yet.

    Raises:
        ConfigError: a wrong option, or an API key that is not set.
    """
    found = options_of(Options, options, name)
    cache = context.folder / CACHE if found.cache is None else Path(found.cache)
    refuse_other_file(cache)
    return JudgeScorer(found, found.at(), cache=cache, images_root=context.image_root)


class JudgeScorer:
    """Rates every answer on its own.

    Args:
        options: what is asked.
        server: where the judge is.
        cache: file of its replies.
        images_root: relative image paths start here.
    """

    def __init__(self, options: Options, server: Server, *, cache: Path, images_root: Path | None = None) -> None:
        self._options, self._server, self._cache = options, server, cache
        self._images = ImageLoader(images_root)
        self._task = options.task()
        self._spent = Spent(options.prices(), options.max_cost, options.max_reply_tokens)
        self._num_known = 0
        self.version = rating_version(self._task)
        self.scale: tuple[float, float] = scale_of(options.scale, "scale")
        rubric = hashlib.sha256(self._task.instruction.encode()).hexdigest()
        self.depends_on: Mapping[str, Any] = {
            "judge": server.model,
            "rubric": options.rubric,
            "rubric_sha256": rubric,
            "scale": list(self.scale),
            "decimals": options.decimals,
            "images": options.images,
        }

    def estimate(self, items: Sequence[Candidates]) -> list[tuple[str, str]]:
        """What scoring will take, as rows of a table; images are opened and nothing is sent.

        Raises:
            ConfigError: it would cost more than ``max_cost``.
        """
        places, failed = self._cases(items)
        engine = self._engine([case for case, _ in places])
        rows = [("judge", f"{self._server.model} at {self._server.url}"), ("answers", str(len(places) + len(failed)))]
        rows += [("cannot be judged", str(len(failed)))] if failed else []
        rows += text.estimated(engine.estimate(), prices="price_in and price_out")
        if any(case.images for case, _ in places):
            rows.append(("images", "counted as a token for 750 pixels, 85 to 4000 each; servers differ"))
        engine.refuse_above(self._options.max_cost)
        return rows

    def took(self) -> Mapping[str, Any]:
        """What scoring took so far."""
        spent = self._spent
        found: dict[str, Any] = {"known from the cache": self._num_known, "calls": spent.calls}
        found |= {"prompt tokens": round(spent.prompt), "reply tokens": round(spent.completion)}
        found |= {"calls without usable token counts": spent.guessed} if spent.guessed else {}
        return found | ({"dollars": spent.dollars} if spent.prices else {})

    def score(self, items: Sequence[Candidates]) -> Generator[RawScore]:
        """One score for each answer, as the replies come; equal answers to equal prompts are asked about once.

        Raises:
            ConfigError: the server refuses every request, the estimate is above ``max_cost``, or another process has
                the cache.
            EvalIncompleteError: many requests in a row failed, or another model judges; what was given is kept.
        """
        places, failed = self._cases(items)
        yield from failed
        by_key: dict[str, list[AnswerPlace]] = {}
        for case, place in places:
            by_key.setdefault(case.key, []).append(place)
        engine = self._engine([case for case, _ in places])
        with engine.cache_locked([self._task]):
            known = [key for key in by_key if key in engine.replies]
            self._num_known += sum(len(by_key[key]) for key in known)
            for key in known:
                yield from _scores(by_key[key], engine.replies[key])
            if self._options.max_cost is not None:
                engine.refuse_above(max(0.0, self._options.max_cost - self._spent.dollars))
            with contextlib.closing(engine.asking(self._spent)) as results:
                for case, reply in results:
                    yield from _scores(by_key[case.key], reply)

    def _engine(self, cases: Sequence[Case]) -> Engine:
        return Engine(
            cases=tuple(cases),
            server=self._server,
            cache=self._cache,
            replies=read_cache(self._cache, [self._task]),
            prices=self._spent.prices,
            encode=self._images.encoded,
            one_name=True,
        )

    def _cases(self, items: Sequence[Candidates]) -> tuple[list[tuple[Case, AnswerPlace]], list[RawScore]]:
        """What is asked about each answer, and the answers that cannot be judged."""
        cases: list[tuple[Case, AnswerPlace]] = []
        failed: list[RawScore] = []
        looked_at: dict[ImageRef, ShownImage] = {}
        for item in items:
            if item.prompt.videos:
                failed += missing(item, "video", "judges are sent images and text only")
                continue
            try:
                images = (
                    tuple(self._shown(ref, looked_at) for ref in item.prompt.images) if self._options.images else ()
                )
            except RowError as err:
                again = err.reason in _MAY_COME_BACK
                failed += [_failed(score.place, err.reason, str(err), again) for score in missing(item, err.reason)]
                continue
            for at, answer in enumerate(item.answers):
                sections = sections_of(item.prompt, answer.text, shown=self._options.images)
                place = AnswerPlace(item.prompt.id, at)
                cases.append((case_of(item.prompt.id, self._task, sections, self._server.model, images), place))
        return cases, failed

    def _shown(self, ref: ImageRef, looked_at: dict[ImageRef, ShownImage]) -> ShownImage:
        if ref not in looked_at:
            tokens = image_tokens(*self._images.size(ref))
            looked_at[ref] = ShownImage(ref=ref, digest=self._images.digest(ref), tokens=tokens)
        return looked_at[ref]


def sections_of(prompt: Prompt, answer: str, *, shown: bool = True) -> Sections:
    """What the judge reads: the question, or all turns where there are more, and the answer with its prefix.

    Args:
        shown: whether the judge is shown the images.
    """
    turns = prompt.prompt
    numbers = iter(range(1, len(prompt.images) + 1))
    texts = [_with_numbers(message, numbers, shown) for message in turns]
    if len(turns) == 1 and turns[0].role == "user":
        titles = ["QUESTION"]
    else:
        titles = [f"TURN {place}, {message.role.upper()}" for place, message in enumerate(turns, 1)]
    return (*zip(titles, texts, strict=True), ("ANSWER TO RATE", prompt.response_prefix + answer))


def _with_numbers(message: Message, numbers: Iterator[int], shown: bool) -> str:
    """The text of a message, with the number of an image in its place."""
    unseen = "" if shown else ", which you are not shown"
    pieces = [part.text if part.kind == "text" else f"(image {next(numbers)}{unseen})\n" for part in message.parts]
    return "".join(pieces).strip()


def _scores(places: Sequence[AnswerPlace], reply: Reply | ItemFailed) -> Iterator[RawScore]:
    for place in places:
        if isinstance(reply, ItemFailed):
            yield _failed(place, reply.why, str(reply), reply.again)
        else:
            said = {"reason": reply.reason[:_LONGEST_REASON], "judge": reply.judge}
            yield RawScore(place=place, value=float(reply.value), detail=said)  # type: ignore[arg-type]  # a number


def _failed(place: AnswerPlace, why: str, said: str, again: bool) -> RawScore:
    found = without_score(place, why, said)
    return RawScore(place=place, value=None, why=found.why, again=again, failed=not again, detail=found.detail)


def _check(name: str, kind: str, value: Any) -> None:
    """Refuse an option's value of another type: ``kind`` is the annotation of its field."""
    if value is None and "None" in kind:
        return
    wanted = kind.removesuffix(" | None")
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
    right = {
        "str": isinstance(value, str) and bool(value),
        "bool": isinstance(value, bool),
        "int": is_number and value == int(value) >= 1,
        "float": is_number,
    }
    if not right[wanted]:
        words = {"str": "a text", "bool": "true or false", "int": "a whole number from 1", "float": "a number from 0"}
        raise ConfigError(f"option {name} must be {words[wanted]}, got {value!r:.60}")
