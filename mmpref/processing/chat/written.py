"""One row as its chat template writes it, as text, with the proof that the answers are in it as they were given."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from mmpref.errors import ConfigError
from mmpref.processing.chat.answer_turn import (
    Frame,
    Placed,
    around_difference,
    common_start,
    end_in_history,
    end_of_turn,
    length_of_given,
    place_plain,
    place_thought,
)
from mmpref.processing.chat.given_data import lost_once_answered, lost_where_asked
from mmpref.processing.chat.prompt_check import PromptCheck
from mmpref.processing.chat.recent import Recent
from mmpref.processing.chat.renderer import TemplateError
from mmpref.processing.chat.row import PROBE, Row, UnfitWayError, Way, Written, shortened
from mmpref.processing.chat.template import ChatTemplate
from mmpref.processing.chat.thought import THINK_MARKS, Thought, has_think_mark, opens_thought, thought_of
from mmpref.processing.chat.turn_notes import TurnNotes
from mmpref.processing.errors import fault
from mmpref.records import Message, Part, user_turn

_KEPT_FRAMES = 16
_KEPT_TEXTS = 256
"""Conversations of which what was written is kept: pairs of one prompt mostly come together."""
_ASKED = ""
"""In place of an answer, which is never empty: the prompt up to where the model starts to write."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One conversation given in one way, as the template writes it up to where the model starts to write."""

    way: Way
    conversation: list[dict[str, Any]]
    kwargs: Mapping[str, Any]
    text: str
    opening: str  # the end of the text that was written after the last message
    ahead: Mapping[str, str | TemplateError]  # with an answer, by the answer as marked; only what was rendered ahead


