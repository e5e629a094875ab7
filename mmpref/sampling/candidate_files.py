"""Candidates as rows of a JSON lines file: what the model is shown, as canonical pairs have it, and its answers.

{"id": ..., "images": [...], "prompt": [...], "candidates": [{"text": ..., "seed": 7, "times": 2, "cut": true,
 "score": 3.5, "scores": [{"scorer": ..., "version": ..., "scale": [0, 1], "raw": 0.7}]}]}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmpref.data.pair_writing import prompt_to_row
from mmpref.data.pairs import prompt_from_row
from mmpref.data.quarantine import LineNumber, where_is
from mmpref.errors import DataError
from mmpref.files.reading import open_to_read, parse_json
from mmpref.files.writing import json_text, replacing
from mmpref.records import Candidate, Candidates, Score

_KEY = "candidates"
_LARGEST = 1e100  # differences and means of such scores are finite too
_CANDIDATE = frozenset({"text", "seed", "times", "cut", "score", "scores"})
_SCORE = frozenset({"scorer", "version", "scale", "raw", "why", "detail"})


def write_candidates(path: Path, found: Iterable[Candidates]) -> None:
    """Write candidates, atomically.

    Raises:
        CheckpointError: the file cannot be written.
    """
    with replacing(path) as stream:
        for candidates in found:
            stream.write((json_text(candidates_to_row(candidates)) + "\n").encode("utf-8"))


def read_candidates(path: Path) -> Iterator[Candidates]:
    """The candidates in a file, one prompt at a time.

    Raises:
        DataError: the file cannot be read, a row of it is no prompt with candidates, or two have the same id.
    """
    seen: set[str] = set()
    with open_to_read(path, DataError, "candidates") as stream:
        for number, line in enumerate(stream, 1):
            place = LineNumber(number)
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as err:
                raise DataError(f"{where_is(str(path), place)}: it is not UTF-8") from err
            if not text.strip():
                continue
            row = parse_json(text, DataError, where_is(str(path), place))
            candidates = candidates_from_row(row, source=str(path), line=place)
            if candidates.prompt.id in seen:
                raise DataError(f"{where_is(str(path), place)}: id '{candidates.prompt.id}' stands there twice")
            seen.add(candidates.prompt.id)
            yield candidates


def candidates_to_row(candidates: Candidates) -> dict[str, Any]:
    """The row of a prompt and its answers; ``candidates_from_row`` gives it back."""
    return {**prompt_to_row(candidates.prompt), _KEY: [_candidate_to_row(answer) for answer in candidates.answers]}


def candidates_from_row(row: Any, *, source: str, line: int) -> Candidates:
    """The prompt and the answers of one row.

    Args:
        source: the file, for messages.
        line: the row's number in it, from 1.

    Raises:
        DataError: the row breaks a rule of the format.
    """
    where = where_is(source, line)
    if not isinstance(row, Mapping) or not isinstance(row.get(_KEY), list):
        raise DataError(f"{where}: expected a prompt with a list of 'candidates', as mmpref sample generate writes it")
    prompt = prompt_from_row({key: value for key, value in row.items() if key != _KEY}, source=source, line=line)
    answers = tuple(_candidate(item, f"{where}, candidates[{place}]") for place, item in enumerate(row[_KEY]))
    texts = [answer.text for answer in answers]
    if len(set(texts)) < len(texts):
        raise DataError(f"{where}: two candidates have the same text; write it once, with 'times'")
    return Candidates(prompt=prompt, answers=answers)


def _candidate_to_row(answer: Candidate) -> dict[str, Any]:
    row: dict[str, Any] = {"text": answer.text, "seed": answer.seed, "score": answer.score}
    row |= {"times": answer.times} if answer.times != 1 else {}
    row |= {"cut": True} if answer.cut else {}
    row |= {"scores": [score_to_row(score) for score in answer.scores]} if answer.scores else {}
    return {key: value for key, value in row.items() if value is not None}


def score_to_row(score: Score) -> dict[str, Any]:
    """A score as it stands in files."""
    row: dict[str, Any] = {"scorer": score.scorer, "version": score.version, "scale": list(score.scale)}
    row["raw"] = score.raw
    row |= {"why": score.why} if score.why else {}
    row |= {"detail": dict(score.detail)} if score.detail else {}
    return row


def _candidate(item: Any, where: str) -> Candidate:
    _refuse_other_keys(item, _CANDIDATE, where)
    text, seed, times, cut = item.get("text"), item.get("seed"), item.get("times", 1), item.get("cut", False)
    if not isinstance(text, str):
        raise DataError(f"{where}: 'text' must be a text")
    if not (seed is None or _is_whole(seed)) or not (_is_whole(times) and times > 0) or not isinstance(cut, bool):
        raise DataError(f"{where}: 'seed' and 'times' must be whole numbers (times from 1), and 'cut' true or false")
    scores = item.get("scores", [])
    if not isinstance(scores, list):
        raise DataError(f"{where}: 'scores' must be a list")
    return Candidate(
        text=text,
        seed=seed,
        times=times,
        cut=cut,
        scores=tuple(score_from_row(score, f"{where}.scores[{place}]") for place, score in enumerate(scores)),
        score=_number(item.get("score"), f"{where}: 'score'"),
    )


def score_from_row(item: Any, where: str) -> Score:
    """A score as files have it.

    Raises:
        DataError: it is none; the message begins with ``where``.
    """
    _refuse_other_keys(item, _SCORE, where)
    scale, detail = item.get("scale"), item.get("detail", {})
    if not isinstance(scale, list) or len(scale) != 2 or not isinstance(detail, Mapping):
        raise DataError(f"{where}: 'scale' must be [lowest, highest], each a number or null, and 'detail' a mapping")
    low, high = (_number(bound, f"{where}: 'scale'") for bound in scale)
    for key in ("scorer", "version"):
        if not isinstance(item.get(key), str) or not item[key]:
            raise DataError(f"{where}: '{key}' must be a text")
    return Score(
        scorer=item["scorer"],
        version=item["version"],
        scale=(low, high),
        raw=_number(item.get("raw"), f"{where}: 'raw'"),
        why=str(item.get("why", "")),
        detail=detail,
    )


def _refuse_other_keys(item: Any, known: frozenset[str], where: str) -> None:
    if not isinstance(item, Mapping):
        raise DataError(f"{where}: expected a mapping, got {type(item).__name__}")
    if unknown := sorted(map(str, item.keys() - known)):
        raise DataError(f"{where}: unknown key '{unknown[0]}'; known: {', '.join(sorted(known))}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any, where: str) -> float | None:
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not -_LARGEST <= value <= _LARGEST:  # which NaN is not either
        raise DataError(f"{where} must be a finite number up to {_LARGEST:g} or null, got {str(value)[:40]}")
    return float(value)
