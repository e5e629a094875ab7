"""The table as ``.csv`` (raw values, one line per model and metric), ``.md`` and ``.tex`` (booktabs)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mmpref.errors import ConfigError
from mmpref.files.writing import write_text
from mmpref.report.cells import NOT_MEASURED
from mmpref.report.paper.page import paper_page
from mmpref.report.paper.table import Group, PaperCell, PaperColumn, PaperTable
from mmpref.report.paper.words import UNITS, label, legend
from mmpref.report.table_files import no_formula, one_line, pipes, sentences, tex

_FIELDS = (
    "model", "benchmark", "protocol", "questions", "part", "metric", "unit", "better", "value", "low", "high", "mark",
    "difference_from_best", "difference_low", "difference_high", "n", "unparsed", "notes", "file",
)  # fmt: skip
_ARROWS = {"lower": "↓", "higher": "↑"}
_TEX_ARROWS = {"lower": r"$\downarrow$", "higher": r"$\uparrow$"}
_LAST_LATIN = 0x24F
_TEX_NOTHING = "--"
"""In the place of "not measured", which is too wide for eight columns of a model that was not asked."""
_WIDEST = 8
"""Columns of values side by side in LaTeX; more stand below, with the models named again."""
_MARKS = re.compile(r"[*`\[\]~|\\]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def write_paper(table: PaperTable, out: Path, *, title: str | None = None, command: str = "") -> None:
    """Write the table.

    Args:
        out: a file that ends in ``.html``, ``.csv``, ``.md`` or ``.tex``.
        title: the heading of a page, the caption of a LaTeX table.
        command: what makes the table again, for the page.

    Raises:
        ConfigError: another ending.
        CheckpointError: the file cannot be written.
    """
    made = refuse_other_endings(out)
    write_text(out, paper_page(table, title=title, command=command) if made is None else made(table, title))


def refuse_other_endings(out: Path) -> Callable[[PaperTable, str | None], str] | None:
    """What makes the text of a file with this ending; None for a page.

    Raises:
        ConfigError: there is nothing for it.
    """
    ending = out.suffix.lower()
    if ending in (".html", ".htm"):
        return None
    if ending not in _WRITERS:
        raise ConfigError(f"--out {out}: give a file that ends in .html, {', '.join(_WRITERS)}")
    return _WRITERS[ending]


def as_csv(table: PaperTable, title: str | None = None) -> str:
    """One line per model and metric with raw values (fractions where a metric is one); what is not known is empty.

    A text that a spreadsheet would run as a formula begins with an apostrophe. Notes on the whole table have lines of
    their own.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(_FIELDS)
    for group in table.groups:
        for place, model in enumerate(table.models):
            for column in group.columns:
                writer.writerow(_csv_row(group, column, place, model))
    for note in table.notes:
        row = dict.fromkeys(_FIELDS, "") | {"notes": no_formula(note)}
        writer.writerow([row[name] for name in _FIELDS])
    return stream.getvalue()


def _csv_row(group: Group, column: PaperColumn, place: int, model: str) -> list[object]:
    found, member = column.cells[place], group.members[place]
    cell, difference = found.cell, found.difference
    interval = cell.interval or ("", "")
    own = difference.interval if difference is not None and difference.interval is not None else ("", "")
    notes = [cell.text] if cell.value is None else []
    notes += [difference.caution] if difference is not None and difference.caution else []
    notes += [*found.footnotes, *(group.footnotes if member is not None else ())]
    row: dict[str, object] = {
        "model": model,
        "benchmark": group.benchmark,
        "protocol": group.protocol,
        "questions": group.asked,
        "part": group.part,
        "metric": column.metric,
        "unit": "fraction" if cell.unit == "percent" else cell.unit,
        "better": column.better or "",
        "value": _raw(cell.value),
        "low": interval[0],
        "high": interval[1],
        "mark": found.mark,
        "difference_from_best": _raw(difference.value) if difference is not None else "",
        "difference_low": own[0],
        "difference_high": own[1],
        "n": _raw(member.n) if member is not None else "",
        "unparsed": _raw(member.unparsed) if member is not None else "",
        "notes": "; ".join(notes),
        "file": str(member.evaluation.file or "") if member is not None else "",
    }
    return [no_formula(value) if isinstance(value, str) else value for value in (row[name] for name in _FIELDS)]


