"""What is read from a row in the same way whatever its format: system prompt, tools, template switches, prefix."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmpref.data.formats.columns import PREFIX, SYSTEM, TEMPLATE, TOOLS, listed, spelt
from mmpref.data.formats.contract import Row
from mmpref.data.formats.fields import PLACEHOLDER, Message, fault, shown
from mmpref.data.formats.media_values import is_empty
from mmpref.data.prompt_rows import HINTS, HINTS_FOUND, TURN_NAMES
from mmpref.data.row_values import without_filled


@dataclass(frozen=True, slots=True)
class Shared:
    """What was found."""

    system: tuple[str, str] | None = None
    """The text and its column."""
    prefix: str = ""
    rejected_images: tuple[Any, str] | None = None
    """The value and its column."""
    template_kwargs: dict[str, Any] | None = None
    other_images: tuple[Any, str] | None = None
    """The value and its column."""
    weights: Mapping[str, Any] = field(default_factory=dict)
    """Weights of the pair and of the tokens of its answers, under our names."""


def take_shared(left: dict[str, Any], *, prefix: str = "") -> Shared:
    """Read the shared columns among those that are left, and take them out.

    Args:
        left: the columns that the format has not read; read ones are removed.
        prefix: the beginning of the answer that the format has read.

    Raises:
        RowError: a column that does not hold what its name says, or two that contradict each other.
    """
    system: tuple[str, str] | None = None
    rejected_images: tuple[Any, str] | None = None
    other_images: tuple[Any, str] | None = None
    kwargs: dict[str, Any] = {}
    weights = _take_weights(left)
    for key, column in listed(tuple(left)):
        value = left[key]
        if column.use != "late" or is_empty(value):
            continue
        if column.kind is SYSTEM:
            if not isinstance(value, str) or (system is not None and system[0] != value):
                what = "must be text" if not isinstance(value, str) else "differs from another system prompt of the row"
                raise fault("system", f"column {key!r} {what}, got {shown(value)}")
            system = (value, key)
        elif column.kind is TOOLS:
            _add(kwargs, {"tools": read_tools(value, key)}, key)
        elif column.kind is TEMPLATE:
            _add(kwargs, read_mapping(value, key), key)
        elif column.kind is PREFIX:
            if not isinstance(value, str) or (prefix and prefix != value):
                raise fault(
                    "response_prefix", f"column {key!r} must be the beginning of the answer, got {shown(value)}"
                )
            prefix = value
        elif spelt(key) in ("rejected_images", "rejected_image"):
            rejected_images = (value, key)
        elif spelt(key) in ("other_images", "other_image"):
            other_images = (value, key)
        else:
            continue
        del left[key]
    return Shared(system, prefix, rejected_images, kwargs or None, other_images, weights)


def _take_weights(left: dict[str, Any]) -> Mapping[str, Any]:
    """The weights among the columns that are left, taken out. A ``weight`` that is no number is that of something
    else."""
    found = {}
    for key in ("weight", "chosen_weight", "rejected_weight"):
        value = left.get(key)
        if value is None or is_empty(value):
            continue
        if key != "weight" or (isinstance(value, int | float) and not isinstance(value, bool)):
            found[key] = left.pop(key)
    return found


def _add(kwargs: dict[str, Any], more: Mapping[str, Any], key: str) -> None:
    for name, value in more.items():
        if name in kwargs and kwargs[name] != value:
            raise fault("template_kwargs", f"column {key!r} gives {name!r} another value than another column")
        kwargs[name] = value


def read_tools(value: Any, key: str) -> list[Any]:
    """Tools as a list of mappings; LLaMA-Factory and ms-swift write the list as JSON text.

    Raises:
        RowError: ``tools``, for anything else.
    """
    found = _json(value, key, "tools") if isinstance(value, str) else value
    if not isinstance(found, list | tuple) or not found or not all(isinstance(item, Mapping) for item in found):
        raise fault("tools", f"column {key!r} must be a list of JSON schemas of functions, got {shown(found)}")
    return [without_filled(item) for item in found]


def read_mapping(value: Any, key: str) -> dict[str, Any]:
    """Keyword arguments of the chat template: a mapping, or one written as JSON text.

    Raises:
        RowError: ``template_kwargs``, for anything else.
    """
    found = _json(value, key, "template_kwargs") if isinstance(value, str) else value
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise fault("template_kwargs", f"column {key!r} must be a mapping, got {shown(found)}")
    kwargs = {name: without_filled(item) for name, item in found.items() if item is not None}
    if (tools := kwargs.pop("tools", None)) is not None and not is_empty(tools):
        kwargs["tools"] = read_tools(tools, f"{key}.tools")
    return kwargs


def _json(value: str, key: str, reason: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise fault(reason, f"column {key!r} is text and not JSON: {error}") from error


def with_system(prompt: Sequence[Message], system: tuple[str, str] | None) -> list[Message]:
    """The prompt with the system prompt of a column before it.

    Raises:
        RowError: the prompt has another system turn already, or the text holds an image's place.
    """
    if system is None:
        return list(prompt)
    said, column = system
    if PLACEHOLDER in said:
        raise fault("image_place", f"column {column!r} holds {PLACEHOLDER}; images belong in user turns")
    parts = [{"type": "text", "text": said}]
    if prompt and isinstance(prompt[0], Mapping) and prompt[0].get("role") == "system":
        if prompt[0].get("content") not in (said, parts):
            raise fault("system", f"the row has a system turn, and column {column!r} says another text")
        return list(prompt)
    return [{"role": "system", "content": parts}, *prompt]


def asides_of(row: Row, used: Iterable[str]) -> dict[str, Any]:
    """Names in turns and sizes in image parts of the columns that were read, for ``meta``."""
    names: list[str] = []
    hints: list[dict[str, Any]] = []
    for key in used:
        value = row.get(key)
        if type(value) is str or not isinstance(value, list | tuple):
            continue
        for item in value:
            if type(item) is not dict and not isinstance(item, Mapping):
                break
            content = item.get("content")
            if len(item) == 2 and type(content) is str:
                continue  # nearly all of them
            if len(item) > 2 and isinstance(item.get("name"), str):
                names.append(item["name"])
            if type(content) is not str and isinstance(content, list | tuple):
                hints += [found for part in content if len(part) > 1 and (found := hints_of(part))]
    if not names and not hints:
        return {}
    return {**({TURN_NAMES: names} if names else {}), **({HINTS_FOUND: hints} if hints else {})}


def hints_of(part: Any) -> dict[str, Any]:
    """The sizes that an image or video part asks for, and how many frames; the recipe says both."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    hints = HINTS.get(kind.removesuffix("_url"), ()) if isinstance(kind, str) else ()
    return {key: part[key] for key in hints if part.get(key) is not None}
