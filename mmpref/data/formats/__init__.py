"""Foreign rows in, canonical rows out, and back again for the suites that people train with.

A format is known by the keys and shapes of its rows, or named. Nothing is guessed: a row that fits no format, or two,
is an error that names them.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from mmpref.data.formats.align_anything import ALIGN_ANYTHING
from mmpref.data.formats.columns import standard
from mmpref.data.formats.comparison_sets import COMPARISON_SETS
from mmpref.data.formats.contract import Format, FormatOptions, Row
from mmpref.data.formats.fields import fault
from mmpref.data.formats.frameworks import SUITES
from mmpref.data.formats.labelled import LABELLED
from mmpref.data.formats.more_frameworks import MORE_SUITES
from mmpref.data.formats.paper_sets import PAPER_SETS
from mmpref.data.formats.plain_pairs import PLAIN_PAIRS
from mmpref.data.formats.question_sets import QUESTION_SETS
from mmpref.data.formats.scored_sets import SCORED_SETS
from mmpref.data.formats.swift import SWIFT
from mmpref.errors import ConfigError, DataError

__all__ = [
    "FORMATS",
    "NAMES",
    "Format",
    "FormatOptions",
    "detect",
    "fitting",
    "format_named",
    "read_row",
    "rows_of_mapping",
    "to_canonical",
]

_ALL = (
    *SUITES,
    *SWIFT,
    *MORE_SUITES,
    *QUESTION_SETS,
    *COMPARISON_SETS,
    *SCORED_SETS,
    *PAPER_SETS,
    *ALIGN_ANYTHING,
    *PLAIN_PAIRS,
    *LABELLED,
)

FORMATS: Mapping[str, Format] = MappingProxyType({found.name: found for found in _ALL})

UNKNOWN_FORMAT = "unknown_format"
"""The reason of a row that fits no format, or more than one."""

NAMES: Mapping[str, str] = MappingProxyType(
    {
        "trl_conversational": "trl",
        "llamafactory": "llamafactory_sharegpt",
        "mmpr": "internvl",
        "tpo": "rlaif_v",
        "uni_dpo_multimodal": "llamafactory_alpaca",
        "uni_dpo_textual": "ultrafeedback",
        "ultrafeedback_binarized": "ultrafeedback",
        "ultrafeedback_armorm": "ultrafeedback_all_scores",
    }
)
"""Further names: the data sets that use a format which is called otherwise."""


def format_named(name: str) -> Format:
    """The format of that name.

    Raises:
        ConfigError: no such format, with the nearest known name.
    """
    found = FORMATS.get(NAMES.get(name, name))
    if found is None:
        near = difflib.get_close_matches(name, [*FORMATS, *NAMES], n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"unknown format {name!r}{hint} (known: {', '.join(FORMATS)})")
    return found


def detect(row: Row) -> Format:
    """The one format whose signature the row fits.

    Raises:
        RowError: no format fits, or more than one does.
    """
    return _detect(standard(row, check=False))


@functools.lru_cache(maxsize=1024)
def _candidates(keys: tuple[object, ...]) -> tuple[Format, ...]:
    """The formats that rows with these keys may have; asked for once for all rows with the same columns."""
    return tuple(candidate for candidate in FORMATS.values() if candidate.key is None or candidate.key in keys)


def fitting(row: Row) -> list[Format]:
    """The formats whose signature the row fits; none for a row without preferences."""
    return _fitting(standard(row, check=False))


def _fitting(row: Row) -> list[Format]:
    return [
        candidate
        for candidate in _candidates(tuple(row))
        if (candidate.key is None or row[candidate.key] is not None) and candidate.matches(row)
    ]


def _detect(row: Row) -> Format:
    found = _fitting(row)
    if len(found) == 1:
        return found[0]
    keys = ", ".join(sorted(str(key)[:40] for key, value in row.items() if value is not None)[:20]) or "none"
    names = ", ".join(candidate.name for candidate in found or FORMATS.values())
    what = "fits more than one format" if found else "fits no known format"
    empty = [] if found else sorted(str(key)[:40] for key, value in row.items() if value is None)[:5]
    keys += f" (and nothing under {', '.join(empty)})" if empty else ""
    raise fault(UNKNOWN_FORMAT, f"a row with the keys {keys} {what}; name one with format=NAME: {names}")


def to_canonical(
    row: Row, format: str | None = None, options: FormatOptions | None = None, *, place: str | None = None
) -> list[dict[str, Any]]:
    """The canonical rows of one foreign row; ``pair_from_row`` reads and checks them further.

    Args:
        row: the foreign row.
        format: its format; None detects it from the row.
        options: what the row alone does not say.
        place: becomes the id of a row that has none, such as ``file:12``; it is the same as ``options.place``.

    Raises:
        RowError: the row is broken, or its format is not known, with a reason code.
        ConfigError: no format of that name.
    """
    options = FormatOptions() if options is None else options
    if place is not None:
        options = dataclasses.replace(options, place=place)
    return read_row(row, None if format is None else format_named(format), options)[1]


def read_row(row: Row, format: Format | None, options: FormatOptions) -> tuple[Format, list[dict[str, Any]]]:
    """The format of a row, detected where it is None, and the canonical rows.

    Raises:
        RowError: as :func:`to_canonical`.
    """
    given = row
    try:
        row = standard(row)
        found = _detect(row) if format is None else format
        return found, found.to_canonical(row, options)
    except (TypeError, ValueError) as error:  # an array has no truth value, and compares item by item
        arrays = ", ".join(repr(key) for key, value in given.items() if _holds_array(value))
        if not arrays:
            raise
        advice = "give lists and plain numbers (array.tolist()), and images as paths or bytes of files"
        raise fault("array", f"{arrays} cannot be read as an array; {advice}") from error


def _holds_array(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_array, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_array, value))
    return hasattr(value, "__array__")


def rows_of_mapping(document: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a JSON file that is one mapping of image id -> row (HA-DPO's descriptions for LLaVA), from 1.

    Raises:
        DataError: a value that is not a mapping.
    """
    for number, (image_id, row) in enumerate(document.items(), start=1):
        if not isinstance(row, Mapping):
            raise DataError(f"key {image_id!r} holds a {type(row).__name__} and not a row")
        yield number, {"image_id": image_id, **row}
