"""The page and the tables of a sweep: one file that needs nothing else."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from markupsafe import Markup

from mmpref.errors import ConfigError
from mmpref.files.writing import write_text
from mmpref.report.figures.canvas import colour_rules
from mmpref.report.figures.drawing import Drawing, csv_of
from mmpref.report.html import render
from mmpref.report.sweep.cells import Measure, SweepResult, is_sweep_folder, read_sweep
from mmpref.report.sweep.drawings import (
    MOST_PANELS,
    Layout,
    curves,
    difference_maps,
    dots,
    heat_maps,
    layout_of,
    trade_off,
)
from mmpref.report.sweep.findings import (
    Findings,
    TextTable,
    as_data,
    best_table,
    cell_table,
    change_table,
    findings,
    progress,
    sentence,
    share_table,
)
from mmpref.report.table_files import no_formula, one_line, pipes
from mmpref.version import __version__

_PAGES = (".html", ".htm")
_MOST_ARMS = 6
"""Every two of so many arms have a sentence; of more arms, each against the first."""
_TRADES = (("chair_s", "recall"), ("chair_s_refine", "recall"), ("chair", "cover"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """All of one measure."""

    measure: Measure
    sentences: Sequence[str]
    maps: Sequence[Drawing]
    differences: Sequence[Drawing]
    curves: Sequence[Drawing]
    more_curves: Sequence[Drawing]
    tables: Sequence[TextTable]


def write_sweep_report(
    folder: Path, outs: Sequence[Path], *, title: str | None = None, axes: Sequence[str] = ()
) -> SweepResult:
    """Write what a sweep says, as a page (``.html``) or as tables (``.csv``, ``.md``, ``.json``).

    Args:
        folder: of ``mmpref sweep``; cells that failed or have not run are shown as such.
        outs: the files to write, each atomically.
        title: heading of the page.
        axes: which one or two axes the maps have; else the two with the most values other than seeds.

    Raises:
        ConfigError: the folder is no sweep's, an axis is none of it, a file has another ending, or matplotlib is not
            installed.
        CheckpointError: a file cannot be written.
    """
    for out in outs:
        refuse_other_endings(out)
    sweep = read_sweep(folder)
    layout = layout_of(sweep, axes)
    for out in outs:
        ending = out.suffix.lower()
        write_text(out, sweep_page(sweep, layout, title) if ending in _PAGES else _WRITERS[ending](sweep))
    return sweep


def refuse_other_endings(out: Path) -> None:
    """Refuse a file that is no page and no table.

    Raises:
        ConfigError: it is.
    """
    if out.suffix.lower() not in (*_PAGES, *_WRITERS):
        raise ConfigError(f"--out {out}: of a sweep give a file that ends in .html, {', '.join(_WRITERS)}")


def refuse_among_runs(paths: Sequence[Path]) -> None:
    """Refuse a sweep's folder beside others: its cells are compared among themselves.

    Raises:
        ConfigError: there is one.
    """
    if sweeps := [path for path in paths if is_sweep_folder(path)]:
        raise ConfigError(
            f"{sweeps[0]} is a sweep's folder, which has a page of its own: mmpref report {sweeps[0]} --out FILE.html; "
            f"to compare some of its cells name their folders: {sweeps[0] / 'cells'}/NAME"
        )


def sweep_page(sweep: SweepResult, layout: Layout, title: str | None = None) -> str:
    """The page's text."""
    main = [measure for measure in sweep.measures if measure.is_main]
    sections = [_section(sweep, measure, layout) for measure in main]
    style = resources.files("mmpref.report").joinpath("page.css").read_text(encoding="utf-8")
    shown = main[:1] + [one for one in main[1:] if one.better is not None]
    lead = [line for one in sections if one.measure in shown[:1] for line in one.sentences]
    return render(
        "sweep",
        title=title or f"What was varied, and what it changed: {sweep.path.name}",
        style=Markup(style + colour_rules()),
        recipe=sweep.recipe,
        progress=progress(sweep),
        lead=lead,
        sections=[one for one in sections if one.maps or one.curves or one.tables or one.sentences],
        trades=_trades(sweep),
        cells=_by_word(cell_table(sweep)),
        cell_csv=_file_of_cells(sweep),
        has_maps=layout.columns is not None,
        layout=" and ".join(axis.label for axis in (layout.rows, layout.columns) if axis is not None),
        fixed=", ".join(axis.label for axis in layout.fixed),
        most_panels=MOST_PANELS,
        version=__version__,
    )


