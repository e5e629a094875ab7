"""What a judge is asked: one question, its sections, and the form of the reply."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from mmpref.records import ImageRef

Value: TypeAlias = int | float | str | bool | list[str]


Sections: TypeAlias = tuple[tuple[str, str], ...]
"""Title and text of each part of what is judged."""


class OutOfScaleError(ValueError):
    """A number that is not on the scale that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownImage:
    """An image that a judge is shown.

    Args:
        ref: where it is.
        digest: of its file, so that a case is known by what the image shows and not by its path.
        tokens: about how many a judge counts it for (``cost.image_tokens``).
    """

    ref: ImageRef
    digest: str
    tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeTask:
    """One question to the judge.

    Args:
        name: what it is called in the cache.
        version: raised whenever ``instruction`` changes, so that older replies are not taken for it.
        field: name of the value in the reply and in the verdict.
        instruction: what the judge is to do.
        schema: the value as JSON schema.
        read: checks the value of a reply; ValueError says what is wrong with it, ``OutOfScaleError`` of a number that
            is not on the scale.
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
