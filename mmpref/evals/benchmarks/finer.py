"""FINER: multiple-choice questions with one wrong detail among right ones, each beside its positive twin (Xiao et al.
2026, "FINER: MLLMs Hallucinate under Fine-grained Negative Queries"; official scripts ExplainableML/finer
``eval/finer_benchmarks/inference.py`` and ``utils.py``).

``questions`` are the tables of FINER-CompreCap or FINER-DOCCI: one file each for ``multi_obj``, ``multi_attr``,
``multi_rel`` and ``wh`` (one, several or their folder; .csv, .tsv, JSON lines or parquet), with the columns ``image``
(or ``image_filename``), ``qtype``, ``question``, ``choice1`` to ``choice5`` and ``gt_index`` (from 0). A row has no id:
``multi_obj/1`` is the first row of that file, ``1`` where there is one file. ``answers`` come by id, by image and
question, or as the table that the script writes, with ``pred_idx`` in the place of what the model said.

Two rows that follow each other are a pair: one image, one type of question, one positive (``..._pos``) and one negative
(``..._neg``). ``paired_accuracy``, the number of the paper, is the share of pairs with both answers right;
``single_accuracy`` that of single answers, ``positive_accuracy`` and ``negative_accuracy`` those of either kind.

- ``official``: the first of the letters a to e in the answer, capital or not, in whatever word ("The answer is B" is
  E). The script lets the model write two tokens, for which that is harmless; with longer answers it is not.
- ``mmpref``: our reader of multiple-choice answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from string import ascii_uppercase
from typing import Any

from mmpref.errors import DataError
from mmpref.evals.benchmarks.contract import Benchmark, Counts, Graded, Item, Items, by_name
from mmpref.evals.benchmarks.groups import (
    SINGLE,
    ChoiceProtocol,
    Reading,
    count_groups,
    group_share,
    incomplete_groups,
    read_ours,
)
from mmpref.evals.files.layouts import READ_AS
from mmpref.evals.files.question_parts import PART, PlacedRow, load_answers_by_part, placed_rows
from mmpref.evals.files.question_tables import image_path, image_ref
from mmpref.evals.files.row_ids import IdRules
from mmpref.evals.files.rows import Saved, pair_by_id, text_key
from mmpref.evals.text.choice_tools import read_finer
from mmpref.files.rows import Row, Source, short, text_of
from mmpref.records import Answer, EvalSample, user_turn
from mmpref.statistics import Metric, Ratio

PARTS = ("multi_obj", "multi_attr", "multi_rel", "wh")
_CHOICES = tuple(f"choice{number}" for number in range(1, 6))
_OPENING = "Select the best answer for the multiple-choice question."
_CLOSING = "Please answer with a single capital letter (A, B, C, D, or E):"
_ENDS = ("_pos", "_neg")


def load_questions(source: Source, options: Mapping[str, Any]) -> tuple[EvalSample, ...]:
    """One sample per row, with its pair.

    Raises:
        DataError: a row misses a column or stands twice, its ``gt_index`` is none of its choices, or two rows that
            follow each other are no pair.
    """
    placed = placed_rows(source, PARTS)
    several = len({one.part for one in placed}) > 1
    numbers: dict[str, int] = {}
    samples = []
    for one in placed:
        numbers[one.part] = number = numbers.get(one.part, 0) + 1
        samples.append(_sample(one, f"{one.part}/{number}" if several else str(number)))
    _refuse_repeated(placed)
    by_part: dict[str, list[tuple[str, EvalSample]]] = {}
    for one, sample in zip(placed, samples, strict=True):
        by_part.setdefault(one.part, []).append((one.where, sample))
    pairs: dict[str, str] = {}
    for rows in by_part.values():
        for start in range(0, len(rows), 2):
            _refuse_no_pair(rows[start : start + 2])
            pairs |= {sample.id: rows[start][1].id for _, sample in rows[start : start + 2]}
    return tuple(replace(one, meta={**one.meta, "group": pairs[one.id], "group_size": 2}) for one in samples)


def _refuse_repeated(placed: Sequence[PlacedRow]) -> None:
    """Refuse the same row twice: rows have no id, and it would shift the pairs behind it."""
    seen: dict[tuple[str, ...], str] = {}
    for one in placed:
        shown = (one.row.get(key) for key in ("image", "image_filename", "qtype", "question", *_CHOICES))
        content = (one.part, *(str(value) for value in shown if isinstance(value, str | int)))
        if content in seen:
            raise DataError(f"{one.where}: the same question stands in {seen[content]} too; keep one of the rows")
        seen[content] = one.where


def _sample(one: PlacedRow, name: str) -> EvalSample:
    row, where = one.row, one.where
    named = row.get("image_filename") or image_path(row.get("image"))
    image = named if isinstance(named, str) else text_of(row, "image", where)
    question, kind = text_of(row, "question", where), text_of(row, "qtype", where)
    if not kind.endswith(_ENDS):
        raise DataError(f"{where}: qtype is {short(kind)}; expected one that ends in {' or '.join(_ENDS)}")
    choices = {letter: str(text_of(row, key, where)) for letter, key in zip("ABCDE", _CHOICES, strict=True)}
    lines = [f"({letter}) {text}" for letter, text in choices.items()]
    return EvalSample(
        id=name,
        images=(image_ref(row.get("image"), image),),
        prompt=user_turn("\n".join([_OPENING, "", question, "", *lines, "", _CLOSING]), num_images=1),
        target=_truth(row, where),
        meta={
            PART: one.part,
            "type": kind[: -len(_ENDS[0])],
            "negative": kind.endswith("_neg"),
            "image": image,
            "question": question,
            "stem": question,
            "options": choices,
        },
    )


def _truth(row: Row, where: str) -> str:
    given = row.get("gt_index")
    plain = str(given).strip().removesuffix(".0")
    if isinstance(given, bool) or plain not in ("0", "1", "2", "3", "4"):
        said = short(given) if "gt_index" in row else "missing"
        raise DataError(f"{where}: gt_index is {said}; expected the number of the right choice, from 0 to 4")
    return ascii_uppercase[int(plain)]


def _refuse_no_pair(rows: Sequence[tuple[str, EvalSample]]) -> None:
    (where, first), *others = rows
    if not others:
        raise DataError(f"{where}: the last row has no second of its pair; a pair is a positive and a negative row")
    place, second = others[0]
    for key, what in (("image", "image"), ("type", "type of question")):
        if first.meta[key] != second.meta[key]:
            raise DataError(
                f"{place}: the {what} is {second.meta[key]!r}, and that of {where}, with which it is a pair, "
                f"{first.meta[key]!r}; the rows of a pair follow each other"
            )
    if first.meta["negative"] == second.meta["negative"]:
        raise DataError(f"{place}: it and {where} are both {'negative' if first.meta['negative'] else 'positive'}")


def _load_answers(source: Source, samples: Sequence[EvalSample], options: Mapping[str, Any]) -> Saved:
    rules = IdRules(keys=("id", "question_id", "index"), numbered=True)
    return load_answers_by_part(source, samples, PARTS, rules, prepare=_with_letter)


def _with_letter(row: Row, place: str) -> Row:
    """A row of the script's table, which holds the number of the choice that was read and not the answer itself.

    Raises:
        DataError: it is the number of no choice.
    """
    if text_key(row) is not None or "pred_idx" not in row:
        return row
    number = str(row["pred_idx"]).removesuffix(".0")
    if number not in ("-1", "0", "1", "2", "3", "4"):
        raise DataError(
            f"{place}: pred_idx is {short(row['pred_idx'])}; expected the number of a choice, from 0 to 4, or -1 where "
            "none was read"
        )
    return {**row, "text": "" if number == "-1" else ascii_uppercase[int(number)], READ_AS: "FINER's table"}


def _official(text: str, sample: EvalSample) -> Reading:
    letter = read_finer(text)
    return letter, letter == sample.target


PROTOCOLS = by_name(
    ChoiceProtocol(name="mmpref", read=read_ours),
    ChoiceProtocol(name="official", read=_official, scores_unread=True),
)


def grade(
    samples: Sequence[EvalSample], answers: Sequence[Answer], protocol: ChoiceProtocol, options: Mapping[str, Any]
) -> Graded:
    """Read every answer with the protocol's reader and compare it with the label."""
    items: list[Item] = []
    for sample, text in pair_by_id(samples, answers):
        letter, correct = protocol.read(text, sample)
        shown = ("type", "negative", "image", "question", "group", "group_size")
        facts = {"id": sample.id, **{key: sample.meta[key] for key in shown}}
        items.append({**facts, "text": text, "read": letter, "label": sample.target, "correct": correct})
    return Graded.of(items, notes=incomplete_groups(items, "pairs"))


