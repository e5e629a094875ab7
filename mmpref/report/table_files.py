"""The numbers of a comparison as a file for other programs: ``.csv`` with everything, ``.md`` and ``.tex`` for papers.

A ``.csv`` has one line per benchmark, part, metric and run, with raw values (fractions where a metric is one). The
other two have one table per benchmark, a row per run and a column per metric of all questions, as the page shows
them: value and 95 % interval, below it the paired difference from the first run with its interval; what is clearly
better is bold, and every warning of the page stands below its table. All three say what the page says: why there is
no difference, what could not be read, which results could not be used.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

from mmpref.errors import ConfigError
from mmpref.files.writing import write_text
from mmpref.report.benchmarks import BenchmarkTable, benchmark_tables
from mmpref.report.cells import MINUS, Cell, Table
from mmpref.report.compare import comparison_table
from mmpref.report.runs import Run

_FIELDS = (
    "benchmark", "protocol", "part", "metric", "unit", "better", "run", "baseline", "value", "low", "high",
    "difference", "difference_low", "difference_high", "verdict", "warnings", "note",
)  # fmt: skip
_UNITS = {"percent": "%", "words": "words", "nats": "nats", "number": ""}
_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", MINUS: "$-$", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': "{''}", "`": r"\textasciigrave{}", "\N{REPLACEMENT CHARACTER}": "?",
}  # fmt: skip
_TEX_PAIRS = "-',"
"""Letters of which LaTeX makes one of two: dashes, quotes. The others that it joins are spelt out anyway."""
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
"""What a spreadsheet takes for the beginning of a formula, and the same in the wide letters of East Asian scripts."""
_NOTHING = "not measured: none of these runs has been evaluated, and none logged log-probs"
_TEX_ARROWS = {"lower": r"$\downarrow$", "higher": r"$\uparrow$"}
_ARROWS = {"lower": "↓", "higher": "↑"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One metric of one run."""

    benchmark: str
    protocol: str
    part: str
    metric: str
    better: str
    run: str
    is_baseline: bool
    cell: Cell


def write_table(runs: Sequence[Run], out: Path) -> None:
    """Write the numbers of runs, the first of which the others are compared with.

    Args:
        out: a file that ends in ``.csv``, ``.md`` or ``.tex``.

    Raises:
        ConfigError: another ending.
        CheckpointError: the file cannot be written.
    """
    made = table_writer(out)
    table = comparison_table(runs)
    entries = [*_of_table(table, runs), *(entry for other in benchmark_tables(runs) for entry in _of_benchmark(other))]
    of_cells = {note for entry in entries for note in entry.cell.notes}
    general = [note for note in table.sentences if note not in of_cells]
    write_text(out, made(entries, general if entries else [_NOTHING, *general]))


def _of_table(table: Table, runs: Sequence[Run]) -> Iterator[Entry]:
    for column in table.columns:
        for line, run in zip(table.lines, runs, strict=True):
            if column.key.startswith("pope/"):
                part = run.pope().get(column.key.split("/")[1])
                found = part.evaluation if part else None
            else:
                found = run.chair() if column.group.endswith("(CHAIR)") else None
            name, _, split = column.group.partition(" ") if column.key.startswith("pope/") else (column.group, "", "")
            name = "CHAIR" if name.endswith("(CHAIR)") else name
            protocol = found.protocol if found is not None else ""
            cell = line.cells[column.key]
            yield Entry(name, protocol, split, column.label, column.better or "", line.label, line.is_baseline, cell)


def _of_benchmark(table: BenchmarkTable) -> Iterator[Entry]:
    for row in table.rows:
        for place, (label, cell) in enumerate(zip(table.labels, row.cells, strict=True)):
            yield Entry(table.title, table.protocol, row.part, row.name, row.better or "", label, place == 0, cell)


