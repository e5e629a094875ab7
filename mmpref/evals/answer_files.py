"""Answer files of other tools: JSON lines with ids, LLaVA's rows, lmms-eval's sample logs, VLMEvalKit's tables.

Which question a row answers is read from its id where it has one. A row of a tool that counts its own way (VLMEvalKit's
``index``, lmms-eval's ``doc_id``) is matched by what was asked: the text of the question and the name of the image, or
an id that the question's text confirms. A row that fits no question is an error, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from mmpref.errors import DataError
from mmpref.evals.journal import ANSWERS, ITEMS
from mmpref.evals.rows import Row, Saved, Source, answer_text, is_path, load_rows, row_id
from mmpref.evals.tables import TABLES, read_table
from mmpref.records import Answer, EvalSample

IdsOf: TypeAlias = Callable[[Row], Sequence[str]]
_IMAGE_KEYS = ("image_path", "image_source", "image_name", "image", "filename", "question_id", "image_id")
_QUESTION_KEYS = ("question", "input", "prompt", "query")
_ASKED = "mmpref/asked"  # the question that a row of our own answered, word by word


def read_rows(source: Source, what: str = "answers") -> list[Row]:
    """Rows of any format named above; those of lmms-eval are flattened to ``{..., "text"}``.

    Raises:
        ConfigError: an .xlsx file and no openpyxl to read it.
        DataError: the file cannot be read.
    """
    if isinstance(source, str | Path) and Path(source).suffix.lower() == ".parquet":
        from mmpref.data.source import open_source  # loads pyarrow, which no other format needs

        return [found.row for found in open_source(source).rows()]
    if isinstance(source, str | Path) and Path(source).suffix.lower() in TABLES:
        return [_without_empty(row) for row in read_table(Path(source))]
    if not isinstance(source, str | Path | Mapping):
        source = [{"id": row.id, "text": row.text} if isinstance(row, Answer) else row for row in source]
    rows = [_flat(row) if _is_lmms_log(row) else row for row in load_rows(source, what)]
    return _with_questions(rows, Path(source)) if isinstance(source, str | Path) else rows


def _with_questions(rows: list[Row], file: Path) -> list[Row]:
    """The rows of a folder of ``mmpref eval`` with what each of them was asked, which its other file says."""
    beside = file.with_name(ITEMS)
    if file.name != ANSWERS or not beside.is_file():
        return rows
    try:
        items = load_rows(beside, "items")
    except DataError:
        return rows  # a damaged file that is only asked for more certainty
    asked = {str(item.get("id")): item["question"] for item in items if isinstance(item.get("question"), str)}
    return [{**row, _ASKED: asked[name]} if (name := str(row.get("id"))) in asked else row for row in rows]


def saved_answers() -> Callable[[Source, Sequence[EvalSample], Mapping[str, Any]], Saved]:
    """The usual ``load_answers`` of a benchmark whose questions have ids of their own."""

    def load(source: Source, samples: Sequence[EvalSample], options: Mapping[str, Any]) -> Saved:
        return Saved(match(read_rows(source), samples, lambda row: (), name_of(source)))

    return load


def name_of(source: Source) -> str:
    """How a source of answers is called in a message."""
    return str(source) if is_path(source) else "answers"


def match(
    rows: Sequence[Row],
    samples: Sequence[EvalSample],
    ids_of: IdsOf,
    where: str,
    *,
    numbered: bool = False,
    prefix: str = "",
) -> list[Answer]:
    """Each row as the answer to its question; a row without a known id keeps the one it has, for others to refuse.

    Args:
        ids_of: the ids that a row's own fields make, best first.
        numbered: the questions have no id in their file, so that ids which are all numbers from 0 on, or exactly those
            from 1 to the last, are understood as their order there.
        prefix: may stand before an id of the samples and be left out in the rows.

    Raises:
        DataError: a row has no usable text, or neither an id nor a question that was asked; or rows show other
            questions than those of their ids.
    """
    by_id = {sample.id: sample for sample in samples}
    if numbered:
        rows = _numbers_to_ids(rows, samples)
    asked = _Asked(samples)
    shown = _Shown(where)
    out: list[Answer] = []
    for number, row in enumerate(rows, 1):
        place = f"{where}, row {number}"
        text = answer_text(row, place)
        counted = _counts_its_own_way(row)
        names = [name for name in ids_of(row) if name in by_id]
        if not names and counted:
            names = _confirmed(row, by_id) or asked.take(row, place)
        if not names:
            name = row_id(row, place)
            names = [prefix + name if name not in by_id and prefix + name in by_id else name]
            shown.see(number, row, by_id.get(names[0]))
        out += [Answer(id=name, text=text) for name in names]
    shown.refuse_mixed()
    return out + asked.repeated(out)


def _numbers_to_ids(rows: Sequence[Row], samples: Sequence[EvalSample]) -> Sequence[Row]:
    own = {sample.id for sample in samples}
    ids = [str(row.get("id", row.get("question_id"))) for row in rows]
    first = int(set(ids) == {str(number) for number in range(1, len(samples) + 1)})
    order = {str(number): sample.id for number, sample in enumerate(samples, first)}
    if not ids or not own.isdisjoint(ids) or not set(ids) <= order.keys():
        return rows
    return [{**row, "id": order[name]} for row, name in zip(rows, ids, strict=True)]


class _Shown:
    """Rows that are matched by id and also say what was asked, as LLaVA's do and our own.

    Where some show the question of their id and others another one, they answer another file: POPE's splits share ids
    and half of their questions. Where none does, the questions were put in other words, and the ids are believed; but
    ours are never in other words.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._right = 0
        self._ours = False
        self._wrong: list[tuple[int, str, str, str]] = []

    def see(self, number: int, row: Row, sample: EvalSample | None) -> None:
        ours = row.get(_ASKED)
        said, own = _tidy(ours) if ours else _asked_text(row), _content(sample)[1] if sample is not None else ""
        if sample is None or not said or not own:
            return
        if own.casefold() in said.casefold():
            self._right += 1
        else:
            self._wrong.append((number, sample.id, said, own))
            self._ours = self._ours or bool(ours)

    def refuse_mixed(self) -> None:
        if self._wrong and (self._right or self._ours):
            number, name, said, own = self._wrong[0]
            raise DataError(
                f"{self._where}: {len(self._wrong)} of {self._right + len(self._wrong)} rows show another question "
                f"than their id has; row {number} (id '{name}') shows {said[:80]!r} where {own[:80]!r} is asked: "
                "answers to another split or revision?"
            )


