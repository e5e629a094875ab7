"""The results table as HTML, with its legend."""

from __future__ import annotations

from itertools import groupby

from markupsafe import Markup

from mmpref.report.cells import Table
from mmpref.report.flags import RULES, SIGNS, WORDS
from mmpref.report.html import render
from mmpref.statistics import FEWEST_CHANGED

UNITS = {"percent": "%", "words": "words", "nats": "nats", "number": ""}


def results_section(table: Table) -> Markup:
    """Rows are runs; under each value its interval, then the paired difference from the baseline.

    The legend says what the warnings mean, what the columns are, and has the notes of the comparison.
    """
    groups = [(name, list(columns)) for name, columns in groupby(table.columns, key=lambda column: column.group)]
    meanings: dict[str, str] = {}
    for column in table.columns:
        meanings.setdefault(column.label, column.explanation)
    return render(
        "results",
        table=table,
        groups=groups,
        starts={columns[0].key for _, columns in groups},
        units=UNITS,
        signs=SIGNS,
        words=WORDS,
        rules=RULES,
        raised={flag.kind for line in table.lines for flag in line.flags},
        fewest_changed=FEWEST_CHANGED,
        meanings=meanings,
        sources=[line for line in table.lines if line.drift_source],
    )
