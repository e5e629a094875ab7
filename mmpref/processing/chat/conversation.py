"""Conversations as token ids, by the model's own chat template. No image is needed here: a place stays one token."""

from __future__ import annotations

import json
import logging
import unicodedata
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor

from mmpref.errors import ConfigError, one_line
from mmpref.processing.chat.answer_turn import around_difference
from mmpref.processing.chat.renderer import TemplateError
from mmpref.processing.chat.row import PROBE, Row, Written
from mmpref.processing.chat.spelt_tokens import SpeltOut
from mmpref.processing.chat.template import PINNED_DATE, ChatTemplate
from mmpref.processing.chat.thought import THINK_MARKS, never_closed
from mmpref.processing.chat.written import TurnWriter
from mmpref.processing.embedded_tokens import without_embedding
from mmpref.processing.errors import fault
from mmpref.records import Message

logger = logging.getLogger(__name__)

KEPT_TOKENS = 1_000_000
"""How many tokens of encoded conversations are kept, some 30 MB."""
PROVED_IN_FULL = 8
"""So many conversations are decoded again and compared; the rest are compared as text before they are tokenised."""
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
    by_text: bool = False  # the answers were tokenised alone: their ids with the prompt do not begin with its ids
    spelt: tuple[tuple[str, ...], ...] = ()  # special tokens that answers write as text, of each answer that does
    text: str = field(default="", compare=False, repr=False)  # the prompt as rendered, users' control tokens marked

    @property
    def num_tokens(self) -> int:
        """Ids in all, for the size of the cache."""
        return len(self.prompt) + len(self.prefix) + sum(map(len, self.answers))


