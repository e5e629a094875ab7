"""Judging a file of answers: what it will cost, then the calls, each kept the moment it is paid for.

The cache holds replies by content (``cache``). So a run that was killed asks only what it had not asked, answers that
did not change are not judged twice, and a cache can be shared between models, one after the other. An answer without a
usable reply is written with its ``error`` and is missing.

Each verdict holds the hash of what it is about. Verdicts on other answers that stand where these are to stand are put
aside before anything is asked: a run that fails leaves none that could be taken for its own. Verdicts on these answers
that are others than those which are written, such as a person's or another judge's, are put aside too. None is deleted.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError, DataError, EvalIncompleteError
from mmpref.evals.benchmarks.judge_tasks import HALLUSIONBENCH_SAME, JUDGED, TASKS, figure_zero
from mmpref.evals.files.rows import pair_by_id
from mmpref.evals.files.verdicts import MAX_MISSING_SHARE, Verdict, content_hash, usable
from mmpref.evals.scoring import benchmark_named, with_defaults
from mmpref.files.locking import only_writer
from mmpref.files.reading import refuse_written_over
from mmpref.files.rows import Source, choose, first_ids, load_rows
from mmpref.files.writing import json_text, open_to_append, real_path, refuse_special, replacing, writing_to
from mmpref.generation.chat_api import ChatClient, Completion, ItemFailed, Server, in_parallel
from mmpref.generation.token_usage import Usage
from mmpref.judging.cache import Kept, cache_line, read_cache
from mmpref.judging.contract import JudgeTask, Sections, Value
from mmpref.judging.cost import CHARS_PER_TOKEN, MAX_REPLY_TOKENS, Estimate, Prices, Spent, dollars, tokens_of
from mmpref.judging.fence import UnusableReplyError, draw_fence, messages, read_reply, response_format
from mmpref.records import Answer, EvalSample

ASKED_AGAIN = 3
BY_RULE = "rule: at most three words name no object"
_USUAL_REPLY_TOKENS = 90
_OVERHEAD_TOKENS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it. ``missing`` are ids without a verdict, with the reasons; ``cost`` is of this run alone.

    ``not_compared`` are HallusionBench's ids whose second question got no reply, of ``num_compared``. Of
    ``num_guessed`` calls the server did not tell what they used, so the most that it can have been is counted.
    ``put_aside`` is where other verdicts are now, which stood in the file. ``elsewhere`` counts replies of the cache
    that are from other servers than this run's, by address, "" where the cache does not say it.
    """

    verdicts: tuple[Verdict, ...]
    missing: Mapping[str, str]
    num_calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None
    not_compared: Mapping[str, str]
    num_compared: int
    num_guessed: int
    put_aside: Path | None
    elsewhere: Mapping[str, int]

    def refuse_if_too_many_missing(self) -> None:
        """Say now what the scorer would say later.

        Raises:
            EvalIncompleteError: more than 2 % of the answers have no verdict, or were not compared with figure 0.
        """
        by_id = {verdict.id: verdict for verdict in self.verdicts}
        usable(by_id, list(by_id))
        if len(self.not_compared) > MAX_MISSING_SHARE * self.num_compared:
            reasons = "; ".join(sorted(set(self.not_compared.values()))[:3])
            raise EvalIncompleteError(
                f"{len(self.not_compared)} of {self.num_compared} answers were not compared with the one to figure 0 "
                f"('same'), more than {MAX_MISSING_SHARE:.0%}: {first_ids(list(self.not_compared))} ({reasons}); let "
                "the judge run again, it asks only about these, or leave the question out with --no-diagnosis"
            )


@dataclass(frozen=True, slots=True)
class _Case:
    """One thing to ask the judge about the answer ``id``."""

    id: str
    task: JudgeTask
    sections: Sections
    key: str
    judged: str
    """The hash of question and answer, as the scorer makes it."""

    @property
    def tokens(self) -> float:
        texts = sum(tokens_of(title) + tokens_of(text) for title, text in self.sections)
        return texts + (len(self.task.instruction) + 700) / CHARS_PER_TOKEN + _OVERHEAD_TOKENS


