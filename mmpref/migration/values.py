"""Values of another tool's file or command line as what their keys take."""

from __future__ import annotations

import json
import math
from enum import StrEnum
from typing import Any, Final

from mmpref.errors import ConfigError
from mmpref.yaml_text import short


class Kind(StrEnum):
    """What a value is read as."""

    TEXT = "text"
    NUMBER = "a number"
    WHOLE = "a whole number"
    FLAG = "true or false"
    TEXTS = "text or a list of texts"
    NUMBERS = "a number or a list of numbers"
    MAPPING = "a mapping"
    ANY = "anything"


_YES = {"true", "yes", "on", "1"}
_NO = {"false", "no", "off", "0"}
_NONE = {"none", "null", "~", ""}


def convert(value: Any, kind: Kind, where: str) -> Any:
    """A value of a file or a command line as what its key takes; null, and the text ``None``, are None.

    Raises:
        ConfigError: it is something else.
    """
    if value is None or (isinstance(value, str) and value.strip().lower() in _NONE and kind is not Kind.TEXTS):
        return None
    if kind is Kind.ANY:
        return value
    try:
        found = _CONVERTERS[kind](value)
    except (ValueError, TypeError, RecursionError):
        shown = short(json.dumps(value, default=str))
        raise ConfigError(f"{where} must be {kind}, got {shown}") from None
    return found


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError
    return str(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise TypeError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _whole(value: Any) -> int:
    number = _number(value)
    if number != int(number):
        raise ValueError
    return int(number)


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower() if isinstance(value, str | int) else ""
    if text not in _YES | _NO:
        raise ValueError
    return text in _YES


def _texts(value: Any) -> list[str]:
    parts = value if isinstance(value, list | tuple) else str(_text(value)).split(",")
    return [text for part in parts if (text := _text(part).strip())]


def _numbers(value: Any) -> list[float]:
    if isinstance(value, str):
        value = value.strip("[]").replace(",", " ").split()
    return [_number(part) for part in (value if isinstance(value, list | tuple) else [value])]


def _mapping(value: Any) -> dict[str, Any]:
    found = json.loads(value) if isinstance(value, str) else value
    if not isinstance(found, dict):
        raise TypeError
    return {str(key): part for key, part in found.items()}


_CONVERTERS: Final = {
    Kind.TEXT: _text,
    Kind.NUMBER: _number,
    Kind.WHOLE: _whole,
    Kind.FLAG: _flag,
    Kind.TEXTS: _texts,
    Kind.NUMBERS: _numbers,
    Kind.MAPPING: _mapping,
}
