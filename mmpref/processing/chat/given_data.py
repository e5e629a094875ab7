"""What a template reads beside the conversation and should write into the prompt: tools and documents."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmpref.processing.chat.renderer import TemplateError
from mmpref.processing.chat.template import ChatTemplate


@dataclass(frozen=True, slots=True)
class Lost:
    """Data that a prompt does not hold."""

    name: str
    word: str  # the first that is missing; "" where nothing of it is written

    def __str__(self) -> str:
        word = self.word if len(self.word) <= 60 else f"{self.word[:60]}…"
        return f"'{self.name}' ({word!r})" if word else f"'{self.name}'"

    @property
    def advice(self) -> str:
        """What to do about it, as the end of a sentence."""
        return (
            f"leave '{self.name}' out where they are not to be read, or put a chat_template.jinja that writes them "
            "into the model's folder"
        )


def lost_where_asked(
    template: ChatTemplate, conversation: Sequence[Mapping[str, Any]], kwargs: Mapping[str, Any], asked: str
) -> Lost | None:
    """What a template reads and does not write into ``asked``: it may mention tools and write them elsewhere only."""
    for name, given in data_in({**template.kwargs, **kwargs}):
        bare = _without(name, template, conversation, kwargs, ask=True)
        missing = [word for word in names_in(template.mark(given)) if not is_written(word, asked, bare)]
        if bare == asked or missing:
            return Lost(name, template.unmark(missing[0]) if missing else "")
    return None


def lost_once_answered(
    template: ChatTemplate, answered: Sequence[Mapping[str, Any]], kwargs: Mapping[str, Any], probe: str, prompt: str
) -> Lost | None:
    """What was written where the template asks, and is not in the prompt before a finished answer.

    Args:
        answered: the conversation with ``probe`` as its answer.
    """
    for name, given in data_in({**template.kwargs, **kwargs}):
        bare = _without(name, template, answered, kwargs, ask=False).partition(probe)[0]
        for word in words_in(template.mark(given)):
            if not is_written(word, prompt, bare):
                return Lost(name, template.unmark(word))
    return None


def _without(
    name: str,
    template: ChatTemplate,
    conversation: Sequence[Mapping[str, Any]],
    kwargs: Mapping[str, Any],
    *,
    ask: bool,
) -> str:
    try:
        return template.render(conversation, kwargs, ask=ask, without=name)
    except TemplateError:  # it asks for them: then they are read
        return ""


def data_in(kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(name, value) of the lists and mappings among a template's variables that the model is to read; switches such as
    ``enable_thinking`` are none."""
    for name, value in kwargs.items():
        if ("tools" in name or name == "documents") and isinstance(value, list | tuple | Mapping) and value:
            yield name, value


def names_in(value: Any) -> Iterator[str]:
    """The names of functions that are given as JSON schemas, alone or under ``function``."""
    if not isinstance(value, list | tuple):
        return
    for tool in value:
        inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
        name = inner.get("name") if isinstance(inner, Mapping) else None
        if isinstance(name, str) and name.strip():
            yield name


def words_in(value: Any) -> list[str]:
    """What to look for in a prompt that holds it: names of functions, or else the longest text."""
    return list(names_in(value)) or [max(_strings_in(value), key=len, default="")]


def is_written(word: str, prompt: str, bare: str) -> bool:
    """Whether a prompt says a word more often than the same one without this data; JSON may escape its letters."""
    return any(prompt.count(form) > bare.count(form) for form in {word, json.dumps(word)[1:-1]})


def _strings_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings_in(inner)
