"""``mmpref data``: what is in a preference file, what is wrong with it, and the same pairs in another shape.

Thin commands, as in ``cli/main.py``: parse, open, call one function, show what it returns. Nothing here loads torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from mmpref.cli.completion import card_names
from mmpref.cli.data_options import MaxBad, ReadOptions, RowOptions, Source, Sources, named_paths
from mmpref.cli.options import with_options
from mmpref.errors import stopped_by_ctrl_c

app = typer.Typer(
    name="data",
    help="Look into preference data, check it, convert it.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command("list")
@stopped_by_ctrl_c
def list_() -> None:
    """The data cards: known data sets, their size, licence and scores."""
    from mmpref.data.card import list_cards
    from mmpref.terminal import print_table

    rows = [card.row() for card in list_cards()]
    columns = ["card", "format", "pairs", "licence", "commercial use", "scores"]
    print_table(f"{len(rows)} data cards", columns, rows, ["mmpref data show CARD shows everything about one."])


@app.command()
@stopped_by_ctrl_c
def show(
    card: Annotated[str, typer.Argument(help="A card's name, or a file with one.", autocompletion=card_names)],
) -> None:
    """One data card, whole."""
    from mmpref.data.card import load_card
    from mmpref.terminal import print_facts

    known = load_card(card)
    print_facts(known.name, known.facts(), [known.text] if known.text else [])


@dataclass(frozen=True, slots=True, kw_only=True)
class FixOptions:
    """The clean file of a check."""

    fix: Annotated[
        Path | None, typer.Option("--fix", help="Also write the rows in order to this new file, canonical JSONL.")
    ] = None
    copy_images: Annotated[
        bool, typer.Option("--copy-images", help="With --fix: copy their images to a folder beside the file.")
    ] = False


@app.command()
@stopped_by_ctrl_c
@with_options
def check(
    sources: Sources,
    read: ReadOptions,
    fix: FixOptions,
    out: Annotated[Path, typer.Option(help="Folder for data_report.json and quarantine.jsonl.")] = Path("data_check"),
    demonstrations: Annotated[
        bool, typer.Option("--demonstrations", help="Accept rows without a rejected answer, as the sft loss does.")
    ] = False,
    labelled: Annotated[
        bool, typer.Option("--labelled", help="Accept single answers with a label, as the kto loss does.")
    ] = False,
    max_bad_fraction: MaxBad = 0.001,
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding processes; default: one per core.")] = None,
) -> None:
    """Read every row and decode every image once; exit code 3 when training would refuse the data.

    Ends with what to do next. With --fix the exit code is 0 when the clean file is written.
    """
    from mmpref.data.accepted import accepted_by
    from mmpref.data.commands.check import check as run_check
    from mmpref.data.commands.check_outcome import CleanSettings, finish_check, refuse_check_outputs
    from mmpref.files.locking import only_writer
    from mmpref.terminal import CountDisplay, print_facts

    accepted = accepted_by(demonstrations=demonstrations, labelled=labelled)
    clean = CleanSettings(path=fix.fix, copy_images=fix.copy_images)
    opened = [read.open(source) for source in sources]
    refuse_check_outputs(opened, out=out, clean=clean, read=[read.card])
    with only_writer(out, "choose another --out"), CountDisplay("checking") as display:
        report = run_check(
            opened,
            out=out,
            demonstrations=accepted,
            max_bad_fraction=max_bad_fraction,
            workers=workers,
            progress=display.update,
        )
    print_facts("data check", report.rows(), [*report.warnings(), f"written to {out}"])
    typer.echo("\n".join(finish_check(opened, report, out=out, clean=clean, demonstrations=accepted)))


@app.command()
@stopped_by_ctrl_c
@with_options
def verify(
    sources: Sources,
    read: ReadOptions,
    report: Annotated[Path, typer.Option(help="The folder that mmpref data check wrote (or its report).")],
    demonstrations: Annotated[
        bool, typer.Option("--demonstrations", help="The check was made with --demonstrations.")
    ] = False,
    labelled: Annotated[bool, typer.Option("--labelled", help="The check was made with --labelled.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Hash every image again, whatever its time of change.")] = False,
) -> None:
    """Whether data is still what a check found it to be, as training with that report would ask; else exit code 3."""
    from mmpref.data.accepted import accepted_by
    from mmpref.data.commands.verify_source import verify_sources

    opened = [read.open(source) for source in sources]
    accepted = accepted_by(demonstrations=demonstrations, labelled=labelled)
    typer.echo(verify_sources(report, opened, demonstrations=accepted, full=full))


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetOptions:
    """What a conversion writes."""

    to: Annotated[
        str,
        typer.Option(
            help="canonical, trl, llamafactory_sharegpt, llamafactory_alpaca or ms_swift; of labelled answers trl_kto, "
            "llamafactory_kto, llamafactory_kto_sharegpt or ms_swift_kto."
        ),
    ]
    out: Annotated[Path, typer.Option(help="The file to write; what it needs beside it is written too.")]
    image_folder: Annotated[
        Path | None,
        typer.Option(help="Folder for embedded images, where the target wants paths; default: beside the output."),
    ] = None
    rebase: Annotated[bool, typer.Option("--rebase", help="Write image paths relative to the output's folder.")] = False
    new_ids: Annotated[
        bool, typer.Option("--new-ids", help="Name pairs by file and row; the old id goes to meta as row_id.")
    ] = False


@app.command()
@stopped_by_ctrl_c
@with_options
def convert(source: Source, target: TargetOptions, read: ReadOptions) -> None:
    """Write the pairs in another format; what cannot be said in it is listed, and nothing is lost silently."""
    from mmpref.data.commands.convert import ConvertSettings, convert_source, outputs_beside
    from mmpref.data.commands.outputs import refuse_outputs
    from mmpref.data.quarantine import Quarantine
    from mmpref.files.locking import only_writer
    from mmpref.terminal import CountDisplay

    settings = ConvertSettings(
        to=target.to,
        out=target.out,
        image_folder=target.image_folder,
        rebase=target.rebase,
        new_ids=target.new_ids,
    )
    opened = read.open(source)
    quarantine = Quarantine.beside(target.out)
    files = outputs_beside(settings, quarantine)
    refuse_outputs([opened], {"--out": target.out}, read=[read.card], files=files)
    with only_writer(target.out, "choose another --out"), CountDisplay("converting") as display:
        report = convert_source(opened, settings, quarantine)
        display.say(report.summary())
        if quarantine.counts:
            display.say(quarantine.summary())


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionOptions:
    """What an audit asks beside the usual questions."""

    eta: Annotated[float | None, typer.Option(help="Slope of w_qual; default: the card's, else 0.7.")] = None
    tau_good: Annotated[float | None, typer.Option(help="Score from which c-NLL is open; default: the card's.")] = None
    benchmark_ids: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="Questions of a benchmark, for its COCO ids.")
    ] = None
    benchmark_images: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FOLDER", help="Images of a benchmark, compared by content.")
    ] = None
    visual_genome: Annotated[
        Path | None, typer.Option(help="Visual Genome's image_data.json, which knows its COCO ids.")
    ] = None
    with_images: Annotated[bool, typer.Option("--with-images/--without-images", help="Open the images.")] = True


@app.command()
@stopped_by_ctrl_c
@with_options
def audit(
    source: Source,
    read: ReadOptions,
    asked: QuestionOptions,
    drop_leaks: Annotated[
        Path | None, typer.Option("--drop-leaks", help="Write the pairs without leaks here, as canonical JSONL.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the findings as JSON.")] = None,
) -> None:
    """What a careful researcher would ask: length bias, repeats, scores, image tokens, overlap with benchmarks."""
    from mmpref.data.card import load_card
    from mmpref.data.commands.audit_source import AuditRequest, audit_source, write_without_leaks
    from mmpref.data.commands.outputs import refuse_outputs
    from mmpref.data.manifest import write_report
    from mmpref.terminal import CountDisplay, print_facts

    opened = read.open(source)
    ids = named_paths(asked.benchmark_ids)
    refuse_outputs(
        [opened], {"--out": out, "--drop-leaks": drop_leaks}, read=[read.card, asked.visual_genome, *ids.values()]
    )
    request = AuditRequest(
        eta=asked.eta,
        tau_good=asked.tau_good,
        benchmark_ids=ids,
        benchmark_images=named_paths(asked.benchmark_images),
        visual_genome=asked.visual_genome,
        open_images=asked.with_images,
    )
    scores = None if read.card is None else load_card(read.card).scores
    with CountDisplay("auditing") as display:
        report, quarantine = audit_source(opened, request, scores, display.update)
    print_facts("data audit", report.rows(), report.warnings)
    if len(quarantine):
        typer.echo(f"not audited: {quarantine.summary()}; mmpref data check names each")
    if out is not None:
        write_report(out, report.as_json())
    if drop_leaks is not None:
        typer.echo("\n".join(write_without_leaks(opened, report, drop_leaks)))


@app.command()
@stopped_by_ctrl_c
@with_options
def view(
    source: Source,
    read: ReadOptions,
    out: Annotated[Path, typer.Option(help="The page: one HTML file that needs nothing else.")],
    limit: Annotated[int, typer.Option(min=1, help="Of more pairs, as many are shown, evenly spaced.")] = 1000,
) -> None:
    """A gallery of pairs in one offline page: image, prompt, both answers with their differences marked."""
    from mmpref.data.commands.gallery import build_gallery, evenly
    from mmpref.data.commands.outputs import refuse_outputs
    from mmpref.data.quarantine import Quarantine

    opened = read.open(source)
    refuse_outputs([opened], {"--out": out}, read=[read.card])
    quarantine = Quarantine()
    total, pairs = opened.some(quarantine, demonstrations="all", choose=lambda total: evenly(total, limit))
    page = build_gallery(
        pairs,
        quarantine.rows,
        images=opened.images,
        videos=opened.videos,
        out=out,
        title=source,
        limit=limit,
        num_pairs=total,
    )
    typer.echo(f"wrote {page}: {quarantine.summary()}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadOptions:
    """Which hosts are asked, and how much of them."""

    host: Annotated[
        list[str] | None,
        typer.Option(help="A host that images may come from; *.example.org for all below one."),
    ] = None
    max_gib: Annotated[float, typer.Option(min=0, help="Stop asking for more after this many GiB.")] = 200.0
    workers: Annotated[int, typer.Option(min=1, max=32, help="Images on their way at a time.")] = 4
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds for one image, further tries included.")] = 120.0


@app.command()
@stopped_by_ctrl_c
@with_options
def fetch(
    source: Source,
    out: Annotated[Path, typer.Option(help="Canonical JSONL with the paths of the fetched images.")],
    image_root: Annotated[
        Path,
        typer.Option(help="The folder that image paths of the written file start from; images go to 'fetched' in it."),
    ],
    download: DownloadOptions,
    rows: RowOptions,
    max_bad_fraction: MaxBad = 0.001,
) -> None:
    """Download the images that pairs name by URL: https, named hosts and public addresses only. Can be run again."""
    from mmpref.data.commands.outputs import refuse_outputs
    from mmpref.data.fetching.fetch import fetch_pairs
    from mmpref.data.fetching.policy import FetchPolicy
    from mmpref.data.loading import refuse_too_many_bad
    from mmpref.data.quarantine import Quarantine
    from mmpref.terminal import CountDisplay

    opened = rows.open(source)
    quarantine = Quarantine.beside(out)
    files = {"the list of rows left out beside --out,": quarantine.path}
    refuse_outputs([opened], {"--out": out}, read=[rows.card], files=files)
    policy = FetchPolicy(
        hosts=frozenset(download.host or ()),
        max_total_bytes=int(download.max_gib * 2**30),
        deadline=download.deadline,
    )
    with CountDisplay("fetching") as display:
        report = fetch_pairs(
            opened,
            out=out,
            root=image_root,
            policy=policy,
            quarantine=quarantine,
            workers=download.workers,
            progress=display.update,
        )
        display.say(f"{report.summary()}; {quarantine.summary()}; wrote {report.out}")
    refuse_too_many_bad(quarantine, max_bad_fraction)
