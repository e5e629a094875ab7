"""The table as data: models, groups of columns, values with intervals, and which of them are best.

A column has one benchmark, one protocol, one revision of the readers and one set of questions. The best value of a
column is compared with every other one on these questions, by the code that made the metric; one that is *not clearly
worse* has a paired difference whose interval includes zero, or that fewer than six units make
(:data:`mmpref.statistics.FEWEST_CHANGED`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isclose
from pathlib import PurePath
from typing import Literal, TypeAlias

from mmpref.evals.benchmarks import BENCHMARKS
from mmpref.report.benchmarks import Better, direction
from mmpref.report.cells import Cell, Unit
from mmpref.report.differences import paired_differences
from mmpref.report.evaluation import Evaluation, Row
from mmpref.report.flags import yes_flag
from mmpref.report.notes import notes_of_result
from mmpref.report.paper.columns import UNPARSED, YES_RATIO, Wanted, all_parts, wanted_columns
from mmpref.report.paper.inputs import ModelResults
from mmpref.report.paper.rules import rules_of
from mmpref.report.paper.sets import Answered, asked_the_same, by_questions, part_of, whole
from mmpref.report.questions import names_of
from mmpref.statistics import Difference

_CHANGE = "change_"
"""Before the name of a metric of which it is the change, in the same unit (RePOPE's from POPE's labels)."""
Mark: TypeAlias = Literal["best", "not clearly worse", "clearly worse", "not compared", ""]
Metrics: TypeAlias = Mapping[str, Difference]


@dataclass(frozen=True, slots=True)
class PaperCell:
    """One metric of one model; ``difference`` is this model less the best one, None for the best itself."""

    cell: Cell
    mark: Mark = ""
    difference: Difference | None = None
    footnotes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PaperColumn:
    """One metric; a cell per model."""

    metric: str
    better: Better
    cells: tuple[PaperCell, ...]

    @property
    def unit(self) -> Unit:
        """The unit of its values."""
        return self.cells[0].cell.unit


@dataclass(frozen=True, slots=True)
class Group:
    """The columns of one benchmark under one protocol with one set of questions.

    ``asked`` names the questions where the benchmark was asked with others too, and ``part`` the part of them;
    ``members`` are per model, None where it has no result.
    """

    benchmark: str
    title: str
    protocol: str
    part: str
    asked: str
    n: int | None
    columns: tuple[PaperColumn, ...]
    members: tuple[Answered | None, ...] = field(repr=False)
    footnotes: tuple[str, ...] = ()

    @property
    def heading(self) -> str:
        """What stands over the columns: benchmark, part, and the questions where there are several sets."""
        return " ".join(part for part in (self.title, self.part, f"({self.asked})" if self.asked else "") if part)

    @property
    def under(self) -> str:
        """What stands below that: protocol and number of questions."""
        return self.protocol + (f", n = {self.n:,}" if self.n is not None else "")


@dataclass(frozen=True, slots=True)
class PaperTable:
    """Rows are models. ``notes`` say what a reader must know of the whole table."""

    models: tuple[str, ...]
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()

    def footnotes(self) -> dict[str, int]:
        """The number of every footnote, in the order in which a reader meets them."""
        found: dict[str, None] = {}
        for group in self.groups:
            found |= dict.fromkeys(group.footnotes)
        for place in range(len(self.models)):
            for group in self.groups:
                for column in group.columns:
                    found |= dict.fromkeys(column.cells[place].footnotes)
        return {text: number for number, text in enumerate(found, 1)}


def paper_table(
    models: Sequence[ModelResults], columns: Sequence[str] = (), *, problems: Sequence[str] = ()
) -> PaperTable:
    """The table of several models.

    Args:
        columns: ``BENCHMARK/METRIC`` or ``BENCHMARK/PART/METRIC``, in the order of the table; nothing: what
            each benchmark's paper prints.
        problems: what could not be used of the inputs, as sentences.

    Raises:
        ConfigError: no result has a column that was asked for.
    """
    wanted = wanted_columns([entry for model in models for entry in model.evaluations], columns)
    notes = list(problems)
    groups: list[Group] = []
    for chosen in wanted:
        groups += _groups(models, chosen, notes)
        if chosen.added:
            where = f"{chosen.benchmark}/{chosen.part}" if chosen.part else chosen.benchmark
            stand = "stand" if len(chosen.added) > 1 else "stands"
            notes.append(f"{where}: {', '.join(chosen.added)} {stand} beside what was asked for, which misleads alone")
    return PaperTable(tuple(model.name for model in models), tuple(groups), tuple(dict.fromkeys(notes)))


def _groups(models: Sequence[ModelResults], wanted: Wanted, notes: list[str]) -> list[Group]:
    """The groups of one benchmark: one for every protocol, revision and set of questions."""
    found = [
        (place, e) for place, model in enumerate(models) for e in model.evaluations if e.benchmark == wanted.benchmark
    ]
    out: list[Group] = []
    kinds = list(dict.fromkeys(rules_of(entry) for _, entry in found))
    for rules in kinds:
        own = [(place, entry) for place, entry in found if rules_of(entry) == rules]
        if wanted.part:
            parts = (part_of(place, entry, wanted.part) for place, entry in own)
            members = [part for part in parts if part is not None]
        else:
            members = [whole(place, entry) for place, entry in own]
        sets = by_questions(members)
        names = names_of([[m.evaluation for m in group] for group in sets], [models[g[0].place].name for g in sets])
        if len(sets) > 1:
            shown = "; ".join(
                f"{name}: {', '.join(models[member.place].name for member in group)}"
                for name, group in zip(names, sets, strict=True)
            )
            notes.append(
                f"{wanted.benchmark}: {len(sets)} sets of questions ({shown}) have columns of their own, and are not "
                "compared"
            )
        for name, group in zip(names, sets, strict=True):
            filled = _with_parts(group, own, wanted.part)
            out.append(_group(models, wanted, filled, rules.named(kinds), name if len(sets) > 1 else ""))
    if len(kinds) > 1:
        shown = "; ".join(rules.named(kinds) for rules in kinds)
        notes.append(
            f"{wanted.benchmark}: results by different rules ({shown}) have columns of their own, and are not compared"
        )
    return out


def _with_parts(group: list[Answered], own: Sequence[tuple[int, Evaluation]], part: str) -> list[Answered]:
    """The group with the models that answered its questions as a part of more: POPE's random split among all three."""
    if not group[0].evaluation.items:
        return group
    there = {member.place for member in group}
    more: list[Answered] = []
    for place, entry in own:
        if place in there:
            continue
        candidates = [whole(place, entry)] if part else []
        candidates += [made for name in all_parts(entry) if (made := part_of(place, entry, name)) is not None]
        same = [made for made in candidates if asked_the_same(group[0].evaluation, made.evaluation)]
        if same:
            more.append(same[0])
            there.add(place)
    return sorted([*group, *more], key=lambda member: member.place)


