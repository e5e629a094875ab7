"""The command line: parse, build, call one function. No logic, and nothing heavy until a command runs."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from mmpref.cli.arguments import hint_for, refuse_empty, refuse_no_path
from mmpref.cli.completion import BENCHMARKS, benchmark_names, recipe_keys, recipe_names
from mmpref.cli.data import app as data_app
from mmpref.cli.evals import agreement, evaluate, judge
from mmpref.cli.new import new
from mmpref.cli.plan import plan
from mmpref.cli.recipes import config, recipes
from mmpref.cli.sample import app as sample_app
from mmpref.cli.sweep import sweep
from mmpref.cli.train import train
from mmpref.errors import ConfigError, MMPrefError, Terminated, as_shown, of_the_machine, signal_name, stopped_by_ctrl_c
from mmpref.process import notices, streams
from mmpref.process.children import watch_launcher
from mmpref.process.signals import at_once, heard, leave_with
from mmpref.version import __version__

app = typer.Typer(
    name="mmpref",
    help="Align vision-language models with image preference data, and measure whether they stop making things up.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(data_app, name="data")
app.add_typer(sample_app, name="sample")
app.command("eval")(evaluate)
app.command("judge")(judge)
app.command("agreement")(agreement)
app.command("new")(new)
app.command("recipes")(recipes)
app.command("config")(config)

_OPTIONS_HELP = "Options of the benchmark, for example synonyms=FILE prompts=FILE for chair."
_BENCHMARKS_HELP = f"{', '.join(BENCHMARKS[:-1])} or {BENCHMARKS[-1]}."
_QUESTIONS_HELP = "Question file (or folder) of the benchmark; several for its splits."
_ANSWERS_HELP = 'JSONL of {"id": ..., "text": ...}, or a file of LLaVA, lmms-eval or VLMEvalKit; one for each split.'


def _one_or_many(paths: list[Path]) -> Path | list[Path]:
    return paths[0] if len(paths) == 1 else paths


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"mmpref {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Align vision-language models with image preference data, and measure whether they stop making things up."""


@app.command()
@stopped_by_ctrl_c
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the demo; made anew, or taken up where it stopped.")] = Path(
        "mmpref-demo"
    ),
    seed: Annotated[int, typer.Option(help="Changes the world, the model and the pairs.")] = 0,
    scale: Annotated[
        float, typer.Option(min=0.02, max=1.0, help="Share of the full size; below 1 the figures mean little.")
    ] = 1.0,
    cpu_threads: Annotated[
        int, typer.Option(min=1, help="CPU threads. More can be faster on an idle machine; the last digits change.")
    ] = 1,
    model: Annotated[str, typer.Option(help="Architecture of the tiny model: llava or qwen2_vl.")] = "llava",
    themes: Annotated[
        int, typer.Option(help="Themes of a scene: with 2, scenes and captions are nearly twice as long.")
    ] = 1,
    until: Annotated[
        str, typer.Option(help="What the demo ends with: world, start (the model that methods start from) or report.")
    ] = "report",
) -> None:
    """The whole story on an embedded world: learn to see, make things up, stop making things up."""
    from mmpref.installation import refuse_without

    if until == "report":
        refuse_without("matplotlib", "the report's figures", "end before it: --until start")
    from mmpref.demo.pipeline import DemoSettings, run_demo
    from mmpref.files.locking import only_writer

    settings = DemoSettings(seed=seed, scale=scale, threads=cpu_threads, model=model, themes=themes, until=until)
    with only_writer(out, "choose another --out"):
        run_demo(out, settings)


app.command("train")(train)
app.command("plan")(plan)
app.command("sweep")(sweep)


