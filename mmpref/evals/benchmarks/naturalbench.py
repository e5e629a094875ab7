"""NaturalBench: two questions about two images, whose answers turn round with the image (Li et al. 2024, "NaturalBench:
Evaluating Vision-Language Models on Natural Adversarial Samples"; official script Baiqi-Li/NaturalBench
``naturalbench_vqa.py``).

``questions`` are the rows of the data set ``BaiqiL/NaturalBench`` (``Index``, ``Image_0``, ``Image_1``, ``Question_0``,
``Question_1``, ``Image_0_Question_0`` ..., ``Question_Type``), rows with one question each of which four in a row are a
group (lmms-eval's and VLMEvalKit's), or the ``test_set.json`` of the set for fine-tuning. An id is ``Index/q0_i1``.
``answers`` come by id, by number, four in a row, or as the script's list of texts.

Metrics: ``accuracy`` of all answers; ``question_accuracy`` (a question is right for both images), ``image_accuracy``
(both questions about an image are right), ``group_accuracy`` (all four), each by type too, and ``yes_ratio``, the share
of yes among the answers to questions that ask for yes or no.

- ``official``, ``lmms_eval`` and ``vlmevalkit`` have the same rule: the first of the words yes and no, of the letters A
  and B in multiple choice, small or capital, so that "A" may be an article ("Choose a letter: B" is A). Labels are not
  read: the first answer is right for question 0 with image 0 and question 1 with image 1, the second for the others.
- ``mmpref``: our readers, and the labels of the rows.

An answer that is neither is wrong under all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from mmpref.evals.benchmarks.contract import Benchmark, Counts, Graded, Item, Items, ScoringProtocol, by_name
from mmpref.evals.benchmarks.naturalbench_rows import (
    CHOICE,
    IMAGE_NAME,
    PLACES,
    WORDS,
    YES_NO,
    load_naturalbench_answers,
    load_questions,
)
from mmpref.evals.files.rows import pair_by_id
from mmpref.evals.text.choice import read_choice
from mmpref.evals.text.options import options_of
from mmpref.evals.text.yes_no import read_mmpref
from mmpref.records import Answer, EvalSample
from mmpref.statistics import Metric, Ratio

ReadOf: TypeAlias = Callable[[str, str, str], str]
"""An answer, its question and the type of this -> yes, no, A, B or unparsed."""
_FIRST_IS_RIGHT = ("q0_i0", "q1_i1")
_WHOLES: Mapping[str, Sequence[Sequence[str]]] = {
    "answers": [(place,) for place in PLACES],
    "questions": [("q0_i0", "q0_i1"), ("q1_i0", "q1_i1")],
    "images": [("q0_i0", "q1_i0"), ("q0_i1", "q1_i1")],
    "groups": [PLACES],
}
"""What may be right as a whole, by the places of the answers that make it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NaturalBenchProtocol(ScoringProtocol):
    """A rule of NaturalBench.

    Args:
        read: what an answer says.
        by_place: whether the place of a question in its group says what is right, and not its label.
    """

    read: ReadOf
    by_place: bool = True


def read_official(text: str, question: str, kind: str) -> str:
    """The script's rule: which of the two words stands first, whatever stands around it."""
    found = {word: re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in WORDS[kind]}
    places = {word: place.start() for word, place in found.items() if place is not None}
    return min(places, key=lambda word: places[word]) if places else "unparsed"


def read_ours(text: str, question: str, kind: str) -> str:
    """Our reader of yes and no, and that of options."""
    if kind == YES_NO:
        said = read_mmpref(text, question)
        # "Is it a queue or a crowd?" has no yes elsewhere, and here the type of the question says that it has
        return read_mmpref(text, "") if said == "unparsed" and re.search(r"\bor\b", question) else said
    options = options_of(question) or dict.fromkeys(WORDS[kind], "")
    return read_choice(text, options, question)


PROTOCOLS = by_name(
    NaturalBenchProtocol(name="mmpref", read=read_ours, by_place=False),
    *(
        NaturalBenchProtocol(name=name, scores_unread=True, read=read_official)
        for name in ("official", "lmms_eval", "vlmevalkit")
    ),
)


