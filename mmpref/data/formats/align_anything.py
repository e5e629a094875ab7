"""align-anything's rows, and PKU's: two numbered responses and which one is better, or both sides under names.

The rules are those of the templates in PKU-Alignment/align-anything ``align_anything/configs/format_dataset.py``:
``PKUSafeRLHF`` (``better_response_id``, 0 or 1), ``AA_TI2T`` (``overall_response``, 1 or 2; others are left out),
``SafeRLHF_V_Reward`` (``more_helpful_response_id``), ``Janus_TI2T`` (``better_response``, ``worse_response``),
``AA_TI2T_LLF`` (``refinement`` is better than ``response``) and ``ti2ti_preference`` (``better_text``, ``worse_text``).
An image stands before the question; several stand there in their order.
"""

from __future__ import annotations

import re
from typing import Any

from mmpref.data.formats.canonical import CanonicalRow
from mmpref.data.formats.chat import with_places
from mmpref.data.formats.contract import Format, FormatOptions, Row
from mmpref.data.formats.fields import fault, has, has_any, is_text, shown, text, turn
from mmpref.data.formats.frameworks import images_of
from mmpref.data.formats.media_values import is_empty

_BETTER = ("better_response_id", "better_response", "overall_response", "more_helpful_response_id")
_LEFT_OUT = {"overall_response", "more_helpful_response_id"}
"""Columns of which align-anything leaves out rows that name neither response: a tie."""
_RESPONSE = re.compile(r"response_\d+")


def _pair(row: Row, options: FormatOptions, question: str, answers: tuple[str, str], *used: str) -> dict[str, Any]:
    images = images_of(row, options)
    return CanonicalRow(
        prompt=with_places([turn("user", text(row, question, reason="prompt"))], len(images.items)),
        images=images,
        chosen=answers[0],
        rejected=answers[1],
        used=("image", "images", question, *used),
    ).build(row, options)


def _two_responses(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    numbers = _numbers(row)
    responses = tuple(key for key in row if isinstance(key, str) and _RESPONSE.fullmatch(key) and has(row, key))
    if len(responses) != 2:
        raise fault("answer", f"the row has {len(responses)} numbered responses, and which of two is better was asked")
    answers = {number: text(row, f"response_{number}") for number in numbers}
    judged = {key: _better(row[key], key, answers) for key in _BETTER if has(row, key)}
    if not judged:
        raise fault("preference", f"no column says which response is better: {', '.join(_BETTER)}")
    if numbers == (1, 2) and set(judged.values()) == {None} and judged.keys() <= _LEFT_OUT:
        return []
    for key, number in judged.items():
        if number is None:
            raise fault("preference", f"{key!r} must be {numbers[0]} or {numbers[1]}, got {shown(row[key])}")
    found = set(judged.values())
    if len(found) > 1:
        raise fault("preference", f"{' and '.join(map(repr, judged))} prefer different responses; keep one")
    (number,) = found
    safer = row.get("safer_response_id") if judged.keys() == {"more_helpful_response_id"} else None
    if safer is not None and _better(safer, "safer_response_id", answers) != number:
        raise fault(
            "preference",
            "the more helpful response is not the safer one: name the number that you mean 'better_response_id'",
        )
    question = "question" if has(row, "question") else "prompt"
    other = sum(numbers) - (number or 0)
    return [_pair(row, options, question, (answers[number or 0], answers[other]), *judged, *responses)]


def _better(value: Any, key: str, answers: dict[int, str]) -> int | None:
    """The number of the better response; None for a whole number that is no response's.

    Raises:
        RowError: anything else.
    """
    if isinstance(value, str):
        said = [number for number, answer in answers.items() if answer == value]
        if said and value not in map(str, answers):
            return said[0]
        if said and int(value) not in said:
            raise fault("preference", f"{key!r} is {value!r}, the text of one response and the number of the other")
        value = value.strip().removeprefix("response_")
        value = int(value) if value.isdecimal() and value.isascii() and len(value) < 4 else value
    if isinstance(value, float) and value.is_integer():  # a column of numbers with empty places becomes one of floats
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        low, high = answers
        raise fault("preference", f"{key!r} must be {low} or {high}, got {shown(value)}")
    return value if value in answers else None


def _numbers(row: Row) -> tuple[int, int]:
    return (0, 1) if has(row, "response_0") else (1, 2)


def _asks(row: Row) -> bool:
    return is_text(row, "question") or is_text(row, "prompt")


def _is_two_responses(row: Row) -> bool:
    low, high = _numbers(row)
    return _asks(row) and has_any(row, *_BETTER) and is_text(row, f"response_{low}", f"response_{high}")


_SIDES = (("better_response", "worse_response"), ("better_text", "worse_text"), ("refinement", "response"))
_ANSWER_IMAGES = ("better_img", "worse_img", "better_image", "worse_image")


def _better_worse(row: Row, options: FormatOptions) -> list[dict[str, Any]]:
    better, worse = _sides(row) or _SIDES[0]
    for key in _ANSWER_IMAGES:
        if not is_empty(row.get(key)):
            raise fault("unread_images", f"column {key!r} is an image as an answer; answers are text only")
    question = "input_text" if has(row, "input_text") else "question" if has(row, "question") else "prompt"
    if has(row, "input_image"):
        if has_any(row, "image", "images"):
            raise fault("images", "the row has 'input_image' and another column of images")
        row = {**{key: value for key, value in row.items() if key != "input_image"}, "images": row["input_image"]}
    return [_pair(row, options, question, (text(row, better), text(row, worse)), better, worse)]


def _sides(row: Row) -> tuple[str, str] | None:
    return next((sides for sides in _SIDES if is_text(row, *sides)), None)


def _is_better_worse(row: Row) -> bool:
    asked = _asks(row) or is_text(row, "input_text")
    return asked and _sides(row) is not None and not has_any(row, "chosen", "rejected", "rejected_response")


ALIGN_ANYTHING = (
    Format(
        name="two_responses",
        title="align-anything and PKU-SafeRLHF: two numbered responses and the number of the better one",
        signature="prompt or question, response_0 and _1 (or _1 and _2), better_response(_id), overall_response or "
        "more_helpful_response_id",
        key=None,
        matches=_is_two_responses,
        to_canonical=_two_responses,
    ),
    Format(
        name="better_worse",
        title="align-anything: the better and the worse text, or a refinement and what it refines",
        signature="prompt, question or input_text, and better_response and worse_response, better_text and worse_text, "
        "or refinement and response; image or input_image",
        key=None,
        matches=_is_better_worse,
        to_canonical=_better_worse,
    ),
)
