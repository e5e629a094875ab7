"""Questions and answers that come in several files, one for each part of a benchmark (CRPE's ``crpe_exist.jsonl`` and
``crpe_relation.jsonl``, FINER's ``multi_obj.csv`` and others).

A file's part is the name that its own name has in it, else the name of its folder. Where the files count their ids
alike, the part stands before the id: ``exist/17``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmpref.errors import DataError
from mmpref.evals.files.answer_readers import name_of, read_rows
from mmpref.evals.files.matching import match
from mmpref.evals.files.models_named import refuse_several_models
from mmpref.evals.files.question_rows import question_rows
from mmpref.evals.files.question_tables import question_table
from mmpref.evals.files.question_words import asked_text
from mmpref.evals.files.row_ids import IdRules
from mmpref.evals.files.rows import Saved
from mmpref.files.rows import Row, Source, is_path
from mmpref.files.tables import TABLES
from mmpref.records import Answer, EvalSample, ResultWarning

PART = "part"
"""Key of a sample's ``meta`` under which it has its part."""
_ENDINGS = (".jsonl", ".json", ".parquet", *TABLES)


@dataclass(frozen=True, slots=True)
class PlacedRow:
    """A row of questions, the file and row where it stands, and its part ("" where no name says one)."""

    where: str
    part: str
    row: Row


def placed_rows(source: Source, parts: Sequence[str], *, skip: str = "") -> list[PlacedRow]:
    """The rows of one source, of several, of a folder, or of ``{part: source}``.

    Args:
        parts: the names that files of parts have in theirs.
        skip: files of a folder with this in their name are no questions.

    Raises:
        DataError: a folder without such files, or two files of one part.
    """
    return [
        PlacedRow(where, part, row) for part, one in _by_part(source, parts, skip) for where, row in _rows_of(one, part)
    ]


def _rows_of(source: Source, part: str) -> list[tuple[str, Row]]:
    if is_path(source):
        return question_table(source)
    return question_rows(source, f"questions of part '{part}'" if part else "questions")


def _by_part(source: Source, parts: Sequence[str], skip: str = "") -> list[tuple[str, Source]]:
    if isinstance(source, str | Path) and Path(source).is_dir():
        files = [file for file in sorted(Path(source).iterdir()) if file.suffix.lower() in _ENDINGS]
        files = [file for file in files if part_of(file, parts) and not (skip and skip in file.stem)]
        if not files and any(Path(source).glob("*.parquet")):
            return [("", source)]
        if not files:
            names = ", ".join(parts)
            raise DataError(f"{source}: no {', '.join(_ENDINGS)} file in this folder is named after a part ({names})")
        source = files
    if isinstance(source, str | Path):
        return [(part_of(Path(source), parts), source)]
    if isinstance(source, Mapping):
        is_row = any(not (is_path(value) or isinstance(value, Sequence | Mapping)) for value in source.values())
        known = source and all(str(key) in parts for key in source)
        return [(str(key), value) for key, value in source.items()] if known and not is_row else [("", [source])]
    rows = list(source)
    if not rows or not all(is_path(one) for one in rows):
        return [("", rows)]
    files = [Path(one) for one in rows]
    named = [part_of(file, parts) for file in files]
    odd = [file for file, part in zip(files, named, strict=True) if named.count(part) > 1]
    if any(file.suffix.lower() != ".parquet" for file in odd):  # shards of one split follow each other
        raise DataError(
            f"{odd[0]} and {odd[1]} are of one part ({part_of(odd[0], parts) or 'none of ' + ', '.join(parts)}); give "
            "one file of each part, with the part in the name of the file or of its folder"
        )
    return list(zip(named, files, strict=True))


def part_of(file: Path, parts: Sequence[str]) -> str:
    """The part that a file's name has in it, else its folder's name; the longest of several, "" where there is none."""
    for name in (file.stem, file.absolute().parent.name):
        found = [part for part in parts if re.search(rf"(?<![a-z0-9]){part}(?![a-z0-9])", name.lower())]
        if found:
            return max(found, key=len)
    return ""


def ids_with_parts(placed: Sequence[tuple[str, str]]) -> list[str]:
    """The ids of (part, id): as they are where no two parts share one, else with the part in front."""
    names = [name for _, name in placed]
    if len({part for part, _ in placed}) == 1 or len(set(names)) == len(names):
        return names
    return [f"{part}/{name}" if part else name for part, name in placed]


def load_answers_by_part(
    source: Source,
    samples: Sequence[EvalSample],
    parts: Sequence[str],
    rules: IdRules,
    *,
    prepare: Callable[[Row, str], Row] = lambda row, place: row,
) -> Saved:
    """Answers from one file or from one of each part, matched with the questions of their part.

    A file of a part that is not asked is left out where another one is of a part that is; alone it may only have the
    wrong name, which is a warning unless its rows show what they answer.

    Args:
        prepare: a row of a tool's own layout and its place -> one with the answer as text.

    Raises:
        DataError: as in ``matching.match``, or answers of several models.
    """
    answers: list[Answer] = []
    read_as: dict[str, None] = {}
    notes: dict[str, None] = {}
    warnings: list[ResultWarning] = []
    sources = [(part, name_of(one), _prepared(one, prepare)) for part, one in _by_part(source, parts)]
    refuse_several_models((row for _, _, rows in sources for row in rows), ", ".join(name for _, name, _ in sources))
    asked = {str(sample.meta[PART]) for sample in samples}
    for part, where, rows in sources:
        if part and asked.isdisjoint((part, "")):
            if any(other in asked for other, _, _ in sources):
                notes[f"{len(rows)} answers to other parts are left out: {part}"] = None
                continue
            warnings += [] if any(map(asked_text, rows)) else [_other_part(where, part, asked)]
        own = [sample for sample in samples if sample.meta[PART] == part] if part else []
        found = match(rows, own or samples, where, replace(rules, prefix=f"{part}/" if own else ""), among=samples)
        answers += found.answers
        read_as.setdefault(found.read_as)
        notes |= dict.fromkeys(found.notes)
    return Saved(answers, read_as="; ".join(read_as), notes=tuple(notes), warnings=tuple(warnings))


def _prepared(source: Source, prepare: Callable[[Row, str], Row]) -> list[Row]:
    where = name_of(source)
    return [prepare(row, f"{where}, row {number}") for number, row in enumerate(read_rows(source), 1)]


def _other_part(where: str, part: str, asked: Collection[str]) -> ResultWarning:
    return ResultWarning(
        "other_split",
        f"{where} is named for the part {part}, and the questions are those of {' and '.join(sorted(asked))}, whose "
        "ids may be the same: answers to another part?",
    )
