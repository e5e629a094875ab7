"""The figures of a sweep: maps over two axes, differences of arms, curves over one axis, one metric against another."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmpref.errors import ConfigError
from mmpref.report.figures.canvas import NUM_STYLES
from mmpref.report.figures.drawing import Drawing
from mmpref.report.figures.heat_map import HeatCell, HeatMap, heat_figure
from mmpref.report.figures.settings import SettingLine, SettingPoint, dot_figure, point_figure, setting_figure
from mmpref.report.sweep.cells import COMPLETE, Axis, Measure, SweepResult, Values
from mmpref.report.sweep.compare import SeedMean, best_of, change_at, pairs_of_arms, readings, same_questions, seed_mean
from mmpref.report.sweep.findings import arrow, value_text
from mmpref.yaml_text import did_you_mean

MOST_PANELS = 12
"""Maps or curves of one kind, measure and arm; a sweep of many axes has more combinations than anyone looks at."""
_AT_BEST = "the other axes at each arm's best"
_UNITS = {"percent": "%", "words": "words", "nats": "nats", "number": ""}


@dataclass(frozen=True, slots=True)
class Layout:
    """Which axes make the rows and columns of maps (None: there is none), and which are fixed, each combination in a
    map of its own."""

    rows: Axis | None
    columns: Axis | None
    fixed: tuple[Axis, ...]


def layout_of(sweep: SweepResult, axes: Sequence[str] = ()) -> Layout:
    """The two axes with the most values other than seeds, or those that are named.

    Raises:
        ConfigError: a name is none of the sweep's axes, or it names one twice or more than two.
    """
    grid = sweep.grid_axes
    if axes:
        chosen = [_axis_called(sweep, name) for name in axes]
        if len(chosen) > 2 or len(set(chosen)) < len(chosen):
            raise ConfigError(f"--axes {','.join(axes)}: name one or two axes, each once")
    else:
        most = sorted(grid, key=lambda axis: -len(axis.values))[:2]
        chosen = [axis for axis in grid if axis in most]
    rows = chosen[0] if len(chosen) == 2 else None
    columns = chosen[-1] if chosen else None
    return Layout(rows, columns, tuple(axis for axis in grid if axis not in chosen))


def _axis_called(sweep: SweepResult, name: str) -> Axis:
    found = [axis for axis in sweep.grid_axes if name in (axis.key, axis.label)]
    if len(found) != 1:
        known = [axis.key for axis in sweep.grid_axes]
        raise ConfigError(
            f"--axes {name}: not an axis of this sweep{did_you_mean(name, known)}; it has {', '.join(known) or 'none'}"
        )
    return found[0]


class Means:
    """Means over seeds of one measure, by arm and place, on the usual questions."""

    def __init__(self, sweep: SweepResult, measure: Measure) -> None:
        kept, _ = same_questions(readings(sweep, measure))
        self.of: Mapping[tuple[str, Values], SeedMean] = {
            key: mean for key, of_seed in kept.items() if (mean := seed_mean(list(of_seed.values()))) is not None
        }
        values = [mean.mean for mean in self.of.values()]
        self.ends = (min(values), max(values)) if values else (0.0, 0.0)


def heat_maps(sweep: SweepResult, measure: Measure, layout: Layout) -> list[Drawing]:
    """A map an arm, all on one scale. With one axis the arms are the rows of one map."""
    if layout.columns is None:
        return []
    means = Means(sweep, measure)
    if not means.of:
        return []
    drawn = []
    arms: list[tuple[str, ...]] = [(arm,) for arm in sweep.arms] if layout.rows is not None else [sweep.arms]
    for group in arms:
        best = {arm: found.place for arm in group if (found := best_of(sweep, measure, arm)) is not None}
        for fixed in itertools.islice(_combinations(layout.fixed), MOST_PANELS):
            drawn.append(_map(sweep, measure, layout, means, group, fixed, best))
    return drawn


def _map(
    sweep: SweepResult,
    measure: Measure,
    layout: Layout,
    means: Means,
    arms: tuple[str, ...],
    fixed: Values,
    best: Mapping[str, Values],
) -> Drawing:
    def cell(arm: str, place: Values) -> HeatCell:
        mean = means.of.get((arm, place))
        if mean is None:
            return HeatCell(None, _why_none(sweep, arm, place))
        text = value_text(mean.mean, measure.unit)
        if mean.n < len(sweep.seeds):
            text += f"\n{mean.n}/{len(sweep.seeds)} seeds"
        return HeatCell(mean.mean, text, best.get(arm) == place)

    rows, table = _table(sweep, layout, arms, fixed, cell)
    low, high = means.ends
    scale = (high, low) if measure.better == "lower" else (low, high)
    title = f"{measure.title} {arrow(measure)}: {_named(arms)}{_fixed_words(layout, fixed)}"
    key = _key("map", measure.key, *(arms if len(arms) == 1 else ()), *fixed)
    unit = _UNITS[measure.unit]
    darker = f"darker is better ({measure.better})" if measure.better is not None else "darker is more"
    framed = ", the best cell of an arm framed" if best else ""
    return Drawing(
        key=key,
        title=title,
        caption=f"Means over seeds{f', {unit}' if unit else ''}; {darker}{framed}. One scale for all arms: "
        f"{value_text(low, measure.unit)} to {value_text(high, measure.unit)}.",
        words=_words(table, rows),
        svg=heat_figure(table, name=key, scale=scale),
        columns=("arm", *(axis.key for axis in sweep.grid_axes), measure.key, "low", "high", "seeds", "state"),
        rows=tuple(
            (
                arm,
                *place,
                *_numbers(means.of.get((arm, place))),
                "" if (arm, place) in means.of else one_line(_why_none(sweep, arm, place)),
            )
            for arm, place in _places(sweep, layout, arms, fixed)
        ),
    )


def difference_maps(sweep: SweepResult, measure: Measure, layout: Layout) -> list[Drawing]:
    """First arm less second, a map every two arms (of more than four arms: each with the first), one scale for all."""
    if layout.columns is None or len(sweep.arms) < 2:
        return []
    pairs = pairs_of_arms(sweep)
    if len(sweep.arms) > 4:
        pairs = [pair for pair in pairs if pair[1] == sweep.arms[0]]
    changes = {
        pair: {p: c for p in sweep.places if (c := change_at(sweep, measure, *pair, p)) is not None} for pair in pairs
    }
    ends = [abs(change.mean) for found in changes.values() for change in found.values()]
    reach = max(ends, default=0.0) or 1.0
    scale = (reach, -reach) if measure.better == "lower" else (-reach, reach)
    drawn = []
    for pair, found in changes.items():
        for fixed in itertools.islice(_combinations(layout.fixed), MOST_PANELS) if found else ():
            drawn.append(_difference(sweep, measure, layout, pair, found, fixed, scale))
    return drawn


def _difference(
    sweep: SweepResult,
    measure: Measure,
    layout: Layout,
    pair: tuple[str, str],
    found: Mapping[Values, SeedMean],
    fixed: Values,
    scale: tuple[float, float],
) -> Drawing:
    def cell(arm: str, place: Values) -> HeatCell:
        change = found.get(place)
        if change is None:
            return HeatCell(None, "not compared")
        return HeatCell(change.mean, value_text(change.mean, measure.unit, signed=True))

    name = f"{pair[0]} \N{MINUS SIGN} {pair[1]}"
    rows, table = _table(sweep, layout, (name,), fixed, cell)
    key = _key("difference", measure.key, *pair, *fixed)
    sides = (
        f"Blue: {pair[0]} is better ({measure.better}); orange: {pair[1]} is"
        if measure.better is not None
        else f"Blue: more with {pair[0]}; orange: less"
    )
    unit = {"percent": "points", "words": "words"}.get(measure.unit, "")
    return Drawing(
        key=key,
        title=f"{measure.title}: {name}{_fixed_words(layout, fixed)}",
        caption=f"Paired by seed, mean{f', {unit}' if unit else ''}. {sides}. One scale for all pairs of arms.",
        words=_words(table, rows),
        svg=heat_figure(table, name=key, scale=scale, is_difference=True),
        columns=("difference", *(axis.key for axis in sweep.grid_axes), measure.key, "low", "high", "seeds"),
        rows=tuple((name, *place, *_numbers(found.get(place))) for _, place in _places(sweep, layout, (name,), fixed)),
    )


def curves(sweep: SweepResult, measure: Measure, axis: Axis) -> list[Drawing]:
    """The measure over one axis: first with the other axes at each arm's best, then at each of their values."""
    means = Means(sweep, measure)
    best = {arm: found.place for arm in sweep.arms if (found := best_of(sweep, measure, arm)) is not None}
    if len(axis.values) < 2 or not means.of:
        return []
    at = sweep.grid_axes.index(axis)
    others = tuple(one for one in sweep.grid_axes if one is not axis)
    drawn = []
    for group in (sweep.arms[first : first + NUM_STYLES] for first in range(0, len(sweep.arms), NUM_STYLES)):
        of_group = {arm: best[arm] for arm in group if arm in best}
        drawn += [_curve(sweep, measure, axis, means, of_group, _AT_BEST if others else "")] if of_group else []
        for fixed in itertools.islice(_combinations(others), MOST_PANELS) if others else ():
            place = (*fixed[:at], axis.values[0], *fixed[at:])
            words = ", ".join(f"{one.label} {value}" for one, value in zip(others, fixed, strict=True))
            drawn.append(_curve(sweep, measure, axis, means, dict.fromkeys(group, place), words))
    return drawn


