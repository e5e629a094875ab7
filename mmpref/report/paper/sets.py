"""Which results are answers to the very same questions: only these share a column."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmpref.evals.benchmarks.contract import is_unread
from mmpref.report.evaluation import Evaluation, Row, number
from mmpref.report.paper.columns import measured, parts_of
from mmpref.report.questions import have_nothing_in_common, questions_of, same_question


@dataclass(frozen=True, slots=True)
class Answered:
    """One result of one model, of all its questions or of a part of them, which then looks like a result of its own."""

    place: int
    """Of the model among the rows."""
    evaluation: Evaluation
    n: int | None
    """How many questions were scored; None where that is not recorded."""
    unparsed: float | None
    """The share of its answers that could not be read."""
    is_part: bool = False


def whole(place: int, found: Evaluation) -> Answered:
    """A result as it stands."""
    n, unread = number(found.results.get("n")), number(found.results.get("n_unparsed"))
    share = unread / n if n and unread is not None else None
    return Answered(place, found, None if n is None else int(n), share)


def part_of(place: int, found: Evaluation, part: str) -> Answered | None:
    """A part of a result (a split, a section) as a result of it alone; None where there are no numbers of it."""
    prefix = f"{part}/"
    if not any(name.startswith(prefix) for name in measured(found)):
        return None

    def plain(key: str) -> dict[str, object]:
        given = found.results.get(key)
        rows = given.items() if isinstance(given, dict) else ()
        return {str(name).removeprefix(prefix): value for name, value in rows if str(name).startswith(prefix)}

    items = tuple(_alone(item, part) for item in found.items if part in parts_of(found, item))
    numbers = {key: plain(key) for key in ("metrics", "intervals", "undefined")}
    unread = sum(map(is_unread, items)) / len(items) if items else None
    return Answered(
        place, Evaluation(found.name, {**found.results, **numbers}, items, found.file), len(items) or None, unread, True
    )


def by_questions(members: Sequence[Answered]) -> list[list[Answered]]:
    """Members with the same questions together, in the order of the models.

    Of a result without items the questions are not known: it stands with those that have as many and are not known to
    be others, where that is one set alone.
    """
    sets: list[list[Answered]] = []
    for member in members:
        if not member.evaluation.items:
            continue
        home = next((group for group in sets if asked_the_same(group[0].evaluation, member.evaluation)), None)
        if home is None:
            sets.append([member])
        else:
            home.append(member)
    for member in members:
        if member.evaluation.items:
            continue
        may = [group for group in sets if all(_may_be_the_same(other, member) for other in group)]
        if len(may) == 1:
            may[0].append(member)
        else:
            sets.append([member])
    ordered = [sorted(group, key=lambda member: member.place) for group in sets]
    return sorted(ordered, key=lambda group: members.index(group[0]))


def asked_the_same(one: Evaluation, other: Evaluation) -> bool:
    """Whether two results have items for the very same questions: by image and wording, or by ids where these show the
    same."""
    if len(one.items) != len(other.items) or have_nothing_in_common(one, other):
        return False
    if questions_of(one) == questions_of(other):
        return True
    before = {str(item.get("id")): item for item in one.items}
    after = {str(item.get("id")): item for item in other.items}
    return before.keys() == after.keys() and all(same_question(before[name], after[name]) for name in before)


def _may_be_the_same(one: Answered, other: Answered) -> bool:
    return one.n == other.n and not have_nothing_in_common(one.evaluation, other.evaluation)


def _alone(item: Row, part: str) -> Row:
    """An item of a part as a result of that part has it: POPE's ``random/1`` is ``1`` there."""
    if item.get("split") != part:
        return item
    return {**item, "id": str(item.get("id")).removeprefix(f"{part}/"), "split": ""}
