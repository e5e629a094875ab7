"""A sphinx extension: pages that are made from the code, links to files of the repository, formulas without a server.

When a build begins, ``docs/reference/``, ``docs/api/`` and two pages more are written anew where they changed; git
ignores them. What they say stands in the code: a new key, command or benchmark is on its page with the next build.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from site_pages import (
    accessible,
    api_pages,
    benchmark_pages,
    card_pages,
    command_pages,
    error_pages,
    formulas,
    metric_pages,
    recipe_pages,
    repository,
)

_MAKERS = (
    recipe_pages,
    card_pages,
    benchmark_pages,
    command_pages,
    error_pages,
    metric_pages,
    api_pages,
    repository,
)
_MADE = ("reference", "api")


def made_pages() -> dict[str, str]:
    """Every page that is made from the code: file below ``docs/`` -> its text."""
    return {name: text for maker in _MAKERS for name, text in maker.pages().items()}


def write_pages(app: Sphinx) -> None:
    """Write what changed, and remove what is not made any more; a file that stays the same keeps its time."""
    docs, pages = Path(app.srcdir), made_pages()
    for name, text in pages.items():
        file = docs / name
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    for folder in _MADE:
        for file in (docs / folder).rglob("*"):
            if file.is_file() and file.relative_to(docs).as_posix() not in pages:
                file.unlink()


def _resolve_links(app: Sphinx, docname: str, content: list[str]) -> None:
    """Before a hand-written page is read: its links to files of the repository become links on the site."""
    file = Path(app.env.doc2path(docname))
    if file.suffix == ".md" and docname.partition("/")[0] not in _MADE and docname not in ("changelog", "contributing"):
        shown_in = file.parent.relative_to(app.srcdir)
        content[0] = repository.moved_links(content[0], file.parent, shown_in)


def setup(app: Sphinx) -> dict[str, Any]:
    """What sphinx calls."""
    app.connect("builder-inited", write_pages)
    app.connect("source-read", _resolve_links)
    formulas.setup(app)
    accessible.setup(app)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