@app.command()
@stopped_by_ctrl_c
def merge(
    run: Annotated[Path, typer.Argument(help="A complete run that trained an adapter.")],
    out: Annotated[Path, typer.Option(help="Folder for the merged model; new or empty.")],
    bound: Annotated[float, typer.Option(min=0, help="Largest mean drift that passes, in nats a token.")] = 0.02,
    samples: Annotated[int, typer.Option(min=1, help="Pairs of the run's data to compare on.")] = 16,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32: of the base, the merge and the file.")] = (
        "bfloat16"
    ),
    device: Annotated[str | None, typer.Option(help="For example cpu; default: a GPU where there is one.")] = None,
) -> None:
    """Merge a run's adapter into its base: a plain model folder, proved to answer as the adapter does."""
    from mmpref.installation import refuse_cpu_torch

    if device is None:
        refuse_cpu_torch("--device cpu")
    from mmpref.merge import merge as run_merge
    from mmpref.terminal import print_facts

    result = run_merge(run, out, bound=bound, samples=samples, dtype=dtype, device=device, say=typer.echo)
    drifts = [(f"drift of the merge ({result.drift.answers} answers)", result.drift)]
    if result.trained_on is not None:
        drifts.append(("drift from the quantised base it was trained on", result.trained_on))
    facts = [(name, f"{d.mean:.4f} nats a token, worst {d.worst:.4f} ({d.worst_pair})") for name, d in drifts]
    print_facts(f"merged into {out}", facts)


@app.command()
@stopped_by_ctrl_c
def doctor(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="Also run every start-up check of this recipe; nothing is written.", autocompletion=recipe_names
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Changes to the recipe by dotted key.", autocompletion=recipe_keys
        ),
    ] = None,
) -> None:
    """What this machine can do, and whether a recipe would start."""
    from mmpref.doctor.machine import machine
    from mmpref.terminal import print_findings

    if recipe is not None and "=" in recipe and not Path(recipe).exists():
        raise ConfigError(f"'{recipe}' changes a recipe: give one before it")
    broken = print_findings("this machine", machine())
    if recipe is not None:
        from mmpref.doctor.recipe_check import check_recipe
        from mmpref.recipe.loading import load_recipe

        broken += print_findings(recipe, check_recipe(load_recipe(recipe, overrides or [])))
    if broken:
        raise ConfigError(f"{broken} of these need attention")


@app.command()
@stopped_by_ctrl_c
def score(
    benchmark: Annotated[str, typer.Option(help=_BENCHMARKS_HELP, autocompletion=benchmark_names)],
    questions: Annotated[list[Path], typer.Option(help=_QUESTIONS_HELP)],
    answers: Annotated[list[Path], typer.Option(help=_ANSWERS_HELP)],
    options: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help=_OPTIONS_HELP)] = None,
    protocol: Annotated[str, typer.Option(help="How answers are read and counted.")] = "mmpref",
    out: Annotated[
        Path | None,
        typer.Option(help="Also write the result and its items: NAME.json, or a folder. mmpref report reads them."),
    ] = None,
) -> None:
    """Score saved answers. No model and no torch are needed."""
    from mmpref.evals import score_beside, write_scored
    from mmpref.evals.files.files_read import files_read
    from mmpref.evals.results import other_protocols, refuse_unwritable_result
    from mmpref.evals.scoring import text_options
    from mmpref.evals.unread import refuse_unread
    from mmpref.terminal import print_result
    from mmpref.yaml_text import parse_options

    given = parse_options(options or [], texts=text_options(benchmark))
    inputs = [*questions, *answers, *files_read(benchmark, questions, answers, options=given)]
    if out is not None:
        refuse_unwritable_result(out, inputs)
    result, beside = score_beside(benchmark, _one_or_many(questions), _one_or_many(answers), protocol, **given)
    if out is not None:
        asked = {"questions": [*map(str, questions)], "answers": [*map(str, answers)], "options": options or []}
        write_scored(out, result, inputs=inputs, protocols=other_protocols(beside), scored=asked)
    print_result(result, {name: other.metrics for name, other in beside.items()})
    refuse_unread(result)