def dots(sweep: SweepResult, measure: Measure) -> list[Drawing]:
    """A dot an arm, where no axis but the seed is varied."""
    means = Means(sweep, measure)
    if not means.of or sweep.grid_axes or len(sweep.arms) < 2:
        return []
    found = [(arm, means.of.get((arm, ()))) for arm in sweep.arms]
    factor, unit, key = 100 if measure.unit == "percent" else 1, _UNITS[measure.unit], _key("dots", measure.key)
    lines = [
        SettingLine(
            arm,
            style,
            (None if one is None else factor * one.mean,),
            (None if one is None or one.interval is None else (factor * one.interval[0], factor * one.interval[1]),),
        )
        for style, (arm, one) in enumerate(found)
    ]
    return [
        Drawing(
            key=key,
            title=f"{measure.title} {arrow(measure)}",
            caption="Means over seeds with Student's 95 % interval where there are two or more.",
            words="; ".join(f"{arm}: {_read(one and one.mean, measure)}" for arm, one in found),
            svg=dot_figure(lines, name=key, label=f"{measure.name}{f', {unit}' if unit else ''}"),
            columns=("arm", measure.key, "low", "high", "seeds"),
            rows=tuple((arm, *_numbers(one)) for arm, one in found),
        )
    ]


def _curve(
    sweep: SweepResult, measure: Measure, axis: Axis, means: Means, places: Mapping[str, Values], fixed: str
) -> Drawing:
    at, factor = sweep.grid_axes.index(axis), 100 if measure.unit == "percent" else 1
    lines, rows = [], []
    for style, arm in enumerate(sweep.arms):
        if arm not in places:
            continue
        own = [(*places[arm][:at], value, *places[arm][at + 1 :]) for value in axis.values]
        found = [means.of.get((arm, place)) for place in own]
        lines.append(
            SettingLine(
                arm,
                style,
                tuple(factor * one.mean if one is not None else None for one in found),
                tuple(
                    (factor * one.interval[0], factor * one.interval[1]) if one is not None and one.interval else None
                    for one in found
                ),
            )
        )
        rows += [(arm, *place, *_numbers(one)) for place, one in zip(own, found, strict=True)]
    start = _start(sweep, measure)
    key = _key("curve", measure.key, axis.key, fixed, *places)
    words = "; ".join(
        f"{row[0]} at {axis.label} {row[1 + at]}: {_read(row[len(sweep.grid_axes) + 1], measure)}" for row in rows
    )
    unit = _UNITS[measure.unit]
    dotted = "" if start is None else " The dotted line is the start model's mean."
    return Drawing(
        key=key,
        title=f"{measure.title} {arrow(measure)} over {axis.label}" + (f", {fixed}" if fixed else ""),
        caption=f"Means over seeds with Student's 95 % interval where there are two or more.{dotted}"
        + (" The other axes stand where the arm is best, which flatters." if fixed == _AT_BEST else ""),
        words=words + (f"; start model {_read(start, measure)}" if start is not None else ""),
        svg=setting_figure(
            lines,
            axis.values,
            name=key,
            labels=(axis.label, f"{measure.name}{f', {unit}' if unit else ''}"),
            rule=None if start is None else (factor * start, "start"),
        ),
        columns=("arm", *(one.key for one in sweep.grid_axes), measure.key, "low", "high", "seeds"),
        rows=tuple(rows),
    )


