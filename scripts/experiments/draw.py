"""Tables of docs/experiments.md and the README's first figure, from the results in results/experiments.

    python scripts/experiments/draw.py            # writes both anew
    python scripts/experiments/draw.py --check    # says what would change, with exit code 1

Nothing is trained. The page says what stands where, in comments that this script fills up to ``<!-- end of table -->``:

    <!-- draw.py: levels NAME -->                      every arm at every value: means over seeds
    <!-- draw.py: differences NAME ARM -->             every other arm minus ARM, seed by seed
    <!-- draw.py: map NAME ARM ROWS COLUMNS -->        one arm over two axes
    <!-- draw.py: shares NAME ARM=BASE ... -->         in how many cells ARM is better than BASE

NAME is a file of results/experiments, names with blanks stand in quotes.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmpref.files.writing import write_text
from mmpref.report.figures.series import Panel, Point, Series, series_image
from mmpref.statistics import clopper_pearson, mean_with_t_interval, sign_test

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results" / "experiments"
PAGE = ROOT / "docs" / "experiments.md"
FIGURE = ROOT / "docs" / "figures" / "when_it_pays.svg"
START = "start"
_TABLE = re.compile(r"(<!-- draw\.py: ([^\n]+?) -->\n).*?(<!-- end of table -->)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Shown:
    """How a metric is written. ``better`` is 1 where more is better, -1 where less is, 0 where neither is."""

    title: str
    scale: float = 100.0
    digits: int = 1
    better: int = 0


METRICS: Mapping[str, Shown] = {
    "chair_s": Shown("CHAIR_s", better=-1),
    "recall": Shown("recall", better=1),
    "f1": Shown("F1", better=1),
    "words": Shown("words", 1.0, 2),
    "pope_random": Shown("POPE random", better=1),
    "pope_adversarial": Shown("POPE adversarial", better=1),
    "pope_adversarial_yes": Shown("says yes (adv.)"),
    "logp_chosen": Shown("chosen log-prob", 1.0, 2),
    "logp_rejected": Shown("rejected log-prob", 1.0, 2),
    "coef_chosen": Shown("c_w", 1.0, 2),
}
"""Column of a file -> how it is written; log-probs as changes from the start model."""
_CHANGES = ("logp_chosen", "logp_rejected")
_TEXTS = {"train.learning_rate": "learning rate", "noise": "swapped labels"}


@dataclass(frozen=True, slots=True)
class Result:
    """One training: ``place`` its values on the axes other than the seed, in the order of the file."""

    arm: str
    place: tuple[str, ...]
    seed: str
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Experiment:
    """One file of results. ``starts`` are the models that the trainings begin with, by seed."""

    axes: tuple[str, ...]
    results: tuple[Result, ...]
    starts: Mapping[str, Result]

    @property
    def arms(self) -> tuple[str, ...]:
        """In the order of the file."""
        return tuple(dict.fromkeys(result.arm for result in self.results))

    @property
    def places(self) -> tuple[tuple[str, ...], ...]:
        """Every combination of values, in the order of the file."""
        found = dict.fromkeys(result.place for result in self.results)
        ranks = [list(dict.fromkeys(place[axis] for place in found)) for axis in range(len(self.axes))]
        ranks = [sorted(values, key=_as_number) for values in ranks]
        return tuple(
            sorted(found, key=lambda place: [rank.index(value) for rank, value in zip(ranks, place, strict=True)])
        )

    def seeds(self, arm: str, place: tuple[str, ...], metric: str) -> dict[str, float]:
        """Values of one cell by seed."""
        return {
            result.seed: result.values[metric]
            for result in self.results
            if (result.arm, result.place) == (arm, place) and metric in result.values
        }

    def whole_seeds(self, arms: Sequence[str]) -> tuple[str, ...]:
        """Seeds with which each of these arms was trained at every place of the experiment."""
        seen = {(result.arm, result.place, result.seed) for result in self.results}
        wanted = [(arm, place) for arm in arms for place in self.places]
        seeds = sorted({result.seed for result in self.results}, key=_as_number)
        return tuple(seed for seed in seeds if all((*cell, seed) in seen for cell in wanted))

    def of_whole_seeds(self, *arms: str) -> Experiment:
        """These arms alone, without the seeds that lack some cell: cells are compared on the same seeds."""
        kept = self.whole_seeds(arms)
        results = tuple(result for result in self.results if result.seed in kept and result.arm in arms)
        return Experiment(self.axes, results, {seed: self.starts[seed] for seed in kept if seed in self.starts})

    def has(self, metric: str) -> bool:
        """Whether some training has it."""
        return any(metric in result.values for result in self.results)

    def named(self, place: tuple[str, ...]) -> str:
        """A combination of values in words."""
        return ", ".join(f"{_TEXTS.get(axis, axis)} {value}" for axis, value in zip(self.axes, place, strict=True))


def _as_number(text: str) -> tuple[float, str]:
    try:
        return float(text), ""
    except ValueError:
        return math.inf, text


def read(name: str, folder: Path = RESULTS) -> Experiment:
    """One file, with F1 of (1 - CHAIR_i, recall) and the change of log-probs from the start model; empty where it is
    not there."""
    if not (folder / f"{name}.csv").is_file():
        return Experiment((), (), {})
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns = list(rows[0])
    axes = tuple(columns[1 : columns.index("seed")])
    known = columns[columns.index("seed") + 1 :]
    found = []
    for row in rows:
        values = {name: float(row[name]) for name in known if row[name]}
        if {"chair_i", "recall"} <= values.keys():
            true, complete = 1 - values["chair_i"], values["recall"]
            values["f1"] = 2 * true * complete / (true + complete)
        found.append(Result(row["arm"], tuple(row[axis] for axis in axes), row["seed"], values))
    starts = {result.seed: result for result in found if result.arm == START}
    results = tuple(_changed(result, starts.get(result.seed)) for result in found if result.arm != START)
    return Experiment(axes, results, {seed: _changed(one, None) for seed, one in starts.items()})


def _changed(result: Result, start: Result | None) -> Result:
    """Log-probs as changes from the start; none where it is not known."""
    values = {name: value for name, value in result.values.items() if name not in _CHANGES}
    for name in _CHANGES:
        if start is not None and name in result.values and name in start.values:
            values[name] = result.values[name] - start.values[name]
    return Result(result.arm, result.place, result.seed, values)


def written(values: Iterable[float], shown: Shown, *, signed: bool = False, all_of: int = 0) -> str:
    """Mean over seeds ± half its t-interval; how many seeds where they are fewer than ``all_of``."""
    sample = [shown.scale * value for value in values]
    if not sample:
        return "–"
    mean, interval = mean_with_t_interval(sample)
    text = f"{mean:{'+' if signed else ''}.{shown.digits}f}"
    if interval is not None:
        text += f" ± {interval[1] - mean:.{shown.digits}f}"
    return text if len(sample) >= all_of else f"{text} ({len(sample)} of {all_of} seeds)"


def levels(experiment: Experiment) -> list[str]:
    """Every arm at every value of the axes, the start model first."""
    metrics = [name for name in METRICS if experiment.has(name)]
    lines = _head([*(["setting"] if experiment.axes else []), "arm", *(METRICS[name].title for name in metrics)])
    start = [_start_cell(experiment, name) for name in metrics]
    lines.append(_line([*([""] if experiment.axes else []), "start model", *start]))
    num_seeds = len(experiment.starts)
    for place in experiment.places:
        for arm in experiment.arms:
            cells = []
            for name in metrics:
                sample = experiment.seeds(arm, place, name).values()
                cells.append(written(sample, METRICS[name], signed=name in _CHANGES, all_of=num_seeds))
            if any(cell != "–" for cell in cells):
                lines.append(_line([*([experiment.named(place)] if experiment.axes else []), arm, *cells]))
    return lines


def _start_cell(experiment: Experiment, name: str) -> str:
    sample = [start.values[name] for start in experiment.starts.values() if name in start.values]
    return written(sample, METRICS[name]) if sample else ""


def differences(experiment: Experiment, base: str) -> list[str]:
    """Every other arm minus ``base``, paired by seed."""
    metrics = [name for name in METRICS if experiment.has(name) and name != "coef_chosen"]
    lines = _head(
        [*(["setting"] if experiment.axes else []), f"minus {base}", *(METRICS[name].title for name in metrics)]
    )
    for place in experiment.places:
        for arm in experiment.arms:
            cells = [
                written(_paired(experiment, arm, base, place, name), METRICS[name], signed=True) for name in metrics
            ]
            if arm != base and any(cell != "–" for cell in cells):
                lines.append(_line([*([experiment.named(place)] if experiment.axes else []), arm, *cells]))
    return lines


def _paired(experiment: Experiment, arm: str, base: str, place: tuple[str, ...], metric: str) -> list[float]:
    ours, theirs = (experiment.seeds(name, place, metric) for name in (arm, base))
    return [ours[seed] - theirs[seed] for seed in ours if seed in theirs]


def grid_map(experiment: Experiment, arm: str, rows: str, columns: str) -> list[str]:
    """CHAIR_s / recall / words of one arm over two axes, means over seeds; the lowest CHAIR_s and highest F1 marked."""
    experiment = experiment.of_whole_seeds(arm)
    across, down = experiment.axes.index(columns), experiment.axes.index(rows)
    values = [
        sorted({place[axis] for place in experiment.places}, key=_as_number) for axis in (down, across)
    ]  # fmt: skip
    means = {place: _mean(experiment, arm, place, "chair_s") for place in experiment.places}
    f1 = {place: _mean(experiment, arm, place, "f1") for place in experiment.places}
    known = [place for place, mean in means.items() if mean is not None]
    best = min(known, key=lambda place: means[place] or 0.0) if known else None
    best_f1 = max(known, key=lambda place: f1[place] or 0.0) if known else None
    seeds = f"{arm} (seeds {', '.join(experiment.whole_seeds([arm]))})"
    lines = _head([f"{seeds}: {_TEXTS.get(rows, rows)} \\ {_TEXTS.get(columns, columns)}", *values[1]])
    for row in values[0]:
        cells = []
        for column in values[1]:
            place = tuple(row if axis == down else column for axis in range(len(experiment.axes)))
            shown = [
                written([mean], METRICS[name]) if (mean := _mean(experiment, arm, place, name)) is not None else ""
                for name in ("chair_s", "recall", "words")
            ]
            text = " / ".join(shown) if all(shown) else "–"
            cells.append(text + (" ↓" if place == best else "") + (" ★" if place == best_f1 else ""))
        lines.append(_line([row, *cells]))
    return lines


def _mean(experiment: Experiment, arm: str, place: tuple[str, ...], metric: str) -> float | None:
    """Over seeds; None where there is none."""
    sample = experiment.seeds(arm, place, metric)
    return math.fsum(sample.values()) / len(sample) if sample else None


def shares(experiment: Experiment, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """In how many cells one arm is better than another, on means over seeds; and over all cells and seeds."""
    lines = _head(["", "metric", "cells", "share [95 %]", "p", "cells x seeds", "seeds"])
    for arm, base in pairs:
        pair = experiment.of_whole_seeds(arm, base)
        for name, label, sign in _compared():
            changes = _changes_of_means(pair, arm, base, name)
            if not changes:
                continue
            wins, losses = (sum(side * sign * change > 1e-9 for change in changes) for side in (1, -1))
            low, high = clopper_pearson(wins, len(changes))  # a tie is not won, as in mmpref report
            p = sign_test(wins, losses)
            ties = f" ({len(changes) - wins - losses} tied)" if len(changes) > wins + losses else ""
            single = [sign * one for place in pair.places for one in _paired(pair, arm, base, place, name)]
            cells = [
                f"{arm} against {base}",
                label,
                f"{wins} of {len(changes)}{ties}",
                f"{100 * wins / len(changes):.0f} % [{100 * low:.0f}, {100 * high:.0f}]",
                "–" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001",
                f"{sum(one > 1e-9 for one in single)} of {len(single)}",
                ", ".join(pair.whole_seeds([arm, base])),
            ]
            lines.append(_line(cells))
    return lines


def _compared() -> tuple[tuple[str, str, int], ...]:
    """Metric, what is counted, and the sign that makes it a win."""
    return (
        ("chair_s", "CHAIR_s lower", -1),
        ("recall", "recall higher", 1),
        ("f1", "F1 higher", 1),
        ("words", "captions longer", 1),
    )


def _changes_of_means(experiment: Experiment, arm: str, base: str, metric: str) -> list[float]:
    """Of every cell that both arms have with all seeds."""
    means = [[_mean(experiment, name, place, metric) for name in (arm, base)] for place in experiment.places]
    return [ours - theirs for ours, theirs in means if ours is not None and theirs is not None]


def _head(titles: Sequence[str]) -> list[str]:
    return [_line(titles), "|---" * len(titles) + "|"]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def table(spec: str, folder: Path = RESULTS) -> str:
    """What a comment of the page asks for."""
    kind, name, *words = shlex.split(spec)
    experiment = read(name, folder)
    if not experiment.results:
        return "Not measured yet."
    made: Callable[[], list[str]] = {
        "levels": lambda: levels(experiment),
        "differences": lambda: differences(experiment, words[0]),
        "map": lambda: grid_map(experiment, words[0], words[1], words[2]),
        "shares": lambda: shares(experiment, [(word.split("=")[0], word.split("=")[1]) for word in words]),
    }[kind]
    lines = made()
    return "\n".join(lines) if len(lines) > 2 else "Not measured yet: no seed has all cells."


def filled(page: str, folder: Path = RESULTS) -> str:
    """The page with every table made anew."""
    return _TABLE.sub(lambda found: f"{found[1]}{table(found[2], folder)}\n{found[3]}", page)


ARMS = {"SFT on chosen": (1, "SFT"), "DPO": (2, "DPO"), "Uni-DPO": (3, "Uni"), "AdaDPO": (4, "Ada")}
"""Methods of the figure, each one's style, and what stands beside its dots."""
CAPTIONS = {"chair_s": "CHAIR_s, % (lower is better)", "recall": "recall, % (higher is better)"}
QUESTIONS = {"pope_adversarial": "POPE adversarial, % right", "pope_adversarial_yes": "says yes, % (half is right)"}
Setting = tuple[Experiment, tuple[str, ...]]