def grade(
    samples: Sequence[EvalSample], answers: Sequence[Answer], protocol: NaturalBenchProtocol, options: Mapping[str, Any]
) -> Graded:
    """Read every answer with the protocol's reader and compare it with what is right."""
    items = [_item(sample, text, protocol) for sample, text in pair_by_id(samples, answers, hint=_HINT)]
    other = sum(sample.target != _by_place(sample) for sample in samples) if protocol.by_place else 0
    note = (
        f"{protocol.name} does not read labels: {other:,} questions have another than the rule that it takes for right "
        "(the first answer for q0_i0 and q1_i1, the second for q0_i1 and q1_i0)"
    )
    return Graded.of(items, notes=(note,) if other else ())


_HINT = "; an id is 'INDEX/q0_i1', for question 0 and image 1"


def _by_place(sample: EvalSample) -> str:
    first, second = WORDS[sample.meta["type"]]
    return first if sample.meta["place"] in _FIRST_IS_RIGHT else second


def _item(sample: EvalSample, text: str, protocol: NaturalBenchProtocol) -> Item:
    read = protocol.read(text, str(sample.meta["question"]), str(sample.meta["type"]))
    label = _by_place(sample) if protocol.by_place else sample.target
    shown = {key: sample.meta[key] for key in ("group", "place", "type", "image", "question")}
    return {"id": sample.id, **shown, "text": text, "read": read, "label": label, "correct": read == label}


def counts(items: Items) -> Counts:
    """Of one group: its answers, questions, images and whether it is whole, and how many of each are right.

    What was not asked whole, after ``--limit``, is in no count of its kind.
    """
    right = {str(item["place"]): bool(item["correct"]) for item in items}
    found: dict[str, float] = {}
    for kind, wholes in _WHOLES.items():
        asked = [whole for whole in wholes if right.keys() >= set(whole)]
        found[kind] = len(asked)
        found[f"{kind}_right"] = sum(all(right[place] for place in whole) for whole in asked)
    yes_no = [item for item in items if item["type"] == YES_NO]
    return {**found, "yes_no": len(yes_no), "said_yes": sum(item["read"] == "yes" for item in yes_no)}


_NONE = "no group of questions is whole"
_METRICS: Mapping[str, Metric] = {
    "accuracy": Ratio(top={"answers_right": 1}, bottom={"answers": 1}, why_empty=_NONE),
    "question_accuracy": Ratio(top={"questions_right": 1}, bottom={"questions": 1}, why_empty=_NONE),
    "image_accuracy": Ratio(top={"images_right": 1}, bottom={"images": 1}, why_empty=_NONE),
    "group_accuracy": Ratio(top={"groups_right": 1}, bottom={"groups": 1}, why_empty=_NONE),
}
_YES_RATIO = Ratio(top={"said_yes": 1}, bottom={"yes_no": 1}, why_empty="no question asks for yes or no")


def metrics(protocol: NaturalBenchProtocol, part: str, items: Items) -> Mapping[str, Metric]:
    """The four accuracies, and of questions that ask for yes or no the share that was answered yes."""
    return _METRICS if part == CHOICE else {**_METRICS, "yes_ratio": _YES_RATIO}


NATURALBENCH = Benchmark(
    name="naturalbench",
    title="NaturalBench, natural adversarial samples",
    paper="Li et al. 2024, arXiv:2410.14669",
    official="Baiqi-Li/NaturalBench naturalbench_vqa.py",
    protocols=PROTOCOLS,
    max_new_tokens=128,
    options={"prompt": "official", "image_name": IMAGE_NAME},
    load=load_questions,
    load_answers=load_naturalbench_answers,
    grade=grade,
    unit=lambda item: str(item["group"]),
    counts=counts,
    metrics=metrics,
    parts=lambda item: (str(item["type"]),),
    headline=("accuracy", "question_accuracy", "image_accuracy", "group_accuracy", "yes_ratio"),
    undirected=("yes_ratio",),
)