def as_csv(entries: Sequence[Entry], general: Sequence[str] = ()) -> str:
    """Everything, one line per benchmark, part, metric and run; what is not known is empty. A text that a spreadsheet
    would run as a formula begins with an apostrophe.

    Args:
        general: what belongs to no single number; lines with nothing but a note.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_FIELDS)
    for entry in entries:
        cell = entry.cell
        low, high = cell.interval or ("", "")
        difference_low, difference_high = cell.difference_interval or ("", "")
        notes = [cell.note if cell.value is None else cell.caution, *(flag.why for flag in cell.flags), *cell.notes]
        row = [
            entry.benchmark, entry.protocol, entry.part, entry.metric,
            "fraction" if cell.unit == "percent" else cell.unit, entry.better, entry.run,
            "yes" if entry.is_baseline else "no", _number(cell.value), low, high, _number(cell.difference),
            difference_low, difference_high, cell.verdict or "",
            "; ".join(flag.words for flag in cell.flags), "; ".join(filter(None, notes)),
        ]  # fmt: skip
        writer.writerow([no_formula(field) if isinstance(field, str) else field for field in row])
    for note in general:
        writer.writerow([*("" for _ in _FIELDS[:-1]), no_formula(note)])
    return stream.getvalue()


def no_formula(text: str) -> str:
    """Text on one line that no spreadsheet computes; numbers are no text and stay what they are."""
    plain = " ".join(text.split())
    return f"'{plain}" if plain.startswith(_FORMULA) else plain


def as_markdown(entries: Sequence[Entry], general: Sequence[str] = ()) -> str:
    """One pipe table per benchmark, and ``general`` below them."""
    out = []
    for title, metrics, runs, found in _grids(entries):
        heads = [f"{entry.metric} {_ARROWS.get(entry.better, '')} {_unit(entry)}".strip() for entry in metrics]
        rows = [
            [_cell(found.get((run, metric.metric)), _plain_bold, "<br>", str) for metric in metrics] for run in runs
        ]
        lines = [f"**{title}**", "", pipes(["run", *heads]), pipes(["---", *("---:" for _ in heads)])]
        lines += [pipes([run, *cells]) for run, cells in zip(runs, rows, strict=True)]
        out.append("\n".join([*lines, "", *(f"- {one_line(note)}" for note in _notes(found.values()))]).rstrip())
    remarks = ["\n".join(f"- {one_line(note)}" for note in general)] if general else []
    return "\n\n".join([*out, *remarks, *([_legend(entries)] if entries else [])]) + "\n"


def as_tex(entries: Sequence[Entry], general: Sequence[str] = ()) -> str:
    """One ``table`` per benchmark, for ``\\usepackage{booktabs}``, and ``general`` as a paragraph below them."""
    out = ["% needs \\usepackage{booktabs}"]
    for title, metrics, runs, found in _grids(entries):
        heads = [
            " ".join(part for part in (tex(entry.metric), _TEX_ARROWS.get(entry.better, ""), tex(_unit(entry))) if part)
            for entry in metrics
        ]
        body = []
        for run in runs:
            parts = [_cell(found.get((run, metric.metric)), _tex_bold, "\n", tex).split("\n") for metric in metrics]
            body.append(" & ".join([tex(run), *(part[0] for part in parts)]) + r" \\")
            if any(len(part) > 1 for part in parts):
                below = [rf"\footnotesize {part[1]}" if len(part) > 1 else "" for part in parts]
                body.append(" & ".join(["", *below]) + r" \\")
        notes = sentences(_notes(found.values()))
        out.append(
            "\n".join(
                [
                    r"\begin{table}",
                    r"\centering",
                    rf"\begin{{tabular}}{{l{'r' * len(heads)}}}",
                    r"\toprule",
                    " & ".join(["run", *heads]) + r" \\",
                    r"\midrule",
                    *body,
                    r"\bottomrule",
                    r"\end{tabular}",
                    rf"\caption{{{tex(title)}. {tex(_legend(entries))} {notes}}}".replace(" }", "}"),
                    r"\end{table}",
                ]
            )
        )
    if general:
        out.append(sentences(general))
    return "\n\n".join(out) + "\n"


Writer: TypeAlias = Callable[[Sequence[Entry], Sequence[str]], str]
WRITERS: dict[str, Writer] = {".csv": as_csv, ".md": as_markdown, ".tex": as_tex}


def table_writer(out: Path) -> Writer:
    """What makes the text of a file with this ending.

    Raises:
        ConfigError: there is nothing for it.
    """
    made = WRITERS.get(out.suffix.lower())
    if made is None:
        raise ConfigError(f"--out {out}: give a file that ends in .html, {', '.join(WRITERS)}")
    return made


def tex(text: str) -> str:
    """Text as LaTeX prints it, on one line: in OT1, the encoding of a document that asks for none, as in T1."""
    plain = one_line(text)
    spelt = [
        ("{}" if letter == before and letter in _TEX_PAIRS else "") + _TEX.get(letter, letter)
        for before, letter in zip(f" {plain}", plain, strict=False)
    ]
    if plain.startswith(("[", "*")):  # after a line's end they would be read as an argument
        spelt[0] = f"{{{spelt[0]}}}"
    return "".join(spelt)


def sentences(notes: Sequence[str]) -> str:
    """Notes as LaTeX, one after the other, each with its full stop."""
    return " ".join(tex(note if note.endswith((".", "?", "!")) else f"{note}.") for note in notes)


def one_line(text: str) -> str:
    """Text without line ends; what cannot be printed becomes a visible mark."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in " ".join(text.split()))


