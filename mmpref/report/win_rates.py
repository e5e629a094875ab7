"""Win rates by length difference: whether a model wins because its answers are longer."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from mmpref.evals.benchmarks.length_bins import LONGER, SHORTER, SIMILAR, LengthBin, length_bins
from mmpref.report.cells import MINUS
from mmpref.report.evaluation import Evaluation
from mmpref.report.figures.drawing import Drawing
from mmpref.report.figures.settings import SettingLine, setting_figure
from mmpref.report.html import render
from mmpref.report.runs import Run

_NAMED = (SHORTER, SIMILAR, LONGER)
_RATES = ("win_rate", "lc_win_rate_local", "lc_minus_wr")


def win_rate_section(runs: Sequence[Run]) -> Markup | None:
    """The section of the page, where a run has a win rate with its items; else None."""
    found = [
        (place, run.label, evaluation)
        for place, run in enumerate(runs)
        for evaluation in run.evals
        if evaluation.benchmark == "win_rate" and length_bins(evaluation.items)[0]
    ]
    if not found:
        return None
    several = len(found) > len({place for place, *_ in found})
    named = [
        (place, f"{label} ({evaluation.name})" if several else label, evaluation) for place, label, evaluation in found
    ]
    rows = [(label, *(_rate(evaluation, name) for name in _RATES)) for _, label, evaluation in named]
    drawings = [_of_names(named), *(_of_parts(place, label, evaluation) for place, label, evaluation in named)]
    return render("win_rates", rows=rows, drawings=drawings)


def _rate(evaluation: Evaluation, name: str) -> str:
    value, interval = evaluation.metric(name), evaluation.interval(name)
    if value is None:
        return evaluation.why_undefined(name) or "not measured"
    signed = name == "lc_minus_wr"
    ends = f" [{_percent(interval[0], signed)}, {_percent(interval[1], signed)}]" if interval is not None else ""
    return _percent(value, signed) + ends


def _percent(value: float, signed: bool = False) -> str:
    text = f"{abs(100 * value):.1f}"
    return (MINUS if value < 0 and text != "0.0" else "+" if signed and text != "0.0" else "") + text


def _of_names(found: Sequence[tuple[int, str, Evaluation]]) -> Drawing:
    lines, rows = [], []
    for place, label, evaluation in found:
        bins = {one.label: one for one in length_bins(evaluation.items)[0]}
        own = [bins.get(name) for name in _NAMED]
        lines.append(_line(label, place, own))
        rows += [(label, name, *_numbers(one)) for name, one in zip(_NAMED, own, strict=True)]
    return Drawing(
        key="win-rate-by-length",
        title="Win rate where the answer is shorter, similar, longer",
        caption="% with 95 % interval; similar: lengths within a tenth of the longer answer. A model that only writes "
        "more wins on the right and not in the middle. The dotted line is 50 %.",
        words=_words(rows),
        svg=setting_figure(
            lines,
            _NAMED,
            name="win-rate-by-length",
            labels=("length against the reference", "win rate, %"),
            rule=(50.0, "even"),
        ),
        columns=("run", "length", "from_characters", "to_characters", "answers", "win_rate", "low", "high"),
        rows=tuple(rows),
    )


def _of_parts(place: int, label: str, evaluation: Evaluation) -> Drawing:
    parts = length_bins(evaluation.items)[1]
    key = f"win-rate-by-length-{place}-{''.join(c if c.isalnum() else '-' for c in evaluation.name.lower())}"
    rows = tuple((label, one.label, *_numbers(one)) for one in parts)
    return Drawing(
        key=key,
        title=f"Win rate by length difference: {label}",
        caption="% with 95 % interval, in parts of about as many answers each, by characters more than the reference.",
        words=_words(rows),
        svg=setting_figure(
            [_line(label, place, parts)],
            [f"{one.low:+d}…" for one in parts],
            name=key,
            labels=("from so many characters more", "win rate, %"),
            rule=(50.0, "even"),
        ),
        columns=("run", "length", "from_characters", "to_characters", "answers", "win_rate", "low", "high"),
        rows=rows,
    )


def _line(label: str, place: int, bins: Sequence[LengthBin | None]) -> SettingLine:
    return SettingLine(
        label,
        place,
        tuple(None if one is None else 100 * one.rate for one in bins),
        tuple(
            None if one is None or one.interval is None else (100 * one.interval[0], 100 * one.interval[1])
            for one in bins
        ),
    )


def _numbers(one: LengthBin | None) -> tuple[int | None, int | None, int, float | None, float | None, float | None]:
    if one is None:
        return None, None, 0, None, None, None
    low, high = one.interval or (None, None)
    return one.low, one.high, one.n, one.rate, low, high


def _words(rows: Sequence[Sequence[str | int | float | None]]) -> str:
    return "; ".join(
        f"{row[0]}, {row[1]}: " + (f"{_percent(row[5])} % of {row[4]}" if isinstance(row[5], float) else "none")
        for row in rows
    )
