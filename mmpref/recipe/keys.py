"""The keys of the recipe: which there are, and what is wrong with a given one, by its dotted name."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel

from mmpref.yaml_text import did_you_mean, short

_NOT_KEYS = ("list[str]", "float", "int", "section")  # what pydantic adds to the place of a problem


def explain(problem: Mapping[str, Any], top: type[BaseModel]) -> str:
    """One pydantic problem as a sentence with the dotted key, and the nearest known key where one was mistyped."""
    location = [part for part in problem["loc"] if part not in _NOT_KEYS]
    dotted = short(".".join(str(part) for part in location))
    kind = problem["type"]
    if kind == "extra_forbidden":
        known = known_keys(top, location[:-1])
        near = _deeper(top, location) or did_you_mean(str(location[-1]), known, prefix=location[:-1])
        return f"unknown key '{dotted}'" + (near or f" (known here: {', '.join(known)})")
    if kind == "missing":
        return f"missing key '{dotted}'"
    got = problem.get("input")
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if got is None and (default := _default(top, location)) is not None:
        return f"'{dotted}': null is no value for it; write `{shlex.join([f'{dotted}={json.dumps(default)}'])}`"
    if got is None and section_at(top, location) is not None:
        empty = "" if _is_required(top, location) else f"; or write `{shlex.join([f'{dotted}={{}}'])}` for its defaults"
        return f"'{dotted}': null is no value for a section; leave `{dotted}` out{empty}"
    section = section_at(top, location)
    if kind == "model_type" and section is not None:
        keys = ", ".join(section.model_fields)
        return f"'{dotted}' is a section with keys of its own ({keys}), got {short(repr(got))}"
    hint = " (write null for no value)" if got in ("None", "none", "NULL") else ""
    wants_bool = "boolean" in message
    hint = hint or (" (write true or false)" if wants_bool else "")
    if kind == "list_type" and not hint and isinstance(got, str | int | float) and len(location) > 1:
        default = _default(top, location)
        one = got if isinstance(got, str) and re.fullmatch(r"[A-Za-z_][\w.-]*", got) else json.dumps(got)
        one = f"[{one}]"
        if isinstance(default, list) and len(default) > 1:  # one number is no range
            one = json.dumps(default)
        hint = f"; write `{shlex.join([f'{dotted}={one}'])}`"
    return f"'{dotted}': {message}, got {short(repr(got))}{hint}"


def _deeper(top: type[BaseModel], location: Sequence[Any]) -> str:
    """A question with the key of this very name that stands in a section within this one; empty unless it is one."""
    *sections, last = location
    section = section_at(top, sections)
    names = [] if section is None else [key.name for key in described(section)]
    same = [name for name in names if name.rpartition(".")[2] == str(last) and "[" not in name and ".NAME" not in name]
    return f", did you mean '{'.'.join([*map(str, sections), same[0]])}'?" if len(same) == 1 else ""


def _is_required(top: type[BaseModel], location: Sequence[Any]) -> bool:
    *sections, last = location
    known = section_at(top, sections)
    return known is not None and str(last) in known.model_fields and known.model_fields[str(last)].is_required()


def _default(top: type[BaseModel], location: Sequence[Any]) -> Any:
    """The default of a key; None where it has none that can be written in a line."""
    *sections, last = location
    known = section_at(top, sections)
    found = known.model_fields.get(str(last)) if known is not None else None
    value = None if found is None or found.is_required() else found.get_default(call_default_factory=True)
    return None if isinstance(value, BaseModel) else value


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a recipe, for a person to read."""

    name: str
    """Dotted; ``[]`` means a place in a list, ``NAME`` a name that the recipe gives."""
    takes: str
    default: str
    meaning: str
    research: bool = False
    """Only for somebody who studies the losses."""


def described(top: type[BaseModel], at: str = "") -> list[Key]:
    """Every key below a section, sections within it included, in the order of the file.

    Args:
        top: the section; the texts under its fields say what they mean.
        at: its dotted place, which begins every name.
    """
    meanings, found = _meanings(top), []
    for name, field in top.model_fields.items():
        dotted, inner = f"{at}{name}", section_in(field.annotation)
        alone = isinstance(field.annotation, type)
        if not (inner and alone):
            default = "required" if field.is_required() else _in_yaml(field.get_default(call_default_factory=True))
            extra = field.json_schema_extra
            research = isinstance(extra, dict) and bool(extra.get("research_switch"))
            found.append(Key(dotted, _words(field.annotation), default, meanings.get(name, ""), research))
        if inner:
            place = ".NAME" if _is_mapping(field.annotation) else "[]" if "list" in str(field.annotation) else ""
            found += described(inner, f"{dotted}{place}.")
    return found


def _meanings(section: type[BaseModel]) -> dict[str, str]:
    """The text under each field, which Python itself does not keep."""
    body = ast.parse(textwrap.dedent(inspect.getsource(section))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in itertools.pairwise(body.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


_NAMES = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path", type(None): "null"}


def _words(annotation: Any) -> str:
    """A type as the values that may be written."""
    if annotation in _NAMES:
        return _NAMES[annotation]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(parts[0])
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if origin is list:
        return f"list of {_words(parts[0])}"
    if origin is dict or annotation is dict:
        return "mapping"
    if parts:
        return " | ".join(dict.fromkeys(_words(part) for part in parts))
    return "mapping" if isinstance(annotation, type) and issubclass(annotation, BaseModel) else "anything"


def _in_yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def known_keys(top: type[BaseModel], sections: Sequence[Any]) -> list[str]:
    """The keys of the section at a dotted place below ``top``."""
    found = section_at(top, sections)
    return [] if found is None else list(found.model_fields)


def section_at(top: type[BaseModel], sections: Sequence[Any]) -> type[BaseModel] | None:
    """The section at a dotted place below ``top``; None where there is a value, or nothing."""
    model: type[BaseModel] | None = top
    named = False
    for name in sections:
        if isinstance(name, int) or named:  # a place in a list, or a name in a mapping of sections
            named = False
            continue
        if model is None or str(name) not in model.model_fields:
            return None
        annotation = model.model_fields[str(name)].annotation
        model, named = section_in(annotation), _is_mapping(annotation)
    return model


def _is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is dict


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a key takes, alone, in a list or beside other types."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := section_in(part))), None)
