"""What a sweep says in sentences and tables of texts, for the page, for files and for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmpref.report.cells import MINUS, Unit
from mmpref.report.sweep.cells import COMPLETE, FAILED, HELD_OUT, Measure, SweepResult
from mmpref.report.sweep.compare import (
    Best,
    PairedChange,
    SeedMean,
    Share,
    best_of,
    paired_change,
    pairs_of_arms,
    readings,
    same_questions,
    share_of_cells,
)
from mmpref.statistics import Interval

_SHOWN = 12  # names in one sentence
_UNITS = {"percent": "%", "words": "words"}
_OF_SHARES = (
    "A tie is no win; the sign test leaves it out. The interval is exact (Clopper-Pearson) and takes cells as "
    "independent, which cells that share data, start model and questions are only in part."
)
_OF_SEEDS = (
    "The number to quote is the first: cells on means over {seeds} seeds. Over every cell and seed there are more "
    "trials, but the seeds of a cell are not independent of each other: no interval is given for them."
)
_OF_BEST = (
    "The best of many cells flatters: part of why it is best is chance, and the more cells an arm has, the more. What "
    "the same choice gives on seeds that it did not see, or by held-out pairs, is the fairer number. Best is a mean "
    "over seeds; cells that lack seeds are no candidates where others have all."
)


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table as it is shown; the first column names its rows."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What the arms of a sweep are against each other, of one measure with a better direction."""

    measure: Measure
    shares: Sequence[tuple[Share, Share]]
    changes: Sequence[PairedChange]
    best: Sequence[Best]
    others: int = field(default=0)
    """Numbers that were asked other questions than most."""


def findings(sweep: SweepResult, measure: Measure) -> Findings:
    """All comparisons of one measure; without a better direction there are changes only."""
    pairs = pairs_of_arms(sweep)
    held_out = next((one for one in sweep.measures if one.group == HELD_OUT and one.name == "accuracy"), None)
    by = held_out if held_out is not None and held_out.key != measure.key else None
    best = [best_of(sweep, measure, arm, held_out=by) for arm in sweep.arms]
    return Findings(
        measure=measure,
        shares=[share_of_cells(sweep, measure, *pair) for pair in pairs] if measure.better is not None else [],
        changes=[paired_change(sweep, measure, *pair) for pair in pairs],
        best=[one for one in best if one is not None],
        others=same_questions(readings(sweep, measure))[1],
    )


def progress(sweep: SweepResult) -> list[str]:
    """What was varied, how much is done, and what could not be used."""
    arms = [f"{len(sweep.arms)} arms ({', '.join(sweep.arms)})"] if sweep.arms != ("",) else []
    axes = [f"{axis.key} ({', '.join(axis.values)})" for axis in sweep.axes]
    done = sweep.states()
    lines = [f"{len(sweep.cells)} cells: {' x '.join([*arms, *axes])}."]
    counts = [f"{done[COMPLETE]} of {len(sweep.cells)} cells are complete"]
    counts += [f"{number} {state}" for state, number in done.items() if state != COMPLETE]
    lines.append(
        ", ".join(counts) + ("." if done[COMPLETE] == len(sweep.cells) else "; only complete ones are compared.")
    )
    if failed := [cell for cell in sweep.cells if cell.state == FAILED]:
        lines.append("Failed: " + "; ".join(f"{cell.name}: {cell.why}" for cell in failed[:_SHOWN]) + _more(failed))
    remarks: dict[str, list[str]] = {}
    for cell in sweep.cells:
        for remark in cell.remarks:
            remarks.setdefault(remark, []).append(cell.name)
    lines += [f"{remark}: {', '.join(names[:_SHOWN])}{_more(names)}" for remark, names in remarks.items()]
    for measure in sweep.measures:
        found = readings(sweep, measure)
        have = sum(map(len, found.values()))
        if have < done[COMPLETE] and not remarks and measure.is_main:
            lines.append(
                f"{measure.title}: {done[COMPLETE] - have} of {done[COMPLETE]} complete cells have no such number."
            )
        if others := same_questions(found)[1]:
            lines.append(
                f"{measure.title}: {others} cells were asked other questions, or under other rules, than most of their "
                "seed; they are not in its maps, and compared only where both arms were asked the same."
            )
    return [*lines, *sweep.problems]


def share_text(share: Share) -> str:
    """``12 of 16 cells``, with ties, cells that lack seeds, and what is left out."""
    words = f"{share.wins} of {count(share.n, 'cell')}"
    words += f", {share.ties} tied" if share.ties else ""
    words += f", {share.on_fewer_seeds} with fewer seeds than the sweep" if share.on_fewer_seeds else ""
    return words + (f", {share.left_out} not compared" if share.left_out else "")


