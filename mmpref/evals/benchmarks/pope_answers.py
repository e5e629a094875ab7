"""Answers to POPE: one source or one for each split, in the ids of the benchmark or in those of LLaVA's question file.

``llava_pope_test.jsonl`` asks all splits in one file: adversarial under POPE's own ids N, random under 10000000 + N and
popular under 20000000 + N; its answers have these ids and the prompt, and neither split nor image. It asks POPE's older
revision (2,910 random questions). Rows of splits that are not scored are left out and counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from mmpref.errors import DataError
from mmpref.evals.files.evidence import Evidence
from mmpref.evals.files.layouts import READ_AS, layout_of
from mmpref.evals.files.matching import match
from mmpref.evals.files.question_words import asked_text, content
from mmpref.evals.files.row_ids import IdRules
from mmpref.evals.files.row_order import orders, unconfirmed_order
from mmpref.evals.files.rows import Saved, answer_text, cut_by_length
from mmpref.files.rows import Row, as_id
from mmpref.records import Answer, EvalSample, ResultWarning

SPLITS = ("random", "popular", "adversarial")
FILE_SPLIT = "file_split"
"""Key of a sample's split where only the name of its file says it, and its id does not."""
QUESTION_KEYS = ("question_id", "id", "idx", "index")
_LLAVA_SPLITS = ("adversarial", "random", "popular")
_LLAVA_STEP = 10_000_000


Part: TypeAlias = tuple[str, Sequence[Row]]
"""The name of a source of answers, and its rows."""


def of_these_splits(
    parts: Mapping[str, Part], samples: Sequence[EvalSample]
) -> tuple[dict[str, Part], tuple[str, ...]]:
    """The sources, by their split, that answer the splits of the samples, and a note on those of other official ones.

    Where the questions are one file, whose name says its split, the source of that split answers it.
    """
    splits = {str(sample.meta[FILE_SPLIT]) for sample in samples}
    wanted = {split: part for split, part in parts.items() if split not in SPLITS or split in splits}
    if len(parts) == 1 or not wanted or "" in splits:
        return dict(parts), ()
    left = {split: len(rows) for split, (_, rows) in parts.items() if split not in wanted}
    if len(wanted) == 1 and not any(sample.meta["split"] for sample in samples):
        return {"": next(iter(wanted.values()))}, _left_out(left)
    return wanted, _left_out(left)


def _left_out(others: Mapping[str, int]) -> tuple[str, ...]:
    return (f"{sum(others.values())} answers to other splits are left out: {', '.join(others)}",) if others else ()


def _of_named_splits(
    rows: Sequence[Row], samples: Sequence[EvalSample], where: str
) -> tuple[Sequence[Row], tuple[str, ...]]:
    """The rows less those that name other official splits than the samples are of, and a note on these.

    Raises:
        DataError: all rows name other splits.
    """
    splits = {str(sample.meta[FILE_SPLIT]) for sample in samples}
    if not splits <= set(SPLITS):
        return rows, ()
    others: dict[str, int] = {}
    kept = []
    for row in rows:
        named = _named_splits(row)
        if named and not named & splits:
            for split in sorted(named):
                others[split] = others.get(split, 0) + 1
        else:
            kept.append(row)
    if others and not kept:
        raise DataError(
            f"{where}: all {len(rows)} rows say that they answer the split {' or '.join(others)}, and the questions "
            f"are those of {' and '.join(sorted(splits))}: pass the questions of that split"
        )
    return kept, _left_out(others)


def _named_splits(row: Row) -> set[str]:
    given = [row[key] for key in ("split", "category") if isinstance(row.get(key), str)]
    given += [row[key].rpartition("/")[0] for key in QUESTION_KEYS if isinstance(row.get(key), str)]
    return {part.strip().lower() for text in given for part in text.split(",")} & set(SPLITS)


def _with_bare_ids(rows: Sequence[Row], asked: Sequence[EvalSample]) -> Sequence[Row]:
    """Rows of the questions' split with ids that name it, ``random/17``, where the questions have theirs without."""
    splits = {str(sample.meta[FILE_SPLIT]) for sample in asked}
    if len(splits) != 1 or not splits <= set(SPLITS) or any("/" in sample.id for sample in asked):
        return rows
    head = f"{splits.pop()}/"

    def bare(row: Row) -> Row:
        named = {key: row[key] for key in QUESTION_KEYS if isinstance(row.get(key), str) and row[key].startswith(head)}
        return {**row, **{key: name.removeprefix(head) for key, name in named.items()}} if named else row

    return [bare(row) for row in rows]


def match_part(rows: Sequence[Row], where: str, split: str, samples: Sequence[EvalSample]) -> Saved:
    """The answers of one source, to the questions of ``split``, or of all when it is "".

    Raises:
        DataError: rows that fit no question, or show another one than that of their id.
    """
    asked = [sample for sample in samples if not split or sample.meta["split"] == split]
    notes: tuple[str, ...] = ()
    if not split:
        rows, notes = _of_named_splits(rows, asked, where)
        rows = _with_bare_ids(rows, asked)
    if _is_llava(rows, asked):
        rows, left = _of_llava(rows, asked, where)
        notes = (*notes, *left)
    rules = IdRules(ids_of=_ids_of, keys=QUESTION_KEYS, prefix=f"{split}/" if split else "")
    saved = match(rows, asked, where, rules, among=samples)
    return replace(saved, notes=(*saved.notes, *notes))


def _ids_of(row: Row) -> list[str]:
    """Rows of the tools name the split in ``category``, VLMEvalKit several of them in one row."""
    number = as_id(row.get("question_id"))
    splits = str(row.get("category", "")).split(",")
    return [f"{split.strip()}/{number}" for split in splits] if number is not None and splits != [""] else []


