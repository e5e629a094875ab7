"""Chat templates with the tokens that they write, and what each writes, by the template alone."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from mmpref.processing.chat.conversation import ChatEncoder, Turns
from mmpref.records import Message
from tests.tiny_vlms import SPECIAL, make_tokenizer

_TOKEN = re.compile(r"<\|[^|<>\s']+\|?>|<｜[^<>']+?｜>|<(?:start|end)_of_\w+>|<\w+\|>|<image>|\[gMASK\]|<sop>")


@lru_cache
def trl_templates() -> dict[str, str]:
    """Name -> source of every template in the TRL package; none where it is not installed."""
    trl = pytest.importorskip("trl")
    folder = Path(trl.__file__).parent / "chat_templates"
    return {file.stem: file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.jinja"))}


@lru_cache(maxsize=100)
def tokenizer_for(template: str, eos: str) -> PreTrainedTokenizerFast:
    """A tokenizer that has every token the template writes; think marks are tokens, but not special ones."""
    named = sorted(token for token in {*_TOKEN.findall(template), eos} if token not in SPECIAL)
    tokenizer = make_tokenizer(template=template, unnamed=tuple(named))
    tokenizer.add_tokens([mark for mark in ("<think>", "</think>") if mark in template])
    tokenizer.eos_token = eos
    return tokenizer


def text_of(chat: ChatEncoder, ids: tuple[int, ...]) -> str:
    return str(chat.tokenizer.decode(list(ids), skip_special_tokens=False))


def learnt(chat: ChatEncoder, turns: Turns) -> list[str]:
    """Each answer's scored text, from its ids."""
    return [text_of(chat, ids) for ids in turns.answers]


def own_rendering(chat: ChatEncoder, messages: tuple[Message, ...], answer: str, *, parts: bool, **kwargs: Any) -> str:
    """The whole conversation as the template alone writes it."""

    def content(text: str) -> Any:
        return [{"type": "text", "text": text}] if parts else text

    turns = [{"role": message.role, "content": content(message.text)} for message in messages]
    turns.append({"role": "assistant", "content": content(answer)})
    return str(chat.tokenizer.apply_chat_template(turns, tokenize=False, **kwargs))