class _Asked:
    """The samples by what they ask, for rows without an id of theirs."""

    def __init__(self, samples: Sequence[EvalSample]) -> None:
        self._samples = samples
        self._waiting: dict[str, dict[str, list[str]]] | None = None  # image -> question -> ids
        self._numbered: dict[str, list[EvalSample]] | None = None
        self._used = False

    def take(self, row: Row, where: str) -> list[str]:
        """The first sample with this row's image and question that no row has taken yet."""
        question = _asked_text(row)
        for key in _IMAGE_KEYS:
            if question and isinstance(row.get(key), str) and row[key]:
                for image in _image_names(row[key], str(row.get("category", ""))):
                    if names := self._names(image, question):
                        self._used = True
                        return [names.pop(0)] if len(names) > 1 else [names[0]]
        if found := self._by_number(row, question):
            return found
        shown = {key: row[key] for key in (*_QUESTION_KEYS, *_IMAGE_KEYS, "index", "doc_id") if row.get(key)}
        raise DataError(
            f"{where}: fits no question that was asked: {shown}; a row needs the benchmark's own id, or the question's "
            "text and the image's name"
        )

    def _by_number(self, row: Row, question: str) -> list[str]:
        """For a log of several splits that does not name them: the first free sample of this number and question.

        The splits of POPE ask about the same image under one number, so that it does not matter which of them is taken.
        """
        number = row.get("question_id")
        if not question or not isinstance(number, str | int):
            return []
        if self._numbered is None:
            self._numbered = {}
            for sample in self._samples:
                self._numbered.setdefault(sample.id.rsplit("/", 1)[-1], []).append(sample)
        free = self._numbered.get(str(number), [])
        fits = [s for s in free if (own := _content(s)[1]) and question.startswith(own)]
        if len({_content(sample) for sample in fits}) != 1:
            return []
        if len(fits) > 1:
            free.remove(fits[0])
        self._used = True
        return [fits[0].id]

    def _names(self, image: str, question: str) -> list[str]:
        if self._waiting is None:
            self._waiting = self._by_image()
        questions = self._waiting.get(image, {})
        if question in questions:
            return questions[question]
        # a tool's suffix ("Please answer yes or no.") may follow the question
        starts = [known for known in questions if known and question.startswith(known)]
        return questions[max(starts, key=len)] if starts else []

    def _by_image(self) -> dict[str, dict[str, list[str]]]:
        found: dict[str, dict[str, list[str]]] = {}
        meant: dict[str, set[str]] = {}
        for sample in self._samples:
            image, question = _content(sample)
            names = _image_names(image, "")
            for name in names:
                found.setdefault(name, {}).setdefault(question, []).append(sample.id)
                meant.setdefault(name, set()).add(names[0])
        return {name: questions for name, questions in found.items() if len(meant[name]) == 1}

    def repeated(self, answers: Sequence[Answer]) -> list[Answer]:
        """The same answer for the other places where the same question about the same image stands."""
        if not self._used:
            return []
        texts = {answer.id: answer.text for answer in answers}
        by_content: dict[tuple[str, str], str] = {}
        for sample in self._samples:
            if sample.id in texts:
                by_content.setdefault(_content(sample), texts[sample.id])
        return [
            Answer(id=sample.id, text=by_content[_content(sample)])
            for sample in self._samples
            if sample.id not in texts and _content(sample) in by_content
        ]