def _group(
    models: Sequence[ModelResults], wanted: Wanted, group: Sequence[Answered], protocol: str, asked: str
) -> Group:
    by_place = {member.place: member for member in group}
    members = tuple(by_place.get(place) for place in range(len(models)))
    known = BENCHMARKS.get(wanted.benchmark)
    comparisons = _Comparisons(members, [model.name for model in models])
    metrics = [
        name for name in wanted.metrics if name == YES_RATIO or any(name in _metrics(member) for member in group)
    ]
    columns = [_column(wanted.benchmark, name, members, comparisons) for name in metrics]
    reads = any(item.get("read") is not None for member in group for item in member.evaluation.items)
    if YES_RATIO in metrics or reads or any(member.unparsed for member in group):
        columns.append(_unparsed(members))
    columns = [
        column for column in columns if any(cell.cell.value is not None or cell.cell.note for cell in column.cells)
    ]
    common, columns = _with_notes_of_results(columns, members)
    splits = list(dict.fromkeys(str(item["split"]) for m in group for item in m.evaluation.items if item.get("split")))
    if len(splits) > 1:
        common = (*common, f"all questions of {len(splits)} splits together: {', '.join(splits)}")
    common = (*common, *_other_settings(group, [model.name for model in models]))
    counts = {member.n for member in group if member.n is not None}
    return Group(
        benchmark=wanted.benchmark,
        title=known.title.partition(",")[0] if known is not None else wanted.benchmark,
        protocol=protocol,
        part=wanted.part,
        asked=asked,
        n=counts.pop() if len(counts) == 1 else None,
        columns=tuple(columns),
        members=members,
        footnotes=common,
    )


