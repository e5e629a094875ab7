"""Two habits of sphinx that a screen reader stumbles over, repaired in the HTML of a page.

A long signature is written as a list of definitions without terms, and the empty corner of a table as a heading.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

_PARAMETERS = re.compile(r"<dl>\n((?:<dd>(?:(?!</?d[ldt]>).)*</dd>\n)+)</dl>", re.DOTALL)
_EMPTY_HEADING = re.compile(r'<th class="head([^"]*)">\s*(?:<p>\s*</p>)?\s*</th>')


def repaired(body: str) -> str:
    """The HTML with each parameter of a signature as a line of its own, and empty headings as plain cells."""
    body = _PARAMETERS.sub(_as_lines, body)
    return _EMPTY_HEADING.sub(r'<td class="head\1"></td>', body)


def _as_lines(found: re.Match[str]) -> str:
    lines = found[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
    return f'<span class="sig-lines">{lines}</span>'


def _repair(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    if "body" in context:
        context["body"] = repaired(context["body"])


def setup(app: Sphinx) -> None:
    """Have every page repaired before it is written."""
    app.connect("html-page-context", _repair)
