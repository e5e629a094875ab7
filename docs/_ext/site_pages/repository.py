"""Files of the repository that are pages too, and links to what is no page.

On the site ``data_cards/x.md`` is the card's page, ``mmpref/recipes/x.yaml`` its section among the recipes, and any
other file of the repository a download, so that the site needs no server and no code host.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s]+)\)")
_FILE_NAME = re.compile(r"[\w/.]+\.md")
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,}|:{3,}).*?^[ \t]*\1[ \t]*$", re.MULTILINE | re.DOTALL)
_PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def pages() -> dict[str, str]:
    """File below ``docs/`` -> its text."""
    return {page: moved_links(_read(name), ROOT, Path()) for name, page in _PAGES.items() if name != "README.md"}


def state_of_the_package() -> str:
    """A name for what the files of ``mmpref`` say now; another one when any of them changes."""
    digest = hashlib.sha256()
    for file in sorted((ROOT / "mmpref").rglob("*")):
        if file.is_file() and file.suffix != ".pyc":
            digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def moved_links(text: str, written_in: Path, shown_in: Path) -> str:
    """The text with its relative links changed to what they mean on the site.

    Args:
        text: Markdown; code blocks stay as they are.
        written_in: the folder that the text's links are relative to.
        shown_in: the folder of its page, relative to ``docs``.
    """
    replace = _replacer(written_in, DOCS / shown_in)
    parts, begin = [], 0
    for block in _FENCE.finditer(text):
        if block[1].startswith(":"):  # a directive, whose text has links as any other
            continue
        parts += [_LINK.sub(replace, text[begin : block.start()]), block[0]]
        begin = block.end()
    return "".join([*parts, _LINK.sub(replace, text[begin:])])


def _replacer(written_in: Path, shown_in: Path) -> Callable[[re.Match[str]], str]:
    def replace(link: re.Match[str]) -> str:
        target, sign, anchor = link["target"].partition("#")
        if not target or re.match(r"[a-z]+:", target):
            return link[0]
        place = Path(os.path.normpath(written_in / target))
        if not place.exists() or not place.is_relative_to(ROOT):
            return link[0]  # sphinx says that it is missing, or finds a page that was made
        if place.is_dir():
            return link["text"]
        name, anchor = _on_site(place, sign + anchor)
        # a page that is called by its file's name gets its title there
        text = "" if name.suffix == ".md" and _FILE_NAME.fullmatch(link["text"]) else link["text"]
        return f"[{text}]({os.path.relpath(name, shown_in)}{anchor})"

    return replace


def _on_site(place: Path, anchor: str) -> tuple[Path, str]:
    """The file below ``docs`` that stands for a file of the repository, or the file itself, with the anchor."""
    name = place.relative_to(ROOT)
    if name.as_posix() in _PAGES:
        return DOCS / _PAGES[name.as_posix()], anchor
    if name.parts[0] == "data_cards":
        return DOCS / "reference" / ("data_cards.md" if name.stem == "README" else f"cards/{name.name}"), anchor
    if name.parts[:2] == ("mmpref", "recipes"):
        return DOCS / "reference" / "recipes.md", "#" + name.stem.replace("_", "-")
    return place, anchor