class ChatEncoder:
    """Renders and tokenises conversations.

    What users wrote stays text: a literal ``<image>`` or ``</s>`` in a message never becomes that token. The marks of
    a think block that an answer begins with are the exception: they are the tokens that the model itself writes.

    **What is learnt is the answer as given, spaced as the template spaces it, and one end of turn.** That is proved for
    every row, by comparing rendered texts; where a rendering does not hold the answer, the conversation is given to the
    template in other ways (strings, parts, its own switches about thinking), and then the row is refused. The end of
    turn is the token that the template writes, or eos where it writes none.

    The prompt is where the template asks the model, but for two cases that ``notes`` names: what a template writes
    before a finished answer and not where it asks (an empty think block) belongs to the prompt, and a ``<think>`` that
    it opens where it asks is left out before answers without a think block. Where the ids of the prompt do not begin
    the ids of the whole, answers are tokenised alone and put after the prompt; ``text_level_splits`` counts these rows.

    Args:
        processor: the model's processor, or the tokenizer of a text-only model.
        template_kwargs: what the template reads beside the conversation (``enable_thinking``, ``tools``).

    Attributes:
        spelt: special tokens that answers write as text, counted.

    Raises:
        ConfigError: no chat template, or ``template_kwargs`` that it does not read.
    """

    def __init__(self, processor: Any, template_kwargs: Mapping[str, Any] | None = None) -> None:
        self.sees_images = hasattr(processor, "image_processor")
        self.tokenizer = processor.tokenizer if self.sees_images else processor
        self.template = ChatTemplate(processor, self.tokenizer, template_kwargs)
        self.image_token_id: int | None = getattr(processor, "image_token_id", None) if self.sees_images else None
        video_token_id = getattr(processor, "video_token_id", None) if self.sees_images else None
        is_known = video_token_id not in (None, self.tokenizer.unk_token_id)
        self.video_token_id: int | None = video_token_id if is_known else None
        self.text_level_splits = 0
        image = getattr(processor, "image_token", None) if self.sees_images else None
        image = image if isinstance(image, str) else ""
        self.writer = TurnWriter(self.template, sees_images=self.sees_images, ends=self._ends, image=image)
        self.spelt = SpeltOut()
        self._proved = 0
        self._kept: OrderedDict[_Key, Turns] = OrderedDict()
        self._kept_tokens = 0
        self._can_sanitize = self.template.can_mark
        if self.template.writes_the_date:
            self.writer.findings.note(
                "date", f"the chat template writes today's date into prompts; it is given {PINNED_DATE}, so that they "
                "stay the same (for another day: processing.template_kwargs={strftime_now: 2026-07-01})"
            )  # fmt: skip

    @property
    def notes(self) -> dict[str, str]:
        """What was found so far and should be said, by kind."""
        letters = self.spelt.describe()
        return {**self.writer.notes, **({"letters": letters} if letters else {})}

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
        given = json.dumps(own, sort_keys=True, default=str) if own else ""
        key = (tuple(messages), tuple(answers), response_prefix, given)
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            if found.by_text:
                self._note_text_level_split(row_id)
            self.spelt.add(row_id, found.spelt)
            return found
        turns = self._encode(Row(row_id, key[0], key[1], response_prefix, own))
        self.spelt.add(row_id, turns.spelt)
        self._kept[key] = turns
        self._kept_tokens += turns.num_tokens
        while self._kept_tokens > KEPT_TOKENS:
            _, oldest = self._kept.popitem(last=False)
            self._kept_tokens -= oldest.num_tokens
        return turns

    def after_answer(self) -> tuple[int, ...]:
        """Ids of all that the template writes after the last answer of a conversation: its end of turn, if any, and
        what follows that, as a line break. Reward models read whole conversations, and score the last of these tokens.

        Raises:
            ConfigError: the template writes no conversation in which an answer stands as it was given.
        """
        for content in ([{"type": "text", "text": PROBE}], PROBE):
            turns = [{"role": role, "content": content} for role in ("user", "assistant")]
            try:
                before, *rest = self.template.render(turns, {}, ask=False).split(PROBE)
                if len(rest) == 2 and "'type'" not in before:
                    return tuple(self.template.ids(rest[1]))
            except TemplateError:
                continue
        raise ConfigError(
            f"the chat template of {self.template.name} does not write a question and its answer as they are given, "
            "so that no answer can be scored"
        )

    def _encode(self, row: Row) -> Turns:
        for answer in row.answers:
            if not answer.strip():
                raise fault(row.row_id, "empty_response", "has an empty answer")
            self._refuse_cut_thought(row, answer)
        if not self.sees_images and any(message.num_images for message in row.messages):
            raise fault(
                row.row_id, "images_in_text_model", "has images, and this model takes text only; use a model with a "
                "vision tower, or rows without images"
            )  # fmt: skip
        if row.kwargs:
            self._check_kwargs(row)
        if not self._can_sanitize:
            self._refuse_control_tokens(row)
        return self._tokenise(row, self._render(row))

    def _render(self, row: Row) -> Written:
        return self.writer.write(row)

    def prompt_by_processor(
        self, row_id: str, processor: Any, turns: Turns, images: Sequence[Any], options: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """The prompt with its images as the processor alone writes it: ``input_ids`` [1, T] and other model inputs."""
        settings: dict[str, Any] = {"text": [turns.text], "return_tensors": "pt", **options}
        bos = self.tokenizer.bos_token
        if bos is not None and turns.text.startswith(bos):
            settings["add_special_tokens"] = False
        if self.template.unmark(turns.text) != turns.text:
            settings["sanitize_control_tokens"] = True
        try:
            outputs = _with_images(processor, list(images), settings)
        except Exception as err:  # processors raise anything
            if "sanitize_control_tokens" in settings:
                # a tokenizer that adds its own bos cannot do it, and a processor that asks where characters went
                # (Idefics3) cannot work with it
                raise fault(
                    row_id, "control_token", f"has a control token in its text that the processor cannot keep as text: "
                    f"{err}; drop the row"
                ) from err  # fmt: skip
            advice = "" if images else "; some take no text without an image: then leave out rows that have none"
            raise fault(row_id, "template", f"is refused by the model's processor: {one_line(err)}{advice}") from err
        if outputs["input_ids"].shape[0] != 1:
            raise fault(
                row_id, "template", f"becomes {outputs['input_ids'].shape[0]} prompts by the model's processor "
                f"{type(processor).__name__}, which asks questions of its own instead of the row's: such a model "
                "cannot be trained on pairs; use another one"
            )  # fmt: skip
        self._refuse_without_embedding(row_id, outputs["input_ids"].flatten().tolist())
        taken = getattr(processor.image_processor, "model_input_names", ())
        return {
            name: value if isinstance(value, Tensor) else torch.tensor(value)
            for name, value in outputs.items()
            if isinstance(value, Tensor) or (name in taken and isinstance(value, list))
        }

    def _tokenise(self, row: Row, written: Written) -> Turns:
        before = written.prompt + written.prefix
        texts = written.answers
        try:
            opened_texts = [before] if written.prefix else []
            full_texts = [before + answer + end for answer, end in texts]
            first, *more = self.template.ids_of([written.prompt, *opened_texts, *full_texts])
            prompt = self._with_opening(first)
            start = prompt
            if written.prefix:
                opened = self._with_opening(more.pop(0))
                is_split = opened[: len(prompt)] == prompt
                start = opened if is_split else prompt + self._ids_inside(written.prefix)
            whole = [self._with_opening(ids) for ids in more]
            by_text = not all(ids[: len(start)] == start for ids in whole)
            if by_text and row.answers:
                self._note_text_level_split(row.row_id)
                found = [self._ids_inside(answer + end) for answer, end in texts]
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
            for kind, token in (("an image", self.image_token_id), ("a video", self.video_token_id)):
                if token is not None and token in ids:
                    raise fault(row.row_id, "control_token", f"has {kind} token inside an answer: {answer[:60]!r}")
        for ids in (start, prompt, *found):
            self._refuse_without_embedding(row.row_id, ids)
        turns = Turns(
            prompt=tuple(prompt),
            prefix=tuple(start[len(prompt) :]),
            answers=tuple(map(tuple, found)),
            by_text=by_text and bool(row.answers),
            spelt=tuple(filter(None, [self.template.marked_in(answer) for answer, _ in texts])),
            text=written.prompt,
        )
        if self._proved < PROVED_IN_FULL:
            self._proved += 1
            self._prove(row, turns, written, start, whole)
        return turns

    def _ids_inside(self, text: str) -> list[int]:
        """Ids of a text that goes on after another: some tokenizers put a blank before all that begins."""
        for before in ("\n", "a"):
            ids, known = self.template.ids(before + text), self.template.ids(before)
            if known and ids[: len(known)] == known:
                return ids[len(known) :]
        return self.template.ids(text)

    def _prove(
        self, row: Row, turns: Turns, written: Written, start: Sequence[int], whole: Sequence[Sequence[int]]
    ) -> None:
        """Decode what was tokenised, and compare it with what was written.

        Raises:
            EncodeError: the tokenizer gives back another text.
        """
        opened = len(turns.prompt) - len(self.template.ids(written.prompt))
        pieces = [(turns.prompt[opened:], written.prompt)]
        for ids, (answer, end) in zip(turns.answers, written.answers, strict=True):
            is_written = end.rstrip().endswith(self._ends)  # else eos was put behind it
            pieces.append((ids if is_written else ids[:-1], answer + end))
        for place, (ids, text) in enumerate(pieces):
            back = self.decoded(ids)
            if _plainly(back).casefold() == _plainly(self.template.unmark(text)).casefold():
                if place:
                    self._note_changed(row, self.template.unmark(written.answers[place - 1][0]), back)
                self._note_joined(row, self.template.unmark(text), back)
                continue
            if self.tokenizer.unk_token_id in ids:
                self.writer.findings.note(
                    "unknown", f"the tokenizer has no token for some characters of '{row.row_id}'"
                )
                continue
            given, written_as = around_difference(self.template.unmark(text), back)
            raise fault(
                row.row_id, "template", f"does not come back from the tokenizer of {self.template.name} as it was "
                f"written: {given!r} becomes {written_as!r}; use the tokenizer that belongs to this model"
            )  # fmt: skip
        for ids, at_once in zip(turns.answers, whole if turns.by_text else (), strict=False):
            apart, together = self.decoded([*start, *ids]), self.decoded(at_once)
            if not apart.startswith(together.rstrip()):  # in blanks alone: all else was compared above
                given, written_as = around_difference(together, apart)
                self.writer.findings.note(
                    "blanks", f"the tokenizer cannot go on where prompts end: {given!r} is learnt as {written_as!r} "
                    f"(first seen in '{row.row_id}')"
                )  # fmt: skip

    def _note_changed(self, row: Row, answer: str, back: str) -> None:
        """Says once where the tokenizer changes case, letters or blanks: then what is learnt is not what was given."""
        if answer.strip() not in back:
            given, learnt = around_difference(answer.strip(), back.lstrip())
            self.writer.findings.note(
                "changed", f"the tokenizer changes answers, so that what is learnt is not what was given: {given!r} "
                f"becomes {learnt!r} (first seen in '{row.row_id}')"
            )  # fmt: skip

    def _note_joined(self, row: Row, text: str, back: str) -> None:
        """Says once where blanks between words are lost; some tokenizers put more between tokens, which is harmless."""
        if len(back.split()) < len(text.split()):
            given, written_as = around_difference(text, back)
            self.writer.findings.note(
                "joined", f"the tokenizer drops blanks that the chat template writes: {given!r} becomes {written_as!r} "
                f"(first seen in '{row.row_id}')"
            )  # fmt: skip

    def decoded(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens included, with the blanks that the tokenizer gives back."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def _with_opening(self, ids: list[int]) -> list[int]:
        opening = self._opening_ids
        return ids if ids[: len(opening)] == opening else opening + ids

    def _check_kwargs(self, row: Row) -> None:
        try:
            self.template.check(row.kwargs, "its template_kwargs")
        except ConfigError as err:
            raise fault(row.row_id, "template", str(err)) from err

    def _refuse_without_embedding(self, row_id: str, ids: Sequence[int]) -> None:
        if wrong := without_embedding(self.tokenizer, ids):
            raise fault(row_id, "control_token", wrong)

    def _refuse_control_tokens(self, row: Row) -> None:
        texts = [part.text for message in row.messages for part in message.parts] + [row.prefix, *row.answers]
        thinking = {mark for pair in THINK_MARKS for mark in pair}
        for token in self.tokenizer.added_tokens_encoder:
            if token.strip() and token not in thinking and any(token in text for text in texts):
                raise fault(
                    row.row_id, "control_token", f"has the control token {token!r} in its text, and the tokenizer "
                    "cannot keep it as text here; update transformers or drop the row"
                )  # fmt: skip

    def _refuse_cut_thought(self, row: Row, answer: str) -> None:
        """An answer whose thought was cut would be learnt as one that ends while it thinks."""
        marks = never_closed(row.prefix + answer)
        if marks is None:
            return
        opening, closing = marks
        if opening in self.template.source or self.tokenizer.convert_tokens_to_ids(opening) not in (
            None,
            self.tokenizer.unk_token_id,
        ):
            raise fault(
                row.row_id, "unclosed_thought", f"has an answer that begins with {opening} and never writes {closing}, "
                f"so that its thought was cut, or the answer only speaks of the mark: {answer[:60]!r}; leave the row "
                "out, or make the answer again with space for all of it (a rejected one too: it would teach that the "
                f"mark is letters); where it only speaks of the mark, put a word before {opening}, or name it without "
                "its brackets if the template rewrites that too"
            )  # fmt: skip
        self.writer.findings.note(  # to this model the mark is text as any other
            "cut thought", f"an answer of '{row.row_id}' begins with {opening} and never writes {closing}: it may have "
            "been cut in its thought; the model has no such mark, and it is learnt as text"
        )  # fmt: skip

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
        never = {self.tokenizer.unk_token_id, self.tokenizer.bos_token_id, self.image_token_id, self.video_token_id}
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
                f"the chat template of {self.template.name} writes no end-of-turn token and the tokenizer has no "
                "eos_token: the model could never learn to stop; set eos_token in its tokenizer_config.json"
            )
        return int(self.tokenizer.eos_token_id)


def _with_images(processor: Any, images: list[Any], settings: Mapping[str, Any]) -> Any:
    """One text with its images as a list for each text, as chat templates of transformers give them; where a processor
    refuses that, as one list of all images, which is the same for one text."""
    if not images:
        return processor(**settings)
    try:
        return processor(images=[images], **settings)
    except Exception as err:  # processors raise anything
        try:
            return processor(images=images, **settings)
        except Exception:
            raise err from None  # it is not about how the images are given


def _plainly(text: str) -> str:
    """A text as far as a tokenizer that gives everything back may change it."""
    return "".join(unicodedata.normalize("NFKC", text).split())
