"""Which questions turned right and which turned wrong from one run to another: counts, McNemar's test, examples.

What is right, of one item: ``correct`` where the benchmark says so; else that nothing was made up (``hallucinates`` or
``hallucinated``). McNemar (1947) asks whether the questions that turned are split evenly; here by the exact binomial
test, which takes questions as independent. Where several are about one image, trust the interval of the difference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mmpref.report.evaluation import Row
from mmpref.report.questions import same_question
from mmpref.statistics import mcnemar

Items: TypeAlias = Sequence[Row]
CASES: Mapping[str, str] = {
    "fixed": "fixed: wrong at the baseline, right in some run",
    "broken": "newly broken: right at the baseline, wrong in some run",
    "stayed": "still wrong in every run",
    "same": "right in every run",
}
ALL = "all questions"


@dataclass(frozen=True, slots=True)
class Turn:
    """The four cells of one part, and McNemar's exact p (None when nothing turned)."""

    both_right: int
    turned_wrong: int
    turned_right: int
    both_wrong: int

    @property
    def p(self) -> float | None:
        """McNemar's exact p, two-sided; None when nothing turned."""
        return mcnemar(self.turned_wrong, self.turned_right)


@dataclass(frozen=True, slots=True)
class Turns:
    """One run against the baseline, by part; "all questions" first."""

    label: str
    counts: Mapping[str, Turn]


@dataclass(frozen=True, slots=True)
class FlipPlan:
    """Which questions are shown, as (case, id), how many are in each case, and of how many."""

    chosen: tuple[tuple[str, str], ...]
    counts: Mapping[str, int]
    num_questions: int


def is_right(item: Row) -> bool | None:
    """Whether an answer is right; None where the item does not say, as when its verdict is missing."""
    if item.get("missing") is True:
        return None
    if isinstance(item.get("correct"), bool):
        return bool(item["correct"])
    for key in ("hallucinates", "hallucinated"):
        if isinstance(item.get(key), bool | list):
            return not item[key]
    return None


def count_turns(label: str, first: Items, second: Items, parts: Callable[[Row], Sequence[str]]) -> Turns:
    """The questions that both answered, all of them and by part."""
    after = {str(item.get("id")): item for item in second}
    cells: dict[str, list[int]] = {}
    for item in first:
        other = after.get(str(item.get("id")))
        before, now = is_right(item), is_right(other) if other is not None else None
        if other is None or before is None or now is None or not same_question(item, other):
            continue
        try:
            names = parts(item)
        except (KeyError, TypeError):
            names = ()
        for name in (ALL, *names):
            cells.setdefault(str(name), [0, 0, 0, 0])[2 * (not before) + (not now)] += 1
    return Turns(label, {name: Turn(*counts) for name, counts in cells.items()})


def choose_flips(answered: Sequence[Items], *, count: int, seed: int) -> FlipPlan:
    """Questions that every run answered, sorted into cases; in each case shuffled by a hash of the id, cases in turn.

    Those that are right in every run are counted and not shown.
    """
    known = [items for items in answered if items]
    if len(known) < 2:
        return FlipPlan((), {}, 0)
    asked = {str(item.get("id")): item for item in known[0]}
    tables = [
        {name: is_right(item) for item in items if same_question(asked.get(name := str(item.get("id")), {}), item)}
        for items in known
    ]
    shared = [name for name in tables[0] if all(table.get(name) is not None for table in tables)]
    shared.sort(key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    by_case: dict[str, list[str]] = {case: [] for case in CASES}
    for name in shared:
        first, rest = tables[0][name], [table[name] for table in tables[1:]]
        if first:
            case = "same" if all(rest) else "broken"
        else:
            case = "fixed" if any(rest) else "stayed"
        by_case[case].append(name)
    turns = sorted(
        (place, order, case, name)
        for order, (case, names) in enumerate(by_case.items())
        if case != "same"
        for place, name in enumerate(names[:count])
    )[:count]
    chosen = tuple((case, name) for _, _, case, name in sorted(turns, key=lambda turn: (turn[1], turn[0])))
    return FlipPlan(chosen, {case: len(names) for case, names in by_case.items()}, len(shared))