def _raw(value: float | None) -> float | str:
    return "" if value is None else value


# --- Markdown ---------------------------------------------------------------------------------------------------------


def as_markdown(table: PaperTable, title: str | None = None) -> str:
    """One pipe table; below it the footnotes, the notes and how it is read."""
    numbers = table.footnotes()
    heads = [_markdown_head(group, column, numbers) for group, column in _columns(table)]
    lines = [pipes(["model", *heads]), pipes(["---", *("---:" for _ in heads)])]
    for place, model in enumerate(table.models):
        lines.append(pipes([_markdown(model), *(_markdown_cell(c.cells[place], numbers) for _, c in _columns(table))]))
    notes = [f"{number}. {_markdown(text)}" for text, number in numbers.items()]
    general = [f"- {_markdown(note)}" for note in table.notes]
    blocks = [[f"**{_markdown(title)}**"] if title else [], lines, notes, general, [_markdown(legend(table))]]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _markdown(text: str) -> str:
    """Text that no reader of Markdown takes for marks or for HTML; a ``_`` inside a word is none."""
    plain = one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKS.sub(lambda found: f"&#{ord(found[0])};", plain)


def _markdown_head(group: Group, column: PaperColumn, numbers: dict[str, int]) -> str:
    """Over every metric its benchmark, and over the first one of a group what else holds for all of it."""
    over = _markdown(group.heading)
    if column is group.columns[0]:
        over += f" ({_markdown(group.under)}){_signs(group.footnotes, numbers, _raised)}"
    return f"{over}<br>{_markdown(label(column))}{_head(column, _ARROWS)}"


def _markdown_cell(found: PaperCell, numbers: dict[str, int]) -> str:
    text = found.cell.text
    text = {"best": f"**{text}**", "not clearly worse": f"*{text}*"}.get(found.mark, text)
    text += _signs(found.footnotes, numbers, _raised)
    return f"{text}<br>{found.cell.interval_text}" if found.cell.interval_text else text


def _raised(text: str) -> str:
    return f"<sup>{text}</sup>"


# --- LaTeX ------------------------------------------------------------------------------------------------------------


def as_tex(table: PaperTable, title: str | None = None) -> str:
    """One ``table*`` with rules of booktabs, footnotes below it, and the legend as its caption."""
    numbers = table.footnotes()
    out = [
        r"% needs \usepackage{booktabs}",
        *(
            ["% pdflatex has no letters for some of the names: use lualatex or xelatex with a font that has them"]
            if any(map(_is_beyond_latin, "".join((*table.models, title or ""))))
            else []
        ),
        r"\begin{table*}",
        r"\centering",
        r"\small",
        r"\setlength{\tabcolsep}{4pt}",
    ]
    for block in _blocks(table.groups):
        out += [*_tabular(table, block, numbers), r"\par\medskip"]
    out.pop()
    below = [rf"\textsuperscript{{{number}}}\,{sentences([text])}" for text, number in numbers.items()]
    if below or table.notes:
        shown = " ".join([*below, *([sentences(table.notes)] if table.notes else [])])
        out += [rf"\par\smallskip\begin{{minipage}}{{\textwidth}}\scriptsize {shown}\end{{minipage}}"]
    caption = f"{tex(title)}{'' if title.endswith(('.', '?', '!')) else '.'} " if title else ""
    out += [rf"\caption{{{caption}{_tex_legend(table)}}}", r"\end{table*}"]
    return "\n".join(out) + "\n"


def _is_beyond_latin(letter: str) -> bool:
    return letter.isalpha() and ord(letter) > _LAST_LATIN


