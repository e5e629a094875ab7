"""Answer files of other tools as rows: JSON lines, LLaVA's rows, lmms-eval's sample logs, VLMEvalKit's tables, the
results of CHAIR's scripts. ``matching`` finds the question that each row answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmpref.errors import DataError
from mmpref.evals.files.layouts import READ_AS
from mmpref.evals.files.models_named import refuse_several_models
from mmpref.evals.files.question_words import ASKED
from mmpref.evals.files.rows import TEXT_KEYS
from mmpref.files.rows import ID_KEYS, Row, Source, is_path, load_json, load_rows
from mmpref.files.tables import TABLES, read_table
from mmpref.generation.answer_log import ANSWERS, ITEMS
from mmpref.records import Answer

_NOT_ASKED = ("id", "answer", "score", *TEXT_KEYS)
"""Keys of a document or of a metric in lmms-eval's log that are neither the question nor the model's answer."""


def read_rows(source: Source, what: str = "answers") -> list[Row]:
    """Rows of any format named above; those of lmms-eval are flattened to ``{..., "text"}``.

    Raises:
        ConfigError: an .xlsx file and no openpyxl to read it.
        DataError: the file cannot be read, or its answers are of several models.
    """
    where = str(source) if is_path(source) else what
    rows = _rows(source, where)
    if what == ANSWERS_ARE:
        refuse_several_models(rows, where)
    return rows


ANSWERS_ARE = "answers"
"""What rows are of which one number is made, in place of questions or sentences with other people's texts."""


def _rows(source: Source, where: str) -> list[Row]:
    if isinstance(source, str | Path) and Path(source).suffix.lower() == ".parquet":
        from mmpref.data.reading.source import open_source  # loads pyarrow, which no other format needs

        return [found.row for found in open_source(source).rows()]
    if isinstance(source, str | Path) and Path(source).suffix.lower() in TABLES:
        return [_without_empty(row) for row in read_table(Path(source))]
    if not isinstance(source, str | Path | Mapping):
        source = [_as_row(row) if isinstance(row, Answer) else row for row in source]
    content = load_json(source) if isinstance(source, str | Path) else source
    if isinstance(content, str):  # a JSON text, and no path
        content = [content]
    rows = load_rows(_unwrapped(content), where)
    rows = [_flat(row, f"{where}, row {n}") if _is_lmms_log(row) else row for n, row in enumerate(rows, 1)]
    return _with_questions(rows, Path(source)) if isinstance(source, str | Path) else rows


def _as_row(answer: Answer) -> Row:
    return {"id": answer.id, "text": answer.text, **({"finish_reason": "length"} if answer.cut else {})}


def _unwrapped(content: Any) -> Any:
    """The rows of a JSON object: of CHAIR's result file (``sentences``, or ``imgToEval`` in the script of 2018), or of
    ``{id: text}``."""
    if not isinstance(content, Mapping):
        return content
    if isinstance(content.get("sentences"), list):
        return content["sentences"]
    if isinstance(content.get("imgToEval"), Mapping):
        return list(content["imgToEval"].values())
    values = list(content.values())
    if values and all(isinstance(value, str) for value in values) and not {*ID_KEYS, *TEXT_KEYS} & content.keys():
        return [{"id": name, "text": text, READ_AS: "one object of ids and texts"} for name, text in content.items()]
    return content


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
    return [{**row, ASKED: asked[name]} if (name := str(row.get("id"))) in asked else row for row in rows]


def name_of(source: Source) -> str:
    """How a source of answers is called in a message."""
    return str(source) if is_path(source) else "answers"


# --- lmms-eval ------------------------------------------------------------------------------------------------------


def _is_lmms_log(row: Row) -> bool:
    return "filtered_resps" in row or ("resps" in row and "doc_id" in row)


def _flat(row: Row, place: str) -> Row:
    """One logged sample with its document, or what its metrics say of it, beside the answer.

    Raises:
        DataError: the model was asked several times and answered differently, or what it answered is no text.
    """
    key = "filtered_resps" if "filtered_resps" in row else "resps"
    texts = list(_leaves(row[key]))
    if odd := [text for text in texts if not isinstance(text, str)]:
        raise DataError(f"{place}: {key} has {odd[0]!r:.60}; expected what the model wrote, as text")
    said = list(dict.fromkeys(texts))
    if len(said) > 1:
        raise DataError(
            f"{place}: {key} has {len(said)} different answers, {said[0]!r:.60} and {said[1]!r:.60}; an answer is one: "
            f'leave the one that counts in {key}, as ["..."], or log with the filter take_first'
        )
    text = said[0] if said else ""
    of_metrics: dict[str, Any] = {}
    for value in row.values():  # the newest versions leave the document out; ids are with each metric
        if isinstance(value, Mapping):
            of_metrics |= {key: item for key, item in value.items() if isinstance(item, str | int)}
    of_metrics = {key: item for key, item in of_metrics.items() if key not in _NOT_ASKED}
    input_text = {"input": row["input"]} if isinstance(row.get("input"), str) else {}
    doc = row["doc"] if isinstance(row.get("doc"), Mapping) else {}
    kept = {key: item for key, item in doc.items() if key not in _NOT_ASKED}
    own = {
        "doc_id": row.get("doc_id"),
        "text": text,
        READ_AS: "lmms-eval's sample log",
    }
    return {**of_metrics, **kept, **input_text, **own}


def _leaves(value: Any) -> Iterator[Any]:
    """The values in lists of lists, in order; nothing for null."""
    if isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    elif value is not None:
        yield value


def _without_empty(row: Row) -> Row:
    """A row of a table: an empty cell is no field, but an empty answer is an answer; numbers become text."""
    out: dict[str, Any] = {}
    for key, value in row.items():
        if key == "prediction":
            out[key] = "" if value is None else str(value)
        elif value is not None and value != "":
            out[key] = value if isinstance(value, str | int) else str(value)
    if "answer" in row:
        out.setdefault("answer", "")
    column = next((key for key in TEXT_KEYS if key in row), None)
    return out if column is None or any(out.get(key) is not None for key in TEXT_KEYS) else {**out, column: ""}
