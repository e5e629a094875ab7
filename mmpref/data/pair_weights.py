"""What a row says to the loss beside its texts: the pair's weight, those of its answers' tokens, and a label.

Each is read strictly. ``chosen_weight`` and ``rejected_weight`` say what the tokens of an answer count: one number for
all of them, or a list of spans of characters, ``{"start", "end", "weight"}`` or ``[start, end, weight]``; tokens
outside all spans count 1. A ``label`` says of a single answer whether it is desirable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from mmpref.data.row_values import row_fault, shown_value
from mmpref.records import AnswerWeight, WeightSpan

_SPAN_KEYS = ("start", "end", "weight")
_LABELS = {"true": True, "false": False, "1": True, "0": False}


def read_weight(row: Mapping[str, Any]) -> float:
    """What the pair's whole loss is multiplied with: a finite number, at least 0; 1 where nothing is said.

    Raises:
        RowError: ``weight``, for anything else.
    """
    value = row.get("weight")
    return 1.0 if value is None else _number(value, "weight", "weight")


def read_answer_weight(row: Mapping[str, Any], key: str, answer: str) -> AnswerWeight | None:
    """What the tokens of an answer count: a number, or spans in their order; None where nothing is said.

    Args:
        row: the canonical row.
        key: ``chosen_weight`` or ``rejected_weight``.
        answer: the text whose characters the spans count, from 0.

    Raises:
        RowError: ``answer_weight``: no finite number of at least 0, a span outside the text, spans that overlap, or
            nothing that counts.
    """
    value = row.get(key)
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        found = _number(value, key, "answer_weight")
        if not found:
            raise _nothing_counts(key)
        return found
    spans = sorted(_span(item, f"{key}[{place}]", answer) for place, item in enumerate(value))
    for one, two in pairwise(spans):
        if two.start < one.end:
            raise row_fault(
                "answer_weight",
                f"spans of {key!r} overlap: {one.start} to {one.end} and {two.start} to {two.end}; 'end' is the first "
                "character behind a span",
            )
    if spans and not _leaves_something(spans, answer):
        raise _nothing_counts(key)
    return tuple(spans) or None


def read_label(value: Any) -> bool | None:
    """Whether a single answer is desirable: a truth value, also as 0 and 1 or as text; None where nothing is said.

    Raises:
        RowError: ``label``, for anything else.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    found = _LABELS.get(value.strip().lower()) if isinstance(value, str) else None
    if found is None:
        raise row_fault(
            "label",
            f"'label' must be true (the answer is desirable) or false, also as 1 and 0, got {shown_value(value)}",
        )
    return found


def _span(item: Any, name: str, answer: str) -> WeightSpan:
    if isinstance(item, Mapping) and set(item) == set(_SPAN_KEYS):
        item = [item[key] for key in _SPAN_KEYS]
    if not isinstance(item, Sequence) or isinstance(item, str | bytes) or len(item) != len(_SPAN_KEYS):
        raise row_fault(
            "answer_weight",
            f'{name} must be {{"start": ..., "end": ..., "weight": ...}} or [start, end, weight], got '
            f"{shown_value(item)}",
        )
    start, end = (_place(value, f"{name}, {key!r},") for key, value in zip(_SPAN_KEYS, item[:2], strict=False))
    if not 0 <= start < end <= len(answer):
        raise row_fault(
            "answer_weight",
            f"{name} goes from character {start} to {end}, and the answer has {len(answer)}: a span begins at 0 or "
            "later, has a character, and ends where the answer does or before",
        )
    return WeightSpan(start, end, _number(item[2], f"{name}, 'weight',", "answer_weight"))


def _place(value: Any, name: str) -> int:
    is_whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    if not is_whole or abs(value) > 2**53:
        raise row_fault(
            "answer_weight", f"{name} must be a whole number, the place of a character, got {shown_value(value)}"
        )
    return int(value)


def _number(value: Any, name: str, reason: str) -> float:
    try:
        found = math.nan if isinstance(value, bool) or not isinstance(value, int | float) else float(value)
    except OverflowError:
        found = math.inf
    if not (math.isfinite(found) and found >= 0):
        raise row_fault(reason, f"{name!r} must be a finite number, at least 0, got {shown_value(value)}")
    return found + 0.0  # no minus before a zero


def _leaves_something(spans: Sequence[WeightSpan], answer: str) -> bool:
    """Whether a character that can be seen counts."""
    if any(span.weight for span in spans):
        return True
    ends = [0, *(span.end for span in spans)]
    starts = [*(span.start for span in spans), len(answer)]
    return any(answer[end:start].strip() for end, start in zip(ends, starts, strict=True))


def _nothing_counts(key: str) -> Exception:
    return row_fault(
        "answer_weight",
        f"{key!r} leaves no token that counts: give one of them a weight above 0, drop the field, or leave the row out",
    )
