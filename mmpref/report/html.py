"""HTML from the templates in ``templates/``: every value is escaped there, once. The only user of jinja2 in reports."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render(name: str, **values: object) -> Markup:
    """A template filled with values, as HTML that is not escaped again.

    Args:
        name: the template's file without ``.html``.
        values: what it names; one that is missing is an error.
    """
    return Markup(_environment().get_template(f"{name}.html").render(values))


def printable(value: object) -> object:
    """A value as shown: control characters and lone surrogates, which HTML forbids, become a visible mark."""
    if isinstance(value, Markup):
        return value
    plain = str(value).encode("utf-8", "replace").decode("utf-8")
    return "".join(
        char if char in "\n\t" or (char >= " " and char != "\x7f") else "\N{REPLACEMENT CHARACTER}" for char in plain
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("mmpref.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
