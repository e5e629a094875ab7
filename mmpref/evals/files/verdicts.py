"""What a judge said about answers, as rows: the file between whoever judges and whoever scores.

One JSON object per line and answer. ``id`` is the question's own id and ``judge`` names who decided (model and date, as
the API names it); beside them is the one field that the benchmark's judge gives:

- ``{"id", "score", "judge"}`` (MMHal-Bench): a whole number from 0 to 6; below 3 means hallucination.
- ``{"id", "verdict", "judge", "same"}`` (HallusionBench, MMVP): ``correct``, ``incorrect`` or ``unclear``. ``same``
  (true, false or left out) says whether the answer is consistent with the one to figure 0; only the diagnosis reads it.
- ``{"id", "objects", "judge"}`` (Object HalBench): the list of visible objects that the answer names.
- ``{"id", "preference", "judge"}`` (win rate): from 0 (the reference is better) to 1 (the answer is), 0.5 for a tie.
- ``{"id", "error", "judge"}`` (all): the judge gave nothing usable and this says why. Such an item is *missing*, as is
  one with no row at all. A missing item is never counted as 0, as wrong or as hallucinated.

``judged`` is the hash of what the verdict is about: the question, what the judge knew of the image, and the answer
(``content_hash``); ``same_judged`` that of both answers, for ``same``; ``same_error`` says why there is no ``same``. A
verdict whose hash is not that of the answer at hand is refused; one without a hash is taken, and the result says so.

Further keys (``reason``, ``raw``, ``cost``) are kept by whoever writes them and ignored here. Numbers are made over the
items that have a verdict, and refused altogether when more than 2 % have none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from mmpref.errors import DataError, EvalIncompleteError
from mmpref.evals.files.question_rows import refuse_repeated_rows
from mmpref.files.rows import Row, Source, first_ids, is_path, load_rows, row_id
from mmpref.records import EvalSample

Correctness = Literal["correct", "incorrect", "unclear"]
VerdictKind = Literal["score", "verdict", "objects", "preference"]
MAX_SCORE = 6
MAX_MISSING_SHARE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One verdict. Exactly one of ``score``, ``verdict``, ``objects``, ``preference`` and ``error`` is set.

    ``place`` is the file and the row that it was read from, for messages.
    """

    id: str
    judge: str
    score: int | None = None
    verdict: Correctness | None = None
    objects: tuple[str, ...] | None = None
    preference: float | None = None
    error: str | None = None
    same: bool | None = None
    same_error: str | None = None
    judged: str | None = None
    same_judged: str | None = None
    place: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        given = [name for name in (*get_args(VerdictKind), "error") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"verdict on '{self.id}': one field of {get_args(VerdictKind)} or error; got {given}")

    def row(self) -> dict[str, Any]:
        """The verdict as its line in the file, to be written with ``json.dumps``."""
        row: dict[str, Any] = {"id": self.id}
        for name in (*get_args(VerdictKind), "error", "same", "same_error", "judged", "same_judged"):
            if (value := getattr(self, name)) is not None:
                row[name] = list(value) if name == "objects" else value
        return {**row, "judge": self.judge}


Verdicts: TypeAlias = Mapping[str, Verdict]


def read_verdicts(source: Source, kind: VerdictKind, what: str = "verdicts") -> dict[str, Verdict]:
    """Verdicts of one kind by id, from a path to JSON lines, from rows or from ``Verdict`` objects.

    Args:
        what: what rows are called in messages, the name of the file that they were read from.

    Raises:
        DataError: a row without id, with a value that the kind does not have, or an id that comes twice.
    """
    if not isinstance(source, str | Path | Mapping):
        source = [row.row() if isinstance(row, Verdict) else row for row in source]
    where = str(source) if is_path(source) else what
    found = [_verdict(row, kind, f"{where}, row {number}") for number, row in enumerate(load_rows(source, where), 1)]
    refuse_repeated_rows(((verdict.place, verdict.id) for verdict in found), where)
    return {verdict.id: verdict for verdict in found}


def verdicts_name(source: object) -> str:
    """What a source of verdicts is called in messages."""
    return str(source) if is_path(source) else "verdicts"


def content_hash(sample: EvalSample, *answers: str) -> str:
    """The hash of a question, of what a judge is shown beside it, and of the answers that are judged."""
    shown = [sample.meta.get("question"), sample.meta.get("reference"), list(sample.meta.get("image_content", ()))]
    target = sample.target if isinstance(sample.target, str) else None
    images = [image.path or hashlib.sha256(image.data or b"").hexdigest() for image in sample.images]
    content = json.dumps([shown, target, images, list(answers)])
    return hashlib.sha256(content.encode("ascii")).hexdigest()


def _verdict(row: Row, kind: VerdictKind, where: str) -> Verdict:
    found = _value(row, kind, where)
    for name in ("judged", "same_judged", "same_error"):
        if not isinstance(row.get(name), str | None):
            raise DataError(f"{where}: {name} is {row[name]!r:.60}; expected text")
    judged, both, why = row.get("judged"), row.get("same_judged"), row.get("same_error")
    return replace(found, judged=judged, same_judged=both, same_error=why, place=where)


