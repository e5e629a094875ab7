"""MMVP: two-choice questions about 150 pairs of images that CLIP takes for alike (Tong et al. 2024, "Eyes Wide Shut?
Exploring the Visual Shortcomings of Multimodal LLMs"; official scripts tsb0601/MMVP ``scripts/evaluate_mllm.py`` and
``gpt_grader.py``).

``questions`` is ``Questions.csv`` (columns ``Index``, ``Question``, ``Options`` such as "(a) Open (b) Closed",
``Correct Answer``) or its folder, rows of it, or VLMEvalKit's ``MMVP.tsv`` (``index``, ``question``, ``A``, ``B``,
``answer``). The image of question 17 is ``MMVP Images/17.jpg`` (``image_name``). Rows 1 and 2, 3 and 4, ... are a pair:
one question about two images, with different right answers. ``answers`` come by ``Index``, or in the script's rows
(``question_id``, ``prompt``, ``answer``, ``response``).

``pair_accuracy``, the number of the paper, is the share of pairs with both answers right; ``single_accuracy`` that of
single answers.

Two pairs of the authors' file have their answers the wrong way round (questions 99 and 100, 279 and 280; issue 30 of
the repository). lmms-eval's data have them corrected: ``labels=corrected`` corrects these four where they stand as in
the authors' file, and the result says which of both was scored.

- ``official``: a judge says whether an answer is right (gpt-4-0314 in the script), whose verdicts come with
  ``verdicts=``; anything but its "yes" is wrong. There is no rule in the script that reads letters.
- ``lmms_eval``, ``vlmevalkit``: the rules of these tools for letters.
- ``mmpref``: our reader of multiple-choice answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpref.errors import DataError
from mmpref.evals.benchmarks.contract import Benchmark, Graded, Item, by_name
from mmpref.evals.benchmarks.groups import (
    SINGLE,
    ChoiceProtocol,
    Reading,
    count_groups,
    group_share,
    incomplete_groups,
    read_ours,
)
from mmpref.evals.files.answer_readers import name_of, read_rows
from mmpref.evals.files.image_names import filled
from mmpref.evals.files.matching import match
from mmpref.evals.files.question_rows import refuse_repeated_ids
from mmpref.evals.files.question_tables import image_path, image_ref, question_table
from mmpref.evals.files.row_ids import IdRules
from mmpref.evals.files.rows import Saved, pair_by_id
from mmpref.evals.files.verdicts import judging_notes, read_verdicts, usable_on
from mmpref.evals.text.choice_tools import read_lmms_eval_mmvp, read_vlmevalkit_choice
from mmpref.evals.text.options import options_of
from mmpref.files.rows import Row, Source, choose, row_id, short, text_of
from mmpref.records import Answer, EvalSample, user_turn
from mmpref.statistics import Metric

_ID_KEYS = ("Index", "index", "question_id", "id")
_FILE = "Questions.csv"
_LABELS = ("given", "corrected")
_WRONG_WAY_ROUND = {  # question -> a word of it, and its label in the authors' file
    "99": ("tusks", "A"),
    "100": ("tusks", "B"),
    "279": ("standing", "A"),
    "280": ("standing", "B"),
}
_IMAGE_NAME = "MMVP Images/{index}.jpg"
_NAME_ADVICE = "pass `image_name={index}.jpg`, or another pattern with {index}"
_JUDGED = "judged"


def load_questions(source: Source, options: Mapping[str, Any]) -> tuple[EvalSample, ...]:
    """One sample per row, with its pair.

    Raises:
        DataError: a row misses a column, lists no two options or has a label that is none of them; an index stands
            twice; or two rows of a pair are missing or ask different questions.
    """
    corrected = choose(str(options["labels"]), _LABELS, "labels of MMVP") == "corrected"
    whole = isinstance(source, str | Path) and (Path(source) / _FILE).is_file()
    rows = question_table(Path(str(source)) / _FILE if whole else source)
    ids = [row_id(row, where, _ID_KEYS) for where, row in rows]
    refuse_repeated_ids([(where, name) for (where, _), name in zip(rows, ids, strict=True)], "Index")
    for (where, _), name in zip(rows, ids, strict=True):
        if not (name.isdecimal() and int(name) > 0):
            raise DataError(f"{where}: Index is {short(name)}; questions are numbered from 1, and two make a pair")
    samples = [
        _sample(row, where, name, options, corrected=corrected) for (where, row), name in zip(rows, ids, strict=True)
    ]
    _refuse_no_pairs([where for where, _ in rows], samples)
    return tuple(samples)


def _sample(row: Row, where: str, name: str, options: Mapping[str, Any], *, corrected: bool) -> EvalSample:
    question = text_of(row, "Question" if "Question" in row else "question", where)
    if "Options" in row or "options" in row:
        listed = text_of(row, "Options" if "Options" in row else "options", where)
        choices = options_of(listed)
    else:
        choices = {letter: str(row[letter]) for letter in "AB" if row.get(letter) is not None}
        listed = " ".join(f"({letter.lower()}) {text}" for letter, text in choices.items())
    if len(choices) != 2:
        raise DataError(f"{where}: the options are {short(listed)}; expected two, such as '(a) Open (b) Closed'")
    label = text_of(row, "Correct Answer" if "Correct Answer" in row else "answer", where).strip(" ()").upper()
    if label not in choices:
        raise DataError(f"{where}: the right answer is {short(label)}; expected (a) or (b)")
    word, wrong = _WRONG_WAY_ROUND.get(name, ("", ""))
    known_wrong = wrong == label and word in question.lower()
    truth = {"A": "B", "B": "A"}[label] if corrected and known_wrong else label
    image = row.get("image_path")
    file = image if isinstance(image, str) else filled(str(options["image_name"]), name, _NAME_ADVICE, index=int(name))
    own = row.get("image") if image_path(row.get("image")) is None else None  # the image itself, as on the hub
    return EvalSample(
        id=name,
        images=(image_ref(own, file),),
        prompt=user_turn(f"{question} {listed}{options['prompt_suffix']}", num_images=1),
        target=truth,
        meta={
            "image": file,
            "question": question,
            "stem": question,
            "listed": listed,
            "options": choices,
            "known_wrong": known_wrong,
            "reference": f"({truth.lower()}) {choices[truth]}",
            "group": str((int(name) + 1) // 2),
            "group_size": 2,
        },
    )


def _refuse_no_pairs(places: Sequence[str], samples: Sequence[EvalSample]) -> None:
    pairs: dict[str, list[tuple[str, EvalSample]]] = {}
    for where, sample in zip(places, samples, strict=True):
        pairs.setdefault(sample.meta["group"], []).append((where, sample))
    for found in pairs.values():
        where, first = found[0]
        if len(found) < 2:
            index = int(first.id)
            other = index + 1 if index % 2 else index - 1
            raise DataError(f"{where}: question {first.id} is a pair with question {other}, which is not in the file")
        place, second = found[1]
        if first.meta["question"] != second.meta["question"]:
            raise DataError(
                f"{place}: question {second.id} asks {short(second.meta['question'])} and question {first.id}, with "
                f"which it is a pair, {short(first.meta['question'])}; a pair is one question about two images"
            )


def _load_answers(source: Source, samples: Sequence[EvalSample], options: Mapping[str, Any]) -> Saved:
    return match(read_rows(source), samples, name_of(source), IdRules(keys=("question_id", *_ID_KEYS)))


def _lmms_eval(text: str, sample: EvalSample) -> Reading:
    letter = read_lmms_eval_mmvp(text, sample.meta["options"])
    return letter, letter == sample.target


def _vlmevalkit(text: str, sample: EvalSample) -> Reading:
    letter = read_vlmevalkit_choice(text, sample.meta["options"])
    return letter, letter == sample.target


PROTOCOLS = by_name(
    ChoiceProtocol(name="mmpref", read=read_ours),
    ChoiceProtocol(name="official", read=lambda text, sample: (_JUDGED, False), needs="verdicts", scores_unread=True),
    ChoiceProtocol(name="lmms_eval", read=_lmms_eval, scores_unread=True),
    ChoiceProtocol(name="vlmevalkit", read=_vlmevalkit, scores_unread=True),
)


def grade(
    samples: Sequence[EvalSample], answers: Sequence[Answer], protocol: ChoiceProtocol, options: Mapping[str, Any]
) -> Graded:
    """Read every answer with the protocol's reader and compare it with the label, or take the judge's verdict."""
    pairs = pair_by_id(samples, answers)
    notes: list[str] = []
    missing: list[str] = []
    judged: dict[str, bool] = {}
    if protocol.needs:
        verdicts, missing = usable_on(read_verdicts(options["verdicts"], "verdict"), pairs)
        judged = {name: verdict.verdict == "correct" for name, verdict in verdicts.items()}
        notes += judging_notes(verdicts, missing, options["verdicts"])
    items = [_item(sample, text, protocol, judged) for sample, text in pairs]
    notes += incomplete_groups(items, "pairs")
    if turned := [sample.id for sample, _ in pairs if sample.meta["known_wrong"]]:
        ids = ", ".join(turned)
        if options["labels"] == "corrected":
            notes.append(f"labels of questions {ids} corrected: the authors' file has them the wrong way round")
        else:
            notes.append(
                f"labels of questions {ids} as in the authors' file, which has them the wrong way round; lmms-eval's "
                "data have them corrected (labels=corrected)"
            )
    return Graded.of(items, notes=notes, n_missing=len(missing))


def _item(sample: EvalSample, text: str, protocol: ChoiceProtocol, judged: Mapping[str, bool]) -> Item:
    letter, correct = protocol.read(text, sample)
    item: Item = {
        "id": sample.id,
        **{key: sample.meta[key] for key in ("image", "question", "listed", "group", "group_size")},
        "text": text,
        "label": sample.target,
        "read": letter,
        "correct": correct,
    }
    if protocol.needs:
        item |= {"missing": sample.id not in judged, "correct": judged.get(sample.id, False)}
    return item


_METRICS: Mapping[str, Metric] = {"pair_accuracy": group_share("pair"), "single_accuracy": SINGLE}

MMVP = Benchmark(
    name="mmvp",
    title="MMVP, Multimodal Visual Patterns",
    paper="Tong et al. 2024, arXiv:2401.06209",
    official="tsb0601/MMVP scripts/gpt_grader.py",
    protocols=PROTOCOLS,
    max_new_tokens=1024,
    how_to_get=(
        "pass verdicts=FILE, what mmpref judge --benchmark mmvp writes, or take `--protocol mmpref`, which reads the "
        "letters by a rule of its own"
    ),
    options={"verdicts": None, "labels": "given", "image_name": _IMAGE_NAME, "prompt_suffix": ""},
    load=load_questions,
    load_answers=_load_answers,
    grade=grade,
    unit=lambda item: str(item["group"]),
    counts=count_groups,
    metrics=lambda protocol, part, items: _METRICS,
    headline=("pair_accuracy", "single_accuracy"),
)
