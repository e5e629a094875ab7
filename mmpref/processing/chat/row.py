"""One conversation to be written by a chat template, the ways to give it to one, and the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmpref.processing.chat.template import ChatTemplate
from mmpref.records import Message, Part

PROBE = "Qz7vXk3"
"""A word that no conversation has, to see what a template writes around it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt, the answers that continue it, and what its template reads beside them."""

    row_id: str
    messages: tuple[Message, ...]
    answers: tuple[str, ...]
    prefix: str
    kwargs: Mapping[str, Any]

    def texts(self) -> list[tuple[str, str]]:
        """(role, text) of everything that is said before the answer."""
        return [(message.role, part.text) for message in self.messages for part in message.parts if part.text.strip()]


@dataclass(frozen=True, slots=True)
class Way:
    """One way to give a conversation to the template."""

    as_parts: bool  # messages as lists of parts; else as strings where they have no image or video
    thought_key: str = ""  # key of the message that takes an answer's reasoning; "" leaves it in the content
    switch: tuple[tuple[str, bool], ...] = ()
    image: str = ""  # what stands for an image in a string, for templates that take nothing else (Phi-4-multimodal)

    def describe(self) -> str:
        """The switch as a user writes it."""
        return ", ".join(f"{name}: {str(value).lower()}" for name, value in self.switch)

    def content(self, text: str) -> Any:
        """The content of a message of text alone."""
        return [{"type": "text", "text": text}] if self.as_parts else text

    def conversation(self, template: ChatTemplate, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Messages as the template takes them, marked."""
        found = []
        for message in messages:
            content: Any
            if self.image:
                content = "".join(
                    self.image if part.kind == "image" else template.mark(part.text) for part in message.parts
                )
            elif self.as_parts or message.num_images or message.num_videos:
                content = [_as_part(part, template.mark(part.text)) for part in message.parts]
            else:
                content = template.mark(message.text)
            found.append({"role": message.role, "content": content})
        return found


@dataclass(frozen=True, slots=True)
class Written:
    """A row as the template writes it: text, users' control tokens marked."""

    prompt: str
    prefix: str
    answers: tuple[tuple[str, str], ...]  # (answer, end of turn); no end where the template writes none


class UnfitWayError(Exception):
    """Why one way does not do, with the answer as given and as written where the two differ."""

    def __init__(self, reason: str, given: str = "", written: str = "", advice: str = "") -> None:
        super().__init__(reason)
        self.given, self.written, self.advice = given, written, advice


def _as_part(part: Part, text: str) -> dict[str, str]:
    return {"type": "text", "text": text} if part.kind == "text" else {"type": part.kind}


def shortened(text: str, width: int = 60) -> str:
    """The beginning of a text, for a message."""
    return text if len(text) <= width else f"{text[:width]}…"
