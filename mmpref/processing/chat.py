"""Conversations as token ids, by the model's own chat template. No image is needed here: a place stays one token."""

from __future__ import annotations

import json
import logging
import os
import unicodedata
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

from torch import Tensor

from mmpref.errors import ConfigError
from mmpref.processing.answer_turn import (
    THINK_MARKS,
    Frame,
    Placed,
    Thought,
    around_difference,
    end_of_turn,
    has_think_mark,
    length_of_given,
    opens_thought,
    place_plain,
    place_thought,
    thought_of,
)
from mmpref.processing.faults import EncodeError, fault
from mmpref.processing.template import PINNED_DATE, ChatTemplate, TemplateError
from mmpref.records import Message, Part, user_turn

logger = logging.getLogger(__name__)

KEPT_TOKENS = 1_000_000
"""How many tokens of encoded conversations are kept, some 30 MB."""
PROVED_IN_FULL = 8
"""So many conversations are decoded again and compared; the rest are compared as text before they are tokenised."""
_KEPT_FRAMES = 16
_PROBE = "Qz7vXk3"
_Key: TypeAlias = tuple[tuple[Message, ...], tuple[str, ...], str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """One prompt and the answers that continue it, as ids.

    ``prompt`` ends where the answer begins (image places not expanded), ``prefix`` is the part of the answer that is
    given, and each answer ends with its end-of-turn token.
    """

    prompt: tuple[int, ...]
    prefix: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    by_text: bool = False  # the answers were tokenised alone, because the template breaks the prefix
    text: str = field(default="", compare=False, repr=False)  # the prompt as rendered, users' control tokens marked

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + len(self.prefix) + sum(map(len, self.answers))


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to give a conversation to the template."""

    as_parts: bool  # messages as lists of parts; else as strings where they hold no image
    thought_key: str = ""  # key of the message that takes an answer's reasoning; "" leaves it in the content
    switch: tuple[tuple[str, bool], ...] = ()

    def describe(self) -> str:
        return ", ".join(f"{name}: {str(value).lower()}" for name, value in self.switch)


@dataclass(frozen=True, slots=True)
class _Row:
    row_id: str
    messages: tuple[Message, ...]
    answers: tuple[str, ...]
    prefix: str
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Written:
    """A row as the template writes it: text, users' control tokens marked."""

    prompt: str
    prefix: str
    answers: tuple[tuple[str, str], ...]  # (answer, end of turn); no end where the template writes none
    joined: bool


class _NotHeld(Exception):
    """Why one way does not do, with the answer as given and as written where the two differ."""

    def __init__(self, reason: str, given: str = "", written: str = "", advice: str = "") -> None:
        super().__init__(reason)
        self.given, self.written, self.advice = given, written, advice


class ChatEncoder:
    """Renders and tokenises conversations.

    What users wrote stays text: a literal ``<image>`` or ``</s>`` in a message never becomes that token. The marks of
    a think block that an answer begins with are the exception: they are the tokens that the model itself writes.

    **What is learnt is the answer as given, spaced as the template spaces it, and one end of turn.** That is proved for
    every row, by comparing rendered texts; where a rendering does not hold the answer, the conversation is given to the
    template in other ways (strings, parts, its own switches about thinking), and then the row is refused. The end of
    turn is the token that the template writes, or eos where it writes none.

    The prompt is where the template asks the model, but for two cases that ``notes`` tells: what a template writes
    before a finished answer and not where it asks (an empty think block) belongs to the prompt, and a ``<think>`` that
    it opens where it asks is left out before answers without a think block. Where the ids of the prompt do not begin
    the ids of the whole, answers are tokenised alone and put after the prompt; ``text_level_splits`` counts these rows.

    Args:
        processor: the model's processor, or the tokenizer of a text-only model.
        template_kwargs: what the template reads beside the conversation (``enable_thinking``, ``tools``).

    Attributes:
        notes: what was found and should be said, by kind.

    Raises:
        ConfigError: no chat template, or ``template_kwargs`` that it does not read.
    """

    def __init__(self, processor: Any, template_kwargs: Mapping[str, Any] | None = None) -> None:
        self.sees_images = hasattr(processor, "image_processor")
        self.tokenizer = processor.tokenizer if self.sees_images else processor
        self.template = ChatTemplate(processor, self.tokenizer, template_kwargs)
        self.image_token_id: int | None = getattr(processor, "image_token_id", None) if self.sees_images else None
        self.text_level_splits = 0
        self.notes: dict[str, str] = {}
        self._proved = 0
        self._frames: dict[tuple[_Way, str], list[Frame]] = {}
        self._kept: OrderedDict[_Key, Turns] = OrderedDict()
        self._kept_tokens = 0
        self._can_sanitize = self.template.can_mark
        if self.template.writes_the_date:
            self.notes["date"] = (
                f"the chat template writes today's date into prompts; it is told {PINNED_DATE}, so that they stay the "
                "same (another day: processing.template_kwargs={strftime_now: YYYY-MM-DD})"
            )

    def encode(
        self,
        row_id: str,
        messages: Sequence[Message],
        answers: Sequence[str],
        *,
        response_prefix: str = "",
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> Turns:
        """Ids of the prompt and of every answer. Recent results are kept: questions repeat, and so do epochs.

        Args:
            template_kwargs: of this row, over those of the encoder.

        Raises:
            EncodeError: control tokens that cannot be kept as text, a template that refuses the conversation or does
                not hold its messages or answers, an empty answer, images given to a text-only model.
            ConfigError: a template that cannot hold any answer.
        """
        own = dict(template_kwargs or {})
        told = json.dumps(own, sort_keys=True, default=str) if own else ""
        key = (tuple(messages), tuple(answers), response_prefix, told)
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            if found.by_text:
                self._note_text_level_split(row_id)
            return found
        turns = self._encode(_Row(row_id, key[0], key[1], response_prefix, own))
        self._kept[key] = turns
        self._kept_tokens += turns.num_tokens
        while self._kept_tokens > KEPT_TOKENS:
            _, oldest = self._kept.popitem(last=False)
            self._kept_tokens -= oldest.num_tokens
        return turns

    def _encode(self, row: _Row) -> Turns:
        for answer in row.answers:
            if not answer.strip():
                raise fault(row.row_id, "empty_response", "has an empty answer")
        if not self.sees_images and any(message.num_images for message in row.messages):
            raise fault(
                row.row_id, "images_in_text_model", "has images, and this model takes text only; use a model with a "
                "vision tower, or rows without images"
            )  # fmt: skip
        if row.kwargs:
            self._check_kwargs(row)
        if not self._can_sanitize:
            self._refuse_control_tokens(row)
        return self._tokenise(row, self._written(row))

    def prompt_by_processor(
        self, row_id: str, processor: Any, turns: Turns, images: Sequence[Any], options: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """The prompt with its images as the processor alone writes it: ``input_ids`` [1, T] and other model inputs."""
        settings: dict[str, Any] = {"text": turns.text, "return_tensors": "pt", **options}
        if images:
            settings["images"] = [list(images)]
        bos = self.tokenizer.bos_token
        if bos is not None and turns.text.startswith(bos):
            settings["add_special_tokens"] = False
        if self.template.unmark(turns.text) != turns.text:
            settings["sanitize_control_tokens"] = True
        try:
            outputs = processor(**settings)
        except Exception as err:  # processors raise anything
            if "sanitize_control_tokens" in settings:
                # a tokenizer that adds its own bos cannot do it, and a processor that asks where characters went
                # (Idefics3) cannot work with it
                raise fault(
                    row_id, "control_token", f"has a control token in its text that the processor cannot keep as text: "
                    f"{err}; drop the row"
                ) from err  # fmt: skip
            raise fault(row_id, "template", f"is refused by the model's processor: {err}") from err
        return {name: value for name, value in outputs.items() if isinstance(value, Tensor)}

    def _written(self, row: _Row) -> _Written:
        """The row in the first way that holds it.

        Raises:
            EncodeError, ConfigError: see :meth:`encode`.
        """
        first: _NotHeld | None = None
        is_refusal = False
        for way in self._ways(row):
            try:
                written = self._by(way, row)
            except (TemplateError, _NotHeld) as err:
                if isinstance(err, _NotHeld):
                    # what becomes of the text says more than that another form is not taken
                    first, is_refusal = (err, False) if first is None or is_refusal else (first, False)
                elif first is None:
                    first, is_refusal = _NotHeld(f"refuses it: {err}"), True
                continue
            if way.switch:
                self._note(
                    "switch", f"the chat template holds answers as that of '{row.row_id}' only with {way.describe()}, "
                    f"and is rendered so: write processing.template_kwargs={{{way.describe()}}}, so that the model is "
                    "asked in the same way"
                )  # fmt: skip
            return written
        assert first is not None
        self._refuse_hopeless(row, first)
        raise fault(row.row_id, "template", self._explained(row, first))

    def _ways(self, row: _Row) -> Iterator[_Way]:
        """From what models are made for to what may do: parts and strings, then switches of the template."""
        forms = (True, False) if self.sees_images else (False, True)
        thinks = any(thought_of(row.prefix + answer) for answer in row.answers)
        fields = [name for name in ("reasoning_content", "reasoning", "thinking") if name in self.template.source]
        keys = ("", *fields) if thinks else ("",)
        plain = [_Way(form, key) for form in forms for key in keys]
        yield from plain
        if not row.answers:
            return
        for switch in self.template.switches:
            for way in plain:
                yield _Way(way.as_parts, way.thought_key, tuple(switch.items()))

    def _by(self, way: _Way, row: _Row) -> _Written:
        conversation = self._conversation(way, row.messages)
        kwargs = {**row.kwargs, **dict(way.switch)}
        asked = self._render(conversation, kwargs, ask=True)
        opening = self._check_prompt(row, asked)
        full = [row.prefix + answer for answer in row.answers] or ([row.prefix] if row.prefix else [])
        if not full:
            return _Written(asked, "", (), True)
        if not row.answers and opens_thought(row.prefix):  # a thought to go on with: no finished answer to compare with
            return self._begun(row, asked, opening)
        placed, ends = [], []
        for text in full:
            one, tail = self._place(way, conversation, kwargs, asked, opening, text)
            placed.append(one)
            ends.append(self._end(tail, one, opening) if row.answers else "")
        if len({one.prompt for one in placed}) > 1:
            raise _NotHeld(
                "begins the two answers differently",
                advice="give both answers a think block, or neither" if any(map(has_think_mark, full)) else "",
            )
        prompt, prefix = placed[0].prompt, ""
        answers = [one.answer for one in placed]
        if row.prefix:
            prefix, answers = self._cut_prefix(row, placed)
        self._note_prompt(row, way, asked, prompt, opening)
        joined = all(one.joined for one in placed)
        return _Written(prompt, prefix, tuple(zip(answers, ends, strict=True)) if row.answers else (), joined)

    def _place(
        self,
        way: _Way,
        conversation: list[dict[str, Any]],
        kwargs: Mapping[str, Any],
        asked: str,
        opening: str,
        text: str,
    ) -> tuple[Placed, str]:
        """One answer in its turn, and what the template writes after it."""
        thought = thought_of(text)
        found: tuple[Placed, str] | _NotHeld | None = None
        if thought is None or not (thought.opening or opens_thought(opening)):  # it may only speak of such marks
            found = self._placed(way, conversation, kwargs, asked, opening, self.template.mark(text), None)
        if thought is not None and not isinstance(found, tuple):
            marked = self.template.mark(text)
            for mark in thought.marks if thought.opening else thought.marks[1:]:
                marked = self.template.unmark_first(marked, mark)
            found = self._placed(way, conversation, kwargs, asked, opening, marked, thought_of(marked))
        if isinstance(found, tuple):
            return found
        assert found is not None
        raise found

    def _placed(
        self,
        way: _Way,
        conversation: list[dict[str, Any]],
        kwargs: Mapping[str, Any],
        asked: str,
        opening: str,
        marked: str,
        thought: Thought | None,
    ) -> tuple[Placed, str] | _NotHeld:
        turn: dict[str, Any] = {"role": "assistant", "content": self._content(way, marked)}
        if thought is not None and way.thought_key:
            turn[way.thought_key] = thought.reasoning.strip("\n")
            turn["content"] = self._content(way, thought.content.lstrip("\n"))
        whole = self._render([*conversation, turn], kwargs, ask=False)
        known = self._frames.setdefault((way, json.dumps(kwargs, sort_keys=True, default=str) if kwargs else ""), [])
        reason = ""
        for frame in self._candidates(known, way, conversation, kwargs, asked):
            if isinstance(frame, str):
                reason = frame
                continue
            if thought is None:
                result = place_plain(asked, whole, marked, frame, opening)
            else:
                result = place_thought(asked, whole, marked, thought, frame.tail, opening)
            if isinstance(result, Placed):
                if frame not in known and len(known) < _KEPT_FRAMES:
                    known.append(frame)
                return result, frame.tail
            reason = result
        written = whole[len(os.path.commonprefix([asked, whole])) :]
        return _NotHeld(reason, self.template.unmark(marked), self.template.unmark(written))

    def _candidates(
        self,
        known: Sequence[Frame],
        way: _Way,
        conversation: list[dict[str, Any]],
        kwargs: Mapping[str, Any],
        asked: str,
    ) -> Iterator[Frame | str]:
        """What stood around answers before, and then what stands around one in this very conversation."""
        yield from tuple(known)
        turn = {"role": "assistant", "content": self._content(way, _PROBE)}
        whole = self._render([*conversation, turn], kwargs, ask=False)
        yield Frame.around(_PROBE, asked, whole)

    def _check_prompt(self, row: _Row, asked: str) -> str:
        """The end of ``asked`` that the template wrote after the last message.

        Raises:
            _NotHeld: a message is not there as it was given.
        """
        texts = [(message.role, part.text) for message in row.messages for part in message.parts if part.text.strip()]
        place = 0
        for role, text in texts:
            marked = self.template.mark(text)
            if role == "assistant" and any(closing in text for _, closing in THINK_MARKS):
                marked = self.template.mark(text.rpartition(thought_of(text).closing if thought_of(text) else "")[2])
            found = asked.find(marked.strip(), place)
            if found < 0:
                found = asked.find(marked.strip())
            if found < 0:
                raise _NotHeld(f"leaves out or rewrites the {role} message {_short(text)!r}")
            place = max(place, found + len(marked.strip()))
        said = "".join(text for _, text in texts)
        for form in ("'type': 'text'", '"type": "text"', "'type': 'image'", '"type": "image"'):
            if form in asked and form not in said:
                raise _NotHeld("writes messages as Python prints lists")
        return asked[place:]

    def _end(self, tail: str, placed: Placed, opening: str) -> str:
        before = placed.prompt + placed.answer[: max(0, placed.given - len(placed.prompt))]
        end = end_of_turn(tail, before, opening, self._ends, self.tokenizer.eos_token)
        if end is None:
            raise _NotHeld(f"writes {_short(tail)!r} after the answer, which ends no turn")
        if end.strip() and not any(end.endswith(token) for token in self._ends):
            self._note(
                "end", f"the chat template ends turns with the text {end.strip()!r}, for which the tokenizer has no "
                "token: it is learnt letter by letter, and eos after it"
            )  # fmt: skip
        return end

    def _begun(self, row: _Row, asked: str, opening: str) -> _Written:
        """A prompt whose answer has begun to think."""
        marked = self.template.mark(row.prefix)
        pair = next(pair for pair in THINK_MARKS if pair[0] in row.prefix)
        marked = self.template.unmark_first(marked, pair[0])
        if opens_thought(opening):
            rest = marked.lstrip().removeprefix(pair[0])
            return _Written(asked, rest.lstrip() if asked[-1:].isspace() else rest, (), False)
        if has_think_mark(opening):
            raise _NotHeld("closes the think block before the answer begins")
        return _Written(asked, marked, (), False)

    def _cut_prefix(self, row: _Row, placed: Sequence[Placed]) -> tuple[str, list[str]]:
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
                raise _NotHeld("rewrites the given beginning of the answer", row.prefix, whole[one.given :])
            end = max(end, len(one.prompt))
            found.append((whole[len(one.prompt) : end], whole[end:]))
        if len({prefix for prefix, _ in found}) > 1:
            raise _NotHeld("writes the given beginning of the two answers differently")
        return found[0][0], [rest for _, rest in found]

    def _bare(self, text: str) -> str:
        return "".join(self.template.unmark(text).split())

    def _tokenise(self, row: _Row, written: _Written) -> Turns:
        try:
            prompt = self._with_opening(self.template.ids(written.prompt))
            start = prompt
            if written.prefix:
                opened = self._with_opening(self.template.ids(written.prompt + written.prefix))
                is_split = opened[: len(prompt)] == prompt
                start = opened if is_split else prompt + self.template.ids(written.prefix)
            before = written.prompt + written.prefix
            texts = written.answers
            whole = [self._with_opening(self.template.ids(before + answer + end)) for answer, end in texts]
            by_text = not (written.joined and all(ids[: len(start)] == start for ids in whole))
            if by_text and row.answers:
                self._note_text_level_split(row.row_id)
                found = [self.template.ids(answer) + self.template.ids(end) for answer, end in texts]
            else:
                found = [ids[len(start) :] for ids in whole]
        except TemplateError as err:
            raise fault(row.row_id, "control_token", str(err)) from err
        for ids, (answer, _) in zip(found, texts, strict=True):
            if not ids or ids[-1] not in self._end_ids:
                while ids and not self.tokenizer.decode(ids[-1:]).strip():
                    ids.pop()
                ids.append(self._eos_id)
            if len(ids) < 2:
                raise fault(row.row_id, "empty_response", f"has an answer without a token to learn: {answer[:60]!r}")
            if self.image_token_id is not None and self.image_token_id in ids:
                raise fault(row.row_id, "control_token", f"has an image token inside an answer: {answer[:60]!r}")
        turns = Turns(
            prompt=tuple(prompt),
            prefix=tuple(start[len(prompt) :]),
            answers=tuple(map(tuple, found)),
            by_text=by_text and bool(row.answers),
            text=written.prompt,
        )
        if self._proved < PROVED_IN_FULL:
            self._proved += 1
            self._prove(row, turns, written)
        return turns

    def _prove(self, row: _Row, turns: Turns, written: _Written) -> None:
        """Decode what was tokenised, and compare it with what was written.

        Raises:
            EncodeError: the tokenizer gives back another text.
        """
        opened = len(turns.prompt) - len(self.template.ids(written.prompt))
        pieces = [(turns.prompt[opened:], written.prompt)]
        for ids, (answer, end) in zip(turns.answers, written.answers, strict=True):
            pieces.append((ids if end else ids[:-1], answer + end))
        for ids, text in pieces:
            back = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
            if _plainly(back) == _plainly(self.template.unmark(text)):
                continue
            if self.tokenizer.unk_token_id in ids:
                self._note("unknown", f"the tokenizer has no token for some characters of '{row.row_id}'")
                continue
            given, written_as = around_difference(self.template.unmark(text), back)
            raise fault(
                row.row_id, "template", f"does not come back from the tokenizer of {self.template.name} as it was "
                f"written: {given!r} becomes {written_as!r}; use the tokenizer that belongs to this model"
            )  # fmt: skip

    def _conversation(self, way: _Way, messages: Sequence[Message]) -> list[dict[str, Any]]:
        found = []
        for message in messages:
            if way.as_parts or message.num_images:
                content: Any = [_as_part(part, self.template.mark(part.text)) for part in message.parts]
            else:
                content = self.template.mark(message.text)
            found.append({"role": message.role, "content": content})
        return found

    @staticmethod
    def _content(way: _Way, text: str) -> Any:
        return [{"type": "text", "text": text}] if way.as_parts else text

    def _render(self, conversation: Sequence[Mapping[str, Any]], kwargs: Mapping[str, Any], *, ask: bool) -> str:
        return self.template.render(conversation, kwargs, ask=ask)

    def _with_opening(self, ids: list[int]) -> list[int]:
        opening = self._opening_ids
        return ids if ids[: len(opening)] == opening else opening + ids

    def _check_kwargs(self, row: _Row) -> None:
        try:
            self.template.check(row.kwargs, "its template_kwargs")
        except ConfigError as err:
            raise fault(row.row_id, "template", str(err)) from err

    def _refuse_control_tokens(self, row: _Row) -> None:
        texts = [part.text for message in row.messages for part in message.parts] + [row.prefix, *row.answers]
        thinking = {mark for pair in THINK_MARKS for mark in pair}
        for token in self.tokenizer.added_tokens_encoder:
            if token.strip() and token not in thinking and any(token in text for text in texts):
                raise fault(
                    row.row_id, "control_token", f"has the control token {token!r} in its text, and the tokenizer "
                    "cannot keep it as text here; update transformers or drop the row"
                )  # fmt: skip

    def _explained(self, row: _Row, why: _NotHeld) -> str:
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

    def _refuse_hopeless(self, row: _Row, why: _NotHeld) -> None:
        """Raises ConfigError where even the plainest conversation is not held."""
        if not row.answers:
            return
        plain = _Row("", user_turn("Is it?", num_images=0), ("Yes, it is.",), "", {})
        for way in self._ways(plain):
            try:
                self._by(way, plain)
                return
            except (TemplateError, _NotHeld):
                continue
        raise ConfigError(
            f"no answer can be trained on with this chat template: the first row, '{row.row_id}', "
            f"{self._explained(row, why)}"
        )

    def _note_prompt(self, row: _Row, way: _Way, asked: str, prompt: str, opening: str) -> None:
        """What a person should know of a prompt that is not where the template asks, or that opens a thought."""
        if prompt == asked:
            if opens_thought(opening):
                self._note(
                    "opening", f"the prompt opens a think block: {self._shown(opening)} is given to the model, and "
                    f"answers go on inside it (first seen in '{row.row_id}')"
                )  # fmt: skip
            return
        way_out = self._same_prompt(row, way, prompt)
        if prompt.startswith(asked) or has_think_mark(prompt[len(asked) - len(opening) :]):
            kind = "an empty think block" if has_think_mark(prompt[len(asked) - len(opening) :]) else "text"
            extra = self._shown(prompt[len(asked) - len(opening) :])
            self._note(
                "lead", f"the chat template writes {kind} before a finished answer: prompts end with {extra}, which is "
                f"not learnt (first seen in '{row.row_id}'). Where it asks for an answer, it writes "
                f"{self._shown(opening)}{way_out}"
            )  # fmt: skip
        else:
            self._note(
                "left open", f"the chat template asks with {self._shown(opening)}, and the answer of '{row.row_id}' has "
                "no think block: such answers are learnt without that opening, as the template writes finished ones, "
                f"and not inside a thought{way_out}"
            )  # fmt: skip

    def _same_prompt(self, row: _Row, way: _Way, prompt: str) -> str:
        """Advice that was tried: the switch with which the template asks as it writes finished answers."""
        if "lead" in self.notes or way.switch:
            return ""
        conversation = self._conversation(way, row.messages)
        for switch in self.template.switches:
            try:
                asked = self._render(conversation, {**row.kwargs, **switch}, ask=True)
            except TemplateError:
                continue
            if asked == prompt:
                words = _Way(True, "", tuple(switch.items())).describe()
                return f"; processing.template_kwargs={{{words}}} makes both the same, for training and for evaluation"
        return "; no switch of it makes both the same"

    def _shown(self, opening: str) -> str:
        """The end of an opening from its think block on, or its last line."""
        marks = [found for pair in THINK_MARKS if (found := opening.rfind(pair[0])) >= 0]
        return repr(self.template.unmark(opening[min(marks) :] if marks else opening[-40:]))

    def _note(self, kind: str, text: str) -> None:
        if kind not in self.notes:
            self.notes[kind] = text

    def _note_text_level_split(self, row_id: str) -> None:
        if not self.text_level_splits:
            logger.warning(
                "the ids of the prompt do not begin the ids of prompt + answer (first seen in '%s'): answers of such "
                "rows are tokenised alone and put after the prompt",
                row_id,
            )
        self.text_level_splits += 1

    @cached_property
    def _opening_ids(self) -> list[int]:
        """What the tokenizer puts before a text (bos), where the model's processor adds it and its template may not."""
        if not self.sees_images:
            return []  # the template of a text model writes its own bos: that is what transformers assumes as well
        bare = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        full = self.tokenizer("a")["input_ids"]
        extra = len(full) - len(bare)
        starts = [n for n in range(extra + 1) if full[n : n + len(bare)] == bare]
        return list(full[: starts[0]]) if starts else []

    @cached_property
    def _ends(self) -> tuple[str, ...]:
        """Texts of tokens that can close a turn. Answers hold none of them as tokens: what users wrote stays text."""
        never = {self.tokenizer.unk_token_id, self.tokenizer.bos_token_id, self.image_token_id}
        never -= {self.tokenizer.eos_token_id}
        thinking = {mark for pair in THINK_MARKS for mark in pair}
        added = self.tokenizer.added_tokens_decoder.items()
        found = [token.content for number, token in added if number not in never]
        eos = [] if self.tokenizer.eos_token is None else [str(self.tokenizer.eos_token)]
        return tuple(dict.fromkeys([*(text for text in found if text.strip() and text not in thinking), *eos]))

    @cached_property
    def _end_ids(self) -> frozenset[int]:
        return frozenset(self.tokenizer.convert_tokens_to_ids(list(self._ends)))

    @property
    def pad_token_id(self) -> int:
        """The id that fills up short rows: the tokenizer's pad token, or its eos (padding is masked everywhere)."""
        pad = self.tokenizer.pad_token_id
        return self._eos_id if pad is None else int(pad)

    @property
    def _eos_id(self) -> int:
        if self.tokenizer.eos_token_id is None:
            raise ConfigError(
                "the chat template writes no end-of-turn token and the tokenizer has no eos_token: the model could "
                "never learn to stop; set eos_token in the tokenizer's config"
            )
        return int(self.tokenizer.eos_token_id)


def _as_part(part: Part, text: str) -> dict[str, str]:
    return {"type": "image"} if part.kind == "image" else {"type": "text", "text": text}


def _short(text: str, width: int = 60) -> str:
    return text if len(text) <= width else f"{text[:width]}…"


def _plainly(text: str) -> str:
    """A text as far as a tokenizer that gives everything back may change it."""
    return "".join(unicodedata.normalize("NFKC", text).split())
