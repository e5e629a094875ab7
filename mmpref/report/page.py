"""The report as one HTML file that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from markupsafe import Markup

from mmpref.errors import ConfigError
from mmpref.files.writing import write_text
from mmpref.report.benchmark_page import benchmark_sections
from mmpref.report.benchmarks import BenchmarkTable, benchmark_tables
from mmpref.report.cautions import MOST_SHOWN, cautions
from mmpref.report.cells import Table
from mmpref.report.compare import comparison_table
from mmpref.report.cost import cost_section
from mmpref.report.curves import MAX_POINTS, curve_drawings, thinned
from mmpref.report.examples import CASES, SHORT, Album, Gallery, choose_examples
from mmpref.report.figures.canvas import DASHES, NUM_STYLES, colour_rules
from mmpref.report.figures.curves import styles_of
from mmpref.report.figures.outcomes import outcome_drawings
from mmpref.report.health.section import health_section
from mmpref.report.html import render
from mmpref.report.pairs.look import look_section
from mmpref.report.pairs.why import why_section
from mmpref.report.parts import parts_of
from mmpref.report.provenance import provenance_section
from mmpref.report.rounds import rounds_section
from mmpref.report.runs import Run, load_runs
from mmpref.report.samples import samples_section
from mmpref.report.summary import baseline_sentence, summarise, summarise_benchmark
from mmpref.report.tables import results_section
from mmpref.report.trained_on import trained_on_section
from mmpref.report.win_rates import win_rate_section
from mmpref.statistics import RESAMPLES
from mmpref.version import __version__

EXAMPLE_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PageOptions:
    """What a user may ask for.

    Attributes:
        title: heading of the page.
        images_root: image paths in the results start here; the default is the first recipe's ``data.root``.
        labels: names to show, by path as given or by folder name.
        examples: how many images to show.
    """

    title: str | None = None
    images_root: Path | None = None
    labels: Mapping[str, str] | None = None
    examples: int = 8


@dataclass(frozen=True, slots=True)
class Live:
    """A page that is written again: a browser reads it again after so many ``seconds``, and ``line`` says how far the
    runs are."""

    seconds: int
    line: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the page is made from: the runs, their comparison, and what the user asked for.

    ``others`` are the tables of benchmarks beside CHAIR and POPE, ``sections`` what the page says of each benchmark,
    and ``rounds`` what it says of rounds of on-policy pairs, where there are any.
    """

    runs: Sequence[Run]
    table: Table
    gallery: Gallery
    album: Album
    others: Sequence[BenchmarkTable] = ()
    sections: Sequence[Markup] = ()
    rounds: Markup | None = None
    title: str | None = None
    images_root: Path | None = None


def build_report(
    runs: Sequence[Path],
    out: Path,
    *,
    title: str | None = None,
    images_root: Path | None = None,
    labels: Mapping[str, str] | None = None,
    examples: int = 8,
) -> Path:
    """Compare run folders in one page.

    Args:
        runs: run folders, or folders of ``mmpref sample round``; the first run is the baseline.
        out: the HTML file to write, written atomically.
        title: heading of the page.
        images_root: image paths in the results start here; the default is the first recipe's ``data.root``.
        labels: names to show, by path as given or by folder name.
        examples: how many images to show.

    Returns:
        ``out``.

    Raises:
        ConfigError: a folder is not a run folder, or matplotlib is not installed.
        CheckpointError: ``out`` cannot be written.
    """
    options = PageOptions(title=title, images_root=images_root, labels=labels, examples=examples)
    write_text(out, page(read_report(runs, options), out))
    return out


def read_report(runs: Sequence[Path], options: PageOptions) -> Report:
    """Read run folders and compare them.

    Raises:
        ConfigError: a folder is not a run folder, or the image root is not a folder.
    """
    loaded = load_runs(runs, labels=options.labels)
    table = comparison_table(loaded)
    images_root = options.images_root
    if images_root is not None and not images_root.is_dir():
        raise ConfigError(
            f"the image root {images_root} is not a folder; set it to the folder that image paths start from"
        )
    album = Album(images_root or _data_root(loaded), is_given=images_root is not None)
    others = benchmark_tables(loaded)
    return Report(
        runs=loaded,
        table=table,
        gallery=choose_examples(loaded, count=options.examples, seed=EXAMPLE_SEED, album=album),
        album=album,
        others=others,
        sections=benchmark_sections(others, album, examples=options.examples),
        rounds=rounds_section([Path(path) for path in runs], loaded),
        title=options.title,
        images_root=images_root,
    )


