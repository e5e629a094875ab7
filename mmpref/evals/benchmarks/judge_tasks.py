"""What judges are asked, benchmark by benchmark: the published rules in our own words, and the form of the reply.

The official prompts are not repeated here (MMHal-Bench's is GPL-3.0, Object HalBench's has no licence), so a number
made with these is not the number of the paper, even with the judge of the paper; the results say who judged.

- MMHal-Bench (Sun et al. 2023, arXiv:2309.14525): informativeness and hallucination as one number from 0 to 6; the
  judge sees no image, only its list of contents and a human answer.
- HallusionBench (Guan et al. 2023, arXiv:2310.14566): does the answer agree with the reference, and, for the diagnosis,
  do two answers to one question agree.
- Object HalBench (Rohrbach et al. 2018; evaluation of Yu et al. 2023, arXiv:2312.00849): which objects does the answer
  say can be seen; matching them with the image is not the judge's work.
- MMVP (Tong et al. 2024, arXiv:2401.06209): does the answer take the right one of two options.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import get_args

from mmpref.errors import DataError
from mmpref.evals.files.verdicts import MAX_SCORE, Correctness
from mmpref.judging.contract import JudgeTask, Value
from mmpref.records import EvalSample

_MAX_OBJECTS = 100
_LONGEST_NAME = 80
_WORDS_WITHOUT_OBJECTS = 3


def _one_of(*allowed: str) -> Callable[[object], Value]:
    def read(value: object) -> Value:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"{value!r:.60} is none of {', '.join(allowed)}")
        return value

    return read


def _score(value: object) -> Value:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SCORE:
        raise ValueError(f"{value!r:.60} is no whole number from 0 to {MAX_SCORE}")
    return value


def _yes_no(value: object) -> Value:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r:.60} is neither true nor false")
    return value


def _objects(value: object) -> Value:
    if not isinstance(value, list) or len(value) > _MAX_OBJECTS:
        raise ValueError(f"no list of at most {_MAX_OBJECTS} objects")
    names = [" ".join(name.split()).lower() if isinstance(name, str) else "" for name in value]
    if not all(0 < len(name) <= _LONGEST_NAME for name in names):
        raise ValueError("an object without a name, or with one that is too long")
    return list(dict.fromkeys(names))


def fact(sample: EvalSample, name: str) -> str:
    """A fact that the question's file gives.

    Raises:
        DataError: it does not.
    """
    value = sample.target if name == "target" else sample.meta.get(name)
    if isinstance(value, str) and value:
        return value
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        return "; ".join(str(part) for part in value)
    raise DataError(f"question '{sample.id}' has no {name}, which the judge must know")


def _question(sample: EvalSample) -> str:
    return fact(sample, "question")


MMHAL = JudgeTask(
    name="mmhal",
    version=1,
    field="score",
    instruction=(
        "You rate the answer that a model gave to a question about a picture. You do not see the picture. You know a "
        "list of what is in it (it may be incomplete) and an answer that a person who saw it gave; take both as true.\n"
        "A hallucination is any statement about the picture that contradicts what is known, or that claims something "
        "which cannot be known from it. A cautious answer, or one that says that the question rests on something which "
        "is not there, is no hallucination if that is so. General knowledge that is right is none either. The wording, "
        "the length and the order of the answer do not matter.\n"
        "Give one whole number:\n"
        "6: no hallucination, very informative, and with further analysis or reasoning that is right\n"
        "5: no hallucination, very informative\n"
        "4: no hallucination, somewhat informative\n"
        "3: no hallucination, not informative (it says nothing about what was asked, or is empty)\n"
        "2: hallucination, otherwise very informative\n"
        "1: hallucination, otherwise somewhat informative\n"
        "0: hallucination, not informative"
    ),
    schema={"type": "integer", "enum": list(range(MAX_SCORE + 1))},
    read=_score,
    sections=lambda sample, answer: (
        ("CONTENTS OF THE PICTURE", fact(sample, "image_content")),
        ("QUESTION", _question(sample)),
        ("ANSWER OF A PERSON", fact(sample, "target")),
        ("ANSWER TO RATE", answer),
    ),
)

HALLUSIONBENCH = JudgeTask(
    name="hallusionbench",
    version=1,
    field="verdict",
    instruction=(
        "You correct a test. Compare the answer that a model gave to a question with the reference, which is true.\n"
        "correct: what the answer says about the question agrees with the reference, in its own words perhaps\n"
        "incorrect: what it says contradicts the reference, or it answers yes where the reference means no, or no "
        "where it means yes\n"
        "unclear: it decides nothing (it is empty, does not know, refuses, or says both)\n"
        "Judge only whether it agrees with the reference, not whether you would answer so."
    ),
    schema={"type": "string", "enum": list(get_args(Correctness))},
    read=_one_of(*get_args(Correctness)),
    sections=lambda sample, answer: (
        ("QUESTION", _question(sample)),
        ("REFERENCE", fact(sample, "reference")),
        ("ANSWER TO JUDGE", answer),
    ),
)

HALLUSIONBENCH_SAME = JudgeTask(
    name="hallusionbench/same",
    version=1,
    field="same",
    instruction=(
        "Two answers were given to one question, perhaps about different pictures. Say whether they mean the same: "
        "true when both say yes, both say no, or both leave it open, in whatever words; false when they decide "
        "differently. Whether they are right does not matter."
    ),
    schema={"type": "boolean"},
    read=_yes_no,
    sections=lambda sample, first, second: (("FIRST ANSWER", first), ("SECOND ANSWER", second)),
)

OBJECT_HALBENCH = JudgeTask(
    name="object_halbench",
    version=1,
    field="objects",
    instruction=(
        "List the physical objects, animals and people that the answer says can be seen in the picture it describes. "
        "Name each once, in the singular, as the answer calls it, without its colour, size, number or place (a small "
        "red car is a car; a dining table stays a dining table, a traffic light a traffic light).\n"
        "Leave out: what the answer says is absent; what it only supposes or compares with; feelings, actions, "
        "weather, light, and the picture itself. Add nothing that the answer does not name. An answer that names none "
        "has an empty list."
    ),
    schema={"type": "array", "items": {"type": "string"}},
    read=_objects,
    sections=lambda sample, answer: (("QUESTION", _question(sample)), ("ANSWER", answer)),
    needs_no_judge=lambda answer: [] if len(answer.split()) <= _WORDS_WITHOUT_OBJECTS else None,
)

MMVP = JudgeTask(
    name="mmvp",
    version=1,
    field="verdict",
    instruction=(
        "You correct a test of questions with two options. The option that is right is given; take it as true.\n"
        "correct: the answer takes the right option, by its letter or in words of its own\n"
        "incorrect: it takes the other option\n"
        "unclear: it takes neither (it is empty, does not know, refuses, or takes both)\n"
        "Judge only which option the answer takes, not whether you would answer so."
    ),
    schema={"type": "string", "enum": list(get_args(Correctness))},
    read=_one_of(*get_args(Correctness)),
    sections=lambda sample, answer: (
        ("QUESTION", f"{_question(sample)} {fact(sample, 'listed')}"),
        ("RIGHT OPTION", fact(sample, "reference")),
        ("ANSWER TO JUDGE", answer),
    ),
)

JUDGED: Mapping[str, JudgeTask] = MappingProxyType(
    {"mmhal": MMHAL, "hallusionbench": HALLUSIONBENCH, "object_halbench": OBJECT_HALBENCH, "mmvp": MMVP}
)
TASKS: tuple[JudgeTask, ...] = (*JUDGED.values(), HALLUSIONBENCH_SAME)

_OFFICIAL = {
    "mmhal": "gpt-4-0314 of March 2023",
    "hallusionbench": "GPT-4 of 2023, without a fixed version",
    "object_halbench": "gpt-3.5-turbo-0613 of June 2023, as extractor of objects",
    "mmvp": "gpt-4-0314 of March 2023, at temperature 0.2",
}


def official_judge(benchmark: str) -> str:
    """Who judges in the official script, and how old that is, as a note for a result."""
    return (
        f"the official judge is {_OFFICIAL[benchmark]}; scores of other judges, or of this prompt, are not comparable "
        "with published ones"
    )


def figure_zero(samples: Sequence[EvalSample]) -> dict[str, str]:
    """HallusionBench: question id -> id of the same question about figure 0, for those about another figure."""

    def place(sample: EvalSample) -> tuple[str, ...]:
        return tuple(fact(sample, key) for key in ("category", "subcategory", "set_id", "question_id"))

    zero = {place(sample): sample.id for sample in samples if fact(sample, "figure_id") == "0"}
    return {
        sample.id: zero[place(sample)]
        for sample in samples
        if fact(sample, "figure_id") != "0" and place(sample) in zero
    }
