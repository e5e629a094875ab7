"""A model judges saved answers of a benchmark: cases for the engine, and the file of verdicts.

An answer without a usable reply is written with its ``error`` and is missing.

Each verdict has the hash of what it is about. Verdicts on other answers in the place of the output are moved aside
before anything is asked: a run that fails leaves none that could be taken for its own. Verdicts on these answers that
differ from those which are written, such as a person's or another judge's, are moved aside too. None is deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError, EvalIncompleteError
from mmpref.evals.benchmarks.judge_tasks import HALLUSIONBENCH_SAME, JUDGED, TASKS, figure_zero
from mmpref.evals.files.rows import pair_by_id
from mmpref.evals.files.verdict_file import move_aside_foreign, write_verdicts
from mmpref.evals.files.verdicts import MAX_MISSING_SHARE, Verdict, content_hash, usable
from mmpref.evals.scoring import benchmark_named, with_defaults
from mmpref.files.locking import only_writer
from mmpref.files.reading import refuse_written_over
from mmpref.files.rows import Source, choose, first_ids
from mmpref.files.writing import real_path, refuse_special
from mmpref.generation.api_server import Server
from mmpref.judging import text
from mmpref.judging.cache import read_cache
from mmpref.judging.contract import JudgeTask, Value
from mmpref.judging.cost import Estimate, Prices, Spent
from mmpref.judging.engine import Case, Engine, case_of
from mmpref.records import Answer, EvalSample

BY_RULE = "rule: at most three words name no object"
_WITH_JUDGE = "benchmark with a judge"


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeSettings:
    """Which model judges, and what that may cost.

    Args:
        server: where it is.
        cache: file of its replies.
        prices: None where cost is not counted.
        max_cost: dollars at most.
        say: called with a line on what it took.
    """

    server: Server
    cache: Path
    prices: Prices | None = None
    max_cost: float | None = None
    say: Callable[[str], None] = lambda line: None

    def refuse_unusable(self, benchmark: str) -> None:
        """Raise what is wrong before the answers that are to be judged are made.

        Raises:
            ConfigError: the benchmark has no judge, or the API key is missing.
        """
        if benchmark not in JUDGED:
            raise ConfigError(f"{benchmark} has no judge; these have: {', '.join(JUDGED)}")
        self.server.key()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it. ``missing`` are ids without a verdict, with the reasons; ``cost`` is of this run alone.

    ``not_compared`` are HallusionBench's ids whose second question got no reply, of ``num_compared``. Of
    ``num_guessed`` calls the server did not say what they used, so the most that it can have been is counted.
    ``moved_aside`` is where other verdicts are now, which were in the file. ``elsewhere`` counts replies of the cache
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
    moved_aside: Path | None
    elsewhere: Mapping[str, int]

    def summary(self) -> str:
        """What it took, in one line."""
        used = text.used(self.num_calls, self.prompt_tokens, self.completion_tokens, self.cost)
        line = f"{len(self.verdicts) - len(self.missing)} verdicts; {used}"
        if self.missing:
            line += f"; {len(self.missing)} missing"
        if self.num_compared:
            done = self.num_compared - len(self.not_compared)
            line += f"; {done} of {self.num_compared} answers compared with the one to figure 0"
        if self.elsewhere:
            line += f"; replies that were there before{text.from_elsewhere(self.elsewhere)}"
        return line + text.guessed(self.num_guessed)

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


def load_answered(
    benchmark: str, questions: Source, answers: Source, **options: Any
) -> tuple[tuple[EvalSample, ...], Sequence[Answer]]:
    """The questions of a benchmark that has a judge, and saved answers to them."""
    chosen = benchmark_named(choose(benchmark, JUDGED, _WITH_JUDGE))
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
    task = JUDGED[choose(benchmark, JUDGED, _WITH_JUDGE)]
    pairs = pair_by_id(samples, answers)
    by_rule: dict[str, Value] = {}
    cases = []
    for sample, answer in pairs:
        if (value := task.needs_no_judge(answer)) is not None:
            by_rule[sample.id] = value
        else:
            cases.append(case_of(sample.id, task, task.sections(sample, answer), server.model))
    compared = {}
    if benchmark == "hallusionbench" and diagnosis:
        texts = {sample.id: answer for sample, answer in pairs}
        by_id = {sample.id: sample for sample, _ in pairs}
        for name, zero in figure_zero([sample for sample, _ in pairs]).items():
            both = (texts[zero], texts[name])
            sections = HALLUSIONBENCH_SAME.sections(by_id[name], *both)
            cases.append(case_of(name, HALLUSIONBENCH_SAME, sections, server.model))
            compared[name] = content_hash(by_id[name], *both)
    server.key()
    return JudgingPlan(
        task=task,
        judged={sample.id: content_hash(sample, answer) for sample, answer in pairs},
        compared=compared,
        by_rule=by_rule,
        engine=Engine(cases=tuple(cases), server=server, cache=cache, replies=read_cache(cache, TASKS), prices=prices),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgingPlan:
    """Everything that will be asked, and what is known already.

    Args:
        task: the question about each answer.
        judged: the hash of every question and answer, by id.
        compared: the hash of question, answer and the answer to figure 0, by id, where these are compared.
        by_rule: values of the answers that need no judge, by id.
        engine: asks the cases.
    """

    task: JudgeTask
    judged: Mapping[str, str]
    compared: Mapping[str, str]
    by_rule: Mapping[str, Value]
    engine: Engine

    def estimate(self) -> Estimate:
        """What asking will take; nothing is sent."""
        return self.engine.estimate()

    def facts(self) -> list[tuple[str, str]]:
        """The estimate as rows of a table."""
        answers = f"{len(self.judged)} ({len(self.by_rule)} need no judge)"
        return [("answers", answers), *text.estimated(self.estimate())]

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
        engine = self.engine
        refuse_written_over({"--out": out, "the cache": engine.cache}, ())
        for file in (out, engine.cache):
            refuse_special(real_path(file))
        with only_writer(out, "choose another --out"), engine.cache_locked(TASKS):
            engine.refuse_above(max_cost)
            moved_aside = move_aside_foreign(out, self.judged)
            spent = Spent(engine.prices, max_cost)
            try:
                errors = engine.ask(spent, progress)
                verdicts = tuple(self._verdicts(errors))
                replaced = write_verdicts(out, verdicts, self._reasons())
            except BaseException:
                broken_off(spent)
                raise
        second = self._cases(HALLUSIONBENCH_SAME)
        return Outcome(
            verdicts=verdicts,
            missing={verdict.id: verdict.error for verdict in verdicts if verdict.error is not None},
            num_calls=spent.calls,
            prompt_tokens=round(spent.prompt),
            completion_tokens=round(spent.completion),
            cost=spent.dollars if engine.prices else None,
            not_compared={name: errors[case.key] for name, case in second.items() if case.key in errors},
            num_compared=len(second),
            num_guessed=spent.guessed,
            moved_aside=moved_aside or replaced,
            elsewhere=engine.elsewhere(),
        )

    def run_and_report(
        self,
        out: Path,
        *,
        max_cost: float | None,
        say: Callable[[str], None],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Judge, and say what it took.

        Raises:
            EvalIncompleteError: as :meth:`run`, and where so much is missing that no number can be made.
        """

        def broken_off(spent: Spent) -> None:
            if spent.calls:
                say(text.broken_off(spent))

        outcome = self.run(out, max_cost=max_cost, progress=progress, broken_off=broken_off)
        say(outcome.summary())
        if outcome.moved_aside is not None:
            say(f"{out} had other verdicts than these, or on other answers; they are in {outcome.moved_aside} now")
        outcome.refuse_if_too_many_missing()

    def _cases(self, task: JudgeTask) -> dict[str, Case]:
        return {case.id: case for case in self.engine.cases if case.task is task}

    def _reasons(self) -> dict[str, str]:
        """The judge's reasons by id, where there is a reply."""
        replies = self.engine.replies
        return {name: replies[case.key].reason for name, case in self._cases(self.task).items() if case.key in replies}

    def _verdicts(self, errors: Mapping[str, str]) -> Iterator[Verdict]:
        first, second = self._cases(self.task), self._cases(HALLUSIONBENCH_SAME)
        replies = self.engine.replies
        for name, judged in self.judged.items():
            if name in self.by_rule:
                yield replace(_verdict(name, self.task, self.by_rule[name], BY_RULE), judged=judged)
                continue
            reply = replies.get(first[name].key)
            if reply is None:
                error = errors[first[name].key]
                yield Verdict(id=name, judge=self.engine.server.model, error=error, judged=judged)
                continue
            found = replace(_verdict(name, self.task, reply.value, reply.judge), judged=judged)
            if name in second:
                same = replies.get(second[name].key)
                said = {"same_error": errors[second[name].key]} if same is None else {"same": bool(same.value)}
                found = replace(found, same_judged=self.compared[name], **said)
            yield found


def judge_answers(
    benchmark: str, samples: Sequence[EvalSample], answers: Sequence[Answer], settings: JudgeSettings, out: Path
) -> None:
    """Judge answers that are loaded already, and write the verdicts to ``out``.

    Raises:
        ConfigError, EvalIncompleteError: as :func:`plan_judging` and :meth:`JudgingPlan.run_and_report`.
    """
    plan = plan_judging(benchmark, samples, answers, settings.server, cache=settings.cache, prices=settings.prices)
    plan.run_and_report(out, max_cost=settings.max_cost, say=settings.say)


def _verdict(name: str, task: JudgeTask, value: Value, judge: str) -> Verdict:
    if task.field == "score" and isinstance(value, int):
        return Verdict(id=name, judge=judge, score=value)
    if task.field == "objects" and isinstance(value, list):
        return Verdict(id=name, judge=judge, objects=tuple(value))
    return Verdict(id=name, judge=judge, verdict=str(value))  # type: ignore[arg-type]  # checked by read
