"""What a reader must know beside the numbers of one result: every form of the report says the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmpref.evals.unread import NOTED_ABOVE
from mmpref.report.evaluation import Evaluation, number
from mmpref.report.runs import Run


def notes_of_result(found: Evaluation) -> list[str]:
    """The notes that were written with a result, and what its counts say beside them."""
    results = found.results
    written = results.get("notes")
    notes = [*_warnings(results.get("warnings")), *(map(str, written) if isinstance(written, list) else ())]
    total, unread = number(results.get("n")), number(results.get("n_unparsed"))
    if total and unread and unread > NOTED_ABOVE * total and not any("could not be read" in note for note in notes):
        notes.append(f"{unread:,.0f} of {total:,.0f} answers ({unread / total:.1%}) could not be read")
    if missing := results.get("n_missing"):
        notes.append(f"{missing} answers have no verdict of the judge and are in no number")
    if results.get("complete") is False:
        notes.append("only a part of the questions was asked")
    return list(dict.fromkeys(notes))


def _warnings(written: object) -> list[str]:
    """The warnings that were written with a result, as sentences; files hold anything."""
    rows = written if isinstance(written, list) else []
    return [f"WARNING: {row['sentence']}" for row in rows if isinstance(row, Mapping) and row.get("sentence")]


def notes_of_run(run: Run) -> list[str]:
    """What of a run's results could not be used, or is not known."""
    files: dict[tuple[str, ...], None] = {}
    for found in run.evals:
        scored = found.results.get("scored")
        answers = scored.get("answers") if isinstance(scored, Mapping) else None
        if isinstance(answers, Sequence) and not isinstance(answers, str) and not found.model:
            files[tuple(map(str, answers))] = None
    sentences = [f"{run.label}: {problem}" for problem in run.problems]
    if len(files) > 1:
        shown = "; ".join(" ".join(names) for names in list(files)[:3]) + ("; ..." if len(files) > 3 else "")
        sentences.append(
            f"{run.label}: its results are of {len(files)} sets of answers ({shown}); that one model gave them all is "
            "not recorded"
        )
    return sentences
