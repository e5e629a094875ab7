"""Questions that an option chose of a file (HallusionBench's ``view``, AMBER's ``task``, CHAIR's ``prompts``), and the
answers to all questions of the file, of which those to the others are left out and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from mmpref.errors import DataError
from mmpref.evals.files.rows import Saved
from mmpref.files.rows import Row
from mmpref.records import EvalSample

MatchTo: TypeAlias = Callable[[Sequence[EvalSample]], Saved]


class Chosen(tuple[EvalSample, ...]):
    """The chosen questions; ``everything`` has the others too, in the order of the file."""

    everything: tuple[EvalSample, ...]

    @classmethod
    def of(cls, everything: Sequence[EvalSample], chosen: Sequence[EvalSample]) -> tuple[EvalSample, ...]:
        """``chosen`` of ``everything``, plain where that is all of them."""
        found = cls(chosen)
        found.everything = tuple(everything)
        return found if len(chosen) < len(everything) else found.everything


def not_chosen(samples: Sequence[EvalSample]) -> set[str]:
    """The ids of the questions that an option left out."""
    if not isinstance(samples, Chosen):
        return set()
    return {sample.id for sample in samples.everything} - {sample.id for sample in samples}


def match_chosen(rows: Sequence[Row], samples: Sequence[EvalSample], match: MatchTo, what: str) -> Saved:
    """Answers to the chosen questions, from rows that may answer all questions of the file.

    More rows than there are chosen questions are matched with all questions first, because numbers count these; fewer
    with the chosen ones first, and with all where that fails.

    Args:
        match: how rows are matched with questions.
        what: the option, for the note.

    Raises:
        DataError: the rows fit neither.
    """
    if not isinstance(samples, Chosen):
        return match(samples)
    known = {sample.id for sample in samples}
    first, second = (samples, samples.everything) if len(rows) <= len(samples) else (samples.everything, samples)
    try:
        saved = match(first)
        if first is samples and not known.issuperset(answer.id for answer in saved.answers):
            saved = match(samples.everything)
    except DataError as err:
        try:
            saved = match(second)
        except DataError:
            raise err from None
    outside = not_chosen(samples)
    kept = [answer for answer in saved.answers if answer.id not in outside]
    if not (left := len(saved.answers) - len(kept)):
        return saved
    if not kept:
        raise DataError(f"all {left:,} answers are to questions outside of {what}, and none is to those within it")
    note = f"{left:,} answers to questions outside of {what} are left out"
    return replace(saved, answers=kept, notes=(*saved.notes, note))
