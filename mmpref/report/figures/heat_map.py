"""A table of numbers on coloured ground: every cell has its number, so that the colour only helps to find it.

One hue from light to dark where more of it is better, and orange to blue for differences, which people who do not tell
red from green tell apart; the sign stands in the text. The grounds are the same in light and dark, and so is the ink on
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmpref.report.figures.canvas import INK, MUTED, Canvas

_ONE_HUE = ("#eef4fb", "#9dc3ec", "#3f83cc", "#0d3f80")
_TWO_HUES = ("#a6480b", "#e8ab76", "#f4f4f4", "#8fb8e6", "#0d4b96")
_DARK_TEXT, _LIGHT_TEXT = "#000000", "#ffffff"  # one of the two has 4.5 : 1 on any ground


@dataclass(frozen=True, slots=True)
class HeatCell:
    """One cell: ``value`` gives its ground (None: hatched), ``text`` stands in it, ``framed`` puts a frame around."""

    value: float | None
    text: str
    framed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """Cells in rows and columns; ``x_label`` and ``y_label`` name what is varied."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[HeatCell, ...], ...]
    x_label: str
    y_label: str


def heat_figure(found: HeatMap, *, name: str, scale: tuple[float, float], is_difference: bool = False) -> str:
    """A map as an ``<svg>`` element for the page.

    Args:
        scale: the values of the lightest and the darkest ground (for differences: of orange and blue), in this order;
            the first may be the larger one, where less is better.
        name: keeps ids apart on one page.
    """
    width = 1.1 + 0.8 * len(found.columns)
    with Canvas(width=max(3.2, width), height=0.8 + 0.5 * len(found.rows)) as canvas:
        axes = canvas.figure.add_subplot()
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_facecolor("none")
        axes.tick_params(color=MUTED, labelcolor=INK, length=0, labelsize=9)
        framed = []
        for y, row in enumerate(found.cells):
            for x, cell in enumerate(row):
                ground = colour_of(cell.value, scale, _TWO_HUES if is_difference else _ONE_HUE)
                look = {"color": ground} if ground else {"facecolor": "none", "edgecolor": MUTED, "hatch": "///"}
                axes.bar(x, 0.96, width=0.96, bottom=y - 0.48, linewidth=0, zorder=2, **look)
                if ground is None:  # the text on ground of its own, or the hatches run through it
                    ink, box = INK, {"facecolor": "#040404", "edgecolor": "none", "pad": 1.2}
                else:
                    ink, box = ink_on(ground), None
                axes.text(
                    x,
                    y,
                    cell.text,
                    ha="center",
                    va="center",
                    color=ink,
                    fontsize=10 if cell.value is not None else 8,
                    zorder=4,
                    bbox=box,
                )
                framed += [(x, y)] if cell.framed else []
        for x, y in framed:
            corners_x, corners_y = [x - 0.47, x + 0.47, x + 0.47, x - 0.47], [y - 0.47, y - 0.47, y + 0.47, y + 0.47]
            axes.fill(corners_x, corners_y, fill=False, edgecolor=INK, linewidth=2.6, zorder=5)
        axes.set_xlim(-0.5, len(found.columns) - 0.5)
        axes.set_ylim(len(found.rows) - 0.5, -0.5)
        axes.set_xticks(range(len(found.columns)), _short(found.columns, 10))
        axes.set_yticks(range(len(found.rows)), _short(found.rows, 22))
        axes.set_xlabel(found.x_label, color=MUTED)
        axes.set_ylabel(found.y_label, color=MUTED)
        return canvas.inline(name)


def colour_of(value: float | None, scale: tuple[float, float], colours: Sequence[str]) -> str | None:
    """The ground of a value: ``colours`` are equally far apart between the ends of the scale, between them it is
    mixed. None for None."""
    if value is None:
        return None
    low, high = scale
    share = 0.5 if high == low else min(max((value - low) / (high - low), 0.0), 1.0)
    at = share * (len(colours) - 1)
    left = min(int(at), len(colours) - 2)
    mixed = [
        round(one + (at - left) * (other - one))
        for one, other in zip(*map(_rgb, colours[left : left + 2]), strict=True)
    ]
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def ink_on(ground: str) -> str:
    """The ink that is easier to read on a ground, by the contrast of WCAG 2."""
    light, dark, own = _luminance(_LIGHT_TEXT), _luminance(_DARK_TEXT), _luminance(ground)
    return _LIGHT_TEXT if (light + 0.05) / (own + 0.05) > (own + 0.05) / (dark + 0.05) else _DARK_TEXT


def contrast(one: str, other: str) -> float:
    """The contrast of two colours by WCAG 2: 1 to 21; text needs 4.5."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))


def _luminance(colour: str) -> float:
    linear = [(c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in _rgb(colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _short(names: Sequence[str], most: int) -> list[str]:
    return [name if len(name) <= most else f"{name[: most - 1]}…" for name in names]
