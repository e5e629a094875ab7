"""What of the answers could not be read: counted, noted in the result, and no number where it is all of them.

An answer that nobody can read is wrong in a benchmark of questions and in no rate of hallucination, so that a file of
empty, cut or foreign answers gives an accuracy of 0 or a hallucination rate of 0: a number that says nothing about the
model. Where not one answer was read there is no number, and where most were not the command ends with exit code 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmpref.errors import EvalIncompleteError
from mmpref.evals.benchmarks.contract import Items, ScoringProtocol, is_unread
from mmpref.records import Answer, TaskResult
from mmpref.statistics import Metric, Ratio

NOTED_ABOVE = 0.05
"""Share of the answers above which a note says how many could not be read."""
TOO_MANY = 0.5
_FEW_CAPTIONS = 10
"""Fewer descriptions than these may well name no known object, all of them."""
WHY = "no answer could be read"


def metrics_of(wanted: Mapping[str, Metric], items: Items, protocol: ScoringProtocol) -> Mapping[str, Metric]:
    """The metrics, all of them undefined where no answer of these items was read.

    The other tools give a 0 there. It is kept where an answer has words, because their protocols are their rules, and
    not where all answers are empty: there is nothing to apply a rule to.
    """
    asked = [item for item in items if item.get("missing") is not True]
    empty = bool(asked) and all(not str(item.get("text", "")).strip() for item in asked)
    unread = bool(asked) and all(is_unread(item) for item in asked)
    why = "all answers are empty" if empty else ""
    if not why and not protocol.scores_unread:
        why = WHY if unread else _NO_OBJECT if _names_nothing(asked) else ""
    if not why:
        return wanted
    return {
        name: Ratio(top={}, bottom={}, why_empty=why, proportion=metric.proportion) for name, metric in wanted.items()
    }


_NO_OBJECT = "no answer names a known object: are they in English, and descriptions?"


def _names_nothing(items: Items) -> bool:
    return len(items) >= _FEW_CAPTIONS and all(_named(item) == 0 for item in items)


def _named(item: Mapping[str, Any]) -> int | None:
    """How many known objects a description names; None for an answer of another kind."""
    found = item.get("mentions", item.get("nouns"))
    return len(found) if isinstance(found, list) else None


def notes_of(items: Items, answers: Sequence[Answer], n_unparsed: int) -> tuple[str, ...]:
    """What the result says of answers that are empty, cut, or could not be read, and of descriptions without object."""
    asked = [item for item in items if item.get("missing") is not True]
    ids = {str(item["id"]) for item in items}
    notes = []

    def note(count: int, what: str, *, above: float = 0.0) -> None:
        if count > above * len(asked):
            notes.append(f"{count:,} of {len(asked):,} answers ({count / len(asked):.1%}) {what}")

    if asked:
        note(sum(not str(item.get("text", "")).strip() for item in asked), "are empty")
        note(sum(answer.cut for answer in answers if answer.id in ids), "were cut by the limit of new tokens")
        note(n_unparsed, "could not be read, and count as the protocol says", above=NOTED_ABOVE)
        silent = sum(_named(item) == 0 and not is_unread(item) for item in asked)
        note(silent, "name no known object", above=TOO_MANY)
    return tuple(notes)


def refuse_unread(result: TaskResult) -> None:
    """End a command after the result was written and shown.

    Raises:
        EvalIncompleteError: most of the answers could not be read, or are empty, or there is no number (exit 8).
    """
    asked = [item for item in result.items if item.get("missing") is not True]
    unread = sum(is_unread(item) or not str(item.get("text", "")).strip() for item in asked)
    unread = max(unread, result.n_unparsed)
    if unread > TOO_MANY * len(asked):
        raise EvalIncompleteError(
            f"{unread:,} of {len(asked):,} answers could not be read under protocol {result.protocol}, and the numbers "
            "say little about the model. Look at its answers: empty, cut by the limit of new tokens, to another prompt?"
        )
    if _names_nothing(asked):
        raise EvalIncompleteError(
            f"none of {len(asked):,} answers names a known object, and what is not named is not made up: the numbers "
            "say nothing about the model. Are the answers descriptions, in English, of these images?"
        )
    if result.metrics and all(value is None for value in result.metrics.values()):
        why = "; ".join(dict.fromkeys(result.undefined.values()))
        raise EvalIncompleteError(
            f"no metric of {result.benchmark} has a number under protocol {result.protocol}: {why}"
        )
