"""The results table as HTML, with its legend."""

from __future__ import annotations

from itertools import groupby

from mmpref.report.cells import Cell, Column, Line, Table
from mmpref.report.flags import RULES, SIGNS, WORDS
from mmpref.report.markup import Html, join, tag
from mmpref.statistics import FEWEST_CHANGED

_UNITS = {"percent": "%", "words": "words", "nats": "nats", "number": ""}
_ARROWS = {"lower": "lower is better", "higher": "higher is better"}


def results_table(table: Table) -> Html:
    """Rows are runs; under each value its interval, then the paired difference from the baseline."""
    groups = [(name, list(columns)) for name, columns in groupby(table.columns, key=lambda column: column.group)]
    starts = {columns[0].key for _, columns in groups}
    top = [tag("th", "run", scope="col", rowspan=2, class_="corner")]
    top += [tag("th", name, scope="colgroup", colspan=len(columns), class_="group") for name, columns in groups]
    below = [_heading(column, column.key in starts) for column in table.columns]
    spans = [tag("colgroup"), *(tag("colgroup", span=len(columns)) for _, columns in groups)]
    return tag(
        "div",
        tag(
            "table",
            tag(
                "caption",
                "Under each value its 95 % interval, then the paired difference from the baseline. Scrolls sideways.",
            ),
            *spans,
            tag("thead", tag("tr", *top), tag("tr", *below)),
            tag("tbody", join(_line(line, table.columns, starts) for line in table.lines)),
            class_="results",
        ),
        class_="scroll",
        role="region",
        aria_label="Results table, scrolls sideways",
        tabindex=0,
    )


def legend(table: Table) -> Html:
    """What the warnings mean, what the columns are, and the notes of the comparison."""
    raised = {flag.kind for line in table.lines for flag in line.flags}
    rules = [
        tag(
            "li",
            tag("span", f"{SIGNS[kind]} {words}", class_=f"flag {kind}"),
            f" {RULES[kind]}",
            "" if kind in raised else tag("em", " Not seen here."),
        )
        for kind, words in WORDS.items()
    ]
    sources = [tag("li", tag("b", line.label), f": {line.drift_source}") for line in table.lines if line.drift_source]
    notes = [tag("li", note) for note in table.sentences]
    meanings: dict[str, str] = {}
    for column in table.columns:
        meanings.setdefault(column.label, column.explanation)
    columns = [part for label, words in meanings.items() for part in (tag("dt", label), tag("dd", words))]
    return tag(
        "div",
        tag("h3", "Warnings"),
        tag("ul", *rules, class_="rules"),
        tag(
            "p",
            "better, worse and changed: the interval of the difference leaves out zero, and "
            f"{FEWEST_CHANGED} units or more (images, pairs) make it; unclear: one of the two is not so.",
        ),
        tag("h3", "Notes") if notes else "",
        tag("ul", *notes, class_="notes") if notes else "",
        tag(
            "details",
            tag("summary", "What the columns are"),
            tag("dl", *columns, class_="columns"),
            tag("p", "Change of log-prob is read from:") if sources else "",
            tag("ul", *sources) if sources else "",
        ),
        class_="legend",
    )


def _heading(column: Column, first: bool) -> Html:
    better = _ARROWS.get(column.better or "", "")
    arrow = {"lower": " ↓", "higher": " ↑"}.get(column.better or "", "")
    label = Html("CHAIR<sub>s</sub>") if column.label == "CHAIR_s" else column.label
    label = Html("CHAIR<sub>i</sub>") if column.label == "CHAIR_i" else label
    return tag(
        "th",
        label,
        tag("span", arrow, aria_hidden="true") if arrow else "",
        tag("span", f", {better}", class_="hidden") if better else "",
        tag("small", _UNITS[column.unit]),
        scope="col",
        title=f"{column.explanation}{f' ({better})' if better else ''}",
        class_="first" if first else None,
    )


def _line(line: Line, columns: tuple[Column, ...], starts: set[str]) -> Html:
    kinds = dict.fromkeys(flag.kind for flag in line.flags)
    flags = [tag("span", f"{SIGNS[kind]} {WORDS[kind]}", class_=f"flag {kind}") for kind in kinds]
    role = tag("small", "baseline") if line.is_baseline else ""
    cells = [_cell(line.cells[column.key], column.key in starts) for column in columns]
    return tag(
        "tr", tag("th", line.label, role, *flags, scope="row"), *cells, class_="baseline" if line.is_baseline else None
    )


def _cell(cell: Cell, first: bool) -> Html:
    classes = ["first"] if first else []
    classes += [f"flagged {flag.kind}" for flag in cell.flags[:1]]
    parts = [tag("span", cell.text, class_="value" if cell.value is not None else "absent")]
    if cell.value is not None:
        parts.append(tag("span", cell.interval_text or "no interval", class_="interval"))
    if cell.difference is not None:
        parts.append(
            tag("span", cell.difference_text, " ", tag("i", cell.verdict), class_=f"difference {cell.verdict}")
        )
        parts.append(tag("span", cell.difference_interval_text or "no interval", class_="interval"))
        if cell.caution:
            parts.append(tag("span", cell.caution, class_="interval why"))
    parts += [
        tag("span", f"{flag.sign} {flag.words}", class_=f"flag {flag.kind}", title=flag.why) for flag in cell.flags
    ]
    return tag("td", *parts, class_=" ".join(classes) or None)
