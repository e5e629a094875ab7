"""Formulas as MathML, which browsers draw themselves: nothing is fetched, and a screen reader can read them.

Docutils, which sphinx is built on, translates TeX; a formula that it cannot translate fails the build.
"""

from __future__ import annotations

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

_LOG = logging.getLogger(__name__)


def _mathml(node: nodes.Element, *, as_block: bool) -> str:
    tex = node.astext().strip()
    try:
        return str(tex2mathml(tex, as_block=as_block))
    except MathError as error:
        _LOG.warning("the formula %r cannot be drawn: %s", tex, error, location=node)
        return f"<code>{nodes.unescape(tex)}</code>"


def _inline(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(_mathml(node, as_block=False))
    raise nodes.SkipNode


def _block(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math-block" tabindex="0">{_mathml(node, as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Register the renderer under the name that ``html_math_renderer`` gives."""
    app.add_html_math_renderer("mathml", inline_renderers=(_inline, None), block_renderers=(_block, None))
