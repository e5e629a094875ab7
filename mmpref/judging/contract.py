"""What a judge is asked: one question, its sections, and the form of the reply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Value: TypeAlias = int | str | bool | list[str]


Sections: TypeAlias = tuple[tuple[str, str], ...]
"""Title and text of each part of what is judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeTask:
    """One question to the judge.

    Args:
        name: what it is called in the cache.
        version: raised whenever ``instruction`` changes, so that older replies are not taken for it.
        field: name of the value in the reply and in the verdict.
        instruction: what the judge is to do.
        schema: the value as JSON schema.
        read: checks the value of a reply; ValueError says what is wrong with it.
        sections: title and text of what is judged, from the question and the answer (two of them for ``same``).
        needs_no_judge: the value of an answer that the rules decide themselves, else None.
    """

    name: str
    version: int
    field: str
    instruction: str
    schema: Mapping[str, Any]
    read: Callable[[object], Value]
    sections: Callable[..., Sections]
    needs_no_judge: Callable[[str], Value | None] = lambda answer: None
