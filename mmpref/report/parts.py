"""The parts of a page: each folds, has an address, and is named in the contents."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

_BEGIN = re.compile(r'\s*(<section id="([^"]+)"[^>]*>)\s*<h2[^>]*>(.*?)</h2>', re.DOTALL)
_END = re.compile(r"</section>\s*$")


@dataclass(frozen=True, slots=True)
class Part:
    """A section of the page. ``title`` is HTML, as its heading has it."""

    key: str
    title: Markup
    html: Markup


def parts_of(sections: Sequence[Markup | None]) -> list[Part]:
    """Sections as parts that fold; None is left out.

    Raises:
        ValueError: a section does not begin with ``<section id="..."><h2>...</h2>`` and end with ``</section>``.
    """
    return [_part(section) for section in sections if section is not None]


def _part(section: Markup) -> Part:
    begin, end = _BEGIN.match(section), _END.search(section)
    if begin is None or end is None:
        raise ValueError(f'a section of the page begins with <section id="..."><h2>, not with {section[:60]!r}')
    opening, key, title = begin.groups()
    content = str(section)[begin.end() : end.start()]
    folded = f'<details class="part" open>\n<summary><h2>{title}</h2></summary>{content}</details>\n'
    return Part(key, Markup(title), Markup(f"{opening}\n{folded}</section>"))
