"""Counts and metrics of benchmarks that count a group of questions as right where every one of them is: CRPE's rotated
copies of a question, MMVP's two images of a question, FINER's positive and negative question.

An item has ``correct``, the name of its ``group`` and ``group_size``, how many questions its group has. A group of
which some questions were not asked (``--limit``) is in no share of groups.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from mmpref.evals.benchmarks.contract import Counts, Items, ScoringProtocol
from mmpref.evals.text.choice import read_choice
from mmpref.records import EvalSample
from mmpref.statistics import Metric, Ratio

Reading: TypeAlias = tuple[str, bool]
"""The letter that an answer was read as ("unparsed" where it is none), and whether the answer is right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceProtocol(ScoringProtocol):
    """A rule of a multiple-choice benchmark.

    Args:
        read: what it makes of an answer to a question.
        in_groups: whether the tool counts groups; else single answers alone.
    """

    read: Callable[[str, EvalSample], Reading]
    in_groups: bool = True


def read_ours(text: str, sample: EvalSample) -> Reading:
    """Our reader of multiple-choice answers."""
    letter = read_choice(text, sample.meta["options"], sample.meta["stem"])
    return letter, letter == sample.target


def count_groups(items: Items) -> Counts:
    """Of one unit: its questions and whole groups, and how many of both are right."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for item in items:
        groups.setdefault(str(item["group"]), []).append(item)
    whole = [group for group in groups.values() if len(group) == group[0]["group_size"]]
    return {
        "questions": len(items),
        "right": sum(bool(item["correct"]) for item in items),
        "groups": len(whole),
        "groups_right": sum(all(item["correct"] for item in group) for group in whole),
    }


def group_share(what: str) -> Ratio:
    """The share of groups with every answer right; ``what`` a group is called."""
    return Ratio(top={"groups_right": 1}, bottom={"groups": 1}, why_empty=f"no {what} was asked in whole")


SINGLE: Metric = Ratio(top={"right": 1}, bottom={"questions": 1}, why_empty="there are no questions")
"""The share of single answers that are right."""


def incomplete_groups(items: Items, what: str) -> list[str]:
    """A note on groups of which some questions were not asked; nothing where there are none."""
    seen: dict[str, int] = {}
    for item in items:
        seen[str(item["group"])] = seen.get(str(item["group"]), 0) + 1
    sizes = {str(item["group"]): item["group_size"] for item in items}
    part = sum(count < sizes[name] for name, count in seen.items())
    return [f"{part:,} of {len(seen):,} {what} were asked in part and are in no share of {what}"] if part else []
