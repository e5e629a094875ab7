"""What all sections of a recipe are, and the types of their values: what a key takes beyond its kind, each with the
sentence that refuses the rest."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from mmpref.files.reading import why_no_path

OF_SECTIONS = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=(), allow_inf_nan=False)
"""What every section is: unknown keys are errors, values are not coerced, and nothing changes after reading."""


def _names_something(value: Any) -> Any:
    if isinstance(value, str) and not value.strip():
        raise ValueError("is empty; write . for the working directory")
    if isinstance(value, str | Path) and (why := why_no_path(str(value))):
        raise ValueError(why)
    return value


PathLike = Annotated[Path, Field(strict=False), BeforeValidator(_names_something)]
PathText = Annotated[str, BeforeValidator(_names_something)]


def _finite(value: Any) -> Any:
    """Numbers inside of what another library reads are as finite as all others."""
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    for part in parts:
        _finite(part)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"has {value} in it, and numbers must be finite")
    return value


Settings = Annotated[dict[str, Any], AfterValidator(_finite)]


def _steps_or_none(value: int) -> int:
    if value < 1 and value != -1:
        raise ValueError("must be a number of steps, at least 1, or -1 for as many as the epochs have")
    return value


MaxSteps = Annotated[int, AfterValidator(_steps_or_none)]


def _score_or_quantile(value: Any) -> Any:
    """Refused here in one sentence; left to a union, each of its types would say its own."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if value is None or is_number or (isinstance(value, str) and re.fullmatch(r"median|q(?!00)[0-9]{2}", value)):
        return value
    raise ValueError(
        "must be a finite number on the scale of the scores, or median or a quantile of them from q01 to q99"
    )


ScoreOrQuantile = Annotated[float | str | None, BeforeValidator(_score_or_quantile)]


def _flag_or_auto(value: Any) -> Any:
    if value is None or isinstance(value, bool) or value == "auto":
        return value
    raise ValueError("must be true, false or auto")


FlagOrAuto = Annotated[bool | str | None, BeforeValidator(_flag_or_auto)]


def _number_or_running(value: Any) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if value is None or is_number or value == "running":
        return value
    raise ValueError("must be a finite number, or running")


NumberOrRunning = Annotated[float | str | None, BeforeValidator(_number_or_running)]

FiniteNumber = Annotated[int | float, BeforeValidator(_finite)]

RESEARCH = Field(json_schema_extra={"research_switch": True})
"""Marks a key that only somebody who studies the losses needs (docs/research_switches.md)."""

SWITCH = BeforeValidator(lambda value: {True: {}, False: None}[value] if isinstance(value, bool) else value)
"""Before the type of a section: true is the section with its defaults, false is none."""


def _counted(value: Any) -> Any:
    if isinstance(value, bool):
        return {} if value else None
    return {"count": value} if isinstance(value, int | float) else value


COUNTED = BeforeValidator(_counted)
"""Before the type of a section: as ``SWITCH``, and a number is its ``count``."""
