"""Markdown made from texts of the code: escaped where a character would become markup, tables, code blocks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_CODE = re.compile(r"(``.+?``|`[^`\n]+`)", re.DOTALL)
_MARKUP = re.compile(r"([\\*_\[\]<>|$#{}~])")
_PAGE = re.compile(r"docs/(?P<name>\w+)\.md(?P<anchor>#[\w-]+)?")


def prose(text: str, *, to_docs: str = "../") -> str:
    """A text of the code as Markdown: what stands in backticks is code, nothing else is markup, and the name of a page
    (``docs/losses.md``) is a link to it.

    Args:
        text: one paragraph or several.
        to_docs: the way from the page to the folder of the pages.
    """
    parts = []
    for part in _CODE.split(text):
        if part.startswith("`"):
            parts.append(part)
            continue
        begin = 0
        for found in _PAGE.finditer(part):
            parts.append(_MARKUP.sub(r"\\\1", part[begin : found.start()]))
            parts.append(f"[{found['name'].replace('_', ' ')}]({to_docs}{found['name']}.md{found['anchor'] or ''})")
            begin = found.end()
        parts.append(_MARKUP.sub(r"\\\1", part[begin:]))
    return "".join(parts)


def code(text: str) -> str:
    """The text as inline code, whatever is in it; ``|`` is kept from ending a cell of a table by ``table``."""
    if "`" in text:
        return f"`` {text} ``"
    return f"`{text}`" if text else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; its cells are Markdown of one line."""
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return "".join("| " + " | ".join(_cell(cell) for cell in line) + " |\n" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(text.split()))


def fenced(text: str, language: str = "text") -> str:
    """A code block."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", text)), 3)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"


def label(name: str) -> str:
    """The line before a heading, or before a term, that gives it an anchor of its own."""
    return f"({name})=\n"


def page(title: str, *parts: str) -> str:
    """A page: its title, then its parts with a blank line between them."""
    return "\n".join([f"# {title}\n", *(part.rstrip("\n") + "\n" for part in parts if part)])


def toctree(names: Iterable[str]) -> str:
    """A list of pages for the navigation, not shown in the text."""
    return "```{toctree}\n:hidden:\n:maxdepth: 1\n\n" + "".join(f"{name}\n" for name in names) + "```\n"