def _tex_legend(table: PaperTable) -> str:
    text = tex(legend(table))
    if any(_is_not_measured(cell) for _, column in _columns(table) for cell in column.cells):
        text += rf" {_TEX_NOTHING}: {NOT_MEASURED}."
    return text.replace("↑", _TEX_ARROWS["higher"]).replace("↓", _TEX_ARROWS["lower"])


def _blocks(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups side by side, as many as fit on a page; one that is wider alone stands alone."""
    out: list[list[Group]] = []
    for group in groups:
        if out and sum(len(other.columns) for other in (*out[-1], group)) <= _WIDEST:
            out[-1].append(group)
        else:
            out.append([group])
    return out


def _tabular(table: PaperTable, groups: Sequence[Group], numbers: dict[str, int]) -> list[str]:
    columns = [column for group in groups for column in group.columns]
    over, under, rules, first = [""], [""], [], 2
    for group in groups:
        width = len(group.columns)
        signs = _signs(group.footnotes, numbers, _superscript)
        over.append(rf"\multicolumn{{{width}}}{{c}}{{{tex(group.heading)}{signs}}}")
        under.append(rf"\multicolumn{{{width}}}{{c}}{{\scriptsize {tex(group.under)}}}")
        rules.append(rf"\cmidrule(lr){{{first}-{first + width - 1}}}")
        first += width
    lines = [rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule"]
    lines += [" & ".join(over) + r" \\", " & ".join(under) + r" \\", "".join(rules)]
    lines += [" & ".join(["model", *(tex(label(column)) for column in columns)]) + r" \\"]
    below = [rf"\scriptsize{_tex_head(column)}" if _tex_head(column) else "" for column in columns]
    lines += [" & ".join(["", *below]) + r" \\", r"\midrule"]
    for place, model in enumerate(table.models):
        cells = [column.cells[place] for column in columns]
        has_intervals = any(cell.cell.interval_text for cell in cells)
        end = r" \\[-3pt]" if has_intervals else r" \\"
        lines.append(" & ".join([tex(model), *(_tex_cell(cell, numbers) for cell in cells)]) + end)
        if has_intervals:
            below = [rf"\tiny {tex(c.cell.interval_text)}" if c.cell.interval_text else "" for c in cells]
            lines.append(" & ".join(["", *below]) + r" \\[2pt]")
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _tex_cell(found: PaperCell, numbers: dict[str, int]) -> str:
    text = _TEX_NOTHING if _is_not_measured(found) else tex(found.cell.text)
    text = {"best": rf"\textbf{{{text}}}", "not clearly worse": rf"\textit{{{text}}}"}.get(found.mark, text)
    return text + _signs(found.footnotes, numbers, _superscript)


def _is_not_measured(found: PaperCell) -> bool:
    return found.cell.value is None and not found.cell.note


def _superscript(text: str) -> str:
    return rf"\textsuperscript{{{text}}}"


def _tex_head(column: PaperColumn) -> str:
    return _head(column, _TEX_ARROWS).replace("%", r"\%")


# --- both -------------------------------------------------------------------------------------------------------------


def _columns(table: PaperTable) -> Iterator[tuple[Group, PaperColumn]]:
    for group in table.groups:
        for column in group.columns:
            yield group, column


def _head(column: PaperColumn, arrows: dict[str, str]) -> str:
    """Arrow and unit behind the name of a metric."""
    unit = UNITS[column.unit]
    parts = [arrows.get(column.better or "", ""), f"({unit})" if unit else ""]
    return "".join(f" {part}" for part in parts if part)


def _signs(texts: Sequence[str], numbers: dict[str, int], raised: Callable[[str], str]) -> str:
    """The numbers of footnotes; nothing where there are none."""
    return raised(",".join(str(numbers[text]) for text in dict.fromkeys(texts))) if texts else ""


_WRITERS: dict[str, Callable[[PaperTable, str | None], str]] = {".csv": as_csv, ".md": as_markdown, ".tex": as_tex}
