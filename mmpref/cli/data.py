"""``mmpref data``: what is in a preference file, what is wrong with it, and the same pairs in another shape.

Thin commands, as in ``cli.py``: parse, open, call one function, show what came back. Nothing here loads torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmpref.errors import ConfigError, DataError, stopped_by_ctrl_c

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mmpref.data.commands.check import CheckReport
    from mmpref.data.loading import PairSource
    from mmpref.records import PreferencePair

WORTH_A_LOOK = 0.005
"""Share of scored pairs that are inverted, above which the check says so: a column may be the wrong way round."""

app = typer.Typer(
    name="data",
    help="Look into preference data, check it, convert it.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_SOURCE_HELP = (
    "A file (JSONL, JSON, parquet, arrow), a folder, a dataset_info.json[:name] of LLaMA-Factory, "
    "or a hub id: owner/name[:config]\\[@revision]."  # escaped: typer reads square brackets as markup
)
_Source = Annotated[str, typer.Argument(help=_SOURCE_HELP)]
_Format = Annotated[str, typer.Option("--format", help="Row format; auto tells it from the keys of each row.")]
_Root = Annotated[Path | None, typer.Option(help="Image paths start here; default: the source's own folder.")]
_Split = Annotated[str | None, typer.Option(help="Which split, where there are several.")]
_CardName = Annotated[str | None, typer.Option(help="The data card that describes the source (mmpref data list).")]
_MaxBad = Annotated[float, typer.Option(min=0, max=1, help="Share of bad rows that is allowed.")]


@app.command("list")
@stopped_by_ctrl_c
def list_() -> None:
    """The data cards: known data sets, their size, licence and scores."""
    from mmpref.data.card import list_cards
    from mmpref.terminal import print_table

    rows = []
    for card in list_cards():
        size = ", ".join(f"{count:,}" if isinstance(count, int) else str(count) for count in card.size.values())
        rows.append([card.name, card.format, size, card.license, card.commercial_use, _scores(card.scores)])
    columns = ["card", "format", "pairs", "licence", "commercial use", "scores"]
    print_table(f"{len(rows)} data cards", columns, rows, ["mmpref data show CARD tells everything about one."])


def _scores(scores: object) -> str:
    kind = getattr(scores, "kind", None)
    scale = getattr(scores, "scale", None)
    if kind is None:
        return "none"
    return kind if scale is None else f"{kind} {scale[0]:g}..{scale[1]:g}"


@app.command()
@stopped_by_ctrl_c
def show(card: Annotated[str, typer.Argument(help="A card's name, or a file with one.")]) -> None:
    """One data card, whole."""
    from mmpref.data.card import load_card
    from mmpref.terminal import print_facts

    known = load_card(card)
    print_facts(known.name, known.facts(), [known.text] if known.text else [])


@app.command()
@stopped_by_ctrl_c
def check(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help=_SOURCE_HELP)],
    out: Annotated[Path, typer.Option(help="Folder for data_report.json and quarantine.jsonl.")] = Path("data_check"),
    format: _Format = "auto",
    root: _Root = None,
    split: _Split = None,
    card: _CardName = None,
    demonstrations: Annotated[
        bool, typer.Option("--demonstrations", help="Accept rows without a rejected answer, as the sft loss does.")
    ] = False,
    max_bad_fraction: _MaxBad = 0.001,
    workers: Annotated[int | None, typer.Option(min=1, help="Decoding processes; default: one per core.")] = None,
    fix: Annotated[
        Path | None, typer.Option("--fix", help="Also write the rows in order to this new file, canonical JSONL.")
    ] = None,
    copy_images: Annotated[
        bool, typer.Option("--copy-images", help="With --fix: copy their images to a folder beside the file.")
    ] = False,
) -> None:
    """Read every row and decode every image once; exit code 3 when training would refuse the data.

    Ends with what to do next. With --fix the exit code is 0 when the clean file is written.
    """
    from mmpref.data.commands.check import check as run_check
    from mmpref.data.commands.next_steps import after_check
    from mmpref.data.commands.outputs import refuse_outputs
    from mmpref.data.manifest import QUARANTINE_FILE, REPORT_FILE
    from mmpref.files.locking import only_writer
    from mmpref.terminal import CountDisplay

    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; --out is the folder of the report")
    if copy_images and fix is None:
        raise ConfigError("--copy-images goes with --fix FILE, which names the clean file")
    opened = [_open(source, format, root, split, card) for source in sources]
    files = {"the report in --out,": out / REPORT_FILE, "the list in --out,": out / QUARANTINE_FILE}
    refuse_outputs(opened, {"--fix": fix}, read=[card], files=files)
    if fix is not None and fix.exists():
        raise ConfigError(f"--fix {fix} is there already and would be written over; delete it, or give another name")
    with only_writer(out, "choose another --out"), CountDisplay("checking") as display:
        report = run_check(
            opened,
            out=out,
            demonstrations=demonstrations,
            max_bad_fraction=max_bad_fraction,
            workers=workers,
            progress=display.update,
        )
    _show_check(report, out)
    if not report.read:
        raise DataError(f"{report.fault}: {', '.join(sources)} is empty")
    if fix is not None and report.used:
        _write_clean(opened, report, fix, demonstrations, copy_images, out)
        return
    steps = after_check(opened, report, out, demonstrations=demonstrations)
    if report.fault is not None:
        first = [f"  {line}" for line in report.first_bad]
        more = report.quarantined - len(first)
        others = [f"  ... and {more:,} more"] if more else []
        listed = f"  all of them: {out / 'quarantine.jsonl'}"
        raise DataError("\n".join([f"{report.fault}:", *first, *others, listed, *steps]))
    typer.echo("\n".join(steps))


def _write_clean(
    opened: list[PairSource], report: CheckReport, fix: Path, demonstrations: bool, copy_images: bool, out: Path
) -> None:
    from mmpref.data.commands.clean import write_clean
    from mmpref.data.commands.next_steps import train_on_file

    clean = write_clean(opened, out=fix, skip=report.skip, demonstrations=demonstrations, copy_images=copy_images)
    aside = f", {report.quarantined:,} left out ({out / 'quarantine.jsonl'})" if report.quarantined else ""
    images = "" if clean.images is None else f"; their images in {clean.images}"
    typer.echo(f"wrote {fix}: {clean.num_pairs:,} pairs{aside}{images}")
    for line in clean.unwritable[:5]:
        typer.echo(f"  left out too: {line}")
    typer.echo("\n".join(["next:", f"  {train_on_file(fix, clean.root)}"]))


def _show_check(report: CheckReport, out: Path) -> None:
    from mmpref.terminal import print_facts

    per_pair = ", ".join(f"{number}: {count:,}" for number, count in report.images_per_pair.items())
    facts = [
        ("read", f"{report.read:,}"),
        ("used", f"{report.used:,}"),
        ("quarantined", f"{report.quarantined:,}"),
        *((f"  {reason}", f"{count:,}") for reason, count in report.reasons.items()),
        ("images", f"{report.images:,} decoded, {report.image_bytes / 2**20:,.1f} MiB"),
    ]
    if report.image_sides:
        sides = report.image_sides
        facts.append(("longer side", f"{sides['smallest']} to {sides['largest']} pixels, median {sides['median']}"))
    facts += [("pairs by images", per_pair), ("scored pairs", f"{report.scored:,}")]
    if report.scores:
        scores = report.scores
        facts.append(("scores", f"{scores['lowest']:g} to {scores['highest']:g}"))
        facts.append(("inverted, tied", f"{scores['inverted']:,}, {scores['tied']:,}"))
    if report.demonstrations:
        facts.append(("demonstrations", f"{report.demonstrations:,}"))
    facts += [
        ("not read, in meta" if not place else "", f"{name[:40]} ({count:,} rows)")
        for place, (name, count) in enumerate(report.left_over.items())
    ]
    facts.append(("manifest", str(report.manifest["hash"])[:16]))
    inverted = report.scores.get("inverted", 0) if report.scores else 0
    warning = f"{inverted:,} of {report.scored:,} scored pairs have the higher score on the rejected answer"
    repeated = (
        f"the answers of {report.repeat_prompt:,} pairs begin with the whole question, which the model would learn to "
        "repeat: cut it off"
    )
    scoreless = f"{report.used - report.scored:,} pairs have no scores, which Uni-DPO's quality weight does not take"
    print_facts(
        "data check",
        facts,
        [
            *([warning] if inverted > WORTH_A_LOOK * report.scored else []),
            *([repeated] if report.repeat_prompt else []),
            *([scoreless] if 0 < report.scored < report.used else []),
            f"written to {out}",
        ],
    )


@app.command()
@stopped_by_ctrl_c
def verify(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help=_SOURCE_HELP)],
    report: Annotated[Path, typer.Option(help="The folder that mmpref data check wrote (or its report).")],
    format: _Format = "auto",
    root: _Root = None,
    split: _Split = None,
    card: _CardName = None,
    demonstrations: Annotated[
        bool, typer.Option("--demonstrations", help="The check was made with --demonstrations.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Hash every image again, whatever its time of change.")] = False,
) -> None:
    """Whether data is still what a check found it to be, as training with that report would ask; else exit code 3."""
    from mmpref.data.manifest import verify as run_verify
    from mmpref.data.quarantine import Quarantine

    opened = [_open(source, format, root, split, card) for source in sources]
    checked = run_verify(report, opened, demonstrations=demonstrations)
    quarantines = [Quarantine() for _ in opened]
    lists = [
        (found.pair for found in source.pairs(quarantine, demonstrations=demonstrations, skip=checked.skip))
        for source, quarantine in zip(opened, quarantines, strict=True)
    ]
    checked.verify_images(opened, lists, full=full)
    used = sum(quarantine.num_used for quarantine in quarantines)
    typer.echo(f"{used:,} pairs are as {report} describes them; manifest {checked.hash[:16]}")


@app.command()
@stopped_by_ctrl_c
def convert(
    source: _Source,
    to: Annotated[str, typer.Option(help="canonical, trl, llamafactory_sharegpt, llamafactory_alpaca or ms_swift.")],
    out: Annotated[Path, typer.Option(help="The file to write; what it needs beside it is written too.")],
    format: _Format = "auto",
    root: _Root = None,
    split: _Split = None,
    card: _CardName = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder for embedded images, where the target wants paths; default: beside the output."),
    ] = None,
    rebase: Annotated[
        bool, typer.Option("--rebase", help="Write image paths relative to the output's folder.")
    ] = False,
    new_ids: Annotated[
        bool, typer.Option("--new-ids", help="Name pairs by file and row; the old id goes to meta as row_id.")
    ] = False,
) -> None:
    """Write the pairs in another format; what cannot be said in it is listed, and nothing is lost silently."""
    from dataclasses import replace

    from mmpref.data.commands.convert import convert as run_convert
    from mmpref.data.commands.outputs import refuse_outputs
    from mmpref.data.quarantine import Quarantine, RowError
    from mmpref.data.reading.dataset_info import FILE_NAME as DATASET_INFO
    from mmpref.files.locking import only_writer
    from mmpref.terminal import CountDisplay

    opened = _open(source, format, root, split, card)
    quarantine = Quarantine(out.with_name(f"{out.stem}.quarantine.jsonl"))
    files = {"the list of rows left out beside --out,": quarantine.path}
    if to.startswith("llamafactory"):
        files["the description beside --out,"] = out.with_name(DATASET_INFO)
    refuse_outputs([opened], {"--out": out}, read=[card], files=files)

    unreadable = 0

    def broken(file: str, row: int, fault: RowError) -> None:
        nonlocal unreadable
        unreadable += 1
        quarantine.num_read += 1
        opened.put_aside(quarantine, file, row, fault, row_id=None)

    with only_writer(out, "choose another --out"), CountDisplay("converting") as display:
        report = run_convert(
            opened.rows.rows(broken),
            to=to,
            out=out,
            source_format=None if opened.row_format == "auto" else opened.row_format,
            quarantine=quarantine,
            options=opened.options,
            root=None if opened.images is None else opened.images.root,
            images=images,
            rebase=rebase,
            new_ids=new_ids,
        )
        report = replace(
            report,
            num_rows=report.num_rows + unreadable,
            num_quarantined=report.num_quarantined + unreadable,
        )
        display.say(report.summary())
        if quarantine.counts:
            display.say(quarantine.summary())


@app.command()
@stopped_by_ctrl_c
def audit(
    source: _Source,
    format: _Format = "auto",
    root: _Root = None,
    split: _Split = None,
    card: _CardName = None,
    eta: Annotated[float | None, typer.Option(help="Slope of w_qual; default: the card's, else 0.7.")] = None,
    tau_good: Annotated[float | None, typer.Option(help="Score from which c-NLL is open; default: the card's.")] = None,
    benchmark_ids: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="Questions of a benchmark, for its COCO ids.")
    ] = None,
    benchmark_images: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FOLDER", help="Images of a benchmark, compared by content.")
    ] = None,
    visual_genome: Annotated[
        Path | None, typer.Option(help="Visual Genome's image_data.json, which knows its COCO ids.")
    ] = None,
    drop_leaks: Annotated[
        Path | None, typer.Option("--drop-leaks", help="Write the pairs without leaks here, as canonical JSONL.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the findings as JSON.")] = None,
    images: Annotated[bool, typer.Option("--images/--no-images", help="Open the images.")] = True,
) -> None:
    """What a careful researcher would ask: length bias, repeats, scores, image tokens, overlap with benchmarks."""
    import math
    from dataclasses import replace

    from mmpref.data.audit import audit as run_audit
    from mmpref.data.audit.leaks import read_benchmark_ids, read_visual_genome
    from mmpref.data.card import load_card
    from mmpref.data.commands.outputs import refuse_outputs
    from mmpref.data.manifest import write_report
    from mmpref.data.pairs import write_pairs
    from mmpref.data.quarantine import Quarantine
    from mmpref.terminal import CountDisplay, print_facts

    opened = _open(source, format, root, split, card)
    read = [card, visual_genome, *(path for _, path in _named(benchmark_ids))]
    refuse_outputs([opened], {"--out": out, "--drop-leaks": drop_leaks}, read=read)
    if eta is not None and not 0 < eta < math.inf:
        raise ConfigError(f"--eta must be a number above 0, got {eta}")
    if tau_good is not None and not math.isfinite(tau_good):
        raise ConfigError(f"--tau-good must be a finite number, got {tau_good}")
    scores = None if card is None else load_card(card).scores
    eta = eta if eta is not None else (scores.eta if scores is not None else None)
    quarantine = Quarantine()
    unopened = replace(opened, images=None)  # an image that cannot be opened is a finding, and no reason to stop

    with CountDisplay("auditing") as display:
        report = run_audit(
            (found.pair for found in unopened.pairs(quarantine, demonstrations=True)),
            images=opened.images if images else None,
            eta=0.7 if eta is None else eta,
            tau_good=tau_good if tau_good is not None or scores is None else scores.tau_good,
            score_scale=None if scores is None else scores.scale,
            benchmark_ids={name: read_benchmark_ids(path) for name, path in _named(benchmark_ids)},
            benchmark_images=dict(_named(benchmark_images)),
            visual_genome=None if visual_genome is None else read_visual_genome(visual_genome),
            progress=display.update,
        )
    print_facts("data audit", report.rows(), report.warnings)
    if len(quarantine):
        typer.echo(f"not audited: {quarantine.summary()}; mmpref data check names each")
    if out is not None:
        write_report(out, report.as_json())
    if drop_leaks is not None:
        leaks = set(report.leaks)
        left_out = written = 0
        with_paths = False

        def kept() -> Iterator[PreferencePair]:
            nonlocal left_out, written, with_paths
            for found in opened.candidates(Quarantine(), demonstrations=True):
                is_leak = found.pair.id in leaks
                left_out, written = left_out + is_leak, written + (not is_leak)
                if not is_leak:
                    with_paths = with_paths or any(ref.path is not None for ref in found.pair.images)
                    yield found.pair

        write_pairs(drop_leaks, kept())
        typer.echo(f"wrote {drop_leaks}: {written:,} pairs, {left_out:,} leaks left out")
        from mmpref.files.reading import without_links

        start = None if opened.images is None else opened.images.root
        if with_paths and start is not None and start != without_links(drop_leaks.parent):
            typer.echo(f"image paths start from {start}; say so where the file is read: data.root={start}")


@app.command()
@stopped_by_ctrl_c
def view(
    source: _Source,
    out: Annotated[Path, typer.Option(help="The page: one HTML file that needs nothing else.")],
    format: _Format = "auto",
    root: _Root = None,
    split: _Split = None,
    card: _CardName = None,
    limit: Annotated[int, typer.Option(min=1, help="Of more pairs, as many are shown, evenly spaced.")] = 1000,
) -> None:
    """A gallery of pairs in one offline page: image, prompt, both answers with their differences marked."""
    from mmpref.data.commands.gallery import build_gallery, evenly
    from mmpref.data.commands.outputs import refuse_outputs
    from mmpref.data.quarantine import Quarantine

    opened = _open(source, format, root, split, card)
    refuse_outputs([opened], {"--out": out}, read=[card])
    quarantine = Quarantine()
    total, pairs = opened.some(quarantine, demonstrations=True, choose=lambda total: evenly(total, limit))
    page = build_gallery(
        pairs, quarantine.rows, images=opened.images, out=out, title=source, limit=limit, num_pairs=total
    )
    typer.echo(f"wrote {page}: {quarantine.summary()}")


@app.command()
@stopped_by_ctrl_c
def fetch(
    source: _Source,
    out: Annotated[Path, typer.Option(help="Canonical JSONL with the paths of the fetched images.")],
    root: Annotated[Path, typer.Option(help="Image root of the written file; images go to its folder 'fetched'.")],
    host: Annotated[
        list[str] | None, typer.Option(help="A host that images may come from; *.example.org for all below one.")
    ] = None,
    format: _Format = "auto",
    split: _Split = None,
    card: _CardName = None,
    max_gib: Annotated[float, typer.Option(min=0, help="Stop asking for more after this many GiB.")] = 200.0,
    workers: Annotated[int, typer.Option(min=1, max=32, help="Images on their way at a time.")] = 4,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds for one image, further tries included.")] = 120.0,
    max_bad_fraction: _MaxBad = 0.001,
) -> None:
    """Download the images that pairs name by URL: https, named hosts and public addresses only. Can be run again."""
    from mmpref.data.commands.outputs import refuse_outputs
    from mmpref.data.fetching.fetch import FetchPolicy, fetch_pairs
    from mmpref.data.loading import refuse_too_many_bad
    from mmpref.data.quarantine import Quarantine
    from mmpref.terminal import CountDisplay

    opened = _open(source, format, None, split, card)
    quarantine = Quarantine(out.with_name(f"{out.stem}.quarantine.jsonl"))
    files = {"the list of rows left out beside --out,": quarantine.path}
    refuse_outputs([opened], {"--out": out}, read=[card], files=files)
    policy = FetchPolicy(hosts=frozenset(host or ()), max_total_bytes=int(max_gib * 2**30), deadline=deadline)
    with CountDisplay("fetching") as display:
        report = fetch_pairs(
            opened,
            out=out,
            root=root,
            policy=policy,
            quarantine=quarantine,
            workers=workers,
            progress=display.update,
        )
        display.say(
            f"{report.images:,} images ({report.downloaded:,} downloaded now, {report.num_bytes / 2**20:,.1f} MiB); "
            f"{quarantine.summary()}; wrote {report.out}"
        )
    refuse_too_many_bad(quarantine, max_bad_fraction)


def _open(source: str, format: str, root: Path | None, split: str | None, card: str | None) -> PairSource:
    from mmpref.data.opening import open_pairs

    return open_pairs(source, format=format, root=root, split=split, card=card)


def _named(options: list[str] | None) -> list[tuple[str, Path]]:
    found = []
    for option in options or ():
        name, separator, path = option.partition("=")
        if not separator or not name or not path:
            raise ConfigError(f"'{option}' must be written NAME=PATH, for example pope=coco_pope_random.json")
        from mmpref.files.reading import why_no_path

        if why := why_no_path(path):
            raise ConfigError(f"the path of {name[:60]} {why}")
        found.append((name, Path(path)))
    return found