def _grids(
    entries: Sequence[Entry],
) -> Iterator[tuple[str, list[Entry], list[str], dict[tuple[str, str], Entry]]]:
    """By benchmark: title, the metrics of all questions, the runs, and the entry of each (run, metric)."""
    whole = [entry for entry in entries if not entry.part or entry.benchmark == "POPE"]  # its splits are its tables
    for name, group in groupby(whole, key=lambda entry: f"{entry.benchmark} {entry.part}".strip()):
        found = list(group)
        protocols = " and ".join(dict.fromkeys(entry.protocol for entry in found if entry.protocol))
        metrics = list({entry.metric: entry for entry in found}.values())
        runs = list(dict.fromkeys(entry.run for entry in found))
        title = f"{name}, protocol {protocols}" if protocols else name
        yield title, metrics, runs, {(entry.run, entry.metric): entry for entry in found}


def _cell(entry: Entry | None, bold: Callable[[str], str], line_end: str, spelt: Callable[[str], str]) -> str:
    if entry is None:
        return spelt("not measured")
    cell = entry.cell
    if cell.value is None:
        return spelt(cell.text)
    value = spelt(cell.text)
    first = f"{bold(value) if cell.verdict == 'better' else value} {spelt(cell.interval_text)}".strip()
    if cell.difference is None:
        return first
    return f"{first}{line_end}{spelt(f'{cell.difference_text} {cell.difference_interval_text} {cell.verdict}')}"


def _plain_bold(text: str) -> str:
    return f"**{text}**"


def _tex_bold(text: str) -> str:
    return rf"\textbf{{{text}}}"


def _notes(entries: Collection[Entry]) -> list[str]:
    """Warnings, cautions and what a reader must know of the results, each once."""
    of_flags = [f"{e.run}, {e.metric}: {f.words}, {f.why}" for e in entries for f in e.cell.flags]
    cautions = [f"{e.run}, {e.metric}: {e.cell.caution}" for e in entries if e.cell.caution]
    return list(dict.fromkeys([*of_flags, *cautions, *(note for e in entries for note in e.cell.notes)]))


def _legend(entries: Sequence[Entry]) -> str:
    first = next((entry.run for entry in entries if entry.is_baseline), "the first run")
    if all(entry.is_baseline for entry in entries):
        return "In brackets 95 % intervals."
    return f"In brackets 95 % intervals; below, the paired difference from {first}. Bold: clearly better than it."


def _unit(entry: Entry) -> str:
    unit = _UNITS[entry.cell.unit]
    return f"({unit})" if unit else ""


def _number(value: float | None) -> float | str:
    return "" if value is None else value


def pipes(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(one_line(cell).replace("\\", "\\\\").replace("|", "\\|") for cell in cells) + " |"