@app.command()
@stopped_by_ctrl_c
def export(
    benchmark: Annotated[str, typer.Option(help=_BENCHMARKS_HELP, autocompletion=benchmark_names)],
    questions: Annotated[list[Path], typer.Option(help=_QUESTIONS_HELP)],
    answers: Annotated[list[Path], typer.Option(help=_ANSWERS_HELP)],
    to: Annotated[
        str, typer.Option(help="jsonl, llava, lmms_eval, vlmevalkit, official, alpaca_eval, arena_hard or ifeval.")
    ],
    out: Annotated[Path, typer.Option(help="The file; for the official layout of mme a folder.")],
    options: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help=_OPTIONS_HELP)] = None,
    model: Annotated[str, typer.Option(help="Name of the model, for formats that have a place for it.")] = "mmpref",
) -> None:
    """Write saved answers in the format of another tool."""
    from mmpref.evals import export_answers
    from mmpref.evals.scoring import text_options
    from mmpref.files.rows import first_ids
    from mmpref.yaml_text import parse_options

    given = parse_options(options or [], texts=text_options(benchmark))
    source, saved = _one_or_many(questions), _one_or_many(answers)
    done = export_answers(benchmark, source, saved, to, out, model=model, **given)
    typer.echo(f"wrote {done.num_rows} answers to {out}")
    if done.left_out:
        typer.echo(f"left out {len(done.left_out)} answers, because {done.why}: {first_ids(done.left_out)}")
    if done.changed:
        typer.echo(f"changed {len(done.changed)} answers, because {done.why_changed}: {first_ids(done.changed)}")