def sentence(measure: Measure, share: Share) -> str:
    """The share with interval and test, as one sentence."""
    if not share.n:
        return f"{measure.title}: no cell has both {share.first} and {share.second} on the same questions."
    low, high = share.interval or (0.0, 1.0)
    test = f"sign test p {p_text(share.p)}" if share.p is not None else "all tied"
    return (
        f"{measure.title}, {measure.better} is better: {share.first} beats {share.second} in {share_text(share)} "
        f"({100 * (share.share or 0):.0f} % [{100 * low:.0f}, {100 * high:.0f}], {test})."
    )


def summary_lines(sweep: SweepResult) -> list[str]:
    """What the terminal shows at the end of a sweep: how much is done, the first measure's shares, and the best."""
    lines = progress(sweep)
    measure = next((one for one in sweep.measures if one.is_main and one.better is not None), None)
    if measure is None:
        return lines
    found = findings(sweep, measure)
    lines += [sentence(measure, share) for share, _ in found.shares if share.n]
    for best in found.best:
        name = f"{best.arm}: " if best.arm else ""
        lines.append(
            f"{name}best {measure.title} {mean_text(best.value, measure.unit)} at {sweep.described(best.place)} "
            f"(of {count(best.n, 'cell')})"
        )
    return lines


def share_table(sweep: SweepResult, found: Findings) -> TextTable:
    """Every two arms."""
    rows = []
    for (share, every), change in zip(found.shares, found.changes, strict=True):
        rows.append(
            (
                f"{share.first} beats {share.second}",
                share_text(share) if share.n else "no cell has both",
                f"{_percent(share.share)} {interval_text(share.interval, 'percent')}".strip(),
                p_text(share.p) if share.n else "",
                f"{every.wins} of {every.n}" + (f", {every.ties} tied" if every.ties else ""),
                change_text(change, found.measure.unit),
            )
        )
    seeds = len(sweep.seeds)
    notes = [_OF_SHARES]
    if seeds > 1:
        notes.append(_OF_SEEDS.format(seeds=seeds))
    return TextTable(
        f"{found.measure.title}: in how many cells one arm beats another",
        (
            "",
            "cells, means over seeds",
            "share [95 %]",
            "sign test p",
            "every cell and seed",
            "difference, mean over cells [95 % over seeds]",
        ),
        tuple(rows),
        tuple(notes),
    )


def change_table(sweep: SweepResult, found: Findings) -> TextTable:
    """The differences of a measure without a better direction."""
    rows = [
        (f"{change.first} {MINUS} {change.second}", change_text(change, found.measure.unit)) for change in found.changes
    ]
    return TextTable(f"{found.measure.title}: differences", ("", "mean over cells [95 % over seeds]"), tuple(rows))


def best_table(sweep: SweepResult, found: Findings) -> TextTable:
    """The best place of every arm, with its neighbours and choices that do not flatter."""
    unit = found.measure.unit
    rows = []
    for best in found.best:
        beside = "; ".join(
            f"{value_text(value, unit)} at {sweep.described(place)}" for place, value in best.beside.items()
        )
        held = best.by_held_out
        rows.append(
            (
                best.arm or "the recipe",
                sweep.described(best.place),
                mean_text(best.value, unit),
                str(best.n),
                beside or "none has all seeds",
                mean_text(best.on_other_seeds, unit) if best.on_other_seeds is not None else "needs two seeds",
                f"{mean_text(held[1], unit)} at {sweep.described(held[0])}" if held is not None else "none logged",
            )
        )
    return TextTable(
        f"{found.measure.title}: the best cell of each arm",
        (
            "",
            "where",
            "value [95 % over seeds]",
            "best of",
            "its neighbours",
            "chosen on the other seeds",
            "chosen by held-out accuracy",
        ),
        tuple(rows),
        (_OF_BEST,),
    )


def cell_table(sweep: SweepResult, *, main_only: bool = True) -> TextTable:
    """A row a cell, whatever its state."""
    measures = [one for one in sweep.measures if one.is_main or not main_only]
    rows = []
    for cell in sweep.cells:
        numbers = [cell.numbers.get(measure.key) for measure in measures]
        texts = [value_text(n.value, m.unit) if n is not None else "" for n, m in zip(numbers, measures, strict=True)]
        state = f"{cell.state}: {cell.why}" if cell.why else cell.state
        own = [cell.arm] if sweep.arms != ("",) else []
        rows.append((*own, *(cell.values[axis.key] for axis in sweep.axes), *texts, state))
    for name, numbers_of in sweep.starts.items():
        found = [numbers_of.get(measure.key) for measure in measures]
        texts = [value_text(n.value, m.unit) if n is not None else "" for n, m in zip(found, measures, strict=True)]
        heads = [f"start model {name}", *("" for _ in sweep.axes)][: len(sweep.axes) + (sweep.arms != ("",))]
        rows.append((*heads, *texts, "before training"))
    heads = [*(["arm"] if sweep.arms != ("",) else []), *(axis.label for axis in sweep.axes)]
    heads += [f"{m.title} {arrow(m)} {_UNITS.get(m.unit, '')}".strip() for m in measures]
    return TextTable("All cells", (*heads, "state"), tuple(rows))