def _content(sample: EvalSample) -> tuple[str, str]:
    return str(sample.meta.get("image", "")), _tidy(str(sample.meta.get("question", "")))


def _counts_its_own_way(row: Row) -> bool:
    return "doc_id" in row or ("index" in row and "prediction" in row) or ("id" not in row and "question" in row)


def _confirmed(row: Row, by_id: Mapping[str, EvalSample]) -> list[str]:
    """An id of the row that a sample has, when the sample asks what the row says was asked."""
    question = _asked_text(row)
    for key in ("id", "question_id", "image_id", "index"):
        name = row.get(key)
        sample = by_id.get(str(name)) if isinstance(name, str | int) else None
        if sample is None:
            continue
        own = _tidy(str(sample.meta.get("question", "")))
        image = row.get("image_path", row.get("image"))
        same_image = not isinstance(image, str) or _stem(image) == _stem(str(sample.meta.get("image", "")))
        if same_image and (not question or not own or question.startswith(own)):
            return [sample.id]
    return []


def _asked_text(row: Row) -> str:
    return next((_tidy(row[key]) for key in _QUESTION_KEYS if isinstance(row.get(key), str)), "")


def _tidy(text: str) -> str:
    return " ".join(text.split())


def _stem(image: str) -> str:
    return PurePosixPath(image.replace("\\", "/")).with_suffix("").name.lower() if image else ""


def _image_names(image: str, category: str) -> list[str]:
    """How an image may be called, the fullest first: ``ocr/0001``, then ``0001``."""
    path = image.replace("\\", "/").lower()
    path = re.sub(r"\.(?:jpe?g|png|webp|bmp)$", "", path)
    short = path.rsplit("/", 1)[-1]
    return list(dict.fromkeys([path, *([f"{category.lower()}/{short}"] if category else []), short]))


# --- lmms-eval ------------------------------------------------------------------------------------------------------


def _is_lmms_log(row: Row) -> bool:
    return "filtered_resps" in row or ("resps" in row and "doc_id" in row)


def _flat(row: Row) -> Row:
    """One logged sample with its document, or what its metrics say of it, beside the answer."""
    text = row.get("filtered_resps", row.get("resps"))
    while isinstance(text, list | tuple) and text:
        text = text[0]
    told: dict[str, Any] = {}
    for value in row.values():  # the newest versions leave the document out; ids stand with each metric
        if isinstance(value, Mapping):
            told |= {key: item for key, item in value.items() if isinstance(item, str | int)}
    told = {key: item for key, item in told.items() if key not in ("id", "text", "answer", "prediction", "score")}
    input_text = {"input": row["input"]} if isinstance(row.get("input"), str) else {}
    doc = row["doc"] if isinstance(row.get("doc"), Mapping) else {}
    kept = {key: item for key, item in doc.items() if key not in ("id", "text", "answer", "prediction")}
    return {**told, **kept, **input_text, "doc_id": row.get("doc_id"), "text": text if isinstance(text, str) else ""}


def _without_empty(row: Row) -> Row:
    """A row of a table: an empty cell is no field, but an empty answer is an answer; numbers become text."""
    out: dict[str, Any] = {}
    for key, value in row.items():
        if key == "prediction":
            out[key] = "" if value is None else str(value)
        elif value is not None and value != "":
            out[key] = value if isinstance(value, str | int) else str(value)
    return out
