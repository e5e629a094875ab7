"""The table as one HTML file that needs nothing else."""

from __future__ import annotations

from importlib import resources

from markupsafe import Markup

from mmpref.report.html import render
from mmpref.report.paper.table import PaperTable
from mmpref.report.paper.words import UNITS, label, legend, why_marked
from mmpref.version import __version__

HEADING = "Results"


def paper_page(table: PaperTable, *, title: str | None = None, command: str = "") -> str:
    """The page's text.

    Args:
        title: its heading.
        command: what makes the page again.
    """
    sources = [
        (model, group.heading, group.protocol, str(member.evaluation.file), member.evaluation.results.get("versions"))
        for group in table.groups
        for model, member in zip(table.models, group.members, strict=True)
        if member is not None
    ]
    section = render(
        "paper",
        table=table,
        numbers=table.footnotes(),
        units=UNITS,
        label=label,
        why_marked=why_marked,
        legend=legend(table),
        sources=list(dict.fromkeys((*rest, _version(versions)) for *rest, versions in sources)),
        command=command,
    )
    style = resources.files("mmpref.report").joinpath("page.css").read_text(encoding="utf-8")
    return render(
        "page", title=title or HEADING, style=Markup(style), lines=[], sections=[section], version=__version__
    )


def _version(versions: object) -> str:
    return str(versions.get("mmpref", "")) if isinstance(versions, dict) else ""
