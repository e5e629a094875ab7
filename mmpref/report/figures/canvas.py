"""What figures are drawn on, and the only module that imports matplotlib: SVG text out. Same data, same bytes.

Colours are written as CSS variables, so that one image is right on light and on dark ground: inside the page they are
the page's own, and an image that stands alone brings them along.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import Any

from mmpref.errors import ConfigError

NUM_STYLES = 8
DASHES: tuple[tuple[float, ...], ...] = ((), (), (5, 1.6), (1.4, 1.4), (7, 1.6, 1.4, 1.6), (3, 1.4), (9, 2), (2, 3))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LIGHT = ("#57606a", "#0b5fc0", "#b4420f", "#14713f", "#8339a6", "#8a5a00", "#0b7180", "#ad2462")
DARK = ("#a3adb8", "#6cb0ff", "#ff9a62", "#5fd08f", "#d09af0", "#e3b341", "#56c8d8", "#ff8fbb")
INK, MUTED, RULE, GROUND = "#010101", "#020202", "#030303", "#040404"  # stand-ins, replaced by variables
_ALONE = {
    "light": {"ink": "#1c2128", "muted": "#57606a", "rule": "#d8dee4", "ground": "#ffffff"},
    "dark": {"ink": "#e6edf3", "muted": "#a3adb8", "rule": "#30363d", "ground": "#0d1117"},
}


def look(style: int) -> dict[str, Any]:
    """Colour and dashes of a run by its place among the runs."""
    dashes = DASHES[style % NUM_STYLES]
    return {"color": LIGHT[style % NUM_STYLES], "linestyle": (0, dashes) if dashes else "-"}


def plain_axes(axes: Any) -> None:
    """A line at the bottom and nothing else around the figure."""
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(MUTED)
    axes.set_facecolor("none")
    axes.tick_params(color=MUTED, labelcolor=MUTED, length=0, labelsize=9)
    axes.margins(x=0.02, y=0.12)


def round_numbers() -> Any:
    """A locator of few, round ticks."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=6, steps=[1, 2, 5, 10])


def sample(label: str, style: int) -> Any:
    """A method in a legend, as it is drawn."""
    from matplotlib.lines import Line2D

    marker = MARKERS[style % NUM_STYLES]
    return Line2D(
        [], [], label=label, marker=marker, markersize=6.5, markeredgecolor=GROUND, linewidth=1.7, **look(style)
    )


def plain_powers(axes: Any) -> None:
    """Plain numbers on a logarithmic axis, not powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=12))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


class Canvas:
    """A figure under fixed settings, and its SVG made clean."""

    def __init__(self, *, width: float, height: float) -> None:
        try:
            import matplotlib
            from matplotlib.backends.backend_svg import FigureCanvasSVG
            from matplotlib.figure import Figure
        except ImportError as err:
            raise ConfigError('figures need matplotlib; install it with: pip install "mmpref[report]"') from err
        settings = {
            "svg.hashsalt": "mmpref",
            "svg.fonttype": "none",
            "text.parse_math": False,  # a run's name may have a dollar sign
            "text.usetex": False,
            "font.family": "DejaVu Sans",  # comes with matplotlib: the layout is the same everywhere
            "font.size": 9.5,
            "axes.unicode_minus": True,
            "path.simplify": False,
        }
        self._rc = matplotlib.rc_context({**matplotlib.rcParamsDefault, **settings, "backend": "svg"})
        self._figure_class, self._canvas_class = Figure, FigureCanvasSVG
        self._size = (width, height)
        self.figure: Any = None

    def __enter__(self) -> Canvas:
        self._rc.__enter__()
        self.figure = self._figure_class(figsize=self._size, layout="constrained")
        self._canvas_class(self.figure)
        return self

    def __exit__(self, *problem: Any) -> None:
        self._rc.__exit__(*problem)

    def inline(self, name: str) -> str:
        """The ``<svg>`` element alone, for the page; the page says in words what it shows."""
        svg = _ids(self._svg(), name)
        svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href=", "href=")
        return _variables(svg).replace("<svg ", '<svg class="plot" aria-hidden="true" focusable="false" ', 1)

    def alone(self, alt: str) -> str:
        """A whole SVG file with its own colours, light or dark as the reader's system is."""
        svg = _variables(_ids(self._svg(), "mmpref"))
        rules = {mode: _rules(colours, mode) for mode, colours in _ALONE.items()}
        dark = f"@media (prefers-color-scheme:dark){{:root{{{rules['dark']}}}}}"
        style = f"<style>:root{{{rules['light']}}}{dark}*{{stroke-linejoin:round}}text{{white-space:pre}}</style>"
        ground = '<rect width="100%" height="100%" rx="8" style="fill:var(--ground)"/>'
        head, tag, rest = svg.partition(">")
        head = head.replace("<svg ", '<svg role="img" ', 1)
        return f"{head}{tag}<title>{_escape(alt)}</title>{style}{ground}{rest}\n"

    def _svg(self) -> str:
        stream = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
            self.figure.savefig(stream, format="svg", transparent=True, metadata=metadata)
        text = stream.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
        text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", text, flags=re.DOTALL)
        return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def _ids(svg: str, name: str) -> str:
    """Ids that no other figure of the page has."""
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    return re.sub(r"url\(#", f"url(#{name}-", re.sub(r'href="#', f'href="#{name}-', svg))


def _variables(svg: str) -> str:
    pairs = {INK: "--ink", MUTED: "--muted", RULE: "--rule", GROUND: "--ground"}
    pairs |= {colour: f"--run-{place}" for place, colour in enumerate(LIGHT)}
    for colour, variable in pairs.items():
        svg = svg.replace(colour, f"var({variable})")
    return re.sub(r"'DejaVu Sans'", "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans'", svg)


def _rules(colours: dict[str, str], mode: str) -> str:
    runs = enumerate(LIGHT if mode == "light" else DARK)
    pairs = [*colours.items(), *((f"run-{place}", colour) for place, colour in runs)]
    return "".join(f"--{name}:{colour};" for name, colour in pairs)


def colour_rules() -> str:
    """The colours of runs as CSS, light or dark as the reader's system is."""

    def rules(colours: tuple[str, ...]) -> str:
        return "".join(f"--run-{place}:{colour};" for place, colour in enumerate(colours))

    dark = f"@media screen and (prefers-color-scheme:dark){{:root{{{rules(DARK)}}}}}"
    return f":root{{{rules(LIGHT)}}}{dark}\n"


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