def counts(items: Items) -> Counts:
    """Of one image: its questions and pairs, and how many of both are right, and of either kind of question."""
    found = dict(count_groups(items))
    for name, negative in (("positive", False), ("negative", True)):
        own = [item for item in items if item["negative"] is negative]
        found |= {name: len(own), f"{name}_right": sum(bool(item["correct"]) for item in own)}
    return found


def _share_of(kind: str) -> Ratio:
    return Ratio(top={f"{kind}_right": 1}, bottom={kind: 1}, why_empty=f"no {kind} question was asked")


_METRICS: Mapping[str, Metric] = {
    "paired_accuracy": group_share("pair"),
    "single_accuracy": SINGLE,
    "positive_accuracy": _share_of("positive"),
    "negative_accuracy": _share_of("negative"),
}

FINER = Benchmark(
    name="finer",
    title="FINER, Fine-grained Negative Queries",
    paper="Xiao et al. 2026, arXiv:2603.17662",
    official="ExplainableML/finer eval/finer_benchmarks/utils.py",
    protocols=PROTOCOLS,
    max_new_tokens=2,
    options={},
    load=load_questions,
    load_answers=_load_answers,
    grade=grade,
    unit=lambda item: str(item["image"]),
    counts=counts,
    metrics=lambda protocol, part, items: _METRICS,
    parts=lambda item: (str(item["type"]),),
    headline=("paired_accuracy", "positive_accuracy", "negative_accuracy"),
)