def _section(sweep: SweepResult, measure: Measure, layout: Layout) -> Section:
    found = findings(sweep, measure)
    shares = [share for share, _ in found.shares]
    if len(sweep.arms) > _MOST_ARMS:
        shares = [share for share in shares if share.second == sweep.arms[0]]
    no_pair = [f"{measure.title}: no cell has two arms on the same questions yet."] if shares else []
    over = [drawn for axis in sweep.grid_axes for drawn in curves(sweep, measure, axis)]
    at_best = [drawn for drawn in over if len(sweep.grid_axes) == 1 or "at each arm's best" in drawn.title]
    return Section(
        measure=measure,
        sentences=[sentence(measure, share) for share in shares if share.n] or no_pair,
        maps=[*heat_maps(sweep, measure, layout), *dots(sweep, measure)],
        differences=difference_maps(sweep, measure, layout),
        curves=at_best,
        more_curves=[drawn for drawn in over if drawn not in at_best],
        tables=_tables(sweep, found),
    )


def _tables(sweep: SweepResult, found: Findings) -> list[TextTable]:
    tables = []
    if found.changes and found.measure.better is None:
        tables.append(change_table(sweep, found))
    if found.shares:
        tables.append(share_table(sweep, found))
    if found.best and sweep.grid_axes:
        tables.append(best_table(sweep, found))
    return [_by_word(table) for table in tables]


def _by_word(table: TextTable) -> TextTable:
    """Empty cells say so: a reader of tables by ear hears nothing else."""
    return replace(table, rows=tuple(tuple(text or "–" for text in row) for row in table.rows))


def _trades(sweep: SweepResult) -> list[Drawing]:
    by_key = {measure.key: measure for measure in sweep.measures}
    groups = dict.fromkeys(measure.group for measure in sweep.measures)
    drawn = []
    for group in groups:
        for one, other in _TRADES:
            x, y = by_key.get(f"{group}/{one}"), by_key.get(f"{group}/{other}")
            if x is not None and y is not None:
                drawn.append(trade_off(sweep, x, y, by_key.get(f"{group}/mean_length")))
                break
    return [one for one in drawn if one is not None]


def _file_of_cells(sweep: SweepResult) -> Drawing:
    """The table of all cells as a download; without a figure."""
    table = _columns(sweep)
    return Drawing("cells", "All cells", "", "", "", table[0], table[1])


def _columns(sweep: SweepResult) -> tuple[tuple[str, ...], tuple[tuple[str | float | None, ...], ...]]:
    heads = (
        "cell",
        "arm",
        *(axis.key for axis in sweep.axes),
        "state",
        "seconds",
        *(m.key for m in sweep.measures),
        "note",
    )
    rows: list[tuple[str | float | None, ...]] = []
    for cell in sweep.cells:
        numbers = [cell.numbers.get(measure.key) for measure in sweep.measures]
        note = "; ".join(filter(None, [cell.why, *cell.remarks]))
        texts = [cell.name, cell.arm, *(cell.values[axis.key] for axis in sweep.axes), cell.state]
        values = [None if one is None else one.value for one in numbers]
        rows.append((*map(no_formula_in_words, texts), cell.seconds, *values, no_formula(note)))
    for name, found in sweep.starts.items():
        starts = [found[m.key].value if m.key in found else None for m in sweep.measures]
        rows.append((f"start model {name}", "", *("" for _ in sweep.axes), "before training", None, *starts, ""))
    return heads, tuple(rows)


def no_formula_in_words(text: str) -> str:
    """Text that no spreadsheet computes; a number stays a number, with its sign."""
    try:
        float(text)
    except ValueError:
        return no_formula(text)
    return text


def _csv(sweep: SweepResult) -> str:
    return csv_of(*_columns(sweep))


def _json(sweep: SweepResult) -> str:
    return json.dumps(as_data(sweep), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _markdown(sweep: SweepResult) -> str:
    """Progress, the comparisons of every main measure, and all cells."""
    stream = io.StringIO()
    stream.write("\n".join(f"- {one_line(line)}" for line in progress(sweep)) + "\n\n")
    tables = [t for m in sweep.measures if m.is_main for t in _tables(sweep, findings(sweep, m))]
    for table in [*tables, _by_word(cell_table(sweep))]:
        lines = [f"**{one_line(table.title)}**", "", pipes(table.heads), pipes(["---"] * len(table.heads))]
        lines += [pipes(row) for row in table.rows]
        lines += ["", *(f"- {one_line(note)}" for note in table.notes)] if table.notes else []
        stream.write("\n".join(lines) + "\n\n")
    return stream.getvalue().rstrip() + "\n"


_WRITERS: Mapping[str, Callable[[SweepResult], str]] = {".csv": _csv, ".md": _markdown, ".json": _json}