def figure(folder: Path = RESULTS) -> str:
    """The README's first figure: label noise (captions, then questions), pairs of the model's own, rates too high."""
    noise, own, rate = (read(name, folder) for name in ("noise", "on_policy", "learning_rate"))
    over_noise = _complete([(noise, place) for place in noise.places])
    own_or_given = _complete([(noise, ("20",)), (own, ())])
    over_rate = _complete([(rate, place) for place in rate.places])
    rows = [
        _row("wrong labels, %", over_noise, CAPTIONS),
        _row("wrong labels, %", over_noise, QUESTIONS),
        _row("pairs", own_or_given, CAPTIONS, ticks=("given,\n20 % wrong", "the model's\nown")),
        _row("learning rate", over_rate, CAPTIONS),
    ]
    rows = [row for row in rows if row[0].ticks]  # what was not measured is not drawn
    if not rows:
        raise SystemExit("no setting of the figure has every method with every seed")
    return series_image(rows, alt=_alt(rows), width=5.8, height=0.5 + 1.95 * len(rows))


def _complete(settings: list[Setting]) -> list[Setting]:
    """The settings where each has every method with every seed; else none."""
    for experiment, place in settings:
        for arm in ARMS:
            if len(experiment.seeds(arm, place, "chair_s")) < max(1, len(experiment.starts)):
                return []
    return settings