def trade_off(sweep: SweepResult, x: Measure, y: Measure, length: Measure | None) -> Drawing | None:
    """Every setting of every arm by two metrics, with the length of its answers: what a lower rate was bought with."""
    over_x, over_y = Means(sweep, x), Means(sweep, y)
    over_length = Means(sweep, length).of if length is not None else {}
    found = [(key, over_x.of[key].mean, over_y.of[key].mean) for key in over_x.of if key in over_y.of]
    if len(found) < 2:
        return None
    signs = [1 if one.better == "lower" else -1 for one in (x, y)]
    points, rows = [], []
    for (arm, place), across, up in found:
        beaten = any(
            signs[0] * (other_x - across) <= 0 and signs[1] * (other_y - up) <= 0 and (other_x, other_y) != (across, up)
            for _, other_x, other_y in found
        )
        words = over_length.get((arm, place))
        note = ", ".join(place) + (f" ({words.mean:.1f} words)" if words is not None else "")
        factors = [100 if one.unit == "percent" else 1 for one in (x, y)]
        points.append(SettingPoint(arm, sweep.arms.index(arm), factors[0] * across, factors[1] * up, note, not beaten))
        rows.append((arm, *place, across, up, None if words is None else words.mean, "no" if beaten else "yes"))
    front = [row for row in rows if row[-1] == "yes"]
    key = _key("trade-off", x.key, y.key)
    return Drawing(
        key=key,
        title=f"{y.name} against {x.name} ({x.group})",
        caption=f"Every setting, means over seeds. Ringed and named: no setting is better in both ({x.name} "
        f"{arrow(x)}, {y.name} {arrow(y)}); beside them the words of an answer. All settings are in the numbers.",
        words="Not beaten in both: "
        + "; ".join(
            f"{row[0]} {' '.join(map(str, row[1:-4]))}: {_read(row[-4], x)}, {_read(row[-3], y)}" for row in front
        ),
        svg=point_figure(points, name=key, labels=(_axis_label(x), _axis_label(y))),
        columns=("arm", *(axis.key for axis in sweep.grid_axes), x.key, y.key, "mean_length", "not_beaten"),
        rows=tuple(rows),
    )


