"""Conversations as token ids, by the model's own chat template. No image is needed here: a place stays one token."""

from __future__ import annotations

import inspect
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from torch import Tensor

from mmpref.errors import ConfigError
from mmpref.processing.faults import EncodeError, fault
from mmpref.records import Message, Part

logger = logging.getLogger(__name__)

KEPT_TOKENS = 1_000_000
"""How many tokens of encoded conversations are kept, some 30 MB."""
_Key: TypeAlias = tuple[tuple[Message, ...], tuple[str, ...], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """One prompt and the answers that continue it, as ids.

    ``prompt`` ends where the model starts to write (image places not expanded), ``prefix`` is the part of the answer
    that is given, and each answer ends with its end-of-turn token.
    """

    prompt: tuple[int, ...]
    prefix: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    by_text: bool = False  # the answers were tokenised alone, because the template breaks the prefix

    @property
    def num_tokens(self) -> int:
        return len(self.prompt) + len(self.prefix) + sum(map(len, self.answers))


class ChatEncoder:
    """Renders and tokenises conversations.

    What users wrote stays text: a literal ``<image>`` or ``</s>`` in a message never becomes that token.

    The split of an answer from its prompt is proved: the ids of the prompt must begin the ids of the whole
    conversation. Where the template or the tokenizer breaks that (it trims, or merges across the seam), both answers
    are tokenised alone and put after the prompt, as the model itself would continue it; ``text_level_splits`` counts
    these rows. An answer ends with the end-of-turn token that the template writes, or with eos where it writes none;
    white space that a template writes after it is left out, because no model is asked for it.
    """

    def __init__(self, processor: Any) -> None:
        self.sees_images = hasattr(processor, "image_processor")
        self.tokenizer = processor.tokenizer if self.sees_images else processor
        self.template = _template_of(processor, self.tokenizer)
        self.image_token_id: int | None = getattr(processor, "image_token_id", None) if self.sees_images else None
        self.text_level_splits = 0
        self._is_blank: dict[int, bool] = {}
        self._kept: OrderedDict[_Key, Turns] = OrderedDict()
        self._kept_tokens = 0
        parameters = inspect.signature(self.tokenizer.apply_chat_template).parameters
        self._can_sanitize = "sanitize_control_tokens" in parameters

    def encode(
        self, row_id: str, messages: Sequence[Message], answers: Sequence[str], *, response_prefix: str = ""
    ) -> Turns:
        """Ids of the prompt and of every answer. Recent results are kept: questions repeat, and so do epochs.

        Raises:
            EncodeError: control tokens that cannot be kept as text, a template that refuses the conversation, an empty
                answer, images given to a text-only model.
        """
        key = (tuple(messages), tuple(answers), response_prefix)
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            if found.by_text:
                self._note_text_level_split(row_id)
            return found
        turns = self._encode(row_id, messages, answers, response_prefix)
        self._kept[key] = turns
        self._kept_tokens += turns.num_tokens
        while self._kept_tokens > KEPT_TOKENS:
            _, oldest = self._kept.popitem(last=False)
            self._kept_tokens -= oldest.num_tokens
        return turns

    def _encode(self, row_id: str, messages: Sequence[Message], answers: Sequence[str], response_prefix: str) -> Turns:
        for answer in answers:
            if not answer.strip():
                raise fault(row_id, "empty_response", "has an empty answer")
        texts = [part.text for message in messages for part in message.parts] + [response_prefix, *answers]
        if not self._can_sanitize:
            self._refuse_control_tokens(row_id, texts)
        prompt = self._render(row_id, messages, None)
        prefix: list[int] = []
        if response_prefix:
            opened = self._closed(row_id, messages, response_prefix)[:-1]
            is_split = opened[: len(prompt)] == prompt
            prefix = opened[len(prompt) :] if is_split else self._plain(response_prefix)
        start = prompt + prefix
        closed = [self._closed(row_id, messages, response_prefix + answer) for answer in answers]
        by_text = not all(ids[: len(start)] == start for ids in closed)
        if not by_text:
            found = [ids[len(start) :] for ids in closed]
        else:
            self._note_text_level_split(row_id)
            found = [[*self._plain(answer), ids[-1]] for answer, ids in zip(answers, closed, strict=True)]
        for answer, ids in zip(answers, found, strict=True):
            if len(ids) < 2:
                raise fault(row_id, "empty_response", f"has an answer without a token to learn: {answer[:60]!r}")
            if self.image_token_id is not None and self.image_token_id in ids:
                raise fault(row_id, "control_token", f"has an image token inside an answer: {answer[:60]!r}")
        ends = tuple(tuple(ids) for ids in found)
        return Turns(prompt=tuple(prompt), prefix=tuple(prefix), answers=ends, by_text=by_text)

    def conversation(self, row_id: str, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Messages as chat templates take them: lists of parts for models with images, strings for the others."""
        if self.sees_images:
            return [{"role": m.role, "content": [_as_part(part) for part in m.parts]} for m in messages]
        if any(message.num_images for message in messages):
            raise fault(
                row_id, "images_in_text_model", "has images, and this model takes text only; use a model with a vision "
                "tower, or rows without images"
            )  # fmt: skip
        return [{"role": m.role, "content": m.text} for m in messages]

    def prompt_by_processor(
        self, row_id: str, processor: Any, conversation: list[dict[str, Any]], options: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """The prompt with its images as the processor alone writes it: ``input_ids`` [1, T] and other model inputs."""
        settings: dict[str, Any] = {
            "chat_template": self.template,
            "add_generation_prompt": True,
            "tokenize": True,
            "return_dict": True,
            "return_tensors": "pt",
            "processor_kwargs": dict(options),
        }
        try:
            if self._can_sanitize:
                try:
                    outputs = processor.apply_chat_template(conversation, sanitize_control_tokens=True, **settings)
                # a tokenizer that adds its own bos cannot do it, and a processor that asks where characters went
                # (Idefics3) cannot work with it: refuse the texts that would need it
                except (NotImplementedError, ValueError):
                    texts = [part.get("text", "") for message in conversation for part in message["content"]]
                    self._refuse_control_tokens(row_id, texts)
                    outputs = processor.apply_chat_template(conversation, **settings)
            else:
                outputs = processor.apply_chat_template(conversation, **settings)
        except EncodeError:
            raise
        except Exception as err:  # as in _render: templates and processors raise anything
            raise fault(row_id, "template", f"is refused by the model's processor: {err}") from err
        return {name: value for name, value in outputs.items() if isinstance(value, Tensor)}

    def _render(self, row_id: str, messages: Sequence[Message], answer: str | None) -> list[int]:
        """Ids of the prompt with the opening of the assistant's turn, or of the conversation with an answer."""
        turns = self.conversation(row_id, messages)
        if answer is not None:
            content = [{"type": "text", "text": answer}] if self.sees_images else answer
            turns.append({"role": "assistant", "content": content})
        extra = {"sanitize_control_tokens": True} if self._can_sanitize else {}
        try:
            ids = self.tokenizer.apply_chat_template(
                turns,
                chat_template=self.template,
                tokenize=True,
                return_dict=False,
                add_generation_prompt=answer is None,
                **extra,
            )
        except Exception as err:  # a template is a program of the model's author and may raise anything
            if "sanitize" in str(err):
                raise fault(row_id, "control_token", f"has a control token that cannot be kept as text: {err}") from err
            raise fault(row_id, "template", f"is refused by the model's chat template: {err}") from err
        opening = self._opening_ids
        return list(ids) if list(ids[: len(opening)]) == opening else opening + list(ids)

    def _closed(self, row_id: str, messages: Sequence[Message], answer: str) -> list[int]:
        """Ids of the conversation with this answer, up to and with the end of its turn."""
        ids = self._render(row_id, messages, answer)
        while ids and ids[-1] not in self._end_ids and self._blank(ids[-1]):
            ids.pop()
        if not ids or ids[-1] not in self._end_ids:
            ids.append(self._eos_id)
        return ids

    def _plain(self, text: str) -> list[int]:
        """Ids of a piece of text alone, with nothing added and no special token read from it."""
        return list(self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def _refuse_control_tokens(self, row_id: str, texts: Sequence[str]) -> None:
        for token in self.tokenizer.added_tokens_encoder:
            if token.strip() and any(token in text for text in texts):
                raise fault(
                    row_id, "control_token", f"has the control token {token!r} in its text, and the tokenizer "
                    "cannot keep it as text here; update transformers or drop the row"
                )  # fmt: skip

    def _note_text_level_split(self, row_id: str) -> None:
        if not self.text_level_splits:
            logger.warning(
                "the ids of the prompt do not begin the ids of prompt + answer (first seen in '%s'): answers of such "
                "rows are tokenised alone and put after the prompt",
                row_id,
            )
        self.text_level_splits += 1

    def _blank(self, token: int) -> bool:
        if token not in self._is_blank:
            self._is_blank[token] = not self.tokenizer.decode([token]).strip()
        return self._is_blank[token]

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
    def _end_ids(self) -> frozenset[int]:
        """Special tokens that can close a turn. Answers hold none of them: what users wrote stays text."""
        special = {number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        never = {self.tokenizer.unk_token_id, self.tokenizer.bos_token_id, self.image_token_id}
        return frozenset((special - never) | {self.tokenizer.eos_token_id} - {None})

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


def _as_part(part: Part) -> dict[str, str]:
    return {"type": "image"} if part.kind == "image" else {"type": "text", "text": part.text}


def _template_of(processor: Any, tokenizer: Any) -> str:
    template = getattr(processor, "chat_template", None) or tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise ConfigError(
            "the model has no chat template, so there is no one way to write a conversation for it; use an "
            "instruction-tuned model, or put a chat_template.jinja into its folder"
        )
    return str(template)