@app.command()
@stopped_by_ctrl_c
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Run folders, folders of mmpref eval, or results of mmpref score; the first is what the others are "
            "compared with. Or one folder of mmpref sweep. For --table paper also folders that hold many of them, and "
            "NAME=PATH."
        ),
    ],
    out: Annotated[
        list[Path],
        typer.Option(
            help="NAME.html: the page, one file that needs nothing else. NAME.csv, .md, .tex: the table; of a sweep "
            ".csv, .md, .json."
        ),
    ],
    image_root: Annotated[
        Path | None, typer.Option(help="Image paths in the results are relative to this folder.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    table: Annotated[
        str,
        typer.Option(
            help="runs: each against the first. paper: models in rows, metrics of all benchmarks in columns, the best "
            "marked, and what is not clearly worse."
        ),
    ] = "runs",
    columns: Annotated[
        str | None,
        typer.Option(help="For --table paper: pope/f1,chair/chair_s; else what each benchmark's paper prints."),
    ] = None,
    axes: Annotated[
        str | None,
        typer.Option(help="Of a sweep: the one or two axes of its maps, as beta,learning_rate."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Write the page again whenever the runs changed, until all of them ended.")
    ] = False,
    every: Annotated[float | None, typer.Option(help="With --watch: seconds between two looks; default 10.")] = None,
) -> None:
    """Compare runs in one page, or as a table: intervals, paired differences, training curves, examples."""
    from mmpref.files.locking import only_writer
    from mmpref.files.reading import refuse_written_over
    from mmpref.installation import refuse_without
    from mmpref.report.page import build_report
    from mmpref.report.runs import files_of, load_runs
    from mmpref.report.sweep.cells import files_of_sweep, is_sweep_folder
    from mmpref.report.sweep.page import refuse_among_runs, refuse_other_endings, write_sweep_report
    from mmpref.report.table_files import table_writer, write_table

    pages = {".html", ".htm"}
    if table == "runs" and any(file.suffix.lower() in pages for file in out):
        refuse_without("matplotlib", "a page with figures", "write a table, as --out table.md")
    if every is not None and not watch:
        raise ConfigError("--every goes with --watch; add it")
    if watch and (table != "runs" or any(is_sweep_folder(run) for run in runs)):
        raise ConfigError("--watch keeps the page of runs up to date: give run folders (of a sweep DIR/cells/NAME)")
    if len(runs) == 1 and is_sweep_folder(runs[0]) and table == "runs":
        for file in out:
            refuse_other_endings(file)
        written_over = {f"--out ({number})" if number else "--out": file for number, file in enumerate(out)}
        refuse_written_over(written_over, files_of_sweep(runs[0]))
        with contextlib.ExitStack() as locks:
            for file in out:
                locks.enter_context(only_writer(file, "choose another --out"))
            write_sweep_report(runs[0], out, title=title, axes=axes.split(",") if axes else ())
        for file in out:
            typer.echo(f"wrote {file}")
        return
    if axes is not None:
        raise ConfigError("--axes chooses the axes of a sweep's maps; give one folder of mmpref sweep")
    refuse_among_runs(runs)
    if table != "runs":
        from mmpref.report.paper.write import refuse_other_options, write_papers

        refuse_other_options(table, image_root=image_root)
        for written in write_papers([str(run) for run in runs], out, columns=columns, title=title):
            typer.echo(f"wrote {written}")
        return
    if columns is not None:
        raise ConfigError(f"--columns chooses the columns of --table paper; add it: --table paper --columns {columns}")
    for file in out:  # all endings are known before the first file is written
        if file.suffix.lower() not in pages:
            table_writer(file)
    outputs: dict[str, Path | None] = {f"--out ({number})" if number else "--out": f for number, f in enumerate(out)}
    refuse_written_over(outputs, [file for run in runs for file in files_of(run)])
    if watch:
        from mmpref.report.page import PageOptions
        from mmpref.report.watch import Watch

        if len(out) > 1 or out[0].suffix.lower() not in pages:
            raise ConfigError("--watch keeps one page up to date: give one --out NAME.html")
        options = PageOptions(title=title, images_root=image_root)
        watched = Watch(runs, out[0], every=10.0 if every is None else every, options=options, say=typer.echo)
        with only_writer(out[0], "choose another --out"):
            watched.run()
        typer.echo(f"wrote {out[0]}")
        return
    for file in out:
        with only_writer(file, "choose another --out"):
            if file.suffix.lower() in pages:
                build_report(runs, file, title=title, images_root=image_root)
            else:
                write_table(load_runs(runs), file)
        typer.echo(f"wrote {file}")


def main(argv: list[str] | None = None) -> int:
    """Run one command; an expected error is one line on stderr and its exit code."""
    with heard():
        return _main(argv)


def _main(argv: list[str] | None) -> int:
    given = sys.argv[1:] if argv is None else argv
    try:
        refuse_empty(given)
        refuse_no_path(given)
        app(args=argv, prog_name="mmpref")
    except SystemExit as stop:  # typer ends every command, and every usage error (2), this way
        if stop.code == ConfigError.exit_code and (hint := hint_for(app, given)):
            typer.echo(f"mmpref: {hint}", err=True)
        return stop.code if isinstance(stop.code, int) else 0
    except MMPrefError as err:
        if not err.reported_by_other_rank:
            from mmpref import api_keys

            typer.echo(f"mmpref: {api_keys.cut(as_shown(err), of_message=True)}", err=True)
        return err.exit_code
    except OSError as err:
        known = of_the_machine(err)
        if known is None:
            raise
        typer.echo(f"mmpref: {as_shown(known)}", err=True)
        return known.exit_code
    except (KeyboardInterrupt, Terminated) as stop:  # outside a command: while the command line is read
        number = stop.number if isinstance(stop, Terminated) else signal.SIGINT
        typer.echo(f"mmpref: stopped by {signal_name(number)}", err=True)
        return 128 + number
    return 0


def entry_point(command: Callable[[], int] = main) -> None:
    """What the installed ``mmpref`` command calls: run ``command`` and end the process with its exit code.

    Standard output may be lost on the way (``| head -1``): whatever the command writes to files is written all the
    same, and its code is 0 when only the reader went away. A disk too full for ``> FILE`` is reported, with exit
    code 6; training goes on even then.
    """
    streams.protect()
    notices.install()
    watch_launcher()
    ended: list[int] = []
    at_once(ended)
    atexit.register(_end_of_a_rank, ended)  # registered first, called last: whoever has something to close has done so
    code = command()
    if (lost := streams.lost_output()) is not None and code == 0:
        said, is_failure = lost
        typer.echo(f"mmpref: {said}", err=True)
        code = streams.DISK_FULL if is_failure else code
    ended.append(code)
    if code == 0 and "mmpref.training.parallel.world" in sys.modules:  # else nothing here trained
        from mmpref.training.parallel.world import leave_process_group

        leave_process_group()
    leave_with(code)


def _end_of_a_rank(ended: list[int]) -> None:
    """One of several processes ends without taking the interpreter down.

    A thread of gloo may drop the tensors of the last exchange late. It needs the interpreter for that, and where it
    finds none any more it aborts a process whose work is done (torch 2.13; a few in a thousand on a busy machine).
    """
    if not ended or os.environ.get("WORLD_SIZE", "1") == "1":
        return
    streams.flush()
    os._exit(ended[0])
