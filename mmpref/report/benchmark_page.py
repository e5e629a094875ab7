"""The sections of the page that any benchmark gets: its metrics, who turned right or wrong, and examples of those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from mmpref.report.benchmarks import BenchmarkTable
from mmpref.report.cells import NOT_MEASURED
from mmpref.report.examples import Album
from mmpref.report.flips import CASES, FlipPlan, choose_flips
from mmpref.report.html import render
from mmpref.report.runs import Row

FLIP_SEED = 0
_SHORT = {"fixed": "fixed", "broken": "newly broken", "stayed": "still wrong"}
_LONGEST_TEXT = 700
_OPEN_ROWS = 24  # the parts of a benchmark that has more are folded away
_UNITS = {"percent": "%", "words": "words"}


@dataclass(frozen=True, slots=True)
class _Fact:
    """How an answer was graded, in a few words; ``is_fault`` is None where that is neither good nor bad."""

    words: str
    is_fault: bool | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one run answered."""

    label: str
    text: str
    facts: tuple[_Fact, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Example:
    """One question with its image and the answers of every run; ``why_no_image`` where ``data_uri`` is None."""

    name: str
    case: str
    question: str
    truth: str
    answers: tuple[_Answer, ...]
    data_uri: str | None
    tiny: bool
    why_no_image: str


@dataclass(frozen=True, slots=True)
class _Flips:
    """The chosen questions, and how they were chosen."""

    plan: FlipPlan
    examples: tuple[_Example, ...]


def benchmark_sections(tables: Sequence[BenchmarkTable], album: Album, *, examples: int) -> list[Markup]:
    """One section per benchmark and protocol that has something to say."""
    return [_section(table, album, examples) for table in tables if table.rows or table.turns]


def _section(table: BenchmarkTable, album: Album, examples: int) -> Markup:
    several = len(table.labels) > 1
    flips = _flips(table, album, examples) if several and table.benchmark != "chair" else None
    name = "-".join(part for part in (table.benchmark, table.protocol, table.asked) if part)
    parts = groupby((row for row in table.rows if row.part), key=lambda row: row.part)
    return render(
        "benchmark",
        table=table,
        id=f"benchmark-{''.join(c if c.isalnum() else '-' for c in name)}",
        whole=[row for row in table.rows if not row.part],
        parts=[(part, list(rows)) for part, rows in parts],
        is_folded=len(table.rows) > _OPEN_ROWS,
        units=_UNITS,
        p_value=_p,
        flips=flips,
        seed=FLIP_SEED,
        cases=CASES,
        short=_SHORT,
        not_measured=NOT_MEASURED,
    )


def _p(value: float | None) -> str:
    if value is None:
        return "nothing turned"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _flips(table: BenchmarkTable, album: Album, count: int) -> _Flips | None:
    answered = [(label, found) for label, found in zip(table.labels, table.evaluations, strict=True) if found]
    if len(answered) < 2 or answered[0][0] != table.labels[0]:
        return None
    plan = choose_flips([found.items for _, found in answered], count=count, seed=FLIP_SEED)
    if not plan.chosen:
        return None
    items = [(label, {str(item.get("id")): item for item in found.items}) for label, found in answered]
    return _Flips(plan, tuple(_example(case, name, items, album) for case, name in plan.chosen))


def _example(case: str, name: str, items: Sequence[tuple[str, Mapping[str, Row]]], album: Album) -> _Example:
    item = items[0][1][name]
    uri, tiny, why = album.embed(item.get("image"))
    return _Example(
        name=name,
        case=case,
        question=_text(item.get("question")),
        truth=_truth(item),
        answers=tuple(
            _Answer(label, _text(by_id[name].get("text")), tuple(_facts(by_id[name]))) for label, by_id in items
        ),
        data_uri=uri,
        tiny=tiny,
        why_no_image=why,
    )


def _truth(item: Row) -> str:
    for key in ("label", "reference"):
        if isinstance(item.get(key), str) and item[key]:
            return _text(item[key])
    objects = item.get("objects")
    return ", ".join(map(str, objects)) if isinstance(objects, list) else ""


def _facts(item: Row) -> list[_Fact]:
    facts = []
    if item.get("read") is not None:
        facts.append(_Fact(f"read as {item['read']}"))
    if item.get("score") is not None:
        facts.append(_Fact(f"rated {item['score']}"))
    if isinstance(item.get("hallucinated"), list) and item["hallucinated"]:
        facts.append(_Fact(f"made up: {', '.join(map(str, item['hallucinated']))}", is_fault=True))
    if isinstance(item.get("correct"), bool):
        facts.append(_Fact("right" if item["correct"] else "wrong", is_fault=not item["correct"]))
    return facts


def _text(value: object) -> str:
    text = value if isinstance(value, str) else ""
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"
