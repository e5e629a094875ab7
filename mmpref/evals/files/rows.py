"""Reading question and answer files, and pairing answers with questions by id.

A source is a path (JSON lines, one JSON array or object, or a table) or the rows themselves. Answers are
``{"id", "text"}``; the key names that public tools write are understood too. Nothing is dropped silently: a duplicate,
missing or unknown id is an error that names the first ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmpref.errors import DataError
from mmpref.evals.files.question_rows import question_rows, refuse_repeated_rows
from mmpref.files.rows import Row, Source, first_ids, refuse_duplicates, row_id, short, shown_keys
from mmpref.records import Answer, EvalSample, ResultWarning

TEXT_KEYS = (
    "text",
    "model_answer",
    "model_prediction",
    "prediction",
    "predict",
    "response",
    "caption",
    "output",
    "generated_text",
    "pred",
)
LABEL_OR_TEXT = "answer"
"""A key of answers, which is the label in a row that has one of the others."""
_CUT = ("length", "max_tokens")  # what servers give as the reason why an answer ends where it does


@dataclass(frozen=True, slots=True)
class Saved:
    """What a source of answers contains: the answers and, in layouts that carry them, the judge's verdicts as rows.

    ``read_as`` says for people in which layout and by what the answers were matched; ``notes`` and ``warnings`` go into
    the result.
    """

    answers: Sequence[Answer]
    verdicts: tuple[Row, ...] = ()
    read_as: str = ""
    notes: tuple[str, ...] = ()
    warnings: tuple[ResultWarning, ...] = ()


def load_answers(source: Source) -> list[Answer]:
    """Answers in the order of the source; ``Answer`` objects are taken as they are.

    Raises:
        DataError: a row has no usable id or text.
    """
    if not isinstance(source, str | Path | Mapping):
        source = [{"id": row.id, "text": row.text} if isinstance(row, Answer) else row for row in source]
    return [
        Answer(id=row_id(row, where), text=answer_text(row, where), place=where)
        for where, row in question_rows(source, "answers")
    ]


def text_key(row: Row, asked: str = "") -> str | None:
    """The key under which a row has its answer, None when there is none."""
    keys = [key for key in TEXT_KEYS if key in row]
    if LABEL_OR_TEXT in row and all(_is_question(row[key], asked) for key in keys):
        return LABEL_OR_TEXT
    return next((key for key in keys if not _is_question(row[key], asked)), keys[0] if keys else None)


def answer_text(row: Row, where: str, *, asked: str = "") -> str:
    """What a row's answer says.

    Args:
        asked: the question, which is no answer where a row has it under one of the keys of answers.

    Raises:
        DataError: there is none, it is no text, or two keys have different ones.
    """
    key = text_key(row, asked)
    if key is None:
        raise DataError(f'{where}: no text; a row is {{"id": ..., "text": ...}} and this one has {shown_keys(row)}')
    text = row[key]
    if not isinstance(text, str):
        raise DataError(f"{where}: {key} is {short(text)}; expected text (an empty answer is an empty string)")
    for other in TEXT_KEYS:
        said = row.get(other)
        if isinstance(said, str) and said != text and key != LABEL_OR_TEXT and not _is_question(said, asked):
            raise DataError(
                f"{where}: {key} {short(text)} and {other} {short(said)} are two different answers; leave one key out"
            )
    return text


def _is_question(text: object, asked: str) -> bool:
    return isinstance(text, str) and bool(asked) and text.strip() != "" and " ".join(text.split()).startswith(asked)


def cut_by_length(row: Row) -> bool:
    """Whether a row says that its answer ends where the limit of tokens did."""
    return any(row.get(key) in _CUT for key in ("finish_reason", "stop_reason"))


def pair_by_id(
    samples: Sequence[EvalSample], answers: Sequence[Answer], *, may_cover_part: bool = False, hint: str = ""
) -> list[tuple[EvalSample, str]]:
    """Each question with its answer, in the order of the questions.

    Args:
        may_cover_part: questions without an answer are left out (annotations of more images than were captioned).
        hint: how ids are written in this benchmark, for the message about unknown ones.

    Raises:
        DataError: an id twice, an answer to no question, or (unless ``may_cover_part``) a question with no answer.
    """
    refuse_duplicates((sample.id for sample in samples), "questions")
    if all(answer.place for answer in answers):
        refuse_repeated_rows(((answer.place, answer.id) for answer in answers), "answers")
    refuse_duplicates((answer.id for answer in answers), "answers")
    if answers and not samples:
        raise DataError(f"there are {len(answers)} answers and no questions: the source of the questions is empty")
    known = {sample.id for sample in samples}
    if unknown := [answer for answer in answers if answer.id not in known]:
        first = f"{unknown[0].place}: " if unknown[0].place else ""
        raise DataError(
            f"{first}{len(unknown)} of {len(answers)} answers have an id that no question has: "
            f"{first_ids([answer.id for answer in unknown])}{hint}"
        )
    texts = {answer.id: answer.text for answer in answers}
    missing = [sample.id for sample in samples if sample.id not in texts]
    if missing and not may_cover_part:
        raise DataError(
            f"{len(missing)} of {len(samples)} questions have no answer: {first_ids(missing)}; "
            "an unanswered question is written with an empty text"
        )
    return [(sample, texts[sample.id]) for sample in samples if sample.id in texts]
