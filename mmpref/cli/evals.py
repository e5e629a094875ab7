"""``mmpref eval`` and ``mmpref judge``: a model answers a benchmark, a model judges answers.

Thin commands, as in ``cli.py``. A judge of ``mmpref eval`` works on the answers of its own folder, and what it said is
kept there.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from mmpref.errors import ConfigError, EvalIncompleteError, stopped_by_ctrl_c

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mmpref.evals.judge import JudgingPlan, Outcome
    from mmpref.generation.chat_api import Server
    from mmpref.judging import Spent
    from mmpref.records import TaskResult

_VERDICTS = "verdicts.jsonl"
_JUDGE_CACHE = "verdicts.cache.jsonl"
_BENCHMARK = "Name of the benchmark, for example pope, chair or mmhal."
_OPTIONS = "Options of the benchmark, for example synonyms=FILE prompts=FILE for chair."
_QUESTIONS = "Question file of the benchmark; several for its splits."
_URL = "Address of an OpenAI-compatible API, for example http://127.0.0.1:8000/v1."
_KEY_ENV = (
    "Environment variable that holds the API key. OPENAI_API_KEY is used for api.openai.com alone, unless it is named."
)
_Concurrency = Annotated[int, typer.Option(min=1, help="Requests to a server under way at once.")]
_Timeout = Annotated[
    float, typer.Option(min=0.1, help="Seconds in which a server must have replied, to the last byte; one more try.")
]
_PriceIn = Annotated[float | None, typer.Option(min=0, help="Judge's price, dollars per million prompt tokens.")]
_PriceOut = Annotated[float | None, typer.Option(min=0, help="Judge's price, dollars per million reply tokens.")]
_MaxCost = Annotated[float | None, typer.Option(min=0, help="Judge for at most so many dollars.")]
_Cache = Annotated[
    Path | None, typer.Option(help="Replies by content, to share between runs; default: beside the output.")
]


@stopped_by_ctrl_c
def evaluate(
    model: Annotated[
        str, typer.Option(help="A model folder, adapter folder, hub id or run folder; its name at --server.")
    ],
    benchmark: Annotated[str, typer.Option(help=_BENCHMARK)],
    questions: Annotated[list[Path], typer.Option(help=_QUESTIONS)],
    out: Annotated[Path, typer.Option(help="Folder for answers.jsonl, items.jsonl and results.json.")],
    options: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help=_OPTIONS)] = None,
    images: Annotated[Path | None, typer.Option(help="Image paths are relative to this folder.")] = None,
    protocol: Annotated[str, typer.Option(help="How answers are read and counted.")] = "mmpref",
    adapter: Annotated[Path | None, typer.Option(help="A LoRA folder to put on the model.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    quantization: Annotated[str | None, typer.Option(help="nf4 or int8, for a model that is too large.")] = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Resolution budget of one image (Qwen-VL).")] = None,
    template_kwargs: Annotated[
        str | None,
        typer.Option(help="What the chat template reads, as {enable_thinking: false}; default: as a run was trained."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions answered together, at most.")] = 32,
    tokens_per_batch: Annotated[
        int, typer.Option(min=1, help="Tokens of a batch, padding and answers included, at most.")
    ] = 65_536,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Default: the benchmark's own.")] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes that share the questions, one GPU each.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N questions; noted in the result.")] = None,
    cpu_threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: torch's own choice.")] = None,
    server: Annotated[str | None, typer.Option(help=f"Let this server answer. {_URL}")] = None,
    key_env: Annotated[str | None, typer.Option(help=_KEY_ENV)] = None,
    concurrency: _Concurrency = 8,
    timeout: _Timeout = 120.0,
    judge_server: Annotated[str | None, typer.Option(help=f"Let a model judge the answers. {_URL}")] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge's name at its server.")] = None,
    judge_key_env: Annotated[str | None, typer.Option(help=_KEY_ENV)] = None,
    price_in: _PriceIn = None,
    price_out: _PriceOut = None,
    max_cost: _MaxCost = None,
    judge_cache: _Cache = None,
) -> None:
    """Let a model answer a benchmark, and score it. A stopped evaluation goes on where it was."""
    from mmpref.evals.files.files_read import files_read
    from mmpref.evals.scoring import text_options
    from mmpref.evals.unread import refuse_unread
    from mmpref.files.writing import real_path, refuse_special
    from mmpref.rundir.folder import model_of
    from mmpref.terminal import EvalDisplay
    from mmpref.yaml_text import parse_options

    given = parse_options(options or [], texts=text_options(benchmark))
    judge_at = (
        _server(judge_server, judge_model, judge_key_env, concurrency, timeout, "judge") if judge_server else None
    )
    if judge_at is not None:
        _can_be_judged(benchmark)
        judge_at.key()
    if judge_cache is not None:  # which is opened after the last answer
        refuse_special(real_path(judge_cache))
    _refuse_written_over(out, judge_at is not None, judge_cache, files_read(benchmark, questions, options=given))
    prices = _prices(price_in, price_out)
    with EvalDisplay(f"{benchmark} · {model}") as display:
        from mmpref.evals import evaluate as run_evaluation
        from mmpref.evals.results import RESULTS, metrics_beside
        from mmpref.generation.in_process import ModelSource
        from mmpref.generation.ranks import ranks

        source: Any = model
        answer_at: Server | None = None
        if server is not None:
            if adapter is not None or quantization is not None or processes > 1 or template_kwargs is not None:
                raise ConfigError(
                    "--adapter, --quantization, --template-kwargs and --processes are for a model in this process"
                )
            answer_at = _server(server, model, key_env, concurrency, timeout, "server")
        else:
            if quantization not in (None, "nf4", "int8"):
                raise ConfigError(f"quantization must be nf4 or int8, got {quantization!r}")
            source = ModelSource(
                path=str(model_of(model)),
                adapter=adapter,
                dtype=dtype,
                quantization=quantization,  # type: ignore[arg-type]  # checked just above
                max_pixels=max_pixels,
                template_kwargs=_template_kwargs(template_kwargs, model),
            )
        judging = None
        if judge_at is not None:

            def judging(samples: Any, answers: Any) -> Path:
                plan = _plan(benchmark, samples, answers, judge_at, judge_cache or out / _JUDGE_CACHE, prices)
                _run_judge(plan, out / _VERDICTS, max_cost, display.say)
                return out / _VERDICTS

        incomplete: EvalIncompleteError | None = None
        evaluation = partial(
            run_evaluation,
            source,
            benchmark,
            questions=_one_or_many(questions),
            images_root=images,
            out=out,
            server=answer_at,
            protocol=protocol,
            batch_size=batch_size,
            tokens_per_batch=tokens_per_batch,
            max_new_tokens=max_new_tokens,
            processes=processes,
            cpu_threads=cpu_threads,
            limit=limit,
            judging=judging,
            progress=display.update,
            **given,
        )
        try:
            result = evaluation()
        except EvalIncompleteError as err:
            if err.result is None:
                raise
            incomplete, result = err, cast("TaskResult", err.result)
        group = ranks()
        if group is None or group.rank == 0:
            display.finish(result, out, metrics_beside(out / RESULTS))
    if incomplete is not None:
        raise incomplete
    refuse_unread(result)


def _refuse_written_over(out: Path, judged: bool, judge_cache: Path | None, inputs: Iterable[Path]) -> None:
    from mmpref.evals.image_check import UNANSWERED
    from mmpref.evals.results import RESULTS
    from mmpref.files.reading import refuse_written_over
    from mmpref.generation.answer_log import ANSWERS, IMAGES, ITEMS, SETTINGS

    names = [ANSWERS, SETTINGS, IMAGES, ITEMS, RESULTS, UNANSWERED, *([_VERDICTS, _JUDGE_CACHE] if judged else [])]
    outputs: dict[str, Path | None] = {f"{name}, a file of --out,": out / name for name in names}
    if judged and judge_cache is not None:  # which may be the one that would be there anyway
        del outputs[f"{_JUDGE_CACHE}, a file of --out,"]
    refuse_written_over(outputs | {"--judge-cache": judge_cache if judged else None}, inputs)


def _template_kwargs(text: str | None, model: str) -> dict[str, Any]:
    """What was given, or what the recipe of a run has."""
    from mmpref.recipe.shipped import read_recipe_text
    from mmpref.rundir.folder import RunDir, is_run_folder
    from mmpref.yaml_text import parse_yaml

    if text is None:
        folder = Path(model)
        recipe, where = read_recipe_text(RunDir(folder).recipe_file) if is_run_folder(folder) else ("{}", model)
        found: Any = parse_yaml(recipe, where=where)
        for key in ("processing", "template_kwargs"):
            found = (found.get(key) if isinstance(found, dict) else found) or {}
        if not isinstance(found, dict):
            raise ConfigError(f"{where} is damaged: {key} cannot be read from it; copy the run folder again")
        return found
    given = parse_yaml(text, where="--template-kwargs")
    if not isinstance(given, dict):
        raise ConfigError(f"--template-kwargs must be a mapping, as {{enable_thinking: false}}, got {text!r}")
    return given


@stopped_by_ctrl_c
def judge(
    benchmark: Annotated[str, typer.Option(help="mmhal, hallusionbench or object_halbench.")],
    questions: Annotated[list[Path], typer.Option(help=_QUESTIONS)],
    answers: Annotated[list[Path], typer.Option(help='JSONL of {"id": ..., "text": ...}.')],
    server: Annotated[str, typer.Option(help=_URL)],
    model: Annotated[str, typer.Option(help="The judge's name at the server.")],
    out: Annotated[Path, typer.Option(help="Verdicts, JSONL, for mmpref score ... verdicts=FILE.")],
    options: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help=_OPTIONS)] = None,
    key_env: Annotated[str | None, typer.Option(help=_KEY_ENV)] = None,
    price_in: _PriceIn = None,
    price_out: _PriceOut = None,
    max_cost: _MaxCost = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would take; nothing is sent.")] = False,
    diagnosis: Annotated[
        bool, typer.Option(help="HallusionBench: also ask whether answers agree with that to figure 0.")
    ] = True,
    cache: _Cache = None,
    concurrency: _Concurrency = 8,
    timeout: _Timeout = 120.0,
) -> None:
    """Let a model judge saved answers, and write its verdicts. What was judged before is not asked again."""
    from mmpref.evals.files.files_read import files_read
    from mmpref.evals.judge import load_answered
    from mmpref.evals.scoring import text_options
    from mmpref.files.reading import refuse_written_over
    from mmpref.terminal import CountDisplay, print_facts
    from mmpref.yaml_text import parse_options

    at = _server(server, model, key_env, concurrency, timeout, "judge")
    given = parse_options(options or [], texts=text_options(benchmark))
    where = cache or out.with_name(f"{out.stem}.cache.jsonl")
    outputs = {"--out": out, "--cache" if cache else "the cache beside --out,": where}
    refuse_written_over(outputs, files_read(benchmark, questions, answers, options=given))
    samples, found = load_answered(benchmark, _one_or_many(questions), _one_or_many(answers), **given)
    plan = _plan(benchmark, samples, found, at, where, _prices(price_in, price_out), diagnosis=diagnosis)
    print_facts(f"{benchmark} · judge {model}", _estimate(plan), [_official(benchmark)])
    if dry_run:
        return
    with CountDisplay("judging") as display:
        _run_judge(plan, out, max_cost, display.say, display.update)
    typer.echo(f"wrote {out}")


def _server(url: str, model: str | None, key_env: str | None, concurrency: int, timeout: float, what: str) -> Server:
    from mmpref.generation.chat_api import Server

    if model is None:
        raise ConfigError(f"name the model of the {what}: --{what}-model NAME")
    return Server(url=url, model=model, key_env=key_env, concurrency=concurrency, timeout=timeout)


def _can_be_judged(benchmark: str) -> None:
    from mmpref.evals.benchmarks.judge_tasks import JUDGED

    if benchmark not in JUDGED:
        raise ConfigError(f"{benchmark} has no judge; these have: {', '.join(JUDGED)}")


def _prices(price_in: float | None, price_out: float | None) -> Any:
    from mmpref.judging import Prices

    if (price_in is None) != (price_out is None):
        raise ConfigError("give both prices, --price-in and --price-out, or none")
    return Prices(prompt=price_in, completion=price_out) if price_in is not None and price_out is not None else None


def _plan(
    benchmark: str, samples: Any, answers: Any, server: Server, cache: Path, prices: Any, *, diagnosis: bool = True
) -> JudgingPlan:
    from mmpref.evals.judge import plan_judging

    return plan_judging(benchmark, samples, answers, server, cache=cache, prices=prices, diagnosis=diagnosis)


def _run_judge(plan: JudgingPlan, out: Path, max_cost: float | None, say: Any, progress: Any = None) -> None:
    """Judge, and say what it took; incomplete when more is missing than a number can stand."""

    def broken_off(spent: Spent) -> None:
        if spent.calls:
            cost = None if spent.prices is None else spent.dollars
            say(f"broken off after {_used(spent.calls, spent.prompt, spent.completion, cost)}{_guessed(spent.guessed)}")

    outcome = plan.run(out, max_cost=max_cost, progress=progress, broken_off=broken_off)
    say(_taken(outcome))
    if outcome.put_aside is not None:
        say(f"{out} had other verdicts than these, or on other answers; they are in {outcome.put_aside} now")
    outcome.refuse_if_too_many_missing()


def _estimate(plan: JudgingPlan) -> list[tuple[str, str]]:
    from mmpref.judging import dollars

    found = plan.estimate()
    cost = "unknown: give --price-in and --price-out" if found.cost is None else f"about {dollars(found.cost)}"
    return [
        ("answers", f"{found.num_answers} ({found.num_by_rule} need no judge)"),
        ("judged before", f"{found.num_cached}{_elsewhere(found.elsewhere)}"),
        ("calls", str(found.num_calls)),
        ("tokens", f"about {found.prompt_tokens:,} sent and {found.completion_tokens:,} received, by length"),
        ("cost", cost),
    ]


def _taken(outcome: Outcome) -> str:
    used = _used(outcome.num_calls, outcome.prompt_tokens, outcome.completion_tokens, outcome.cost)
    text = f"{len(outcome.verdicts) - len(outcome.missing)} verdicts; {used}"
    if outcome.missing:
        text += f"; {len(outcome.missing)} missing"
    if outcome.num_compared:
        done = outcome.num_compared - len(outcome.not_compared)
        text += f"; {done} of {outcome.num_compared} answers compared with the one to figure 0"
    if outcome.elsewhere:
        text += f"; replies that were there before{_elsewhere(outcome.elsewhere)}"
    return text + _guessed(outcome.num_guessed)


def _elsewhere(servers: Mapping[str, int]) -> str:
    """Of which other servers cached replies are: taken all the same, as a model may have moved."""
    told = [f"{n} from {server or 'a server that the cache does not name'}" for server, n in sorted(servers.items())]
    return f" ({', '.join(told)})" if told else ""


def _used(calls: int, prompt: float, completion: float, cost: float | None) -> str:
    from mmpref.judging import dollars

    money = "" if cost is None else f", {dollars(cost)}"
    return f"{calls} calls, {prompt:,.0f} + {completion:,.0f} tokens{money}"


def _guessed(calls: int) -> str:
    told = f"; of {calls} calls the server told no usable token counts: the most they can be is counted"
    return told if calls else ""


def _official(benchmark: str) -> str:
    from mmpref.evals.benchmarks.judge_tasks import official_judge

    return official_judge(benchmark)


def _one_or_many(paths: list[Path]) -> Path | list[Path]:
    return paths[0] if len(paths) == 1 else paths