class TurnWriter:
    """Writes rows by a chat template, in the first way that keeps what was given.

    Args:
        template: renders.
        sees_images: the model takes messages as lists of parts.
        ends: tokens that can close a turn.
        image: the processor's token for an image, where it has one.

    Attributes:
        notes: what was found and should be said, by kind.
    """

    def __init__(self, template: ChatTemplate, *, sees_images: bool, ends: tuple[str, ...], image: str = "") -> None:
        self.template = template
        self.sees_images = sees_images
        self.ends = ends
        self.image = image
        self.findings = TurnNotes(template, ends)
        self.notes = self.findings.notes
        self._frames: dict[tuple[Way, str], list[Frame]] = {}
        self.prompts = PromptCheck(template)
        self._other_ends: dict[Way, str | None] = {}
        self._taken: set[Way] = set()
        self._written = Recent[str](_KEPT_TEXTS)

    def write(self, row: Row) -> Written:
        """The row in the first way that keeps it whole.

        Raises:
            EncodeError: no way keeps the row as it was given.
            ConfigError: no way would keep any row.
        """
        first: UnfitWayError | None = None
        is_refusal = False
        for way in self._ways(row):
            noted = dict(self.notes)
            try:
                written = self._by(way, row)
            except (TemplateError, UnfitWayError) as err:
                self.findings.back_to(noted)  # what was found on a way that is not taken is not true of the row
                if isinstance(err, UnfitWayError):
                    # what becomes of the text says more than that another form is not taken
                    first, is_refusal = (err, False) if first is None or is_refusal else (first, False)
                elif first is None:
                    first, is_refusal = UnfitWayError(f"refuses it: {err}"), True
                continue
            self._taken.add(way)
            if way.switch:
                self.findings.note(
                    "switch", f"the chat template holds answers as that of '{row.row_id}' only with {way.describe()}, "
                    f"and is rendered so: write processing.template_kwargs={{{way.describe()}}}, so that the model is "
                    "asked in the same way"
                )  # fmt: skip
            return written
        assert first is not None
        self._refuse_hopeless(row, first)
        raise fault(row.row_id, "template", self._explained(row, first))

    def _ways(self, row: Row) -> Iterator[Way]:
        """From what models are made for to what may do: parts and strings, then switches of the template."""
        forms = (True, False) if self.sees_images else (False, True)
        thinks = any(thought_of(row.prefix + answer) for answer in row.answers)
        fields = [name for name in ("reasoning_content", "reasoning", "thinking") if name in self.template.source]
        keys = ("", *fields) if thinks else ("",)
        plain = [Way(form, key) for form in forms for key in keys]
        if self.image and any(message.num_images for message in row.messages) and not self._shows_images:
            plain += [Way(False, key, image=self.image) for key in keys]
        yield from plain
        if not row.answers:
            return
        for switch in self.template.switches:
            for way in plain:
                yield replace(way, switch=tuple(switch.items()))

    @cached_property
    def _shows_images(self) -> bool:
        """Whether the template writes something for an image that is a part, marks around it included: then no other
        way may put the bare token in its place."""
        text = {"type": "text", "text": PROBE}
        try:
            bare, seen = (
                self._render([{"role": "user", "content": parts}], {}, ask=True)
                for parts in ([text], [{"type": "image"}, text])
            )
        except TemplateError:
            return False
        return bare != seen and "'type'" not in seen and '"type"' not in seen

    def _by(self, way: Way, row: Row) -> Written:
        conversation = way.conversation(self.template, row.messages)
        kwargs = {**row.kwargs, **dict(way.switch)}
        full = [row.prefix + answer for answer in row.answers] or ([row.prefix] if row.prefix else [])
        asked, ahead = self._ahead(way, row, conversation, kwargs, full)
        opening = self.prompts.opening(way, row, kwargs, asked)
        lost = lost_where_asked(self.template, conversation, kwargs, asked)
        if lost is not None:
            raise UnfitWayError(f"reads {lost} and does not write it into this prompt", advice=lost.advice)
        if not full:
            return Written(asked, "", ())
        if not row.answers and opens_thought(row.prefix):  # a thought to go on with: no finished answer to compare with
            return self._begun(row, asked, opening)
        placed, ends = [], []
        place = _Asked(way, conversation, kwargs, asked, opening, ahead)
        for text in full:
            one, tail = self._place(place, text)
            placed.append(one)
            ends.append(self._end(tail, one, opening) if row.answers else "")
        if len({one.prompt for one in placed}) > 1:
            raise UnfitWayError(
                "begins the two answers differently",
                advice="give both answers a think block, or neither" if any(map(has_think_mark, full)) else "",
            )
        prompt, prefix = placed[0].prompt, ""
        self.prompts.refuse_lost(row, asked, prompt, opening)
        if prompt != asked:
            answered = [*conversation, {"role": "assistant", "content": way.content(PROBE)}]
            lost = lost_once_answered(self.template, answered, kwargs, PROBE, prompt)
            if lost is not None:
                raise UnfitWayError(f"leaves out {lost} as soon as an answer follows", advice=lost.advice)
        answers = [one.answer for one in placed]
        if row.prefix:
            prefix, answers = self._cut_prefix(row, placed)
        self.findings.prompt(
            row.row_id, asked, prompt, opening, placed[0].asked_only, lambda wanted: self._same_prompt(row, way, wanted)
        )
        if row.answers and "" in ends:
            self._note_other_end(row, way)
        return Written(prompt, prefix, tuple(zip(answers, ends, strict=True)) if row.answers else ())

    def _ahead(
        self, way: Way, row: Row, conversation: list[dict[str, Any]], kwargs: Mapping[str, Any], full: Sequence[str]
    ) -> tuple[str, Mapping[str, str | TemplateError]]:
        """The conversation up to where the model starts to write, and with each plain answer, by one exchange.

        What was written of the same prompt a short time ago, for another pair, is not written again.

        Raises:
            TemplateError: the template refuses the first.
        """
        if way not in self._taken:  # one that is not taken is mostly given up at the first look
            return self._render(conversation, kwargs, ask=True), {}
        prompt = (way, row.messages, json.dumps(kwargs, sort_keys=True, default=str))
        marked = list(dict.fromkeys(self.template.mark(text) for text in full if thought_of(text) is None))
        known: dict[str, str | TemplateError | None] = {
            text: self._written.find((*prompt, text)) for text in (_ASKED, *marked)
        }
        wanted = {
            text: ([*conversation, {"role": "assistant", "content": way.content(text)}], False)
            if text != _ASKED
            else (conversation, True)
            for text, found in known.items()
            if found is None
        }
        if wanted:
            new = self.template.render_all(list(wanted.values()), kwargs)
            if not new:
                return self._render(conversation, kwargs, ask=True), {}
            for text, found in zip(wanted, new, strict=True):
                known[text] = found
                if isinstance(found, str):
                    self._written.keep((*prompt, text), found)
        asked, *answered = (found for found in known.values() if found is not None)
        if isinstance(asked, TemplateError):
            raise asked
        return asked, dict(zip(marked, answered, strict=True))

    def _place(self, asked: _Asked, text: str) -> tuple[Placed, str]:
        """One answer in its turn, and what the template writes after it."""
        thought = thought_of(text)
        found: tuple[Placed, str] | UnfitWayError | None = None
        if thought is None or not (thought.opening or opens_thought(asked.opening)):  # it may only speak of such marks
            found = self._placed(asked, self.template.mark(text), None)
        if thought is not None and not isinstance(found, tuple):
            marked = self.template.mark(text)
            for mark in thought.marks if thought.opening else thought.marks[1:]:
                marked = self.template.unmark_first(marked, mark)
            found = self._placed(asked, marked, thought_of(marked))
        if isinstance(found, tuple):
            return found
        assert found is not None
        raise found

    def _placed(self, asked: _Asked, marked: str, thought: Thought | None) -> tuple[Placed, str] | UnfitWayError:
        turn: dict[str, Any] = {"role": "assistant", "content": asked.way.content(marked)}
        if thought is not None and asked.way.thought_key:
            turn[asked.way.thought_key] = thought.reasoning.strip("\n")
            turn["content"] = asked.way.content(thought.content.lstrip("\n"))
        ahead = asked.ahead.get(marked) if thought is None else None
        if isinstance(ahead, TemplateError):
            raise ahead
        whole = self._render([*asked.conversation, turn], asked.kwargs, ask=False) if ahead is None else ahead
        given = json.dumps(asked.kwargs, sort_keys=True, default=str) if asked.kwargs else ""
        known = self._frames.setdefault((asked.way, given), [])
        reason = ""
        for frame in self._candidates(known, asked):
            if isinstance(frame, str):
                reason = frame
                continue
            if thought is None:
                result = place_plain(asked.text, whole, marked, frame, asked.opening, self.ends)
            else:
                result = place_thought(asked.text, whole, marked, thought, frame, asked.opening, self.ends)
            if isinstance(result, Placed):
                if frame not in known and len(known) < _KEPT_FRAMES:
                    known.append(frame)
                return result, frame.tail
            reason = result
        if thought is None and marked.strip() in whole and not isinstance(frame, str):
            reason = "writes another beginning or end around this answer than around others"
        written = whole[common_start(asked.text, whole) :]
        return UnfitWayError(reason, self.template.unmark(marked), self.template.unmark(written))

    def _candidates(self, known: Sequence[Frame], asked: _Asked) -> Iterator[Frame | str]:
        """What stood around answers before, and then what stands around one in this very conversation."""
        yield from tuple(known)
        turn = {"role": "assistant", "content": asked.way.content(PROBE)}
        whole = self._render([*asked.conversation, turn], asked.kwargs, ask=False)
        yield Frame.around(PROBE, asked.text, whole)

    def _end(self, tail: str, placed: Placed, opening: str) -> str:
        before = placed.prompt + placed.answer[: max(0, placed.given - len(placed.prompt))]
        end = end_of_turn(tail, before, opening, self.ends, self.template.tokenizer.eos_token)
        if end is None:
            raise UnfitWayError(f"writes {shortened(tail)!r} after the answer, which ends no turn")
        if end.strip() and not any(end.endswith(token) for token in self.ends):
            self.findings.note(
                "end", f"the chat template ends turns with the text {end.strip()!r}, for which the tokenizer has no "
                "token: it is learnt letter by letter, and eos after it"
            )  # fmt: skip
        return end

    def _begun(self, row: Row, asked: str, opening: str) -> Written:
        """A prompt whose answer has begun to think."""
        marked = self.template.mark(row.prefix)
        pair = next(pair for pair in THINK_MARKS if pair[0] in row.prefix)
        marked = self.template.unmark_first(marked, pair[0])
        if opens_thought(opening):
            rest = marked.lstrip().removeprefix(pair[0])
            return Written(asked, rest.lstrip() if asked[-1:].isspace() else rest, ())
        if has_think_mark(opening):
            raise UnfitWayError("closes the think block before the answer begins")
        return Written(asked, marked, ())

    def _cut_prefix(self, row: Row, placed: Sequence[Placed]) -> tuple[str, list[str]]:
        """The given beginning of the answers, and their rests, as they are spaced."""
        marked = self.template.mark(row.prefix)
        for pair in THINK_MARKS:
            if has_think_mark(row.prefix):
                marked = self.template.unmark_first(self.template.unmark_first(marked, pair[0]), pair[1])
        found = []
        for one in placed:
            whole = one.prompt + one.answer
            end = one.given + length_of_given(whole[one.given :], marked)
            if self._bare(whole[one.given : end]) != self._bare(marked):
                raise UnfitWayError("rewrites the given beginning of the answer", row.prefix, whole[one.given :])
            end = max(end, len(one.prompt))
            found.append((whole[len(one.prompt) : end], whole[end:]))
        if len({prefix for prefix, _ in found}) > 1:
            raise UnfitWayError("writes the given beginning of the two answers differently")
        return found[0][0], [rest for _, rest in found]

    def _bare(self, text: str) -> str:
        return "".join(self.template.unmark(text).split())

    def _render(self, conversation: Sequence[Mapping[str, Any]], kwargs: Mapping[str, Any], *, ask: bool) -> str:
        return self.template.render(conversation, kwargs, ask=ask)

    def _explained(self, row: Row, why: UnfitWayError) -> str:
        texts = ""
        if why.written or why.given:
            given, written = around_difference(why.given, why.written)
            texts = f": given {given!r}, written {written!r}"
        names = [name for name in self.template.settable if name != "strftime_now"]
        advice = "it has no switches: leave such rows out, or put another chat_template.jinja into the model's folder"
        if why.advice:
            advice = why.advice
        elif names:
            tried = ", ".join(dict.fromkeys(name for switch in self.template.switches for name in switch))
            advice = f"processing.template_kwargs={{...}} can set {', '.join(names)}"
            advice += f" ({tried} tried, true and false)" if tried and row.answers else ""
        return f"cannot be trained on with the chat template of {self.template.name}, which {why}{texts}; {advice}"

    def _refuse_hopeless(self, row: Row, why: UnfitWayError) -> None:
        """Raises ConfigError where even the plainest conversation is not written."""
        if not row.answers:
            return
        kinds = {part.kind for message in row.messages for part in message.parts}
        places = [Part(kind) for kind in ("image", "video") if kind in kinds]
        asked = Message("user", (*places, Part("text", "Is it?")))
        plain = Row("", (asked,), ("Yes, it is.",), "", {})
        noted = dict(self.notes)
        try:
            for way in self._ways(plain):
                try:
                    self._by(way, plain)
                    return
                except (TemplateError, UnfitWayError):
                    continue
        finally:
            self.findings.back_to(noted)  # no row of the data says these things
        raise ConfigError(
            f"no answer can be trained on with this chat template: the first row, '{row.row_id}', "
            f"{self._explained(row, why)}"
        )

    def _note_other_end(self, row: Row, way: Way) -> None:
        """Says where the template closes an answer only once another turn follows it."""
        if way not in self._other_ends:
            first, answer, then = (f"{PROBE}{letter}" for letter in "abc")
            said = [user_turn(first, num_images=0)[0], Message("assistant", (Part("text", answer),))]
            said += user_turn(then, num_images=0)
            try:
                asked = self._render(way.conversation(self.template, said), dict(way.switch), ask=True)
            except TemplateError:
                asked = ""
            eos = self.template.tokenizer.eos_token
            self._other_ends[way] = end_in_history(asked, first, answer, then, self.ends, eos)
        end = self._other_ends[way]
        if end is not None:
            self.findings.other_end(row.row_id, end)

    def _same_prompt(self, row: Row, way: Way, prompt: str) -> str:
        """Advice that was tried: the switch with which the template asks with the prompt of finished answers."""
        if way.switch:
            return ""
        conversation = way.conversation(self.template, row.messages)
        for switch in self.template.switches:
            try:
                asked = self._render(conversation, {**row.kwargs, **switch}, ask=True)
            except TemplateError:
                continue
            if asked == prompt:
                words = Way(True, "", tuple(switch.items())).describe()
                return f"; processing.template_kwargs={{{words}}} makes both the same, for training and for evaluation"
        return "; no switch of it makes both the same"
