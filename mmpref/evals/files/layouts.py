"""The layouts that tools write answers in, by their keys: what a result says that it was made from."""

from __future__ import annotations

from collections.abc import Sequence

from mmpref.files.rows import Row

READ_AS = "mmpref/layout"
"""Key of the layout of a row that was turned into another form while it was read."""
PLACE = "mmpref/place"
"""Key of the file and line of a row whose source is a folder of files."""
_LAYOUTS = (  # the keys that show a layout, in the order in which they are looked for
    (("prompt", "predict"), "LLaMA-Factory's generated predictions"),
    (("messages", "response"), "ms-swift's inference results"),
    (("index", "prediction"), "VLMEvalKit's table"),
    (("question_id", "model_id", "text"), "LLaVA's answers"),
    (("question_id", "prompt", "text"), "LLaVA's answers"),
    (("model_prediction",), "HallusionBench's results"),
    (("model_answer",), "MMHal-Bench's answer template"),
    (("image_id", "caption"), "CHAIR's captions"),
    (("question", "answer"), "rows of question and answer"),
    (("id", "response"), "AMBER's answers"),
    (("question_id", "text"), "rows of question_id and text"),
    (("id", "text"), "rows of id and text"),
)


def layout_of(rows: Sequence[Row]) -> str:
    """The name of the layout that the first row has, ``rows`` when it is none of the known."""
    if not rows:
        return "no rows"
    first = rows[0]
    if isinstance(first.get(READ_AS), str):
        return str(first[READ_AS])
    return next((name for keys, name in _LAYOUTS if all(key in first for key in keys)), "rows")


def place_of(row: Row, where: str, number: int) -> str:
    """Where a row is, for a message: the place that it names itself, or its number in ``where``."""
    if isinstance(row.get(PLACE), str):
        return str(row[PLACE])
    return f"{where}, row {number}" if where else f"row {number}"
