"""The only module that imports matplotlib: SVG text out. The same data give the same bytes.

Colours are written as CSS variables, so that one image is right on light and on dark ground: inside the page they are
the page's own, and an image that stands alone brings them along.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmpref.errors import ConfigError
from mmpref.report.cells import Cell, Table

NUM_STYLES = 8
DASHES: tuple[tuple[float, ...], ...] = ((), (), (5, 1.6), (1.4, 1.4), (7, 1.6, 1.4, 1.6), (3, 1.4), (9, 2), (2, 3))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LIGHT = ("#57606a", "#0b5fc0", "#b4420f", "#14713f", "#8339a6", "#8a5a00", "#0b7180", "#ad2462")
DARK = ("#a3adb8", "#6cb0ff", "#ff9a62", "#5fd08f", "#d09af0", "#e3b341", "#56c8d8", "#ff8fbb")
_MAX_NAME = 26  # characters of a run's name beside its row
OUTCOME_TITLES = {
    "chair_s": "CHAIR_s, % of captions (lower is better)",
    "recall": "recall, % of objects (higher is better)",
}
_INK, _MUTED, _RULE, _GROUND = "#010101", "#020202", "#030303", "#040404"  # stand-ins, replaced by variables
_ALONE = {
    "light": {"ink": "#1c2128", "muted": "#57606a", "rule": "#d8dee4", "ground": "#ffffff"},
    "dark": {"ink": "#e6edf3", "muted": "#a3adb8", "rule": "#30363d", "ground": "#0d1117"},
}


@dataclass(frozen=True, slots=True)
class Curve:
    """One line. ``style`` is the run's place among the runs: its colour, dashes and marker in every figure."""

    label: str
    style: int
    x: tuple[float, ...]
    y: tuple[float, ...]


def curve_figure(
    curves: Sequence[Curve],
    *,
    name: str,
    y_label: str,
    x_range: tuple[float, float],
    y_range: tuple[float, float] | None = None,
    rule_at: float | None = None,
) -> str:
    """Lines over training steps, as an ``<svg>`` element for the page. ``name`` keeps ids apart on one page."""
    with _Canvas(width=3.7, height=2.5) as canvas:
        axes = canvas.figure.add_subplot()
        _plain_axes(axes)
        if rule_at is not None:
            axes.axhline(rule_at, color=_MUTED, linewidth=0.8, zorder=1)
        for curve in curves:
            look = _look(curve.style)
            marker = MARKERS[curve.style % NUM_STYLES] if len(curve.x) <= 40 else None
            axes.plot(curve.x, curve.y, marker=marker, markersize=3.2, linewidth=1.6, zorder=3, **look)
        axes.set_xlim(*x_range)
        if y_range is not None:
            axes.set_ylim(*y_range)
        axes.grid(visible=True, axis="y", color=_RULE, linewidth=0.7)
        axes.set_xlabel("step", color=_MUTED)
        axes.set_ylabel(y_label, color=_MUTED)
        return canvas.inline(name)


def result_figure(table: Table) -> str:
    """The outcome in one compact image that stands alone: CHAIR_s and recall of every run, with intervals."""
    with _Canvas(width=7.8, height=1.2 + 0.42 * len(table.lines)) as canvas:
        canvas.figure.get_layout_engine().set(wspace=0.06, w_pad=0.14, h_pad=0.14)
        left, right = canvas.figure.subplots(1, 2, sharey=True)
        _draw_outcome(left, table, "chair_s")
        _draw_outcome(right, table, "recall")
        return canvas.alone(_alt(table))


def outcome_figures(table: Table) -> list[str]:
    """The same, as one ``<svg>`` element per metric in the page's colours."""
    drawn = []
    for key in OUTCOME_TITLES:
        with _Canvas(width=4.6, height=1.0 + 0.4 * len(table.lines)) as canvas:
            _draw_outcome(canvas.figure.add_subplot(), table, key)
            drawn.append(canvas.inline(f"outcome-{key}"))
    return drawn


