"""Every benchmark beside CHAIR and POPE, from what its files hold: each metric of each run with its paired difference.

The differences are made by the code that made the numbers (``evals.scoring.compare``), on the questions that both runs
answered. Beside the metrics are the quantities that a rate of hallucination can be bought with: coverage, length of
answers, how many are empty, and how often they say yes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from mmpref.errors import MMPrefError
from mmpref.evals.benchmarks import BENCHMARKS
from mmpref.report.cells import Cell, Unit
from mmpref.report.compare import filled
from mmpref.report.differences import paired_differences
from mmpref.report.flags import Flag, Signs, caption_flags, yes_flag
from mmpref.report.flips import Turns, count_turns
from mmpref.report.notes import notes_of_result
from mmpref.report.questions import clusters, have_nothing_in_common, items_of, names_of
from mmpref.report.runs import Evaluation, Row, Run
from mmpref.report.text_stats import mean_repetition, most_common_share
from mmpref.statistics import Difference, Ratio, Tally, estimate, on_shared_units, tally
from mmpref.statistics import paired_differences as differences_of

Better = Literal["lower", "higher"] | None
ELSEWHERE = ("chair", "pope")  # they stand in the first table
RATES = ("hallucination_rate", "chair_s_refine", "chair_s", "chair_i", "chair", "hal", "cog")
COVERAGE = ("cover", "recall", "informativeness")
HEADLINES = (
    "hallucination_rate", "chair_s_refine", "hal", "chair", "score", "perception", "cognition", "a_acc", "accuracy",
    "f1", "lc_win_rate_local", "lc_win_rate", "win_rate",
)  # fmt: skip


def _per_answer(count: str, *, proportion: bool) -> Ratio:
    return Ratio(top={count: 1}, bottom={"answers": 1}, why_empty="there are no answers", proportion=proportion)


_GUARDS: Mapping[str, tuple[Ratio, Unit, str]] = {
    "words per answer": (_per_answer("words", proportion=False), "words", "counted in the answers as they stand"),
    "empty answers": (_per_answer("empty", proportion=True), "percent", "answers without a word"),
    "says yes": (_per_answer("yes", proportion=True), "percent", "answers that were read as yes"),
}
_COUNTS = ("answers", "words", "empty", "yes")


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric: ``part`` is "" for all questions; one cell per run."""

    name: str
    part: str
    better: Better
    explanation: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class BenchmarkTable:
    """One benchmark under one protocol, for all runs that have it. ``turns`` are per run after the baseline."""

    benchmark: str
    protocol: str
    title: str
    labels: tuple[str, ...]
    rows: tuple[MetricRow, ...]
    turns: tuple[Turns, ...] = ()
    notes: tuple[str, ...] = ()
    evaluations: tuple[Evaluation | None, ...] = field(default=(), repr=False)
    asked: str = ""
    """The name of the questions, where the benchmark was asked with several sets of them."""

    def headlines(self) -> list[MetricRow]:
        """The metrics that papers report, of all questions."""
        found = {row.name: row for row in self.rows if not row.part}
        known = BENCHMARKS.get(self.benchmark)
        own = [name for name in known.headline if name not in known.undirected] if known is not None else []
        names = HEADLINES if any(name in found for name in HEADLINES) else own
        return [found[name] for name in names if name in found][:4]


def benchmark_tables(runs: Sequence[Run]) -> list[BenchmarkTable]:
    """One table per benchmark and protocol, in the order in which the runs have them.

    CHAIR and POPE have a table without metrics, for who turned right and wrong.
    """
    tables = []
    for kind in dict.fromkeys((found.benchmark, found.protocol) for run in runs for found in run.evals):
        benchmark, protocol = kind
        found = [(run.label, e) for run in runs for e in run.evals if (e.benchmark, e.protocol) == kind]
        groups = [found]
        if benchmark not in ELSEWHERE:
            groups = clusters(found, lambda one, other: have_nothing_in_common(one[1], other[1]))
        names = names_of([[e for _, e in group] for group in groups], [group[0][0] for group in groups])
        for name, group in zip(names, groups, strict=True):
            asked = name if len(groups) > 1 else ""
            tables.append(_table(runs, benchmark, protocol, [id(e) for _, e in group], asked))
    return tables


