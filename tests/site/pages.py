"""A page of the documentation as what a reader does with it: blocks to run, and the output that it shows of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<kind>\S*)[^\n]*\n(?P<text>.*?)^(?P=indent)```\s*$", re.DOTALL | re.MULTILINE
)
_NUMBER = re.compile(r"\d(?:[\d,.:]*\d)?(?:e[-+]?\d+)?")
_FRAME = re.compile(r"[\u2500-\u257f|]+")
RUN = ("bash", "python")


@dataclass
class Block:
    """A block that is run, with the output that the page shows of it."""

    kind: str
    text: str
    line: int
    shown: list[str] = field(default_factory=list)


def blocks(page: Path) -> list[Block]:
    """The page's bash and python blocks in order; a text block belongs to the one before it."""
    source = page.read_text(encoding="utf-8")
    found: list[Block] = []
    for fence in _FENCE.finditer(source):
        text = re.sub(rf"^{fence['indent']}", "", fence["text"], flags=re.MULTILINE)
        if fence["kind"] in RUN:
            found.append(Block(fence["kind"], text, source.count("\n", 0, fence.start()) + 1))
        elif fence["kind"] == "text":
            assert found, f"{page.name} shows output before any command"
            found[-1].shown += text.splitlines()
    return found


def not_said(shown: list[str], said: str, *, exact: bool = False) -> str | None:
    """The first line of ``shown`` that no line of ``said`` contains, in order; None where all are found.

    ``...`` stands for anything that the page leaves out: in a line, or as a line of its own. Blanks and frames of
    tables do not count, and numbers count only where ``exact``.
    """
    lines = iter([_plain(line, exact) for line in said.splitlines()])
    for line in shown:
        pattern = ".*".join(re.escape(part.strip()) for part in _plain(line, exact).split("..."))
        if pattern not in ("", ".*") and not any(re.search(pattern, given) for given in lines):
            return line
    return None


def _plain(line: str, exact: bool) -> str:
    line = " ".join(_FRAME.sub(" ", line).split())
    return line if exact else _NUMBER.sub("#", line)
