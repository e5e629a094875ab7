"""What a person should know of how a chat template writes the rows: each kind of finding once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mmpref.processing.chat.answer_turn import around_difference, common_start
from mmpref.processing.chat.template import ChatTemplate
from mmpref.processing.chat.thought import THINK_MARKS, has_think_mark, named_thought, opens_thought


class TurnNotes:
    """Findings about one template, by kind; the first row that shows a kind is named.

    Args:
        template: it wrote the texts.
        tokens: added tokens of the tokenizer.
    """

    def __init__(self, template: ChatTemplate, tokens: tuple[str, ...]) -> None:
        self.template = template
        self.tokens = tokens
        self.notes: dict[str, str] = {}

    def note(self, kind: str, text: str) -> None:
        """Add a finding, unless one of this kind is there."""
        if kind not in self.notes:
            self.notes[kind] = text

    def back_to(self, noted: Mapping[str, str]) -> None:
        """Forget what was found since."""
        for kind in [kind for kind in self.notes if kind not in noted]:
            del self.notes[kind]

    def prompt(
        self, row_id: str, asked: str, prompt: str, opening: str, asked_only: str, way_out: Callable[[str], str]
    ) -> None:
        """A prompt that is not where the template asks, that finished answers do not have, or that opens a thought.

        Args:
            opening: what the template wrote after the last message, where it asks.
            asked_only: the end of the prompt that it does not write before finished answers.
            way_out: the end of a sentence that says how the template can be made to ask with a prompt.
        """
        seen = f"(first seen in '{row_id}')"
        same = len(asked) - len(opening)
        extra = prompt[same:]
        dropped = asked[common_start(asked, prompt) :]
        if prompt == asked:
            if opens_thought(opening):
                kind, extra = "opening", opening
            elif asked_only.strip() and named_thought(asked_only, self.tokens) != "closed":
                kind = "asked only"
            else:
                return
        elif prompt.startswith(asked) and opens_thought(extra):
            kind = "opening"
        elif prompt.startswith(asked) or (prompt[:same] == asked[:same] and has_think_mark(extra)):
            kind = "lead"
        elif opens_thought(opening) or (
            prompt[:same] == asked[:same] and named_thought(dropped, self.tokens) == "open"
        ):
            kind = "left open"
        else:
            kind = "other prompt"
        if kind in self.notes:
            return
        if kind == "opening":
            text = f"the prompt opens a think block: {self._shown(extra)} is given to the model, and answers go on "
            text += f"inside it {seen}"
        elif kind == "asked only":
            text = f"the chat template asks with {self._shown(asked_only)}, which it does not write before finished "
            text += f"answers: it stays at the end of prompts, and answers are learnt behind it {seen}"
            text += way_out(prompt.removesuffix(asked_only))
        elif kind == "lead":
            what = "an empty think block" if has_think_mark(extra) else "text"
            text = f"the chat template writes {what} before a finished answer: prompts end with {self._shown(extra)}, "
            text += f"which is not learnt {seen}. Where it asks for an answer, it writes {self._shown(opening)}"
            text += way_out(prompt)
        elif kind == "left open":
            asks = opening if opens_thought(opening) else opening[-max(40, len(dropped)) :]
            text = f"the chat template asks with {self._shown(asks)}, and the answer of '{row_id}' has no such block: "
            text += "answers like it are learnt without that opening, as the template writes finished ones, and not "
            text += f"inside a thought{way_out(prompt)}"
        else:
            other, trained = around_difference(self.template.unmark(asked), self.template.unmark(prompt))
            text = f"the chat template writes the prompt differently once an answer follows: {trained!r} is trained "
            text += f"on, where the model is asked with {other!r} {seen}{way_out(prompt)}"
        self.note(kind, text)

    def other_end(self, row_id: str, end: str) -> None:
        """Earlier answers end with ``end``, and the last one has no end, so that eos is learnt."""
        self.note(
            "other end", "the chat template writes no end of turn after the last answer, so that eos "
            f"{self.template.tokenizer.eos_token!r} is learnt, and ends earlier answers with {end!r} (first seen in "
            f"'{row_id}'). If the model is to stop at {end!r}, set eos_token to it in the tokenizer's config"
        )  # fmt: skip

    def _shown(self, opening: str) -> str:
        """The end of an opening from its think block on, or its last line."""
        marks = [found for pair in THINK_MARKS if (found := opening.rfind(pair[0])) >= 0]
        return repr(self.template.unmark(opening[min(marks) :] if marks else opening[-40:]))