def _metrics(member: Answered) -> list[str]:
    given = member.evaluation.results.get("metrics")
    return [str(name) for name in given] if isinstance(given, Mapping) else []


def _other_settings(group: Sequence[Answered], names: Sequence[str]) -> list[str]:
    """In what else the results of one column differ: the limit of new tokens (longer descriptions name more and make up
    more), and options such as a list of words."""
    limits: dict[str, list[str]] = {}
    options: dict[str, list[str]] = {}
    for member in group:
        results, name = member.evaluation.results, names[member.place]
        settings = results.get("settings")
        if isinstance(settings, Mapping) and (limit := settings.get("max_new_tokens")) is not None:
            limits.setdefault(str(limit), []).append(name)
        if (given := _options(results)) is not None:
            options.setdefault(" ".join(given) or "none", []).append(name)

    def differ(found: Mapping[str, Sequence[str]]) -> str:
        return "; ".join(f"{words} for {', '.join(own)}" for words, own in found.items()) if len(found) > 1 else ""

    told = {
        "the answers had different limits of new tokens": differ(limits),
        "other options were given": differ(options),
    }
    return [f"{what}: {words}" for what, words in told.items() if words]


def _options(results: Row) -> list[str] | None:
    """The options by which a result was made, files by their names; not the verdicts, which every model has its own of.
    None where they are not recorded."""
    for key in ("asked", "scored"):
        given = results.get(key)
        found = given.get("options") if isinstance(given, Mapping) else None
        if isinstance(found, list):
            parts = [str(option).partition("=") for option in found]
            return sorted(f"{name}={PurePath(value).name}" for name, _, value in parts if name != "verdicts")
    return None


class _Comparisons:
    """Paired differences of the members of one group, each pair computed once."""

    def __init__(self, members: Sequence[Answered | None], names: Sequence[str]) -> None:
        self._members, self._names = members, names
        self._known: dict[tuple[int, int], tuple[Metrics, tuple[str, ...]]] = {}

    def less_the_best(self, best: int, other: int) -> tuple[Metrics, tuple[str, ...]]:
        """``other - best`` by metric, and why there is none."""
        if (best, other) not in self._known:
            first, second = self._members[best], self._members[other]
            assert first is not None
            assert second is not None
            why: list[str] = []
            found = paired_differences(
                first.evaluation, second.evaluation, (self._names[best], self._names[other]), why
            )
            self._known[best, other] = found, tuple(why)
        return self._known[best, other]


def _column(benchmark: str, name: str, members: Sequence[Answered | None], comparisons: _Comparisons) -> PaperColumn:
    better = direction(name, benchmark)
    unit = _unit(name, members)
    cells = [_cell(name, unit, member) for member in members]
    return PaperColumn(name, better, tuple(_marked(name, better, cells, comparisons)))


def _cell(name: str, unit: Unit, member: Answered | None) -> PaperCell:
    if member is None:
        return PaperCell(Cell(unit=unit, value=None))
    found = member.evaluation
    value = found.metric(name)
    if value is None and name == YES_RATIO and name not in _metrics(member):
        value = _share_of_yes(found)
    if value is None:
        reason = found.why_undefined(name)
        if reason is None and name not in _metrics(member):
            return PaperCell(Cell(unit=unit, value=None))
        return PaperCell(
            Cell(unit=unit, value=None, note="undefined"), footnotes=(f"{name}: {reason or 'no reason given'}",)
        )
    notes: tuple[str, ...] = ()
    if name == YES_RATIO and not _is_warned_of_one_answer(found) and (flag := yes_flag(value, None)):
        notes = (f"{flag.words}: {flag.why}",)
    return PaperCell(Cell(unit=unit, value=value, interval=found.interval(name)), footnotes=notes)


def _is_warned_of_one_answer(found: Evaluation) -> bool:
    warnings = found.results.get("warnings")
    rows = warnings if isinstance(warnings, list) else []
    return any(isinstance(row, Mapping) and row.get("code") == "one_answer" for row in rows)


def _share_of_yes(found: Evaluation) -> float | None:
    """Of the answers to yes-or-no questions, those that were read as yes."""
    read = [item["read"] for item in found.items if item.get("read") in ("yes", "no", "unparsed", "unclear")]
    return read.count("yes") / len(read) if "yes" in read or "no" in read else None


