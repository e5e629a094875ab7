"""NaturalBench's questions and answers as they come in files: a group in a row, or a question in a row.

A group is two questions about two images. Its four answers are called ``q0_i0``, ``q0_i1``, ``q1_i0``, ``q1_i1``
(question and image), and stand in this order wherever they have only a place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmpref.errors import DataError
from mmpref.evals.files.answer_readers import name_of, read_rows
from mmpref.evals.files.image_names import filled
from mmpref.evals.files.layouts import READ_AS
from mmpref.evals.files.matching import match
from mmpref.evals.files.question_rows import refuse_repeated_ids, yes_no_label
from mmpref.evals.files.question_tables import image_path, image_ref, question_table
from mmpref.evals.files.row_ids import IdRules
from mmpref.evals.files.row_order import unconfirmed_order
from mmpref.evals.files.rows import Saved
from mmpref.files.rows import Row, Source, as_id, choose, is_path, load_json, short, text_of
from mmpref.records import Answer, EvalSample, user_turn

YES_NO, CHOICE = "yes_no", "multiple_choice"
PLACES = ("q0_i0", "q0_i1", "q1_i0", "q1_i1")
WORDS = {YES_NO: ("yes", "no"), CHOICE: ("A", "B")}
"""What the right answers are called: the first is right for question 0 with image 0 and question 1 with image 1."""
IMAGE_NAME = "{index}_{image}.jpg"
PROMPTS = {"official": "", "lmms_eval": " ", "question": None}
"""What stands between a question and its instruction; None: there is no instruction."""
_INSTRUCTIONS = {
    YES_NO: "Please answer Yes or No.",
    CHOICE: "Please output the letter corresponding to the correct option.",
}
_TYPE_KEYS = ("Question_Type", "Question Type", "type", "question_type")
_INDEX_KEYS = ("Index", "index", "idx")
_NAME_ADVICE = "pass `image_name={index}_{image}.jpg` with the fields index and image (0 or 1)"


# --- questions -------------------------------------------------------------------------------------------------------


def load_questions(source: Source, options: Mapping[str, Any]) -> tuple[EvalSample, ...]:
    """Four samples for each group, in the order of ``PLACES``.

    Raises:
        ConfigError: an unknown prompt.
        DataError: a row misses a key, has another type or label, or a group is not whole or stands there twice.
    """
    prompt = choose(str(options["prompt"]), PROMPTS, "prompt")
    rows = _rows(source)
    without = [where for where, row in rows if not any(as_id(row.get(key)) is not None for key in _INDEX_KEYS)]
    if without and len(without) < len(rows):
        raise DataError(f"{without[0]}: Index is missing or no whole number, and other rows have one")
    paired = any("Question_0" in row for _, row in rows)
    groups = list(_groups_of_rows(rows) if paired else _groups_of_four(rows))
    refuse_repeated_ids(((where, group) for group, fours in groups for where, _ in fours[:1]), "group")
    return tuple(
        _sample(group, place, where, row, prompt, str(options["image_name"]))
        for group, four in groups
        for place, (where, row) in zip(PLACES, four, strict=True)
    )


def _rows(source: Source) -> list[tuple[str, Row]]:
    """The rows with their places, of which the set for fine-tuning has lists: question, image, answer, type."""
    content = source
    if is_path(source) and Path(str(source)).suffix == ".json":
        content = load_json(str(source))
    if not isinstance(content, list) or not content or not all(isinstance(row, list) for row in content):
        return question_table(source)
    name = str(source) if is_path(source) else "questions"
    rows: list[tuple[str, Row]] = []
    for number, row in enumerate(content, 1):
        if len(row) != 4:
            raise DataError(f"{name}, row {number}: {len(row)} values; expected question, image, answer and type")
        values = dict(zip(("question", "image", "answer", "type"), row, strict=True))
        rows.append((f"{name}, row {number}", {"index": number - 1, **values}))
    return rows


_Group = tuple[str, list[tuple[str, Row]]]


def _groups_of_rows(rows: Sequence[tuple[str, Row]]) -> Iterator[_Group]:
    """The groups of rows ``{"Index", "Image_0", "Image_1", "Question_0", "Image_0_Question_0", ...}``."""
    for number, (where, row) in enumerate(rows):
        index = _index(row, number)
        four: list[tuple[str, Row]] = []
        for place in PLACES:
            question, image = place[1], place[4]
            label = f"Image_{image}_Question_{question}"
            shown = {key: row[key] for key in _TYPE_KEYS if key in row} | {"Source": row.get("Source")}
            four.append(
                (where, {
                    **shown,
                    "question": text_of(row, f"Question_{question}", where),
                    "image": row.get(f"Image_{image}"),
                    "answer": row.get(label),
                    "label_key": label,
                })
            )  # fmt: skip
        yield index, four


def _groups_of_four(rows: Sequence[tuple[str, Row]]) -> Iterator[_Group]:
    """The groups of rows with one question each, whose ``index`` counts them: four in a row are a group.

    Raises:
        DataError: one of the four is missing, or their questions are not two about two images.
    """
    found: dict[int, dict[int, tuple[str, Row]]] = {}
    for number, (where, row) in enumerate(rows):
        index = _index(row, number)
        if not index.isdecimal():
            raise DataError(f"{where}: index is {index!r}; expected a whole number, four of which are a group")
        shown = {**row, "question": _either(row, "question", where), "answer": row.get("answer", row.get("Answer"))}
        shown["image"] = row.get("image_path", row.get("image", row.get("Image")))
        group = found.setdefault(int(index) // 4, {})
        if int(index) % 4 in group:
            raise DataError(f"{where}: index {index} stands in {group[int(index) % 4][0]} too; keep one of the rows")
        group[int(index) % 4] = (where, shown)
    for name, group in found.items():
        four = [group[number] for number in sorted(group)]
        if len(four) != 4:
            missing = ", ".join(str(4 * name + number) for number in range(4) if number not in group)
            raise DataError(
                f"{four[0][0]}: of the group of index {4 * name} to {4 * name + 3} the index {missing} is missing; "
                "two questions about two images are four rows"
            )
        asked = [_plain_question(row) for _, row in four]
        if asked[0] != asked[1] or asked[2] != asked[3]:
            raise DataError(
                f"{four[0][0]}: the four rows of index {4 * name} to {4 * name + 3} ask {short(asked)}; expected one "
                "question twice, about both images, and then another twice"
            )
        yield str(name), four


def _index(row: Row, number: int) -> str:
    return next((name for key in _INDEX_KEYS if (name := as_id(row.get(key))) is not None), str(number))


def _either(row: Row, key: str, where: str) -> str:
    return text_of(row, key.capitalize() if key.capitalize() in row else key, where)


def _plain_question(row: Row) -> str:
    """The question without an instruction that stands behind it already."""
    text = str(row["question"])
    for instruction in _INSTRUCTIONS.values():
        text = text.removesuffix(instruction)
    return text


def _sample(group: str, place: str, where: str, row: Row, prompt: str, pattern: str) -> EvalSample:
    kind = _kind(row, where)
    question, image = _plain_question(row), place[4]
    name = image_path(row.get("image"))
    if name is None:
        name = filled(pattern, f"group {group}", _NAME_ADVICE, index=group, image=image)
    between = PROMPTS[prompt]
    return EvalSample(
        id=f"{group}/{place}",
        images=(image_ref(row.get("image"), name),),
        prompt=user_turn(question + ("" if between is None else between + _INSTRUCTIONS[kind]), num_images=1),
        target=_label(row, kind, where),
        meta={
            "group": group,
            "place": place,
            "type": kind,
            "image": name,
            "question": question.strip(),
            "source": row["Source"] if isinstance(row.get("Source"), str) else "",
        },
    )


def _kind(row: Row, where: str) -> str:
    key = next((key for key in _TYPE_KEYS if key in row), _TYPE_KEYS[0])
    kind = text_of(row, key, where).strip()
    kind = CHOICE if kind == "mcq" else kind  # in the set for fine-tuning
    if kind not in WORDS:
        raise DataError(f"{where}: {key} is {short(kind)}; expected {' or '.join(map(repr, WORDS))}")
    return kind


def _label(row: Row, kind: str, where: str) -> str:
    """The right answer: yes or no, A or B."""
    key = str(row.get("label_key", "answer"))
    if kind == YES_NO:
        return yes_no_label({} if row["answer"] is None else {key: row["answer"]}, key, where)
    label = row["answer"]
    letter = label.strip().upper() if isinstance(label, str) else ""
    if letter not in WORDS[CHOICE]:
        raise DataError(f"{where}: {key} is {'missing' if label is None else short(label)}; expected 'A' or 'B'")
    return letter


# --- answers ---------------------------------------------------------------------------------------------------------


def load_naturalbench_answers(source: Source, samples: Sequence[EvalSample], options: Mapping[str, Any]) -> Saved:
    """Answers by id (``17/q0_i1``), by number (70 is the third of group 17), four in a row, or texts in their order.

    Raises:
        DataError: rows that fit no question, or another number of texts than of questions.
    """
    where = name_of(source)
    content: Any = source
    if is_path(source) and Path(str(source)).suffix in (".json", ".jsonl"):
        content = load_json(str(source))
    elif not isinstance(source, str | Path | Mapping):
        content = list(source)
    if isinstance(content, list) and content and all(isinstance(text, str) for text in content):
        return _in_order(content, samples, where)
    if (rows := _four_in_a_row(content, where)) is None:
        rows = read_rows(source if is_path(source) else content)
    known = {sample.id for sample in samples}

    def ids_of(row: Row) -> list[str]:
        """Of rows of lmms-eval and VLMEvalKit, which count all questions from 0 on."""
        counted = "doc_id" in row or ("index" in row and "prediction" in row)
        number = next((name for key in (*_INDEX_KEYS, "doc_id") if (name := as_id(row.get(key))) is not None), "")
        if not counted or not number.isdecimal():
            return []
        name = f"{int(number) // 4}/{PLACES[int(number) % 4]}"
        return [name] if name in known else []

    return match(rows, samples, where, IdRules(ids_of=ids_of, numbered=True))


def _in_order(texts: Sequence[str], samples: Sequence[EvalSample], where: str) -> Saved:
    """The list ``output_file`` of the official script: a text for each question, in the order of the questions.

    Raises:
        DataError: there are more or fewer texts than questions.
    """
    if len(texts) != len(samples):
        raise DataError(
            f"{where}: {len(texts)} texts and {len(samples)} questions; a list of texts has one for each of the four "
            'questions of every group, in their order; otherwise write rows of {"id": "17/q0_i1", "text": ...}'
        )
    answers = [Answer(id=sample.id, text=text) for sample, text in zip(samples, texts, strict=True)]
    return Saved(answers, read_as="a list of texts, paired by order", warnings=(unconfirmed_order(where),))


def _four_in_a_row(content: Any, where: str) -> list[Row] | None:
    """Rows ``{"Index", "q0_i0", ...}``, or one object of these by their index, as one row for each answer; None where
    they are of another form."""
    if isinstance(content, Mapping) and content and all(isinstance(row, Mapping) for row in content.values()):
        given = [(str(index), row) for index, row in content.items()]
    elif isinstance(content, list) and content and all(isinstance(row, Mapping) for row in content):
        given = [(_index(row, number), row) for number, row in enumerate(content)]
    else:
        return None
    if not any(place in row for _, row in given for place in PLACES):
        return None
    rows: list[Row] = []
    for number, (index, row) in enumerate(given, 1):
        if missing := [place for place in PLACES if place not in row]:
            raise DataError(
                f"{where}, row {number} (group {index!r}): {missing[0]} is missing; a group has four answers"
            )
        rows += [{"id": f"{index}/{place}", "text": row[place], READ_AS: "four answers in a row"} for place in PLACES]
    return rows