def direction(name: str, benchmark: str = "") -> Better:
    """Which way a metric gets better, as its benchmark says; of one that is not known here, as others of that name."""
    own = BENCHMARKS.get(benchmark)
    asked = (own,) if own is not None else tuple(BENCHMARKS.values())
    if any(name in known.lower_is_better for known in asked):
        return "lower"
    return None if name in _GUARDS or any(name in known.undirected for known in asked) else "higher"


def _table(
    runs: Sequence[Run], benchmark: str, protocol: str, members: Sequence[int], asked: str = ""
) -> BenchmarkTable:
    """The table of the evaluations whose ``id()`` is among ``members``; ``asked`` names their questions where the same
    benchmark was asked with others too."""
    common: list[str] = []
    if asked:
        common.append(
            f"other results of {benchmark} have no question in common with these ({asked}), and their own table"
        )
    of_run: list[list[str]] = [[] for _ in runs]
    evaluations = [
        _evaluation(run, [e for e in run.evals if id(e) in members], benchmark, own)
        for run, own in zip(runs, of_run, strict=True)
    ]
    labels = [run.label for run in runs]
    known = BENCHMARKS.get(benchmark)
    rows: tuple[MetricRow, ...] = ()
    if benchmark not in ELSEWHERE:
        differences = _all_differences(evaluations, labels, of_run)
        rows = (*_metric_rows(benchmark, evaluations, differences), *_guard_rows(evaluations))
        rows = tuple(_noted(row, common, of_run) for row in _flagged(rows, evaluations))
    turns: tuple[Turns, ...] = ()
    first = evaluations[0]
    if first is not None and known is not None:
        turns = tuple(
            count_turns(label, first.items, found.items, _parts_of(benchmark))
            for label, found in zip(labels[1:], evaluations[1:], strict=True)
            if found is not None
        )
    title = known.title.partition(",")[0] if known is not None else benchmark or "a benchmark without a name"
    return BenchmarkTable(
        benchmark=benchmark,
        protocol=protocol,
        title=f"{title} ({asked})" if asked else title,
        labels=tuple(labels),
        rows=rows,
        turns=tuple(found for found in turns if found.counts),
        notes=tuple(dict.fromkeys([*common, *(note for own in of_run for note in own)])),
        evaluations=tuple(evaluations),
        asked=asked,
    )


def _evaluation(run: Run, found: Sequence[Evaluation], benchmark: str, notes: list[str]) -> Evaluation | None:
    if benchmark == "pope":
        return _joined(run, found)
    for entry in found[:1]:
        notes.extend(f"{run.label}: {note}" for note in notes_of_result(entry))
        if judge := entry.results.get("official_judge"):
            notes.append(str(judge))
    return found[0] if found else None


def _joined(run: Run, found: Sequence[Evaluation]) -> Evaluation | None:
    """POPE's splits as one, whose ids say the split by the name that it has in this comparison, for who turned right
    and wrong."""
    if not found:
        return None
    items = tuple(
        {**item, "id": f"{name}/{item['id']}", "split": name}
        for name, part in run.pope().items()
        if any(part.evaluation is entry for entry in found)
        for item in items_of(part)
    )
    return Evaluation(found[0].name, found[0].results, items)


def _noted(row: MetricRow, common: Sequence[str], of_run: Sequence[Sequence[str]]) -> MetricRow:
    """The row with what a reader must know of each of its numbers."""
    cells = [
        replace(cell, notes=(*common, *own)) if cell.value is not None or cell.note else cell
        for cell, own in zip(row.cells, of_run, strict=True)
    ]
    return replace(row, cells=tuple(cells))