def page_without_runs(title: str | None, live: Live, notes: Sequence[str]) -> str:
    """The page while there is nothing to show yet; ``notes`` say why."""
    return _page(title, [], [], notes, live)


def page(report: Report, out: Path, live: Live | None = None, notes: Sequence[str] = ()) -> str:
    """The page's text. Sections without content are left out.

    Args:
        report: what it shows.
        out: where it will be, for the command that makes it again.
        live: where it is written again.
        notes: about runs that are not on it.
    """
    runs, table = report.runs, report.table
    trained = any(run.manifest for run in runs)
    captions = any(run.chair() or run.pope() for run in runs)
    sections: list[Markup | None] = [trained_on_section(runs), _summary(report)]
    if captions or trained or not report.sections:
        sections.append(results_section(table))
    sections += [*report.sections, win_rate_section(runs)]
    if report.rounds is not None:
        sections.append(report.rounds)
    if trained:
        sections += [health_section(runs), _training(runs), why_section(runs, report.album), look_section(runs)]
        sections += [samples_section(runs, report.album), cost_section(runs)]
    if report.gallery.examples or trained:
        sections.append(_examples(report.gallery))
    sections.append(provenance_section(runs, out, title=report.title, images=report.images_root))
    differences = [*table.notes, *(note for other in report.others for note in other.notes if "no paired" in note)]
    lines = [{"swatch": _swatch(place), "label": line.label} for place, line in enumerate(table.lines)]
    said = [*notes, *cautions(runs, differences)]
    return _page(report.title, lines, sections, said, live)


def _page(
    title: str | None,
    lines: Sequence[Mapping[str, object]],
    sections: Sequence[Markup | None],
    said: Sequence[str],
    live: Live | None,
) -> str:
    parts = parts_of(sections)
    style = resources.files("mmpref.report").joinpath("page.css").read_text(encoding="utf-8")
    return render(
        "page",
        title=title or "Do they still make things up?",
        style=Markup(style + colour_rules()),
        lines=lines,
        sections=[part.html for part in parts],
        contents=parts,
        cautions=said,
        most_cautions=MOST_SHOWN,
        live=live,
        version=__version__,
    )


def _data_root(runs: Sequence[Run]) -> Path | None:
    roots = [run.recipe_value("data.root") for run in runs]
    roots += [found.results.get("images") for run in runs for found in run.evals]
    return next((Path(root) for root in roots if isinstance(root, str) and Path(root).is_dir()), None)


def _summary(report: Report) -> Markup:
    runs, table = report.runs, report.table
    first = any(run.chair() or run.pope() for run in runs) or not any(other.rows for other in report.others)
    findings = summarise(table, runs) if first else []
    findings += [finding for other in report.others for finding in summarise_benchmark(other)]
    measured = any(line.cells["chair_s"].value is not None for line in table.lines)
    evaluated = any(run.evals for run in runs)
    return render(
        "summary",
        evaluated=evaluated,
        lead=baseline_sentence(table) if evaluated else "",
        findings=findings,
        figures=outcome_drawings(table) if measured else [],
        resamples=f"{RESAMPLES:,}",
    )


def _training(runs: Sequence[Run]) -> Markup:
    drawings = curve_drawings(runs)
    labels = [run.label for run in runs]
    lines = [{"swatch": _swatch(place, wide=True), "label": labels[place]} for place in styles_of(drawings, labels)]
    return render("training", drawings=drawings, lines=lines, max_points=MAX_POINTS if thinned(runs) else 0)


def _swatch(place: int, *, wide: bool = False) -> Markup:
    """The line style of a run as a small image."""
    place %= NUM_STYLES
    dashes = " ".join(str(2 * length) for length in DASHES[place])
    return render("swatch", place=place, width=34 if wide else 16, dashes=dashes)


def _examples(gallery: Gallery) -> Markup:
    return render("examples", gallery=gallery, seed=EXAMPLE_SEED, cases=CASES, short=SHORT)