def load_answered(
    benchmark: str, questions: Source, answers: Source, **options: Any
) -> tuple[tuple[EvalSample, ...], Sequence[Answer]]:
    """The questions of a benchmark that has a judge, and saved answers to them."""
    chosen = benchmark_named(choose(benchmark, JUDGED, "benchmark with a judge"))
    filled = with_defaults(chosen, options)
    samples = chosen.load(questions, filled)
    return samples, chosen.load_answers(answers, samples, filled).answers


def plan_judging(
    benchmark: str,
    samples: Sequence[EvalSample],
    answers: Sequence[Answer],
    server: Server,
    *,
    cache: Path,
    prices: Prices | None = None,
    diagnosis: bool = True,
) -> JudgingPlan:
    """What has to be asked about these answers; nothing is sent yet.

    Args:
        cache: replies by content, read now and appended to later.
        diagnosis: HallusionBench's second question, whether an answer agrees with the one to figure 0.

    Raises:
        ConfigError: the benchmark has no judge, or the API key is missing.
        DataError: answers and questions do not belong together.
    """
    task = JUDGED[choose(benchmark, JUDGED, "benchmark with a judge")]
    pairs = pair_by_id(samples, answers)
    fixed: dict[str, Value] = {}
    cases = []
    for sample, text in pairs:
        if (value := task.needs_no_judge(text)) is not None:
            fixed[sample.id] = value
        else:
            cases.append(_case(sample, task, (text,), server))
    if benchmark == "hallusionbench" and diagnosis:
        texts = {sample.id: text for sample, text in pairs}
        by_id = {sample.id: sample for sample, _ in pairs}
        for name, zero in figure_zero([sample for sample, _ in pairs]).items():
            cases.append(_case(by_id[name], HALLUSIONBENCH_SAME, (texts[zero], texts[name]), server))
    server.key()
    return JudgingPlan(
        task=task,
        judged={sample.id: content_hash(sample, text) for sample, text in pairs},
        fixed=fixed,
        cases=tuple(cases),
        server=server,
        cache=cache,
        kept=read_cache(cache, TASKS),
        prices=prices,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgingPlan:
    """Everything that will be asked, and what is known already."""

    task: JudgeTask
    judged: Mapping[str, str]
    """The hash of every question and answer, by id."""
    fixed: Mapping[str, Value]
    cases: tuple[_Case, ...]
    server: Server
    cache: Path
    kept: dict[str, Kept]
    prices: Prices | None

    def estimate(self) -> Estimate:
        open_cases = self._open_cases()
        prompt = sum(case.tokens for case in open_cases)
        completion = float(_USUAL_REPLY_TOKENS * len(open_cases))
        return Estimate(
            num_answers=len(self.judged),
            num_by_rule=len(self.fixed),
            num_cached=sum(case.key in self.kept for case in self.cases),
            elsewhere=self._elsewhere(),
            num_calls=len(open_cases),
            prompt_tokens=round(prompt),
            completion_tokens=round(completion),
            cost=self.prices.of(prompt, completion) if self.prices else None,
        )

    def run(
        self,
        out: Path,
        *,
        max_cost: float | None = None,
        progress: Callable[[int, int], None] | None = None,
        broken_off: Callable[[Spent], None] = lambda spent: None,
    ) -> Outcome:
        """Ask what is open and write one verdict, or error, per answer to ``out``.

        Args:
            max_cost: dollars; refused at once when the estimate is higher, and no call is begun that would pass it.
            progress: called with (asked, to ask).
            broken_off: called with what was spent when an error or Ctrl-C ends this, as there is no outcome then.

        Raises:
            ConfigError: the estimate is above ``max_cost``, ``out`` is the cache, or the server refuses every request.
            EvalIncompleteError: many requests in a row failed; what was paid for is in the cache.
            CheckpointError: ``out`` or the cache can be no file; nothing was asked.
        """
        refuse_written_over({"--out": out, "the cache": self.cache}, ())
        for file in (out, self.cache):
            refuse_special(real_path(file))
        with ExitStack() as held:
            held.enter_context(only_writer(out, "choose another --out"))
            held.enter_context(only_writer(self.cache, "choose another --cache"))
            self.kept.update(read_cache(self.cache, TASKS))  # another judge may have ended since this was planned
            if max_cost is not None:
                self._refuse_dear(max_cost)
            put_aside = self._put_aside(out)
            spent, errors = Spent(self.prices, max_cost), dict[str, str]()
            try:
                self._ask(spent, errors, progress)
                verdicts, replaced = self._write(out, errors)
            except BaseException:
                broken_off(spent)
                raise
        second = [case for case in self.cases if case.task is not self.task]
        return Outcome(
            verdicts=verdicts,
            missing={verdict.id: verdict.error for verdict in verdicts if verdict.error is not None},
            num_calls=spent.calls,
            prompt_tokens=round(spent.prompt),
            completion_tokens=round(spent.completion),
            cost=spent.dollars if self.prices else None,
            not_compared={case.id: errors[case.key] for case in second if case.key in errors},
            num_compared=len(second),
            num_guessed=spent.guessed,
            put_aside=put_aside or replaced,
            elsewhere=self._elsewhere(),
        )

    def _ask(self, spent: Spent, errors: dict[str, str], progress: Callable[[int, int], None] | None) -> None:
        """Ask what is open; replies go to ``kept`` and the cache as they come, failures to ``errors``."""
        open_cases = self._open_cases()
        client = ChatClient(self.server)
        judge = _Judge(client, spent)
        stream = open_to_append(self.cache)
        asked = 0
        with stream:
            results = in_parallel(open_cases, judge.ask, workers=self.server.concurrency, stop=client.close)
            for case, reply in results:
                asked += 1
                if isinstance(reply, ItemFailed):
                    errors[case.key] = str(reply)
                else:
                    self.kept[case.key] = reply
                    with writing_to(self.cache):
                        stream.write(cache_line(case.key, case.task, reply))
                        stream.flush()
                if progress is not None:
                    progress(asked, len(open_cases))

    def _elsewhere(self) -> Counter[str]:
        known = [self.kept[case.key].server for case in self.cases if case.key in self.kept]
        return Counter(server for server in known if server != self.server.url)

    def _write(self, out: Path, errors: Mapping[str, str]) -> tuple[tuple[Verdict, ...], Path | None]:
        """The verdicts, now in ``out``, and where others are that stood there."""
        verdicts = tuple(self._verdicts(errors))
        reasons = {
            case.id: self.kept[case.key].reason
            for case in self.cases
            if case.task is self.task and case.key in self.kept
        }
        rows = {
            verdict.id: verdict.row() | ({"reason": reasons[verdict.id]} if reasons.get(verdict.id) else {})
            for verdict in verdicts
        }
        aside = _move_aside(out) if out.is_file() and _others_in(out, rows) else None
        with replacing(out) as file:
            for row in rows.values():
                file.write((json_text(row) + "\n").encode("utf-8"))
        return verdicts, aside

    def _put_aside(self, out: Path) -> Path | None:
        """Move verdicts that are not all about these answers out of the way; others stay until there are new ones."""
        if not out.is_file():
            return None
        try:
            rows = load_rows(out, "verdicts")
            if all(row.get("judged") == self.judged.get(str(row.get("id")), 0) for row in rows):
                return None
        except DataError:
            pass  # no verdicts at all
        return _move_aside(out)

    def _open_cases(self) -> list[_Case]:
        """What is in no cache, each content once."""
        found = {case.key: case for case in self.cases if case.key not in self.kept}
        return list(found.values())

    def _refuse_dear(self, max_cost: float) -> None:
        estimate = self.estimate()
        if estimate.cost is None:
            raise ConfigError("a limit of cost needs the prices of the judge: give both, in dollars per million tokens")
        if estimate.cost > max_cost:
            raise ConfigError(
                f"judging would cost about {dollars(estimate.cost)} ({estimate.num_calls} calls), more than "
                f"{dollars(max_cost)}; raise the limit or judge fewer answers; nothing was sent"
            )

    def _verdicts(self, errors: Mapping[str, str]) -> Iterator[Verdict]:
        main = {case.id: case for case in self.cases if case.task is self.task}
        second = {case.id: case for case in self.cases if case.task is not self.task}
        for name, judged in self.judged.items():
            if name in self.fixed:
                yield replace(_verdict(name, self.task, self.fixed[name], BY_RULE), judged=judged)
                continue
            case = main[name]
            kept = self.kept.get(case.key)
            if kept is None:
                yield Verdict(id=name, judge=self.server.model, error=errors[case.key], judged=judged)
                continue
            found = replace(_verdict(name, self.task, kept.value, kept.judge), judged=judged)
            if name in second:
                other = second[name]
                same = self.kept.get(other.key)
                said = {"same_error": errors[other.key]} if same is None else {"same": bool(same.value)}
                found = replace(found, same_judged=other.judged, **said)
            yield found


@dataclass(slots=True)
class _Judge:
    """Asks one case after the other; used by several threads."""

    client: ChatClient
    spent: Spent
    structured: bool = True

    def ask(self, case: _Case) -> Kept:
        """One usable reply.

        Raises:
            ItemFailed: the server gave none, or what it gave was not usable, several times over.
        """
        why = ""
        for _ in range(ASKED_AGAIN):
            fence = draw_fence(case.sections)
            with self.spent.call(case.tokens):
                reply = self._complete(case, fence)
                self.spent.add(reply, case.tokens)
            if reply.cut:
                why = f"the reply was cut after {MAX_REPLY_TOKENS} tokens"
                continue
            try:
                value, reason = read_reply(case.task, reply.text, fence)
            except UnusableReplyError as err:
                why = str(err)
                continue
            return Kept(value, reason, reply.model, self.client.server.url)
        raise ItemFailed(f"no usable reply in {ASKED_AGAIN}: {why}")

    def _complete(self, case: _Case, fence: str) -> Completion:
        asked = messages(case.task, case.sections, fence)

        def lost(usage: Usage) -> None:
            self.spent.lost(case.tokens, usage)

        if self.structured:
            try:
                form = response_format(case.task, fence)
                return self.client.complete(asked, max_tokens=MAX_REPLY_TOKENS, response_format=form, lost=lost)
            except ItemFailed as err:
                if not any(word in str(err) for word in ("response_format", "json_schema", "guided", "schema")):
                    raise
                self.structured = False  # a server that knows no schemas; the reply is checked all the same
        return self.client.complete(asked, max_tokens=MAX_REPLY_TOKENS, lost=lost)


def _case(sample: EvalSample, task: JudgeTask, answers: tuple[str, ...], server: Server) -> _Case:
    sections = task.sections(sample, *answers)
    content = json_text([server.model, task.name, task.version, sections])
    key = hashlib.sha256(content.encode()).hexdigest()
    return _Case(sample.id, task, sections, key, content_hash(sample, *answers))


def _others_in(out: Path, rows: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether something stands in a file of verdicts that will not stand in these rows."""
    try:
        before = load_rows(out, "verdicts")
    except DataError:
        return True
    return any(
        rows.get(str(row.get("id")), {}).get(name) != value
        for row in before
        if row.get("error") is None
        for name, value in row.items()
        if name not in ("id", "same_error")
    )


def _move_aside(out: Path) -> Path:
    """Rename a file to a name that nothing has."""
    names = itertools.chain(["before"], (f"before{number}" for number in itertools.count(2)))
    aside = next(path for name in names if not os.path.lexists(path := out.with_name(f"{out.name}.{name}")))
    with writing_to(out):
        out.replace(aside)
    return aside


def _verdict(name: str, task: JudgeTask, value: Value, judge: str) -> Verdict:
    if task.field == "score" and isinstance(value, int):
        return Verdict(id=name, judge=judge, score=value)
    if task.field == "objects" and isinstance(value, list):
        return Verdict(id=name, judge=judge, objects=tuple(value))
    return Verdict(id=name, judge=judge, verdict=str(value))  # type: ignore[arg-type]  # checked by read