def _value(row: Row, kind: VerdictKind, where: str) -> Verdict:
    name, judge = row_id(row, where), row.get("judge", "")
    if not isinstance(judge, str):
        raise DataError(f"{where}: judge is {judge!r}; expected the judge's name")
    if row.get("error") is not None:
        return Verdict(id=name, judge=judge, error=str(row["error"]) or "no reason given")
    value = row.get(kind)
    if kind == "score":
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SCORE:
            raise DataError(f"{where}: score is {value!r}; expected a whole number from 0 to {MAX_SCORE}, or an error")
        return Verdict(id=name, judge=judge, score=value)
    if kind == "verdict":
        if value not in get_args(Correctness):
            raise DataError(f"{where}: verdict is {value!r}; expected correct, incorrect or unclear, or an error")
        same = row.get("same")
        if same is not None and not isinstance(same, bool):
            raise DataError(f"{where}: same is {same!r}; expected true or false")
        return Verdict(id=name, judge=judge, verdict=value, same=same)
    if kind == "preference":
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise DataError(f"{where}: preference is {value!r}; expected a number from 0 to 1, or an error")
        return Verdict(id=name, judge=judge, preference=float(value))
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
        raise DataError(f"{where}: objects is {value!r}; expected a list of object names, or an error")
    return Verdict(id=name, judge=judge, objects=tuple(value))


def usable(
    verdicts: Verdicts, asked: Sequence[str], *, max_missing: float = MAX_MISSING_SHARE
) -> tuple[dict[str, Verdict], list[str]]:
    """The verdicts on ``asked`` that can be counted, and the ids of those that are missing.

    Raises:
        DataError: a verdict on something that was not asked.
        EvalIncompleteError: more than the share ``max_missing`` of the answers have no verdict (exit 8).
    """
    known = set(asked)
    if unknown := [name for name in verdicts if name not in known]:
        place = verdicts[unknown[0]].place
        raise DataError(
            f"{place + ': ' if place else ''}{len(unknown)} verdicts have an id that no question has: "
            f"{first_ids(unknown)}"
        )
    good = {name: verdicts[name] for name in asked if name in verdicts and verdicts[name].error is None}
    missing = [name for name in asked if name not in good]
    if len(missing) > max_missing * len(asked):
        reasons = sorted({verdicts[name].error or "" for name in missing if name in verdicts})
        why = f" ({'; '.join(reasons[:3])})" if reasons else ""
        raise EvalIncompleteError(
            f"{len(missing)} of {len(asked)} answers have no verdict, more than {max_missing:.0%}: "
            f"{first_ids(missing)}{why}; let the judge run again, it asks only about these"
        )
    return good, missing


def usable_on(
    verdicts: Verdicts,
    pairs: Sequence[tuple[EvalSample, str]],
    *,
    first: Mapping[str, str] | None = None,
    max_missing: float = MAX_MISSING_SHARE,
) -> tuple[dict[str, Verdict], list[str]]:
    """The same as :func:`usable` for these questions and answers, when the verdicts are about them.

    Args:
        first: HallusionBench's answers to figure 0, by the id of the question whose ``same`` is about them.

    Raises:
        DataError: a verdict was given on another answer or question.
    """
    others = [sample.id for sample, text in pairs if _is_on_other(verdicts.get(sample.id), sample, text, first or {})]
    if others:
        place = verdicts[others[0]].place
        raise DataError(
            f"{place + ': ' if place else ''}{len(others)} of {len(verdicts)} verdicts were given on other answers or "
            f"questions than these: {first_ids(others)}; judge these answers with mmpref judge: what its --cache holds "
            "is not paid for again"
        )
    return usable(verdicts, [sample.id for sample, _ in pairs], max_missing=max_missing)


def _is_on_other(verdict: Verdict | None, sample: EvalSample, text: str, first: Mapping[str, str]) -> bool:
    if verdict is None:
        return False
    if verdict.judged is not None and verdict.judged != content_hash(sample, text):
        return True
    both = verdict.same_judged if sample.id in first else None
    return both is not None and both != content_hash(sample, first[sample.id], text)


def judging_notes(verdicts: Verdicts, missing: Sequence[str], source: object) -> list[str]:
    """Who judged, how many answers have no verdict, and how many verdicts of a file do not say what they are about, for
    the notes of a result. Verdicts in the same rows as the answers are about them."""
    names = sorted({verdict.judge or "a judge that gave no name" for verdict in verdicts.values()})
    notes = [f"judged by {', '.join(names)}"]
    if missing:
        notes.append(f"{len(missing)} answers have no verdict")
    if is_path(source) and (untied := sum(verdict.judged is None for verdict in verdicts.values())):
        notes.append(
            f"{untied} of {len(verdicts)} verdicts hold no hash of what they are about: that they belong to these "
            "answers is not proved"
        )
    return notes
