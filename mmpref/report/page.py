"""The report as one HTML file that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from mmpref.errors import ConfigError
from mmpref.files.writing import write_text
from mmpref.report import figures
from mmpref.report.benchmark_page import benchmark_sections
from mmpref.report.benchmarks import BenchmarkTable, benchmark_tables
from mmpref.report.cells import Table
from mmpref.report.compare import comparison_table
from mmpref.report.curves import MAX_POINTS, Panel, draw_panels, thinned
from mmpref.report.examples import CASES, SHORT, Album, Example, Gallery, Said, choose_examples
from mmpref.report.markup import Html, join, tag, void
from mmpref.report.provenance import provenance_section
from mmpref.report.runs import Run, load_runs
from mmpref.report.summary import Finding, baseline_sentence, summarise, summarise_benchmark
from mmpref.report.tables import legend, results_table
from mmpref.statistics import RESAMPLES
from mmpref.version import __version__

EXAMPLE_SEED = 0
_NOTHING = "CHAIR, POPE and the change of log-probs were not measured for any of these runs."


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
        runs: run folders; the first is the baseline.
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
    loaded = load_runs(runs, labels=labels)
    table = comparison_table(loaded)
    if images_root is not None and not images_root.is_dir():
        raise ConfigError(
            f"the image root {images_root} is not a folder; set it to the folder that image paths start from"
        )
    album = Album(images_root or _data_root(loaded))
    gallery = choose_examples(loaded, count=examples, seed=EXAMPLE_SEED, album=album)
    others = benchmark_tables(loaded)
    sections = benchmark_sections(others, album, examples=examples)
    write_text(out, render(loaded, table, gallery, others, sections, title=title, out=out, images_root=images_root))
    return out


def render(
    runs: Sequence[Run],
    table: Table,
    gallery: Gallery,
    others: Sequence[BenchmarkTable] = (),
    benchmarks: Sequence[Html] = (),
    *,
    title: str | None,
    out: Path,
    images_root: Path | None = None,
) -> str:
    """The page's text. What a page of nothing but other benchmarks does not have, it does not speak of."""
    heading = title or "Do they still make things up?"
    trained = any(run.manifest for run in runs)
    captions = any(run.chair() or run.pope() for run in runs)
    shown = [results_table(table), legend(table)] if table.columns else [tag("p", _NOTHING, class_="notice")]
    results = tag("section", tag("h2", "Results"), *shown, id="results")
    sections = [
        _summary(table, runs, others),
        results if captions or trained or not benchmarks else "",
        *benchmarks,
        _curves(runs) if trained else "",
        _examples(gallery) if gallery.examples or trained else "",
        provenance_section(runs, out, title=title, images=images_root),
    ]
    style = resources.files("mmpref.report").joinpath("page.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = tag(
        "head",
        void("meta", charset="utf-8"),
        void("meta", name="viewport", content="width=device-width, initial-scale=1"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
        void("meta", name="color-scheme", content="light dark"),
        tag("title", heading),
        void("link", rel="icon", href="data:,"),
        tag("style", Html(style + _colour_rules())),
    )
    names = join((tag("span", _swatch(place), line.label, class_="run") for place, line in enumerate(table.lines)), " ")
    header = tag(
        "header",
        tag("p", "mmpref report", class_="kicker"),
        tag("h1", heading),
        tag("p", names, class_="runs"),
    )
    footer = tag(
        "footer", tag("p", f"Made by mmpref {__version__}. This file is complete: it loads nothing from anywhere.")
    )
    body = tag("body", header, tag("main", join(section for section in sections if section)), footer)
    return f'<!DOCTYPE html>\n<html lang="en">\n{head}\n{body}\n</html>\n'


def _data_root(runs: Sequence[Run]) -> Path | None:
    roots = [run.recipe_value("data.root") for run in runs]
    roots += [found.results.get("images") for run in runs for found in run.evals]
    return next((Path(root) for root in roots if isinstance(root, str) and Path(root).is_dir()), None)


def _colour_rules() -> str:
    def rules(colours: Sequence[str]) -> str:
        return "".join(f"--run-{place}:{colour};" for place, colour in enumerate(colours))

    dark = f"@media (prefers-color-scheme:dark){{:root{{{rules(figures.DARK)}}}}}"
    return f":root{{{rules(figures.LIGHT)}}}{dark}\n"


def _summary(table: Table, runs: Sequence[Run], others: Sequence[BenchmarkTable]) -> Html:
    first = any(run.chair() or run.pope() for run in runs) or not any(other.rows for other in others)
    findings = summarise(table, runs) if first else []
    findings += [finding for other in others for finding in summarise_benchmark(other)]
    cards = join(_finding(finding) for finding in findings)
    measured = any(line.cells["chair_s"].value is not None for line in table.lines)
    figure: Html | str = ""
    if measured:
        drawn = [tag("div", Html(svg)) for svg in figures.outcome_figures(table)]
        words = "CHAIR_s and recall of every run, with 95 % intervals. The numbers are in the table below."
        figure = tag("figure", tag("div", *drawn, class_="pair"), tag("figcaption", words), class_="outcome")
    caution = (
        f"Intervals are 95 %: the images are drawn again {RESAMPLES:,} times, for both runs of a difference together. "
        "They say how much depends on which images were asked about, not how much depends on the training seed: "
        "every row is one training run. Many differences are shown, and none is corrected for their number."
    )
    evaluated = any(run.evals for run in runs)
    nothing = tag(
        "p", "None of these runs has been evaluated: there is no results.json under evals/. Answer a benchmark with "
        "mmpref eval, then make this page again.", class_="notice",
    )  # fmt: skip
    return tag(
        "section",
        tag("h2", "In short"),
        tag("p", baseline_sentence(table), class_="lead") if evaluated else nothing,
        tag("div", cards, class_="findings") if evaluated and findings else "",
        figure,
        tag("p", caution, class_="caution") if evaluated else "",
        id="summary",
    )


def _finding(finding: Finding) -> Html:
    warnings = [tag("li", warning) for warning in finding.warnings]
    return tag(
        "article",
        tag("h3", finding.label, " ", tag("span", finding.verdict, class_=f"verdict {finding.tone}")),
        tag("p", " ".join(finding.sentences)) if finding.sentences else "",
        tag("ul", *warnings, class_="warnings") if warnings else "",
        class_=f"finding {finding.tone}" + (" whole" if finding.is_overall else ""),
    )


def _curves(runs: Sequence[Run]) -> Html:
    panels = draw_panels(runs)
    if not panels:
        notice = "No training curves: metrics.jsonl of these runs holds no lines of training."
        return tag("section", tag("h2", "Training"), tag("p", notice, class_="notice"), id="training")
    words = (
        "One line per run; the same colours, dashes and marks everywhere. Supervised loss has steps of its own; all "
        "other panels share theirs."
    )
    if thinned(runs):
        words += f" Lines of more than {MAX_POINTS} points are drawn as averages of neighbours."
    drawn = {curve.style for panel in panels for curve in panel.curves}
    entries = [tag("li", _swatch(place, wide=True), run.label) for place, run in enumerate(runs) if place in drawn]
    return tag(
        "section",
        tag("h2", "Training"),
        tag("p", words),
        tag("ul", *entries, class_="curve-legend", aria_label="Lines"),
        tag("div", join(map(_panel, panels)), class_="panels"),
        id="training",
    )


def _panel(panel: Panel) -> Html:
    return tag(
        "figure",
        tag("h3", panel.title),
        tag("div", Html(panel.svg), role="img", aria_label=f"{panel.title}. {panel.in_words}"),
        tag("figcaption", panel.caption),
        class_="panel",
    )


def _swatch(place: int, *, wide: bool = False) -> Html:
    """The line style of a run as a small image."""
    place %= figures.NUM_STYLES
    width = 34 if wide else 16
    dashes = " ".join(str(2 * length) for length in figures.DASHES[place])
    line = Html(
        f'<line x1="0" y1="6" x2="{width}" y2="6" stroke="var(--run-{place})" stroke-width="3"'
        + (f' stroke-dasharray="{dashes}"' if dashes else "")
        + "></line>"
    )
    return tag("svg", line, class_="swatch", width=width, height=12, viewBox=f"0 0 {width} 12", aria_hidden="true")


def _examples(gallery: Gallery) -> Html:
    if not gallery.examples:
        notice = "No examples: no run has captions with items.jsonl, or no image was described by all of them."
        return tag("section", tag("h2", "Examples"), tag("p", notice, class_="notice"), id="examples")
    counts = [tag("li", tag("strong", str(gallery.counts[case])), f" {words}") for case, words in CASES.items()]
    rule = (
        f"The rule: all {gallery.num_images} images that every run described are sorted into the five cases below; "
        f"in each case they are shuffled by a hash of their id (seed {EXAMPLE_SEED}), and the cases take turns. "
        "So cases that are rare appear more often here than they are; the counts say how rare."
    )
    return tag(
        "section",
        tag("h2", "Examples"),
        tag("p", "Words for things that are not in the image are ", tag("mark", "marked"), "."),
        tag("p", rule),
        tag("ul", *counts, class_="cases"),
        tag("div", join(map(_example, gallery.examples)), class_="gallery"),
        id="examples",
    )


def _example(example: Example) -> Html:
    objects = ", ".join(example.objects) or "nothing known"
    if example.data_uri is None:
        image = tag("p", f"No image: {example.why_no_image}.", class_="no-image")
    else:
        image = void(
            "img",
            src=Html(example.data_uri),
            alt=f"Image {example.name}, which shows: {objects}",
            class_="tiny" if example.tiny else None,
            loading="lazy",
        )
    return tag(
        "article",
        tag("div", image, tag("p", tag("b", "In the image: "), objects, class_="truth"), class_="image"),
        tag(
            "div",
            tag("h3", tag("span", SHORT[example.case], class_=f"case {example.case}"), " ", tag("code", example.name)),
            tag("dl", *(part for said in example.said for part in _said(said))),
        ),
        class_="example",
    )


def _said(said: Said) -> tuple[Html, Html]:
    words = [tag("mark", piece.text, title="not in the image") if piece.mark else piece.text for piece in said.pieces]
    facts = []
    if said.hallucinated:
        facts.append(tag("span", f"made up: {', '.join(said.hallucinated)}", class_="made-up"))
    if said.missing:
        facts.append(tag("span", f"missing: {', '.join(said.missing)}", class_="missing"))
    shown = tag("q", *words) if said.pieces else tag("em", "(an empty answer)")
    return tag("dt", said.label), tag("dd", shown, tag("p", join(facts, " "), class_="facts") if facts else "")
