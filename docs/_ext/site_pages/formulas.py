"""Formulas as MathML, which browsers draw themselves: nothing is fetched, and a screen reader can read them.

Docutils, which sphinx is built on, translates TeX; a formula that it cannot translate fails the build.
"""

from __future__ import annotations

import html
import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

_SIZED = re.compile(r"\\(big|bigg)(?=\s*(?P<opens>\(|\[|\\\{|\\lvert)|\s*(\)|\]|\\\}|\\rvert))")
"""A delimiter of a given size, which docutils knows only with its side: ``\\bigl(`` and ``\\bigr)``."""
_LOG = logging.getLogger(__name__)


def for_docutils(tex: str) -> str:
    """The formula with two commands of TeX in the words that docutils knows."""
    sided = _SIZED.sub(lambda found: found[0] + ("l" if found["opens"] else "r"), tex)
    return re.sub(r"\\dots\b", r"\\ldots", sided)


def _mathml(node: nodes.Element, *, as_block: bool) -> str:
    tex = node.astext().strip()
    try:
        return str(tex2mathml(for_docutils(tex), as_block=as_block))
    except MathError as error:
        _LOG.warning("the formula %r cannot be drawn: %s", tex, error, location=node)
        return f"<code>{html.escape(tex)}</code>"


def _inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(_mathml(node, as_block=False))
    raise nodes.SkipNode


def _block(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math-block" tabindex="0">{_mathml(node, as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Register the renderer under the name that ``html_math_renderer`` gives."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
