"""Single values of a canonical row, each read strictly: id, texts, answers, scores, keyword arguments."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from mmpref.data.quarantine import RowError

END_MARKS = (
    "</s>", "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<eos>", "<|end_of_text|>",
    "<|return|>", "<｜end▁of▁sentence｜>",
)  # fmt: skip
"""How models end a turn; an answer of nothing else trains no word."""


def read_id(value: Any) -> str:
    """An id: text, or a whole number as text.

    Raises:
        RowError: ``id``, for anything else.
    """
    if isinstance(value, str) and value.strip():
        return encodable(value, "id")
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63:
        raise row_fault("id", f"'id' must be a non-empty text or a whole number below 2**63, got {shown_value(value)}")
    return str(value)


def local_file(path: str) -> str:
    """The path that a ``file://`` address names; other paths as they are."""
    if not path.startswith("file://"):
        return path
    parts = urlsplit(path)
    return unquote(parts.path if parts.netloc in ("", "localhost") else f"{parts.netloc}{parts.path}")


def read_answer(row: Mapping[str, Any], key: str) -> str:
    """An answer, which must say something.

    Raises:
        RowError: ``answer`` or ``empty_response``.
    """
    value = row.get(key)
    if not isinstance(value, str):
        raise row_fault("answer", f"{key!r} must be text, got {shown_value(value)}")
    if _says_nothing(value):
        raise row_fault("empty_response", f"{key!r} is empty")
    return encodable(value, key)


def _says_nothing(text: str) -> bool:
    """Blanks, characters that nobody sees, and ends of turns only."""
    left = text.strip()
    if left[:1].isalnum():
        return False
    while mark := next((mark for mark in END_MARKS if left.endswith(mark)), None):
        left = left.removesuffix(mark).strip()
    return all(char.isspace() or unicodedata.category(char) in ("Cf", "Cc") for char in left)


def read_score(row: Mapping[str, Any], key: str) -> float | None:
    """A finite number; None where there is none.

    Raises:
        RowError: ``score``, for anything else.
    """
    value = row.get(key)
    if value is None:
        return None
    if type(value) is float and math.isfinite(value):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise row_fault("score", f"{key!r} must be a number, got {shown_value(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise row_fault("score", f"{key!r} must be finite, got {shown_value(value)}")
    return number


def read_text(row: Mapping[str, Any], key: str) -> str:
    """A text; empty where there is none.

    Raises:
        RowError: with the key as its reason, for anything else.
    """
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise row_fault(key, f"{key!r} must be text, got {shown_value(value)}")
    return encodable(value, key)


def read_template_kwargs(value: Any) -> dict[str, Any] | None:
    """What the row gives the chat template: a mapping of JSON values, or one written as JSON text."""
    if value is None:
        return None
    try:
        found = without_filled(json.loads(value) if isinstance(value, str) else value)
        written = json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise row_fault("template_kwargs", f"'template_kwargs' must hold JSON values: {error}") from error
    if not isinstance(found, dict):
        raise row_fault("template_kwargs", f"'template_kwargs' must be a mapping, got {shown_value(value)}")
    return json.loads(written) or None


def without_filled(value: Any) -> Any:
    """A value without the keys that a parquet reader filled with None, at any depth."""
    if isinstance(value, Mapping):
        return {str(key): without_filled(item) for key, item in value.items() if item is not None}
    return [without_filled(item) for item in value] if isinstance(value, list | tuple) else value


def encodable(text: str, name: str) -> str:
    """The text itself, proved to be encodable: JSON can spell half a character, which no tokenizer takes."""
    if text.isascii():  # nearly always, and a hundred times faster than to encode it
        return text
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise row_fault(
            "text_encoding", f"{name!r} has half a surrogate pair at character {error.start + 1}"
        ) from error
    return text


def says_the_same(one: str, two: str) -> bool:
    """Whether two texts are one, blanks around them and ways to write an accent aside."""
    if one.isascii() and two.isascii():
        return one == two or one.strip() == two.strip()
    return _folded(one) == _folded(two)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def shown_value(value: Any) -> str:
    """A value for a message: its type and its beginning."""
    kind = type(value).__name__
    if isinstance(value, bool | int | float) or value is None:
        try:
            return f"{kind} {value!r}"[:80]
        except ValueError:  # a whole number too long to print
            return f"a huge {kind}"
    return f"{kind} {str(value)[:60]!r}"


def row_fault(reason: str, detail: str) -> RowError:
    """A row that cannot be used, with a reason that can be counted."""
    return RowError(detail, reason=reason)
