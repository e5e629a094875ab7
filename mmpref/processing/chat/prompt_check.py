"""Whether a prompt that a chat template wrote has every message as it was given."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from mmpref.processing.chat.prompt_frame import PromptFrame, lost_text
from mmpref.processing.chat.renderer import TemplateError
from mmpref.processing.chat.row import PROBE, Row, UnfitWayError, Way, shortened
from mmpref.processing.chat.template import ChatTemplate
from mmpref.processing.chat.thought import thought_of
from mmpref.records import Message

_KEPT_SHAPES = 256


class PromptCheck:
    """Looks for the messages of rows in the prompts of one template."""

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template
        self._frames: dict[tuple[Any, ...], PromptFrame] = {}

    def opening(self, way: Way, row: Row, kwargs: Mapping[str, Any], asked: str) -> str:
        """The end of ``asked`` that the template wrote after the last message.

        Raises:
            UnfitWayError: a message is not there as it was given.
        """
        given = row.texts()
        texts = self._marked_texts(given)
        frame = self._frame(way, row, kwargs)
        if frame.lost is not None:
            raise _left_out(*given[frame.lost])
        opening = frame.opening(texts, asked)
        if opening is None:
            lost, place = lost_text(texts, asked)
            if lost is not None:
                raise _left_out(*given[lost])
            known = frame.pieces[-1] if frame.pieces else ""
            opening = known if known and asked.endswith(known) else asked[place:]
        said = "".join(text for _, text in given)
        kinds = ("text", "image", "video")
        for form in (f"{mark}type{mark}: {mark}{kind}{mark}" for kind in kinds for mark in "'\""):
            if form in asked and form not in said:
                raise UnfitWayError("writes messages as Python prints lists")
        return opening

    def _marked_texts(self, given: Sequence[tuple[str, str]]) -> list[str]:
        """Texts of messages as they should stand in a prompt; past thoughts may be left out."""
        found = []
        for role, text in given:
            thought = thought_of(text) if role == "assistant" else None
            found.append(self.template.mark(text if thought is None else thought.content))
        return found

    def _frame(self, way: Way, row: Row, kwargs: Mapping[str, Any]) -> PromptFrame:
        """What the template writes around messages of these roles and parts; rendered once for all rows like this."""
        given = json.dumps(kwargs, sort_keys=True, default=str) if kwargs else ""
        shape = tuple(
            (
                message.role,
                tuple([part.kind if part.kind != "text" or part.text.strip() else "" for part in message.parts]),
            )
            for message in row.messages
        )
        key = (way, given, shape)
        if key not in self._frames:
            probes: list[str] = []
            messages = []
            for message in row.messages:
                parts = []
                for part in message.parts:
                    if part.kind == "text" and part.text.strip():
                        probes.append(f"{PROBE}m{len(probes)}z")
                        part = dataclasses.replace(part, text=probes[-1])
                    parts.append(part)
                messages.append(Message(message.role, tuple(parts)))
            try:
                asked = self.template.render(way.conversation(self.template, messages), kwargs, ask=True)
                frame = PromptFrame.around(probes, asked)
            except TemplateError:  # it wants to know what is said: then each row is looked at by itself
                frame = PromptFrame(())
            while len(self._frames) >= _KEPT_SHAPES:
                del self._frames[next(iter(self._frames))]
            self._frames[key] = frame
        return self._frames[key]

    def refuse_lost(self, row: Row, asked: str, prompt: str, opening: str) -> None:
        """A prompt that is not where the template asks has the messages as well.

        Raises:
            UnfitWayError: the template leaves one out as soon as an answer follows.
        """
        if prompt.startswith(asked[: len(asked) - len(opening)]):
            return
        given = row.texts()
        lost, _ = lost_text(self._marked_texts(given), prompt)
        if lost is not None:
            raise UnfitWayError(
                f"leaves out the {given[lost][0]} message {shortened(given[lost][1])!r} before an answer"
            )


def _left_out(role: str, text: str) -> UnfitWayError:
    return UnfitWayError(f"leaves out or rewrites the {role} message {shortened(text)!r}")