def _draw_outcome(axes: Any, table: Table, key: str) -> None:
    _plain_axes(axes)
    axes.set_title(OUTCOME_TITLES[key], loc="left", color=_INK, fontsize=10)
    axes.grid(visible=True, axis="x", color=_RULE, linewidth=0.7)
    _dots(axes, [line.cells[key] for line in table.lines])
    rows = range(len(table.lines))
    axes.set_yticks(rows, [_name(table, place) for place in rows], color=_INK)
    axes.set_ylim(len(table.lines) - 0.4, -0.6)


def _name(table: Table, place: int) -> str:
    line = table.lines[place]
    signs = "".join(dict.fromkeys(flag.sign for flag in line.flags))
    words = list(dict.fromkeys(flag.words for flag in line.flags))
    short = line.label if len(line.label) <= _MAX_NAME else line.label[: _MAX_NAME - 1] + "…"
    return f"{short}\n{signs} {', '.join(words)}" if words else short


def _dots(axes: Any, cells: Sequence[Cell]) -> None:
    known = [cell for cell in cells if cell.value is not None]
    ends = [end for cell in known for end in (cell.interval or (cell.value, cell.value)) if end is not None]
    low, high = (100 * min(ends), 100 * max(ends)) if ends else (0.0, 100.0)
    span = max(high - low, 4.0)
    axes.set_xlim(max(-0.1 * span, low - 0.12 * span), min(100 + 0.1 * span, high + 0.12 * span))
    axes.xaxis.set_major_locator(_round_numbers())
    for row, cell in enumerate(cells):
        if cell.value is None:
            axes.text(0.02, row, cell.text, transform=axes.get_yaxis_transform(), va="center", color=_MUTED, fontsize=9)
            continue
        colour = LIGHT[row % NUM_STYLES]
        if cell.interval is not None:
            axes.plot([100 * end for end in cell.interval], [row, row], color=colour, linewidth=2.4, zorder=2)
        axes.plot(
            [100 * cell.value],
            [row],
            marker=MARKERS[row % NUM_STYLES],
            markersize=7,
            color=colour,
            markeredgecolor=_GROUND,
            zorder=3,
        )
        axes.annotate(
            cell.text, (100 * cell.value, row), (0, 7), textcoords="offset points", ha="center", color=_INK, fontsize=9
        )


def _alt(table: Table) -> str:
    parts = []
    for line in table.lines:
        chair, recall = line.cells["chair_s"], line.cells["recall"]
        parts.append(
            f"{line.label}: CHAIR_s {chair.text} {chair.interval_text}, recall {recall.text} {recall.interval_text}"
        )
    return "; ".join(parts)


def _look(style: int) -> dict[str, Any]:
    dashes = DASHES[style % NUM_STYLES]
    return {"color": LIGHT[style % NUM_STYLES], "linestyle": (0, dashes) if dashes else "-"}


def _plain_axes(axes: Any) -> None:
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_MUTED)
    axes.set_facecolor("none")
    axes.tick_params(color=_MUTED, labelcolor=_MUTED, length=0, labelsize=9)
    axes.margins(x=0.02, y=0.12)


def _round_numbers() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=6, steps=[1, 2, 5, 10])


class _Canvas:
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

    def __enter__(self) -> _Canvas:
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
    pairs = {_INK: "--ink", _MUTED: "--muted", _RULE: "--rule", _GROUND: "--ground"}
    pairs |= {colour: f"--run-{place}" for place, colour in enumerate(LIGHT)}
    for colour, variable in pairs.items():
        svg = svg.replace(colour, f"var({variable})")
    return re.sub(r"'DejaVu Sans'", "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans'", svg)


def _rules(colours: dict[str, str], mode: str) -> str:
    runs = enumerate(LIGHT if mode == "light" else DARK)
    pairs = [*colours.items(), *((f"run-{place}", colour) for place, colour in runs)]
    return "".join(f"--{name}:{colour};" for name, colour in pairs)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