def _number(row: Row) -> int | None:
    name = as_id(row.get("question_id"))
    return int(name) if name is not None and name.isdecimal() else None


def _is_llava(rows: Sequence[Row], samples: Sequence[EvalSample]) -> bool:
    numbers = [_number(row) for row in rows]
    own = {sample.id.rsplit("/", 1)[-1] for sample in samples}
    return any(number is not None and number > _LLAVA_STEP and str(number) not in own for number in numbers)


def _of_llava(rows: Sequence[Row], samples: Sequence[EvalSample], where: str) -> tuple[list[Row], tuple[str, ...]]:
    """LLaVA's rows with the ids of the samples, those of other splits left out, and a note on how many these are."""
    blocks: dict[str, list[Row]] = {}
    for number, row in enumerate(rows, 1):
        found = _number(row)
        if found is None or found // _LLAVA_STEP >= len(_LLAVA_SPLITS):
            raise DataError(
                f"{where}, row {number}: question_id {row.get('question_id')!r} is none of LLaVA's, which are N for "
                "adversarial, 10000000 + N for random and 20000000 + N for popular"
            )
        read = {**row, "question_id": found % _LLAVA_STEP, READ_AS: "LLaVA's answers to its file of all splits"}
        blocks.setdefault(_LLAVA_SPLITS[found // _LLAVA_STEP], []).append(read)
    splits = {sample.meta["split"] for sample in samples}
    if len(splits) == 1 and not splits & set(_LLAVA_SPLITS):
        wanted = [_shown_split(blocks, samples, where)]
    else:
        wanted = [split for split in blocks if split in splits]
    bare = {sample.id for sample in samples}
    kept: list[Row] = []
    for split in wanted:
        for row in blocks[split]:
            name = str(row["question_id"])
            kept.append({**row, "question_id": name if name in bare else f"{split}/{name}"})
    others = {split: len(blocks[split]) for split in blocks if split not in wanted}
    return kept, _left_out(others)


def _shown_split(blocks: Mapping[str, Sequence[Row]], samples: Sequence[EvalSample], where: str) -> str:
    """The split whose rows show these questions, when the questions come alone and do not say of which split they are.

    Raises:
        DataError: none or several do.
    """
    asked = {sample.id: content(sample)[1].casefold() for sample in samples}
    fitting = [
        split
        for split, rows in blocks.items()
        if {str(row["question_id"]) for row in rows} == asked.keys()
        and all(asked[str(row["question_id"])] in asked_text(row).casefold() for row in rows)
    ]
    if len(fitting) != 1:
        what = "none of its splits has" if not fitting else f"{' and '.join(fitting)} all have"
        raise DataError(
            f"{where}: has LLaVA's ids of all splits (N, 10000000 + N, 20000000 + N), and {what} just these "
            f"{len(samples)} questions; LLaVA asks POPE's older revision, whose questions are the files at commit "
            "e3e3926 of the repository: pass these, several splits as a folder"
        )
    return fitting[0]


def in_order(parts: Sequence[Part], samples: Sequence[EvalSample]) -> Saved:
    """Answers as the official script pairs them: the rows of all sources one after the other, ids unread.

    Raises:
        DataError: rows show by their prompt, image or split that another question is at their place.
    """
    rows: list[Row] = []
    answers: list[Answer] = []
    where = ", ".join(name for name, _ in parts)
    for name, part in parts:
        for number, row in enumerate(part, 1):
            text = answer_text(row, f"{name}, row {number}", asked=asked_text(row))
            answers.append(Answer(id=str(number), text=text, cut=cut_by_length(row), place=f"{name}, row {number}"))
            rows.append(row)
    if rows and len(kept := _of_named_splits(rows, samples, where)[0]) < len(rows):
        raise DataError(
            f"{where}: {len(rows) - len(kept)} of {len(rows)} rows answer other splits, and `pairing=order` counts "
            "them; leave `pairing=order` out"
        )
    evidence = Evidence(where, samples)
    for number, (row, sample) in enumerate(zip(rows, samples, strict=False), 1):
        evidence.see(number, row, sample)
    notes = evidence.refuse_others(_other_order(rows, samples))
    sure = evidence.confirms or not rows
    return Saved(
        answers,
        read_as=f"{layout_of(rows)}, paired by order",
        notes=notes,
        warnings=() if sure else (unconfirmed_order(where),),
    )


def other_split_named(parts: Mapping[str, Part], samples: Sequence[EvalSample]) -> tuple[ResultWarning, ...]:
    """A warning where the one file of answers bears the name of another split than the questions are of.

    The splits share ids and half of their questions, so that nothing in rows of an id and a bare yes or no tells.
    """
    asked = {str(sample.meta[FILE_SPLIT]) for sample in samples}
    if len(parts) != 1 or not asked <= set(SPLITS):
        return ()
    where = next(iter(parts.values()))[0]
    named = set(re.split(r"[^a-z]+", where.rpartition("/")[2].lower())) & set(SPLITS)
    if not named or named & asked:
        return ()
    return (
        ResultWarning(
            "other_split",
            f"{where} is named for the split {' and '.join(sorted(named))}, and the questions are those of "
            f"{' and '.join(sorted(asked))}, which have the same ids: answers to another split?",
        ),
    )


def _other_order(rows: Sequence[Row], samples: Sequence[EvalSample]) -> str:
    """What to say where the rows fit the questions in another order of the splits."""
    for order, ordered in orders(samples):
        shown = [(asked_text(row).casefold(), sample) for row, sample in zip(rows, ordered, strict=False)]
        if order and all(content(sample)[1].casefold() in said for said, sample in shown):
            return f" They fit the splits in the order {order}: leave `pairing=order` out, or give the files so"
    return ""
