"""The scoring rules of POPE, and what they make of the items of ``pope``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mmpref.evals.benchmarks.contract import Counts, Items, ScoringProtocol, by_name
from mmpref.evals.text.yes_no import Reader, read_lmms_eval, read_mmpref, read_official, read_vlmevalkit
from mmpref.statistics import Ratio


@dataclass(frozen=True, slots=True, kw_only=True)
class PopeProtocol(ScoringProtocol):
    """A rule of POPE.

    Args:
        read: yes, no or unparsed of an answer and its question.
        label: the truth as the rule takes it from the file.
        may_pair_by_order: whether answers may be paired with questions by their order.
        missed: the count of yes-questions that were missed: not answered yes, or answered no.
        when_empty: the value of a ratio over nothing; undefined where None.
        f1_needs_hit: whether f1 is undefined, and not 0, without a true positive.
        yes_ratio: the counts that yes_ratio divides.
        of: the count of the answers that accuracy divides by: all of them, or those that were read.
    """

    read: Reader
    label: Callable[[str], str] = lambda given: given.strip().lower()
    may_pair_by_order: bool = False
    missed: str = "not_yes_to_yes"
    when_empty: float | None = None
    f1_needs_hit: bool = False
    yes_ratio: tuple[str, str] = ("said_yes", "answered")
    of: str = "asked"


PROTOCOLS = by_name(
    PopeProtocol(name="mmpref", read=read_mmpref),
    PopeProtocol(
        name="official",
        scores_unread=True,
        read=read_official,
        label=lambda given: "no" if given == "no" else "yes",  # the script takes every other label as yes
        may_pair_by_order=True,
        f1_needs_hit=True,
    ),
    PopeProtocol(
        name="lmms_eval",
        scores_unread=True,
        read=read_lmms_eval,
        missed="said_no_to_yes",
        when_empty=0.0,
        yes_ratio=("label_yes", "asked"),
    ),
    PopeProtocol(name="vlmevalkit", scores_unread=True, read=read_vlmevalkit, when_empty=0.0),
)


def count(item: Mapping[str, Any]) -> Counts:
    """What one answer adds."""
    read, label = item["read"], item.get("label")
    said_yes = read == "yes"
    if label is None:  # an answer beyond the last question, which only pairing by order lets in
        return {"answered": 1, "said_yes": said_yes}
    return {
        "asked": 1,
        "answered": 1,
        "read": read != "unparsed",
        "correct": read == label,
        "tp": said_yes and label == "yes",
        "fp": said_yes and label == "no",
        "said_no_to_yes": read == "no" and label == "yes",
        "not_yes_to_yes": not said_yes and label == "yes",
        "label_yes": label == "yes",
        "said_yes": said_yes,
    }


def metrics(protocol: PopeProtocol, part: str, items: Items) -> dict[str, Ratio]:
    """The five metrics; the protocols differ in the answers that are neither yes nor no, and in ratios over nothing."""
    empty, missed = protocol.when_empty, protocol.missed
    said_yes, asked = protocol.yes_ratio
    no_questions = "there are no questions"
    no_hit = "no yes among the answers and the labels"
    if protocol.f1_needs_hit:
        no_hit = "no true positive, so precision + recall is zero"
    return {
        "accuracy": Ratio(top={"correct": 1}, bottom={protocol.of: 1}, why_empty=no_questions),
        "precision": Ratio(
            top={"tp": 1}, bottom={"tp": 1, "fp": 1}, why_empty="no answer was read as yes", when_empty=empty
        ),
        "recall": Ratio(
            top={"tp": 1}, bottom={"tp": 1, missed: 1}, why_empty="no question has the label yes", when_empty=empty
        ),
        "f1": Ratio(
            top={"tp": 2},
            bottom={"tp": 2, "fp": 1, missed: 1},
            why_empty=no_hit,
            when_empty=empty,
            needs_top=protocol.f1_needs_hit,
        ),
        "yes_ratio": Ratio(top={said_yes: 1}, bottom={asked: 1}, why_empty=no_questions),
    }