def _start(sweep: SweepResult, measure: Measure) -> float | None:
    """The mean over the start models, where they were asked what the cells were."""
    asked = {reading.asked for of_seed in readings(sweep, measure).values() for reading in of_seed.values()}
    found = [numbers[measure.key] for numbers in sweep.starts.values() if measure.key in numbers]
    if not found or {reading.asked for reading in found} != asked:
        return None
    return sum(reading.value for reading in found) / len(found)


def _combinations(axes: Sequence[Axis]) -> Iterator[Values]:
    return itertools.product(*(axis.values for axis in axes))


def _places(sweep: SweepResult, layout: Layout, arms: Sequence[str], fixed: Values) -> Iterator[tuple[str, Values]]:
    """Arms and places of a map, row by row."""
    for arm in arms:
        for row in layout.rows.values if layout.rows is not None else ("",):
            for column in layout.columns.values if layout.columns is not None else ():
                values = dict(zip((*layout.fixed, layout.rows, layout.columns), (*fixed, row, column), strict=True))
                yield arm, tuple(values[axis] for axis in sweep.grid_axes)


def _table(
    sweep: SweepResult, layout: Layout, arms: tuple[str, ...], fixed: Values, cell: Callable[[str, Values], HeatCell]
) -> tuple[tuple[str, ...], HeatMap]:
    assert layout.columns is not None
    names = layout.rows.values if layout.rows is not None else arms
    cells = [cell(arm, place) for arm, place in _places(sweep, layout, arms, fixed)]
    width = len(layout.columns.values)
    found = HeatMap(
        rows=names,
        columns=layout.columns.values,
        cells=tuple(tuple(cells[at : at + width]) for at in range(0, len(cells), width)),
        x_label=layout.columns.label,
        y_label=layout.rows.label if layout.rows is not None else "",
    )
    return names, found


def _why_none(sweep: SweepResult, arm: str, place: Values) -> str:
    states = {cell.state for cell in sweep.cells if cell.arm == arm and sweep.place_of(cell) == place}
    if states == {COMPLETE}:
        return "no number"
    return ",\n".join(sorted(states - {COMPLETE}))


def _numbers(mean: SeedMean | None) -> tuple[float | None, float | None, float | None, int]:
    if mean is None:
        return None, None, None, 0
    low, high = mean.interval or (None, None)
    return mean.mean, low, high, mean.n


def _words(table: HeatMap, rows: Sequence[str]) -> str:
    lines = []
    for name, cells in zip(rows, table.cells, strict=True):
        shown = [
            f"{column}: {one_line(cell.text)}{' (best)' if cell.framed else ''}"
            for column, cell in zip(table.columns, cells, strict=True)
        ]
        lines.append(f"{table.y_label} {name}".strip() + f", {table.x_label} " + ", ".join(shown))
    return "; ".join(lines)


def _axis_label(measure: Measure) -> str:
    unit = _UNITS[measure.unit]
    return f"{measure.name}{f', {unit}' if unit else ''} {arrow(measure)}".strip()


def one_line(text: str) -> str:
    """Text without line ends."""
    return " ".join(text.split())


def _read(value: object, measure: Measure) -> str:
    return value_text(value, measure.unit) if isinstance(value, float) else "not measured"


def _named(arms: Sequence[str]) -> str:
    return arms[0] or "the recipe" if len(arms) == 1 else "all arms"


def _fixed_words(layout: Layout, fixed: Values) -> str:
    return "".join(f", {axis.label} {value}" for axis, value in zip(layout.fixed, fixed, strict=True))


def _key(*parts: str) -> str:
    """Small letters, digits and hyphens; what that loses of the parts is kept in four letters at the end."""
    plain = "-".join(re.sub(r"[^a-z0-9]+", "-", part.lower().replace(".", "p")).strip("-") for part in parts if part)
    return f"{plain[:100]}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:4]}"
