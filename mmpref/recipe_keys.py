"""The keys of the recipe: which there are, and what is wrong with a given one, by its dotted name."""

from __future__ import annotations

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
    message = problem["msg"][0].lower() + problem["msg"][1:]
    hint = " (write null for no value)" if got in ("None", "none", "NULL") else ""
    wants_bool = "boolean" in message
    hint = hint or (" (write true or false)" if wants_bool else "")
    return f"'{dotted}': {message}, got {got!r}{hint}"


def known_keys(top: type[BaseModel], sections: Sequence[Any]) -> list[str]:
    """The keys of the section at a dotted place below ``top``."""
    model = top
    for name in sections:
        if isinstance(name, int):  # a place in a list
            continue
        nested = section_in(model.model_fields[str(name)].annotation)
        if nested is None:
            return []
        model = nested
    return list(model.model_fields)


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a key takes, alone, in a list or beside other types."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := section_in(part))), None)
