"""CRPE: which of four options is in the image, asked four times with the options in rotation (Wang et al. 2024, "The
All-Seeing Project V2: Towards General Relation Comprehension of the Open World"; official script
OpenGVLab/all-seeing ``all-seeing-v2/llava/eval/eval_crpe.py``).

``questions`` are ``crpe_exist.jsonl`` and ``crpe_relation.jsonl`` (either, both, or their folder), rows
``{"question_id", "image", "text", "correct_option", "category"}`` with the options in the text; VLMEvalKit's tables
``CRPE_EXIST.tsv`` and ``CRPE_RELATION.tsv`` (``index``, ``question``, ``answer``) are read too. ``..._meta.jsonl``,
where each question stands once, is no set of questions. Categories are ``exist``, ``subject``, ``predicate`` and
``object``; the last three are ``relation`` together.

Four rows of a category that follow each other are one question, whose options are shifted by one from row to row:
``accuracy`` is the share of questions with all four answers right (CircularEval), ``single_accuracy`` that of single
answers. What the protocols read:

- ``official``: an answer is one character and nothing else; "B." is wrong.
- ``lmms_eval``: the text of an option anywhere in the answer, else the answer without punctuation. The tool has only
  the relation questions and counts single answers: it has no ``accuracy``.
- ``vlmevalkit``: the first character where that is A to D, else the text of the right answer anywhere. Before September
  2025 the tool counted single answers (its issue 1169), so that numbers of before are our ``single_accuracy``.
- ``mmpref``: our reader of multiple-choice answers.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mmpref.errors import DataError
from mmpref.evals.benchmarks.contract import Benchmark, Graded, Item, Items, by_name
from mmpref.evals.benchmarks.groups import (
    SINGLE,
    ChoiceProtocol,
    Reading,
    count_groups,
    group_share,
    incomplete_groups,
    read_ours,
)
from mmpref.evals.files.question_parts import PART, PlacedRow, ids_with_parts, load_answers_by_part, placed_rows
from mmpref.evals.files.question_rows import refuse_repeated_ids
from mmpref.evals.files.question_tables import image_path, image_ref
from mmpref.evals.files.row_ids import IdRules
from mmpref.evals.files.rows import Saved, pair_by_id
from mmpref.evals.text.choice import UNPARSED
from mmpref.evals.text.choice_tools import is_right_vlmevalkit_crpe, letter_of, read_lmms_eval_crpe
from mmpref.evals.text.options import Asked, split_options
from mmpref.files.rows import Row, Source, row_id, short, text_of
from mmpref.records import Answer, EvalSample, user_turn
from mmpref.statistics import Metric

PARTS = ("exist", "relation")
RELATION = ("subject", "predicate", "object")
ROTATIONS = 4
_ID_KEYS = ("question_id", "index", "id")


def load_questions(source: Source, options: Mapping[str, Any]) -> tuple[EvalSample, ...]:
    """One sample per row, with the question that it is a rotation of.

    Raises:
        DataError: a row misses a key, lists no options or has a label that is none of them; an id stands twice; or four
            rows that follow each other are not one question with its options in rotation.
    """
    placed = placed_rows(source, PARTS, skip="_meta")
    for one in placed:
        if "choices" in one.row and "text" not in one.row:
            raise DataError(
                f"{one.where}: a row of a _meta file, where each question stands once; CRPE is asked with the four "
                "rotations of crpe_exist.jsonl and crpe_relation.jsonl"
            )
    ids = ids_with_parts([(one.part, row_id(one.row, one.where, _ID_KEYS)) for one in placed])
    refuse_repeated_ids(((one.where, name) for one, name in zip(placed, ids, strict=True)), "question_id")
    samples = [_sample(one, name, options) for one, name in zip(placed, ids, strict=True)]
    groups = _groups([one.where for one in placed], samples)
    return tuple(
        replace(sample, meta={**sample.meta, "group": groups[sample.id], "group_size": ROTATIONS}) for sample in samples
    )


def _sample(one: PlacedRow, name: str, options: Mapping[str, Any]) -> EvalSample:
    row, where = one.row, one.where
    text = text_of(row, "text" if "text" in row else "question", where)
    image = _image_of(row, where)
    asked = split_options(text)
    if not asked.options:
        raise DataError(f"{where}: the text lists no options such as 'A. dog', one in a line: {short(text)}")
    answer = text_of(row, "correct_option" if "correct_option" in row else "answer", where)
    return EvalSample(
        id=name,
        images=(image_ref(row.get("image"), image),),
        prompt=user_turn(text + str(options["prompt_suffix"]), num_images=1),
        target=_letter(answer, asked, where),
        meta={
            PART: one.part,
            "category": text_of(row, "category", where).strip().lower(),
            "image": image,
            "question": _with_options(text, asked),
            "text": text,
            "stem": asked.stem,
            "options": asked.options,
            "answer": answer,
        },
    )


def _image_of(row: Row, where: str) -> str:
    """The name of the image; of one that is in the row itself, the hash of its bytes: the rotations have the same."""
    inside = image_ref(row.get("image"), "").data
    named = hashlib.sha256(inside).hexdigest()[:16] if inside else image_path(row.get("image"))
    return named or text_of(row, "image_path" if "image_path" in row else "image", where)


def _letter(answer: str, asked: Asked, where: str) -> str:
    """The letter of the right answer, which VLMEvalKit's table may have with its text.

    Raises:
        DataError: it is none of the options.
    """
    letter = answer.strip().lstrip("(").upper()[:1]
    alone = not answer.strip().lstrip("(")[1:2].isalnum()
    if letter not in asked.options or not alone:
        raise DataError(f"{where}: the right option is {short(answer)}; the text lists {', '.join(asked.options)}")
    return letter


def _with_options(text: str, asked: Asked) -> str:
    """The question without the instruction that follows the options, which other tools replace by their own."""
    return text[: len(text) - len(asked.rest)].strip() if asked.rest and text.endswith(asked.rest) else text.strip()


def _groups(places: Sequence[str], samples: Sequence[EvalSample]) -> dict[str, str]:
    """The question that each row is a rotation of, by the id of its first row.

    Raises:
        DataError: rows of a question are missing, or are those of another.
    """
    by_category: dict[tuple[str, str], list[tuple[str, EvalSample]]] = {}
    for where, sample in zip(places, samples, strict=True):
        by_category.setdefault((sample.meta[PART], sample.meta["category"]), []).append((where, sample))
    found: dict[str, str] = {}
    for (_, category), rows in by_category.items():
        for start in range(0, len(rows), ROTATIONS):
            where, first = rows[start]
            group = rows[start : start + ROTATIONS]
            if odd := next((place for place, sample in group if not _is_rotation(sample, first)), None):
                raise DataError(
                    f"{odd}: another question than in {where} (id '{first.id}'); the {ROTATIONS} rotations of a "
                    f"question of category {category} follow each other, with the same options and right answer"
                )
            if len(group) < ROTATIONS:
                raise DataError(
                    f"{where}: the question of id '{first.id}' has {len(group)} rotations of its options and not "
                    f"{ROTATIONS}; {len(rows)} rows of category {category} are no whole number of questions"
                )
            found |= {sample.id: first.id for _, sample in group}
    return found


def _is_rotation(sample: EvalSample, first: EvalSample) -> bool:
    def content(one: EvalSample) -> tuple[object, ...]:
        options = one.meta["options"]
        return one.meta["image"], one.meta["stem"], sorted(options.values()), options[one.target]

    return content(sample) == content(first)


def _load_answers(source: Source, samples: Sequence[EvalSample], options: Mapping[str, Any]) -> Saved:
    return load_answers_by_part(source, samples, PARTS, IdRules(keys=("question_id", "id", "index")))


def _official(text: str, sample: EvalSample) -> Reading:
    return text if text in sample.meta["options"] else UNPARSED, text == sample.target


def _lmms_eval(text: str, sample: EvalSample) -> Reading:
    said = read_lmms_eval_crpe(text, sample.meta["text"])
    plain = said.translate(_PUNCTUATION).lower()
    return letter_of(said, sample.meta["options"]), plain == sample.target.lower()


def _vlmevalkit(text: str, sample: EvalSample) -> Reading:
    letter = text[:1] if text[:1] in sample.meta["options"] else UNPARSED
    return letter, is_right_vlmevalkit_crpe(text, str(sample.meta["answer"]))


_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True, slots=True, kw_only=True)
class CrpeProtocol(ChoiceProtocol):
    """A rule of CRPE; ``relation_only`` where the tool has no questions of existence."""

    relation_only: bool = False


PROTOCOLS = by_name(
    CrpeProtocol(name="mmpref", read=read_ours),
    CrpeProtocol(name="official", read=_official, scores_unread=True),
    CrpeProtocol(name="lmms_eval", read=_lmms_eval, scores_unread=True, in_groups=False, relation_only=True),
    CrpeProtocol(name="vlmevalkit", read=_vlmevalkit, scores_unread=True),
)


def grade(
    samples: Sequence[EvalSample], answers: Sequence[Answer], protocol: CrpeProtocol, options: Mapping[str, Any]
) -> Graded:
    """Read every answer with the protocol's reader and compare it with the label.

    Raises:
        DataError: a tool that asks about relations alone, and no question about one.
    """
    pairs = pair_by_id(samples, answers)
    notes = []
    if protocol.relation_only:
        relation = [(sample, text) for sample, text in pairs if sample.meta["category"] in RELATION]
        if not relation:
            raise DataError(f"{protocol.name} asks CRPE's questions about relations alone, and none of these is one")
        if len(relation) < len(pairs):
            notes.append(f"only the {len(relation):,} questions about relations, as in the tool")
        pairs = relation
    items = [_item(sample, text, protocol) for sample, text in pairs]
    notes += incomplete_groups(items, "questions")
    if free := sum(item["read"] == UNPARSED and item["correct"] for item in items):
        notes.append(
            f"{free:,} answers that begin with no letter of an option are right under this rule: they have the text of "
            "the right answer, or the label is a letter alone, and then any text is right"
        )
    return Graded.of(items, notes=notes)


def _item(sample: EvalSample, text: str, protocol: CrpeProtocol) -> Item:
    letter, correct = protocol.read(text, sample)
    shown = ("category", "image", "question", "group", "group_size")
    return {
        "id": sample.id,
        **{key: sample.meta[key] for key in shown},
        "text": text,
        "read": letter,
        "label": sample.target,
        "correct": correct,
    }


def _parts(item: Mapping[str, Any]) -> Sequence[str]:
    category = str(item["category"])
    return ("relation", category) if category in RELATION else (category,)


def metrics(protocol: CrpeProtocol, part: str, items: Items) -> Mapping[str, Metric]:
    """The share of questions right in every rotation, where the tool counts these, and the share of right answers."""
    in_groups = {"accuracy": group_share("question")} if protocol.in_groups else {}
    return {**in_groups, "single_accuracy": SINGLE}


CRPE = Benchmark(
    name="crpe",
    title="CRPE, Circular-based Relation Probing Evaluation",
    paper="Wang et al. 2024, arXiv:2402.19474",
    official="OpenGVLab/all-seeing all-seeing-v2/llava/eval/eval_crpe.py",
    protocols=PROTOCOLS,
    max_new_tokens=128,
    options={"prompt_suffix": ""},
    load=load_questions,
    load_answers=_load_answers,
    grade=grade,
    unit=lambda item: str(item["image"]),
    counts=count_groups,
    metrics=metrics,
    parts=_parts,
    headline=("accuracy", "single_accuracy"),
)
