"""docs/growth.md's tables and docs/figures/growth.svg from results/growth, with the exponents that fit.

    python scripts/make_growth_page.py            write the page and the figure
    python scripts/make_growth_page.py --check    write nothing; exit code 1 where something would change

An exponent is the slope of a straight line through the logarithms, by least squares: 1 is linear, 2 quadratic, and less
than 1 has a part that does not grow. Its interval is Student's t at 95 % over the points, so it says how well one power
fits as well as how noisy the times are. ``last`` is the slope between the two largest values alone, which is what
growth beyond them would follow.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from mmpref.files.writing import write_text
from mmpref.report.figures.series import Panel, Point, Series, series_image
from mmpref.statistics.exact import t_quantile

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results" / "growth"
PAGE = ROOT / "docs" / "growth.md"
FIGURE = ROOT / "docs" / "figures" / "growth.svg"
AXES = {
    "pairs": "pairs in a step",
    "image_tokens": "image tokens",
    "answer_tokens": "tokens of an answer",
    "answers": "answers of a prompt",
}
MEASURES = {"cpu_seconds": "CPU seconds", "gflop": "GFLOP", "peak_mib": "peak MiB"}
WAYS = ("mmpref", "TRL")
STAGES = ("read", "check", "audit", "lengths")
_TABLE = re.compile(r"(<!-- make_growth_page\.py: (\S+) -->\n)(.*?)(<!-- end of table -->)", flags=re.DOTALL)
NOT_MEASURED = "not measured"
Points = list[tuple[float, float]]


class Fit(NamedTuple):
    """Exponent of a power that fits points, its 95 % interval where there are more than two, and the last slope."""

    exponent: float
    interval: tuple[float, float] | None
    last: float


def fitted(points: Points) -> Fit:
    """Least squares through the logarithms.

    Args:
        points: (what grows, cost), all above 0, of two values at least; several costs of a value are points each.
    """
    logs = [(math.log(x), math.log(y)) for x, y in points]
    mean_x, mean_y = (math.fsum(each) / len(logs) for each in zip(*logs, strict=True))
    spread = math.fsum((x - mean_x) ** 2 for x, _ in logs)
    slope = math.fsum((x - mean_x) * (y - mean_y) for x, y in logs) / spread
    interval = None
    if len(logs) > 2:
        off = math.fsum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in logs)
        half = t_quantile(len(logs) - 2) * math.sqrt(off / (len(logs) - 2) / spread)
        interval = (slope - half, slope + half)
    (low, before), (high, after) = means(points)[-2:]
    return Fit(slope, interval, math.log(after / before) / math.log(high / low))


def means(points: Points) -> Points:
    """The mean cost of each value, from the smallest value on."""
    values = sorted({x for x, _ in points})
    return [(value, _mean([y for x, y in points if x == value])) for value in values]


def _mean(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) / len(numbers)


def read(name: str, folder: Path = RESULTS) -> list[dict[str, str]]:
    """Rows of a file of results; none where it is not there."""
    path = folder / name
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def step_points(axis: str, way: str, measure: str, folder: Path = RESULTS) -> Points:
    """What was measured of one way along one axis; of what is counted one point a value."""
    rows = [row for row in read("steps.csv", folder) if (row["axis"], row["way"]) == (axis, way)]
    found = [(float(row["value"]), float(row[measure])) for row in rows]
    return found if measure == "cpu_seconds" else sorted(set(found))


def data_points(stage: str, measure: str, folder: Path = RESULTS) -> Points:
    """What was measured of one stage of preparing a run."""
    return [(float(row["rows"]), float(row[measure])) for row in read("data.csv", folder) if row["stage"] == stage]


# ---- tables ------------------------------------------------------------------------------------------------------


def step_table(axis: str, folder: Path = RESULTS) -> list[str]:
    """Means at every value, both ways, and how many times as much TRL takes."""
    columns = [(way, measure) for measure in MEASURES for way in WAYS]
    points = {column: dict(means(step_points(axis, *column, folder))) for column in columns}
    lines = _head([AXES[axis], *(f"{MEASURES[measure]}: {way}" for way, measure in columns), "TRL over mmpref, time"])
    whole = [value for value in points[columns[0]] if all(value in points[column] for column in columns)]
    for value in whole:
        cells = [_number(points[column][value]) for column in columns]
        ratio = points["TRL", "cpu_seconds"][value] / points["mmpref", "cpu_seconds"][value]
        lines.append(_line([f"{value:,.0f}", *cells, f"{ratio:.2f}"]))
    return lines


def exponents(folder: Path = RESULTS) -> list[str]:
    """Of every axis, way and measure."""
    lines = _head(["grows", "suite", *(f"{name}: exponent [95 %], last" for name in MEASURES.values())])
    for axis, title in AXES.items():
        for way in WAYS:
            fits = [_fit(step_points(axis, way, measure, folder)) for measure in MEASURES]
            lines.append(_line([title, way, *fits]))
    return lines


def data_table(folder: Path = RESULTS) -> list[str]:
    """Seconds and memory of every stage at every size, and the exponent of the seconds."""
    sizes = sorted({value for stage in STAGES for value, _ in data_points(stage, "cpu_seconds", folder)})
    lines = _head(["stage", *(f"{size:,.0f} pairs: CPU s, MiB" for size in sizes), "exponent of time [95 %], last"])
    for stage in STAGES:
        seconds, grown = (dict(means(data_points(stage, name, folder))) for name in ("cpu_seconds", "grown_mib"))
        cells = [f"{_number(seconds[size])}, {grown[size]:.1f}" if size in seconds else NOT_MEASURED for size in sizes]
        lines.append(_line([stage, *cells, _fit(data_points(stage, "cpu_seconds", folder))]))
    return lines


def machine(folder: Path = RESULTS) -> list[str]:
    """What it was measured on."""
    found = json.loads((folder / "machine.json").read_text(encoding="utf-8"))
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return [
        f"{found['cpu']}, {found['cores']} cores, {found['threads']} thread; {versions}, Python {found['python']}; "
        f"commit {found['commit']}, {found['day']}."
    ]


def _fit(points: Points) -> str:
    if len({x for x, _ in points}) < 2:
        return NOT_MEASURED
    fit = fitted(points)
    interval = "" if fit.interval is None else f" [{fit.interval[0]:.2f}, {fit.interval[1]:.2f}]"
    return f"{fit.exponent:.2f}{interval}, {fit.last:.2f}"


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def _head(titles: Sequence[str]) -> list[str]:
    return [_line(titles), "|---" * len(titles) + "|"]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def filled(page: str, folder: Path = RESULTS) -> str:
    """The page with every table made anew."""
    made: dict[str, Callable[[], list[str]]] = {axis: _maker(axis, folder) for axis in AXES}
    made |= {
        "exponents": lambda: exponents(folder),
        "data": lambda: data_table(folder),
        "machine": lambda: machine(folder),
    }
    return _TABLE.sub(lambda found: f"{found[1]}{chr(10).join(made[found[2]]())}\n{found[4]}", page)


def _maker(axis: str, folder: Path) -> Callable[[], list[str]]:
    return lambda: step_table(axis, folder)


# ---- the figure --------------------------------------------------------------------------------------------------


def figure(folder: Path = RESULTS) -> str:
    """Time and memory along every axis."""
    rows = [[_panel(axis, measure, folder) for measure in ("cpu_seconds", "peak_mib")] for axis in AXES]
    rows = [row for row in rows if row[0].ticks]  # what was not measured is not drawn
    return series_image(rows, alt=_alt(rows), width=6.4, height=0.5 + 1.9 * len(rows))


def _panel(axis: str, measure: str, folder: Path) -> Panel:
    points = {way: dict(means(step_points(axis, way, measure, folder))) for way in WAYS}
    values = sorted({value for known in points.values() for value in known})
    series = tuple(
        Series(way, style, tuple(Point(points[way][value]) if value in points[way] else None for value in values))
        for style, way in enumerate(WAYS, start=1)
    )
    ticks = tuple(f"{value:.0f}" for value in values)
    return Panel(MEASURES[measure], AXES[axis], ticks, series, y_range=(0.0, 0.0))


def _alt(rows: Sequence[Sequence[Panel]]) -> str:
    said = []
    for panel in (panel for row in rows for panel in row):
        for series in panel.series:
            values = ", ".join(_number(point.value) for point in series.points if point is not None)
            said.append(f"{panel.title} of {series.label} at {', '.join(panel.ticks)} {panel.x_label}: {values}")
    return "; ".join(said)


def stale() -> list[Path]:
    """Files that are not what the results give; of the figure its numbers, which stand in its title."""
    page = PAGE.read_text(encoding="utf-8")
    drawn = FIGURE.read_text(encoding="utf-8") if FIGURE.is_file() else ""
    numbers = [re.findall("<title>(.*?)</title>", svg, flags=re.DOTALL) for svg in (figure(), drawn)]
    return [*([PAGE] if filled(page) != page else []), *([FIGURE] if numbers[0] != numbers[1] else [])]


def main() -> int:
    """Write the page and the figure, or compare them with what the results give."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where something would change")
    if parser.parse_args().check:
        for file in (found := stale()):
            print(f"{file.relative_to(ROOT)} is not what results/growth gives: python scripts/make_growth_page.py")
        return 1 if found else 0
    write_text(PAGE, filled(PAGE.read_text(encoding="utf-8")))
    write_text(FIGURE, figure())
    return 0


if __name__ == "__main__":
    sys.exit(main())
