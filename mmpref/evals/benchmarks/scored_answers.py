"""Preferences without a judge: two files of scored answers to the same prompts, the higher score wins.

Rows are candidates of ``mmpref sample score`` or rows with a ``score`` beside their text. Of several candidates of a
prompt the first is taken: they are drawn alike, and length and score have to be those of one answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmpref.errors import DataError
from mmpref.evals.files.verdicts import content_hash
from mmpref.files.rows import Row
from mmpref.records import EvalSample

_CANDIDATES = "candidates"
SCORE, SCORED_BY = "score", "scored_by"


def plain_question(row: Row, where: str) -> Row:
    """A prompt with candidates as an instruction with a reference answer and its score; other rows as they are.

    Raises:
        DataError: the candidates are none.
    """
    if _CANDIDATES not in row:
        return row
    answer = _first(row, where)
    return {
        "id": row.get("id"),
        "instruction": _said(row.get("prompt")),
        "output": answer.get("text"),
        SCORE: answer.get(SCORE),
        SCORED_BY: _scorers(answer),
    }


def plain_answer(row: Row, where: str) -> Row:
    """A prompt with candidates as an answer with its score; other rows as they are.

    Raises:
        DataError: the candidates are none.
    """
    if _CANDIDATES not in row:
        return row
    answer = _first(row, where)
    return {"id": row.get("id"), "text": answer.get("text"), SCORE: answer.get(SCORE), SCORED_BY: _scorers(answer)}


def by_score(samples: Sequence[EvalSample], rows: Sequence[Row], where: str) -> tuple[Row, ...]:
    """Verdicts by score, one a row, where questions and answers both have scores; none otherwise.

    Args:
        rows: answers with ``id``, ``text``, ``score``.

    Raises:
        DataError: the two sides were scored by others.
    """
    references = {sample.id: sample for sample in samples if SCORE in sample.meta}
    if not references or not any(SCORE in row for row in rows):
        return ()
    verdicts: list[Row] = []
    for number, row in enumerate(rows, 1):
        sample = references.get(str(row.get("id")))
        if sample is None:
            continue
        one, other = (found.get(SCORED_BY) for found in (row, sample.meta))
        if one and other and one != other:
            raise DataError(
                f"{where}, row {number}: its score is by {one}, that of the question by {other}; score both files with "
                "the same scorers: mmpref sample score"
            )
        judge = f"scores ({one or other or 'of a scorer without a name'}), the higher wins; no model compared them"
        pair = _number(row.get(SCORE)), _number(sample.meta[SCORE])
        said: Row = {"error": "one of the two has no score"}
        if pair[0] is not None and pair[1] is not None:
            said = {"preference": 0.5 if pair[0] == pair[1] else float(pair[0] > pair[1])}
        text = row.get("text")
        judged = {"judged": content_hash(sample, text)} if isinstance(text, str) else {}
        verdicts.append({"id": sample.id, "judge": judge, **said, **judged})
    return tuple(verdicts)


def _first(row: Row, where: str) -> Mapping[str, Any]:
    found = row[_CANDIDATES]
    if not isinstance(found, list) or not found or not all(isinstance(one, Mapping) for one in found):
        raise DataError(f"{where}: candidates is {found!r:.60}; expected a list of answers with text and score")
    first: Mapping[str, Any] = found[0]
    return first


def _said(prompt: object) -> str | None:
    """The text of the last turn of the user."""
    turns = [turn for turn in prompt if isinstance(turn, Mapping)] if isinstance(prompt, list) else []
    users = [turn for turn in turns if turn.get("role") == "user"]
    content = users[-1].get("content") if users else prompt
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping) and part.get("type") == "text"]
        content = " ".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else None


def _scorers(answer: Mapping[str, Any]) -> str:
    scores = answer.get("scores")
    names = [str(one.get("scorer")) for one in scores if isinstance(one, Mapping)] if isinstance(scores, list) else []
    return ", ".join(names)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