def as_data(sweep: SweepResult) -> dict[str, Any]:
    """Everything as JSON data: cells with raw numbers, and all comparisons."""
    return {
        "recipe": sweep.recipe,
        "arms": list(sweep.arms),
        "axes": {axis.key: list(axis.values) for axis in sweep.axes},
        "measures": {one.key: {"better": one.better, "unit": one.unit} for one in sweep.measures},
        "cells": [
            {
                "name": cell.name,
                "arm": cell.arm,
                "values": dict(cell.values),
                "state": cell.state,
                "error": cell.why,
                "seconds": cell.seconds,
                "metrics": {key: reading.value for key, reading in cell.numbers.items()},
                "asked": {key: reading.asked for key, reading in cell.numbers.items()},
                "remarks": list(cell.remarks),
            }
            for cell in sweep.cells
        ],
        "start_models": {
            name: {key: reading.value for key, reading in found.items()} for name, found in sweep.starts.items()
        },
        "comparisons": {one.key: _comparisons(sweep, findings(sweep, one)) for one in sweep.measures if one.is_main},
        "notes": progress(sweep),
    }


def _comparisons(sweep: SweepResult, found: Findings) -> dict[str, Any]:
    return {
        "beats": [
            {
                "first": share.first,
                "second": share.second,
                "over_seed_means": {**_share_data(share), "on_fewer_seeds": share.on_fewer_seeds},
                "over_cells_and_seeds": {key: value for key, value in _share_data(every).items() if key != "interval"},
            }
            for share, every in found.shares
        ],
        "differences": [
            {
                "first": change.first,
                "second": change.second,
                "cells": change.num_places,
                "per_seed": {", ".join(seed): value for seed, value in change.per_seed.items()},
                **_mean_data(change.over_seeds),
            }
            for change in found.changes
        ],
        "best": [
            {
                "arm": best.arm,
                "place": _place_data(sweep, best.place),
                "of": best.n,
                **_mean_data(best.value),
                "neighbours": [{"place": _place_data(sweep, at), "mean": value} for at, value in best.beside.items()],
                "on_other_seeds": _mean_data(best.on_other_seeds),
                "by_held_out": None
                if best.by_held_out is None
                else {"place": _place_data(sweep, best.by_held_out[0]), **_mean_data(best.by_held_out[1])},
            }
            for best in found.best
        ],
        "asked_otherwise": found.others,
    }


def _share_data(share: Share) -> dict[str, Any]:
    return {
        "wins": share.wins,
        "ties": share.ties,
        "losses": share.losses,
        "n": share.n,
        "left_out": share.left_out,
        "share": share.share,
        "interval": list(share.interval) if share.interval is not None else None,
        "sign_test_p": share.p,
    }


def _mean_data(found: SeedMean | None) -> dict[str, Any]:
    if found is None:
        return {"mean": None, "interval": None, "seeds": 0}
    return {"mean": found.mean, "interval": list(found.interval) if found.interval else None, "seeds": found.n}


def _place_data(sweep: SweepResult, place: Sequence[str]) -> Mapping[str, str]:
    return dict(zip((axis.key for axis in sweep.grid_axes), place, strict=True))


def value_text(value: float, unit: Unit, *, signed: bool = False) -> str:
    """A value as it is shown: percent and words with one digit, others with two."""
    scaled, digits = (100 * value, 1) if unit == "percent" else (value, 1 if unit == "words" else 2)
    text = f"{abs(scaled):.{digits}f}"
    is_zero = not text.strip("0.")
    return (MINUS if scaled < 0 and not is_zero else "+" if signed and not is_zero else "") + text


def interval_text(interval: Interval | None, unit: Unit, *, signed: bool = False) -> str:
    """An interval in brackets; empty where there is none."""
    if interval is None:
        return ""
    return f"[{', '.join(value_text(end, unit, signed=signed) for end in interval)}]"


def mean_text(found: SeedMean, unit: Unit, *, signed: bool = False) -> str:
    """A mean over seeds with its interval."""
    return f"{value_text(found.mean, unit, signed=signed)} {interval_text(found.interval, unit, signed=signed)}".strip()


def change_text(change: PairedChange, unit: Unit) -> str:
    """The mean difference with its interval, or why there is none."""
    if change.over_seeds is None:
        return "no cell has both with all seeds"
    return f"{mean_text(change.over_seeds, unit, signed=True)} over {count(change.num_places, 'cell')}"


def count(number: int, what: str) -> str:
    """``1 cell``, ``2 cells``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def arrow(measure: Measure) -> str:
    """Which way is better."""
    return {"lower": "↓", "higher": "↑", None: ""}[measure.better]


def p_text(p: float | None) -> str:
    """A p as it is shown."""
    return "all tied" if p is None else f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _more(found: Sequence[object]) -> str:
    return f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