def _row(
    label: str, settings: Sequence[Setting], metrics: Mapping[str, str], *, ticks: tuple[str, ...] = ()
) -> list[Panel]:
    """Two metrics over the same settings; joined where these are values of one axis."""
    names = ticks or tuple(place[0] for _, place in settings)
    starts = settings[0][0].starts.values() if settings else ()
    panels = []
    for metric, title in metrics.items():
        known = [start.values[metric] for start in starts if metric in start.values]
        level = ("start model", 100 * math.fsum(known) / len(known)) if known else None
        series = tuple(
            Series(arm, style, tuple(_point(experiment, arm, place, metric) for experiment, place in settings), short)
            for arm, (style, short) in ARMS.items()
        )
        panels.append(Panel(title, label, names if settings else (), series, joined=not ticks, level=level))
    return panels


def _point(experiment: Experiment, arm: str, place: tuple[str, ...], metric: str) -> Point | None:
    """In percent; None where no seed is there."""
    sample = [100 * value for value in experiment.seeds(arm, place, metric).values()]
    if not sample:
        return None
    mean, interval = mean_with_t_interval(sample)
    return Point(mean, None if interval is None else (max(0.0, interval[0]), min(100.0, interval[1])))


def _alt(rows: Sequence[Sequence[Panel]]) -> str:
    """What the figure shows, in words and numbers."""
    parts = ["Means over three seeds, with 95 % t-intervals over seeds in the figure"]
    for row in rows:
        for place, tick in enumerate(row[0].ticks):
            said = []
            for several in zip(*(panel.series for panel in row), strict=True):
                values = [point.value for one in several if (point := one.points[place]) is not None]
                if values:
                    said.append(f"{several[0].label} {' / '.join(f'{value:.1f}' for value in values)}")
            metrics = " / ".join(panel.title.partition(",")[0] for panel in row)
            setting = f"{row[0].x_label} {tick}".replace("\n", " ")
            parts.append(f"{setting}, {metrics}: {', '.join(said)}")
    return "; ".join(parts)


def stale() -> list[Path]:
    """Files that are not what the results give; of the figure its numbers, which stand in its title."""
    page = PAGE.read_text(encoding="utf-8")
    drawn = FIGURE.read_text(encoding="utf-8") if FIGURE.is_file() else ""
    numbers = [re.findall("<title>(.*?)</title>", svg, flags=re.DOTALL) for svg in (figure(), drawn)]
    return [*([PAGE] if filled(page) != page else []), *([FIGURE] if numbers[0] != numbers[1] else [])]


def main() -> None:
    """Write the page and the figure, or compare them with what the results give."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where something would change")
    if parser.parse_args().check:
        for file in (found := stale()):
            print(f"{file.relative_to(ROOT)} is not what results/experiments give: python scripts/experiments/draw.py")
        sys.exit(1 if found else 0)
    write_text(PAGE, filled(PAGE.read_text(encoding="utf-8")))
    write_text(FIGURE, figure())


if __name__ == "__main__":
    main()