def _all_differences(
    evaluations: Sequence[Evaluation | None], labels: Sequence[str], notes: Sequence[list[str]]
) -> list[Mapping[str, Difference]]:
    first = evaluations[0]
    out: list[Mapping[str, Difference]] = [{}]
    for found, label, own in zip(evaluations[1:], labels[1:], notes[1:], strict=True):
        if found is not None and first is None:
            own.append(f"{label}: no difference, {labels[0]} was not asked these questions")
        out.append(paired_differences(first, found, (labels[0], label), own) if first and found else {})
    return out


def _metric_rows(
    benchmark: str, evaluations: Sequence[Evaluation | None], differences: Sequence[Mapping[str, Difference]]
) -> list[MetricRow]:
    names: dict[str, None] = {}
    for found in evaluations:
        metrics = found.results.get("metrics") if found else None
        names |= dict.fromkeys(str(name) for name in metrics) if isinstance(metrics, Mapping) else {}
    shares = _shares(evaluations)
    rows = []
    for full in names:
        part, _, name = full.rpartition("/")
        if part == "overall":  # another spelling of the bare names
            continue
        unit: Unit = "words" if name == "mean_length" else "percent" if shares.get(full, False) else "number"
        better = direction(name, benchmark)
        cells = []
        for found, difference in zip(evaluations, differences, strict=True):
            value = found.metric(full) if found else None
            if found is None or value is None:
                reason = found.why_undefined(full) if found else None
                cells.append(Cell(unit=unit, value=None, note=f"undefined: {reason}" if reason else ""))
                continue
            cells.append(filled(unit, value, found.interval(full), better, difference.get(full), ()))
        rows.append(MetricRow(name, part, better, "", tuple(cells)))
    return rows


def _shares(evaluations: Sequence[Evaluation | None]) -> dict[str, bool]:
    """Which metrics are shares of a whole, as the benchmark says; without one that is known, by their values."""
    out: dict[str, bool] = {}
    for found in evaluations:
        if found is None:
            continue
        try:
            out |= _proportions(found)
        except (MMPrefError, KeyError, TypeError, ValueError, AttributeError):
            continue
    for found in evaluations:
        metrics = found.results.get("metrics") if found else None
        for name in metrics if isinstance(metrics, Mapping) else ():
            value = found.metric(str(name)) if found else None
            out.setdefault(str(name), value is not None and 0 <= value <= 1)
    return out


def _proportions(found: Evaluation) -> dict[str, bool]:
    """Of a benchmark that is known: metric -> whether it is a share."""
    known = BENCHMARKS.get(found.benchmark)
    if known is None:
        return {}
    parts: dict[str, Sequence[Row]] = {"": found.items}
    for part in dict.fromkeys(part for item in found.items for part in known.parts(item)):
        parts[part] = [item for item in found.items if part in known.parts(item)]
    return {
        f"{part}/{name}" if part else name: metric.proportion
        for part, items in parts.items()
        for name, metric in known.metrics(known.protocol_of_result(found.protocol), part, items).items()
    }


def _parts_of(benchmark: str) -> Callable[[Row], Sequence[str]]:
    return BENCHMARKS[benchmark].parts


def _guard_rows(evaluations: Sequence[Evaluation | None]) -> list[MetricRow]:
    """What the metrics can be bought with, counted in the answers; left out where the benchmark tells it itself."""
    tables = [_answer_counts(found) for found in evaluations]
    reported = {str(name) for found in evaluations if found for name in found.results.get("metrics") or ()}
    rows = []
    for name, (ratio, unit, explanation) in _GUARDS.items():
        if name == "words per answer" and "mean_length" in reported:
            continue
        if name == "says yes" and ("yes_ratio" in reported or not any(_is_yes_no(found) for found in evaluations)):
            continue
        cells = []
        for place, table in enumerate(tables):
            own = estimate(table, {name: ratio})
            value = own.metrics[name]
            if value is None:
                cells.append(Cell(unit=unit, value=None))
                continue
            difference = None
            if place:
                difference = differences_of(*on_shared_units(tables[0], table), {name: ratio})[name]
            cells.append(filled(unit, value, own.intervals.get(name), None, difference, ()))
        if any(cell.value is not None for cell in cells):
            rows.append(MetricRow(name, "", None, explanation, tuple(cells)))
    return rows


