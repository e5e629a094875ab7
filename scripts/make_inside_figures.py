"""Draws the figures of docs/inside.md: the types that data passes through, and how a pair lies in a row.

    python scripts/make_inside_figures.py [--out docs/figures]

Plain SVG with text as text; the same bytes on every run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

BLUE, GREEN, ORANGE, GREY = "#dbe8f6", "#dcefe0", "#f8e3d3", "#eeeeee"
INK, EDGE = "#1b1b1b", "#5a6672"
TYPES: Sequence[tuple[str, str, str]] = (
    ("row", "a line of the file, as its data card reads it", GREY),
    ("PreferencePair", "checked text; images by reference", BLUE),
    ("EncodedPair", "token ids of both answers; pixels, once", BLUE),
    ("PairBatch", "many pairs in one row of tokens", BLUE),
    ("PairLogps", "two numbers a pair, two of the reference", GREEN),
    ("LossOutput", "one number a pair, and statistics", ORANGE),
)
STEPS = ("mmpref.data", "mmpref.processing", "mmpref.processing", "mmpref.models", "mmpref.losses")


@dataclass
class Drawing:
    """An SVG that is being drawn."""

    width: int
    height: int
    title: str
    parts: list[str] = field(default_factory=list)

    def box(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """A filled rectangle with its upper left corner at (x, y)."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="4" fill="{colour}" stroke="{EDGE}"/>'
        )

    def text(self, x: float, y: float, said: str, *, size: int = 12, bold: bool = False, middle: bool = False) -> None:
        """A line of text with its baseline at y."""
        more = (' font-weight="bold"' if bold else "") + (' text-anchor="middle"' if middle else "")
        self.parts.append(f'<text x="{x:g}" y="{y:g}" font-size="{size}"{more}>{escape(said)}</text>')

    def arrow(self, x: float, y: float, end: float) -> None:
        """From (x, y) down to (x, end)."""
        self.parts.append(
            f'<path d="M {x:g} {y:g} V {end - 6:g} m -4 0 l 4 6 l 4 -6 z" fill="{EDGE}" stroke="{EDGE}"/>'
        )

    def written(self) -> str:
        """The whole file."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img" font-family="sans-serif" fill="{INK}">'
        )
        background = f'<rect width="{self.width}" height="{self.height}" fill="#ffffff"/>'
        return "\n".join([head, f"<title>{escape(self.title)}</title>", background, *self.parts, "</svg>"]) + "\n"


def way_of_a_row() -> Drawing:
    """The types, one below the other, each with the package that makes the next."""
    height, gap = 40, 26
    drawing = Drawing(560, len(TYPES) * (height + gap) - gap + 24, "From a row to its loss: six types in a row")
    for number, (name, said, colour) in enumerate(TYPES):
        y = 12 + number * (height + gap)
        drawing.box(12, y, 536, height, colour)
        drawing.text(28, y + 25, name, bold=True)
        drawing.text(180, y + 25, said)
        if number < len(STEPS):
            drawing.arrow(60, y + height, y + height + gap)
            drawing.text(76, y + height + 17, STEPS[number], size=11)
    return drawing


def pair_in_a_row() -> Drawing:
    """The same pair as two rows, as one row, and four answers of a prompt as one row."""
    prompt, answer, left = 150, 70, 140
    drawing = Drawing(600, 190, "One prompt and its answers: as separate rows, and as one row")

    def row(y: float, answers: Iterable[str], label: str) -> None:
        drawing.text(12, y + 20, label)
        drawing.box(left, y, prompt, 30, BLUE)
        drawing.text(left + prompt / 2, y + 20, "images + prompt", middle=True)
        for place, said in enumerate(answers):
            x = left + prompt + 4 + place * (answer + 4)
            drawing.box(x, y, answer, 30, GREEN if "rejected" not in said else ORANGE)
            drawing.text(x + answer / 2, y + 20, said, middle=True)

    row(12, ["chosen"], "separate rows")
    row(48, ["rejected"], "")
    row(100, ["chosen", "rejected"], "one pair, one row")
    row(148, [f"answer {n}" for n in range(1, 5)], "6 pairs, one row")
    return drawing


FIGURES = {"inside_types.svg": way_of_a_row, "inside_rows.svg": pair_in_a_row}


def main() -> None:
    """Write the figures."""
    parser = argparse.ArgumentParser(description="The figures of docs/inside.md.")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"), help="the folder they go to")
    out: Path = parser.parse_args().out
    for name, draw in FIGURES.items():
        (out / name).write_text(draw().written(), encoding="utf-8")
        print(out / name)


if __name__ == "__main__":
    main()
