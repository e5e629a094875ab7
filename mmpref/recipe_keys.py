"""The keys of the recipe: which there are, and what is wrong with a given one, by its dotted name."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel

from mmpref.yaml_text import did_you_mean

_NOT_KEYS = ("list[str]", "float", "int", "section")  # what pydantic adds to the place of a problem


def explain(problem: Mapping[str, Any], top: type[BaseModel]) -> str:
    """One pydantic problem as a sentence with the dotted key, and the nearest known key where one was mistyped."""
    location = [part for part in problem["loc"] if part not in _NOT_KEYS]
    dotted = ".".join(str(part) for part in location)
    kind = problem["type"]
    if kind == "extra_forbidden":
        known = known_keys(top, location[:-1])
        near = did_you_mean(str(location[-1]), known, prefix=location[:-1])
        return f"unknown key '{dotted}'" + (near or f" (known here: {', '.join(known)})")
    if kind == "missing":
        return f"missing key '{dotted}'"
    got = problem.get("input")
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if got is None and (default := _default(top, location)) is not None:
        return f"'{dotted}': null is no value for it; write `{shlex.join([f'{dotted}={json.dumps(default)}'])}`"
    hint = " (write null for no value)" if got in ("None", "none", "NULL") else ""
    wants_bool = "boolean" in message
    hint = hint or (" (write true or false)" if wants_bool else "")
    return f"'{dotted}': {message}, got {got!r}{hint}"


def _default(top: type[BaseModel], location: Sequence[Any]) -> Any:
    """The default of a key; None where it has none that can be written in a line."""
    *sections, last = location
    known = section_at(top, sections)
    found = known.model_fields.get(str(last)) if known is not None else None
    value = None if found is None or found.is_required() else found.get_default(call_default_factory=True)
    return None if isinstance(value, BaseModel) else value


def known_keys(top: type[BaseModel], sections: Sequence[Any]) -> list[str]:
    """The keys of the section at a dotted place below ``top``."""
    found = section_at(top, sections)
    return [] if found is None else list(found.model_fields)


def section_at(top: type[BaseModel], sections: Sequence[Any]) -> type[BaseModel] | None:
    """The section at a dotted place below ``top``; None where there is a value, or nothing."""
    model: type[BaseModel] | None = top
    for name in sections:
        if isinstance(name, int):  # a place in a list
            continue
        if model is None or str(name) not in model.model_fields:
            return None
        model = section_in(model.model_fields[str(name)].annotation)
    return model


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a key takes, alone, in a list or beside other types."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := section_in(part))), None)
