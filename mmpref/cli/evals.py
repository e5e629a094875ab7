"""``mmpref eval`` and ``mmpref judge``: a model answers a benchmark, a model judges answers.

A judge of ``mmpref eval`` works on the answers of its own folder, and what it said is kept there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from mmpref.cli.completion import benchmark_names
from mmpref.cli.options import (
    KEY_ENV,
    SERVER_URL,
    BenchmarkOptions,
    CostOptions,
    JudgeCache,
    ModelOptions,
    Protocol,
    Questions,
    RequestOptions,
    one_or_many,
    with_options,
)
from mmpref.errors import ConfigError, EvalIncompleteError, stopped_by_ctrl_c

if TYPE_CHECKING:
    from mmpref.evals.judge import JudgeSettings
    from mmpref.generation.api_server import Server
    from mmpref.records import TaskResult


SETTINGS_HELP = (
    "Ask as a paper did (prompt, new tokens, which images); chair: opera_512, halc_64, pai_512, less_is_more_1024, "
    "pope_short, pope_brief."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """Which model answers what, and where the answers go."""

    model: Annotated[
        str, typer.Option(help="A model folder, adapter folder, hub id or run folder; its name at --server.")
    ]
    benchmark: Annotated[
        str,
        typer.Option(help="Name of the benchmark, for example pope, chair or mmhal.", autocompletion=benchmark_names),
    ]
    questions: Questions
    out: Annotated[Path, typer.Option(help="Folder for answers.jsonl, items.jsonl and results.json.")]
    options: BenchmarkOptions = None
    image_root: Annotated[Path | None, typer.Option(help="Image paths are relative to this folder.")] = None
    protocol: Protocol = "mmpref"
    setting: Annotated[str | None, typer.Option(help=SETTINGS_HELP)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answering:
    """How a model in this process answers."""

    loading: ModelOptions
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered together, at most.")] = 32
    tokens_per_batch: Annotated[
        int, typer.Option(min=1, help="Tokens of a batch, padding and answers included, at most.")
    ] = 65_536
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Default: the benchmark's or setting's own.")] = None
    processes: Annotated[int, typer.Option(min=1, help="Processes that share the questions, one GPU each.")] = 1
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N questions; noted in the result.")] = None
    cpu_threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's own choice.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _AtServer:
    """A server that answers."""

    server: Annotated[str | None, typer.Option(help=f"Let this server answer. {SERVER_URL}")] = None
    key_env: Annotated[str | None, typer.Option(help=KEY_ENV)] = None
    requests: RequestOptions

    def found(self, model: str) -> Server | None:
        """The server, where one is to answer; ``model`` is its name there."""
        return None if self.server is None else self.requests.server_at(self.server, model, self.key_env)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judging:
    """A server that judges the answers."""

    judge_server: Annotated[str | None, typer.Option(help=f"Let a model judge the answers. {SERVER_URL}")] = None
    judge_model: Annotated[str | None, typer.Option(help="The judge's name at its server.")] = None
    judge_key_env: Annotated[str | None, typer.Option(help=KEY_ENV)] = None
    cost: CostOptions
    judge_cache: JudgeCache = None

    def settings(self, asked: _Asked, requests: RequestOptions) -> JudgeSettings | None:
        """The judge, where there is one; everything wrong with it is known before the first question is answered."""
        prices = self.cost.prices()
        if self.judge_server is None:
            return None
        if self.judge_model is None:
            raise ConfigError("name the model of the judge: --judge-model NAME")
        from mmpref.evals.judge import JudgeSettings
        from mmpref.evals.plan import JUDGE_CACHE

        found = JudgeSettings(
            server=requests.server_at(self.judge_server, self.judge_model, self.judge_key_env),
            cache=self.judge_cache or asked.out / JUDGE_CACHE,
            prices=prices,
            max_cost=self.cost.max_cost,
        )
        found.refuse_unusable(asked.benchmark)
        return found


@stopped_by_ctrl_c
@with_options
def evaluate(asked: _Asked, answering: _Answering, at: _AtServer, judging: _Judging) -> None:
    """Let a model answer a benchmark, and score it. A stopped evaluation goes on where it was."""
    from mmpref.evals.files.files_read import files_read
    from mmpref.evals.scoring import text_options
    from mmpref.evals.unread import refuse_unread
    from mmpref.terminal import EvalDisplay
    from mmpref.yaml_text import parse_options

    if at.server is None:
        answering.loading.refuse_unmet()
    given = parse_options(asked.options or [], texts=text_options(asked.benchmark))
    judge = judging.settings(asked, at.requests)
    from mmpref.evals.plan import refuse_outputs

    inputs = files_read(asked.benchmark, asked.questions, options=given)
    refuse_outputs(asked.out, inputs, judged=judge is not None, judge_cache=judging.judge_cache)
    with EvalDisplay(f"{asked.benchmark} · {asked.model}") as display:
        from mmpref.evals import EvalSettings
        from mmpref.evals import evaluate as run_evaluation
        from mmpref.evals.results import RESULTS, metrics_beside
        from mmpref.generation.ranks import ranks

        server = at.found(asked.model)
        if server is not None:
            answering.loading.refuse_beside_server(answering.processes)
        settings = EvalSettings(
            protocol=asked.protocol,
            limit=answering.limit,
            max_new_tokens=answering.max_new_tokens,
            setting=asked.setting,
            batch_size=answering.batch_size,
            tokens_per_batch=answering.tokens_per_batch,
            processes=answering.processes,
            cpu_threads=answering.cpu_threads,
            judge=None if judge is None else replace(judge, say=display.say),
            progress=display.update,
        )
        incomplete: EvalIncompleteError | None = None
        try:
            result = run_evaluation(
                asked.model if server is not None else answering.loading.source(asked.model),
                asked.benchmark,
                questions=one_or_many(asked.questions),
                images_root=asked.image_root,
                out=asked.out,
                answerer=server,
                settings=settings,
                **given,
            )
        except EvalIncompleteError as err:
            if err.result is None:
                raise
            incomplete, result = err, cast("TaskResult", err.result)
        if ranks().is_first:
            display.finish(result, asked.out, metrics_beside(asked.out / RESULTS))
    if incomplete is not None:
        raise incomplete
    refuse_unread(result)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answers:
    """Which answers are judged, and by whom."""

    benchmark: Annotated[
        str, typer.Option(help="mmhal, hallusionbench, object_halbench or mmvp.", autocompletion=benchmark_names)
    ]
    questions: Questions
    answers: Annotated[list[Path], typer.Option(help='JSONL of {"id": ..., "text": ...}.')]
    server: Annotated[str, typer.Option(help=SERVER_URL)]
    model: Annotated[str, typer.Option(help="The judge's name at the server.")]
    out: Annotated[Path, typer.Option(help="Verdicts, JSONL, for mmpref score ... verdicts=FILE.")]
    options: BenchmarkOptions = None
    key_env: Annotated[str | None, typer.Option(help=KEY_ENV)] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _JudgeRun:
    """What is asked of the judge, and where its replies are kept."""

    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would take; nothing is sent.")] = False
    diagnosis: Annotated[
        bool, typer.Option(help="HallusionBench: also ask whether answers agree with that to figure 0.")
    ] = True
    cache: JudgeCache = None


@stopped_by_ctrl_c
@with_options
def judge(asked: _Answers, cost: CostOptions, run: _JudgeRun, requests: RequestOptions) -> None:
    """Let a model judge saved answers, and write its verdicts. What was judged before is not asked again."""
    from mmpref.evals.benchmarks.judge_tasks import official_judge
    from mmpref.evals.files.files_read import files_read
    from mmpref.evals.judge import load_answered, plan_judging
    from mmpref.evals.scoring import text_options
    from mmpref.files.reading import refuse_written_over
    from mmpref.terminal import CountDisplay, print_facts
    from mmpref.yaml_text import parse_options

    server = requests.server_at(asked.server, asked.model, asked.key_env)
    given = parse_options(asked.options or [], texts=text_options(asked.benchmark))
    cache = run.cache or asked.out.with_name(f"{asked.out.stem}.cache.jsonl")
    outputs = {"--out": asked.out, "--cache" if run.cache else "the cache beside --out,": cache}
    refuse_written_over(outputs, files_read(asked.benchmark, asked.questions, asked.answers, options=given))
    questions, answers = one_or_many(asked.questions), one_or_many(asked.answers)
    samples, found = load_answered(asked.benchmark, questions, answers, **given)
    prices = cost.prices()
    plan = plan_judging(asked.benchmark, samples, found, server, cache=cache, prices=prices, diagnosis=run.diagnosis)
    print_facts(f"{asked.benchmark} · judge {asked.model}", plan.facts(), [official_judge(asked.benchmark)])
    if run.dry_run:
        return
    with CountDisplay("judging") as display:
        plan.run_and_report(asked.out, max_cost=cost.max_cost, say=display.say, progress=display.update)
    typer.echo(f"wrote {asked.out}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compared:
    """Which verdicts are compared with which, on what answers."""

    benchmark: Annotated[
        str, typer.Option(help="mmhal, hallusionbench, object_halbench or mmvp.", autocompletion=benchmark_names)
    ]
    questions: Questions
    answers: Annotated[
        list[Path], typer.Option(help='The answers that were judged, JSONL of {"id": ..., "text": ...}.')
    ]
    given: Annotated[Path, typer.Option(help="Verdicts of people or of the official judge, or its reviews.")]
    verdicts: Annotated[
        list[Path], typer.Option(help="Verdicts of a judge, as mmpref judge writes them; several: again.")
    ]
    options: BenchmarkOptions = None
    protocol: Protocol = "mmpref"
    out: Annotated[
        Path | None, typer.Option(help="Also write the numbers and both verdicts on every answer: a .json.")
    ] = None


@stopped_by_ctrl_c
@with_options
def agreement(asked: _Compared) -> None:
    """How well judges agree with given verdicts on the same answers: exact, within one point, kappa, rank, bias."""
    from mmpref.evals.agreement import agreement as agree
    from mmpref.evals.agreement import agreement_cell, agreement_content, refuse_nothing_in_common
    from mmpref.evals.files.files_read import files_read
    from mmpref.evals.scoring import text_options
    from mmpref.files.reading import refuse_written_over
    from mmpref.files.writing import write_json
    from mmpref.rundir.folder import versions
    from mmpref.terminal import print_table
    from mmpref.yaml_text import parse_options

    given = parse_options(asked.options or [], texts=text_options(asked.benchmark))
    if "verdicts" in given:
        raise ConfigError("verdicts= is an option of mmpref score; pass the file here as `--verdicts FILE`")
    inputs = files_read(asked.benchmark, asked.questions, asked.answers, options=given)
    refuse_written_over({"--out": asked.out}, [*inputs, asked.given, *asked.verdicts])
    questions, answers = one_or_many(asked.questions), one_or_many(asked.answers)
    found = {
        str(file): agree(asked.benchmark, questions, answers, asked.given, file, asked.protocol, **given)
        for file in asked.verdicts
    }
    if asked.out is not None:
        facts = {"benchmark": asked.benchmark, "protocol": asked.protocol, "given": str(asked.given)}
        write_json(asked.out, {**facts, "judges": agreement_content(found), "versions": versions()})
    names = list(dict.fromkeys(name for one in found.values() for name in one.metrics))
    rows = [[name, *(agreement_cell(one, name) for one in found.values())] for name in names]
    counts = [["answers judged by both", *(f"{one.n}" for one in found.values())]]
    counts += [["missing from the judge", *(f"{len(one.missing)}" for one in found.values())]]
    counts += [["without a given verdict", *(f"{len(one.not_given)}" for one in found.values())]]
    given_by = next(iter(found.values())).given_by
    columns = ["", *(f"{one.judge} ({Path(file).name})" for file, one in found.items())]
    print_table(f"{asked.benchmark} · agreement with {given_by}", columns, [*counts, *rows])
    if asked.out is not None:
        typer.echo(f"wrote {asked.out}")
    refuse_nothing_in_common(found)
