"""HTML from values: everything that comes from a file is escaped here, once, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


class Html(str):
    """Text that is HTML already and is not escaped again."""

    __slots__ = ()


def text(value: object) -> Html:
    """Any value as text of an element or an attribute. Control characters that HTML forbids become a visible mark."""
    if isinstance(value, Html):
        return value
    plain = str(value).encode("utf-8", "replace").decode("utf-8")
    plain = "".join(
        char if char in "\n\t" or (char >= " " and char != "\x7f") else "\N{REPLACEMENT CHARACTER}" for char in plain
    )
    return Html(escape(plain, quote=True))


def tag(name: str, /, *content: object, **attributes: object) -> Html:
    """``<name …>content</name>``. An attribute ``class_`` or ``aria_label`` loses or changes its underscore; None is
    left out, True stands alone."""
    opening = _opening(name, attributes)
    return Html(f"{opening}{''.join(map(text, content))}</{name}>")


def void(name: str, /, **attributes: object) -> Html:
    """An element without content, such as ``img``."""
    return Html(_opening(name, attributes))


def join(parts: Iterable[object], separator: str = "\n") -> Html:
    return Html(separator.join(text(part) for part in parts))


def _opening(name: str, attributes: dict[str, object]) -> str:
    written = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        plain = key.rstrip("_").replace("_", "-")
        written.append(plain if value is True else f'{plain}="{text(value)}"')
    return f"<{' '.join(written)}>"