def _is_yes_no(found: Evaluation | None) -> bool:
    return found is not None and any(item.get("read") in ("yes", "no") for item in found.items)


def _answer_counts(found: Evaluation | None) -> Tally:
    counts: dict[str, dict[str, float]] = {}
    for item in found.items if found else ():
        if not isinstance(text := item.get("text"), str):
            continue
        of_unit = counts.setdefault(str(item.get("image") or item.get("id")), dict.fromkeys(_COUNTS, 0.0))
        of_unit["answers"] += 1
        of_unit["words"] += len(text.split())
        of_unit["empty"] += not text.strip()
        of_unit["yes"] += item.get("read") == "yes"
    return tally(counts)


def _flagged(rows: Sequence[MetricRow], evaluations: Sequence[Evaluation | None]) -> tuple[MetricRow, ...]:
    """The rows with warnings where a lower rate was bought by saying less, or one answer is given to everything."""
    whole = {row.name: row for row in rows if not row.part}
    rate = next((name for name in RATES if name in whole), None)
    cover = next((name for name in COVERAGE if name in whole), None)
    length = next((name for name in ("mean_length", "words per answer") if name in whole), None)
    yes = next((name for name in ("yes_ratio", "says yes") if name in whole), None)
    flags: dict[tuple[str, int], list[Flag]] = {}
    signs = [_signs(place, found, whole, rate, cover, length) for place, found in enumerate(evaluations)]
    for place in range(1, len(evaluations)):
        fell = [name for name in RATES if name in whole and _fell(whole[name], place)]
        columns = {"chair_s": fell, "recall": [name for name in (cover,) if name]}
        columns["mean_length"] = [name for name in (length,) if name]
        for column, raised in caption_flags(signs[place], signs[0]).items() if rate else ():
            for name in columns.get(column, ()):
                flags.setdefault((name, place), []).extend(raised)
    if yes is not None:
        even = _share_of_yes_labels(evaluations)
        for place, cell in enumerate(whole[yes].cells):
            before = whole[yes].cells[0].value if place else None
            if flag := yes_flag(cell.value, before, even):
                flags.setdefault((yes, place), []).append(flag)
    return tuple(
        MetricRow(
            row.name,
            row.part,
            row.better,
            row.explanation,
            tuple(
                _with_flags(cell, () if row.part else flags.get((row.name, place), ()))
                for place, cell in enumerate(row.cells)
            ),
        )
        for row in rows
    )


def _fell(row: MetricRow, place: int) -> bool:
    before, now = row.cells[0].value, row.cells[place].value
    return before is not None and now is not None and now < before


def _signs(
    place: int,
    found: Evaluation | None,
    rows: Mapping[str, MetricRow],
    rate: str | None,
    cover: str | None,
    length: str | None,
) -> Signs:
    def value(name: str | None) -> float | None:
        return rows[name].cells[place].value if name is not None else None

    texts = [item["text"] for item in found.items if isinstance(item.get("text"), str)] if found else []
    texts = [] if _is_yes_no(found) else texts
    return Signs(
        chair_s=value(rate),
        recall=value(cover),
        mean_length=value(length),
        empty_share=sum(not text.strip() for text in texts) / len(texts) if texts else None,
        repetition=mean_repetition(texts) if texts else None,
        same_answer=most_common_share(texts) if len(texts) > 1 else None,
    )


def _share_of_yes_labels(evaluations: Sequence[Evaluation | None]) -> float:
    labels = [item.get("label") for found in evaluations[:1] if found for item in found.items]
    known = [label for label in labels if label in ("yes", "no")]
    return known.count("yes") / len(known) if known else 0.5


def _with_flags(cell: Cell, flags: Sequence[Flag]) -> Cell:
    return replace(cell, flags=tuple(flags)) if flags else cell
