"""Sphinx builds the documentation site from this folder: ``bash scripts/site.sh`` writes site/index.html.

The site needs no server and no network: it is read from a folder as it is from the web.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from site_pages.repository import state_of_the_package  # noqa: E402

from mmpref.version import __version__  # noqa: E402

project = "mmpref"
author = "The mmpref authors"
copyright = f"{author}, Apache-2.0"
version = release = __version__
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "site_pages",
]
exclude_patterns = ["_build", "_ext", "_templates"]
templates_path = ["_templates"]
default_role = "code"  # single backticks in docstrings are code, as in Markdown
smartquotes = False  # "--launch" in a sentence is no dash
nitpicky = True
# names of other libraries, and of what mmpref exports nothing of, stand in signatures without a link
nitpick_ignore_regex = [("py:.*", r"(?!mmpref\.(losses|models|training|evals|data|processing)\.[A-Z]\w*$).*")]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
# notebooks run when the site is built; what they wrote is kept for as long as no file of the package changed
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE.parent / ".jupyter_cache" / state_of_the_package())
nb_execution_raise_on_error = True
nb_execution_timeout = 600

autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
napoleon_numpy_docstring = False
add_module_names = False
toc_object_entries_show_parents = "hide"

html_math_renderer = "mathml"
copybutton_exclude = ".linenos, .gp, .go"

html_theme = "pydata_sphinx_theme"
html_title = "mmpref"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["offline.js"]
html_favicon = "_static/logo.svg"
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False
html_use_index = True
html_context = {"default_mode": "auto"}
html_sidebars = {"**": ["site-nav"]}
html_theme_options = {
    "logo": {"image_light": "_static/logo.svg", "image_dark": "_static/logo.svg", "text": "mmpref", "alt_text": ""},
    "navbar_align": "left",
    "navbar_center": ["door-links"],
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": {"**": ["page-toc"], "index": [], "search": [], "genindex": []},
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_toc_level": 2,
    "search_bar_text": "Search the documentation",
    "back_to_top_button": True,
}
