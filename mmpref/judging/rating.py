"""A judge that rates an answer with a number on a declared scale, by a rubric in words."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from mmpref.errors import ConfigError
from mmpref.files.writing import json_text
from mmpref.judging.contract import JudgeTask, OutOfScaleError, Sections, Value

FORM = 1
"""Raised whenever what is around the rubric changes, so that older ratings are not taken for those of today."""
_MOST_WHOLE = 101


def rating_task(
    rubric: str, scale: tuple[float, float], *, whole: bool, judge: str, sections: Callable[..., Sections]
) -> JudgeTask:
    """The question what an answer deserves.

    Args:
        rubric: what is rated and by what, for the judge.
        scale: the worst and the best number.
        whole: whole numbers only.
        judge: the name that the judge is asked by. It is in the task's name, so that the replies of a cache under that
            name are all of one rubric and one judge.

    Raises:
        ConfigError: a scale of whole numbers that begins or ends between two, or has more than 101.
    """
    low, high = scale
    if whole and (low != int(low) or high != int(high) or high - low >= _MOST_WHOLE):
        raise ConfigError(
            f"a scale of whole numbers has at most {_MOST_WHOLE} of them, from one to another: got {low:g}..{high:g}; "
            "say decimals=true for numbers in between"
        )
    schema: dict[str, Any]
    if whole and high - low <= 10:
        schema = {"type": "integer", "enum": list(range(int(low), int(high) + 1))}
    elif whole:
        schema = {"type": "integer", "minimum": int(low), "maximum": int(high)}
    else:
        schema = {"type": "number", "minimum": low, "maximum": high}
    instruction = f"{rubric.strip()}\n\nGive a number: {low:g} is the worst, {high:g} the best."
    digest = hashlib.sha256(json_text([instruction, schema, judge]).encode()).hexdigest()

    def read(value: object) -> Value:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            raise ValueError(f"{value!r:.60} is no number")
        if not low <= value <= high or (whole and value != int(value)):
            kind = "whole number" if whole else "number"
            raise OutOfScaleError(f"{value!r:.60} is no {kind} from {low:g} to {high:g}")
        return float(value)

    return JudgeTask(
        name=f"rating {digest[:16]}",
        version=FORM,
        field="score",
        instruction=instruction,
        schema=schema,
        read=read,
        sections=sections,
    )


def rating_version(task: JudgeTask) -> str:
    """What ratings may be compared by, whoever the judge is: the form, and a hash of rubric and scale."""
    digest = hashlib.sha256(json_text([task.instruction, dict(task.schema)]).encode()).hexdigest()
    return f"{FORM}-{digest[:12]}"
