"""By which rules a result was made: numbers of different rules stand in different columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmpref.evals.benchmarks import BENCHMARKS
from mmpref.report.evaluation import Evaluation

_OURS = "mmpref"
"""The protocol whose readers change; the others are as frozen as the tools that they follow."""
_JUDGED, _NO_JUDGE = "judged by ", "no judge"
"""How the notes of a result begin that say who judged the answers."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What must be the same for two numbers to be compared; "" where a result does not say it.

    ``reader`` is the revision of the rules by which answers are read, ``setting`` a named way of asking, and ``judge``
    who judged the answers.
    """

    benchmark: str
    protocol: str
    reader: str = ""
    setting: str = ""
    judge: str = ""

    def named(self, others: Sequence[Rules]) -> str:
        """The protocol as a heading names it, with what else tells it from ``others``."""
        words = [self.protocol]
        if len({other.reader for other in others if other.protocol == self.protocol}) > 1:
            words.append(f"reader {self.reader}" if self.reader else "reader not recorded")
        words += [self.setting] if self.setting else []
        words += [self.judge] if len({other.judge for other in others}) > 1 and self.judge else []
        return ", ".join(words)


def rules_of(found: Evaluation) -> Rules:
    """The rules that a result names."""
    reader = found.results.get("reader")
    revision = reader.get("revision") if isinstance(reader, Mapping) else None
    told = found.results.get("setting")
    setting = told.get("name") if isinstance(told, Mapping) else told
    return Rules(
        found.benchmark,
        found.protocol,
        "" if revision is None or found.protocol != _OURS else str(revision),
        setting if isinstance(setting, str) else "",
        _judge(found),
    )


def _judge(found: Evaluation) -> str:
    known, notes = BENCHMARKS.get(found.benchmark), found.results.get("notes")
    if known is None or not known.needs_judge or not isinstance(notes, list):
        return ""
    for note in map(str, notes):
        if note.startswith(_JUDGED):
            return note
        if note.startswith(_NO_JUDGE):
            return _NO_JUDGE
    return ""