def _unit(name: str, members: Sequence[Answered | None]) -> Unit:
    """As the benchmark says; where it cannot, by the values."""
    if name == "mean_length":
        return "words"
    if name.startswith(_CHANGE):
        return _unit(name.removeprefix(_CHANGE), members)
    for member in members:
        known = BENCHMARKS.get(member.evaluation.benchmark) if member is not None else None
        if member is None or known is None:
            continue
        try:
            rules = known.protocol_of_result(member.evaluation.protocol)
            metric = known.metrics(rules, "", member.evaluation.items).get(name)
        except (LookupError, TypeError, ValueError, AttributeError):
            continue
        if metric is not None:
            return "percent" if metric.proportion else "number"
    values = [member.evaluation.metric(name) for member in members if member is not None]
    return "percent" if all(value is None or 0 <= value <= 1 for value in values) else "number"


def _marked(name: str, better: Better, cells: list[PaperCell], comparisons: _Comparisons) -> list[PaperCell]:
    """The cells of one column with the best, and what is not clearly worse than it."""
    values = {place: cell.cell.value for place, cell in enumerate(cells) if cell.cell.value is not None}
    if better is None or len(values) < 2:
        return cells
    best = (min if better == "lower" else max)(values, key=lambda place: values[place] or 0.0)
    others = {place: comparisons.less_the_best(best, place) for place in values if place != best}
    out = list(cells)
    if not any(name in found for found, _ in others.values()):  # with what, then, should it be the best?
        reasons = tuple(dict.fromkeys(why for _, own in others.values() for why in own))
        for place in values:
            out[place] = PaperCell(cells[place].cell, "not compared", None, cells[place].footnotes)
        first = min(values)
        out[first] = PaperCell(cells[first].cell, "not compared", None, (*cells[first].footnotes, *reasons))
        return out
    out[best] = PaperCell(cells[best].cell, "best", None, cells[best].footnotes)
    for place, (found, whys) in others.items():
        cell, difference = cells[place], found.get(name)
        if difference is None or difference.value is None:
            out[place] = PaperCell(cell.cell, "not compared", None, (*cell.footnotes, *(whys or ("not compared",))))
            continue
        mark: Mark = "clearly worse" if difference.clear else "not clearly worse"
        if isclose(values[place] or 0.0, values[best] or 0.0, rel_tol=1e-12, abs_tol=1e-12):
            mark = "best"
        out[place] = PaperCell(cell.cell, mark, difference, cell.footnotes)
    return out


def _unparsed(members: Sequence[Answered | None]) -> PaperColumn:
    """The share of answers that could not be read, which no metric may be shown without."""
    cells = [PaperCell(Cell(unit="percent", value=None if member is None else member.unparsed)) for member in members]
    return PaperColumn(UNPARSED, None, tuple(cells))


def _with_notes_of_results(
    columns: Sequence[PaperColumn], members: Sequence[Answered | None]
) -> tuple[tuple[str, ...], list[PaperColumn]]:
    """What was written with the results: what all say belongs to the group, the rest to the model's first value."""
    notes = {member.place: _said_once(notes_of_result(member.evaluation)) for member in members if member is not None}
    first = next(iter(notes.values()), [])
    common = [note for note in first if all(note in own for own in notes.values())]
    out = list(columns)
    for place, own in notes.items():
        left = "; ".join(note for note in own if note not in common)  # one sign for all that is said of one result
        column = next((n for n, column in enumerate(out) if column.cells[place].cell.value is not None), 0)
        if left and out:
            cells = list(out[column].cells)
            cell = cells[place]
            cells[place] = PaperCell(cell.cell, cell.mark, cell.difference, (left, *cell.footnotes))
            out[column] = PaperColumn(out[column].metric, out[column].better, tuple(cells))
    return (("; ".join(common),) if common else ()), out


def _said_once(notes: Sequence[str]) -> list[str]:
    """Without the count of answers that could not be read, where a warning says it too: it has a column besides."""
    unread = "could not be read"
    warned = any(note.startswith("WARNING") and unread in note for note in notes)
    return [note for note in notes if not warned or note.startswith("WARNING") or unread not in note]
