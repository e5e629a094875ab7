"""Where the answer begins, its tokens are those that the whole text has there: no blank that nobody wrote."""

from __future__ import annotations

from typing import Literal

import pytest
from tokenizers import Regex, normalizers

from mmpref.processing import ChatEncoder
from mmpref.processing.chat.conversation import Turns
from mmpref.records import user_turn
from tests.releases import CAN_SANITIZE
from tests.tiny_vlms import CHATML, make_tokenizer
from tests.unit.processing.chat.test_prompt_frame import chatml
from tests.unit.processing.metaspace import metaspace_tokenizer

QUESTION = user_turn("Q", num_images=0)
EMPTY = "<think>\n\n</think>\n\n"
ASKS = "{% if add_generation_prompt %}<|im_start|>assistant\n%%{% endif %}"
STRIPS = chatml(asks=ASKS.replace("%%", "{{ '<think>\n' }}")).replace(
    "{% else %}{{ m.content }}", "{% else %}{{ m.content.split('</think>')[-1] }}"
)
ROLES = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}{% if add_generation_prompt %}%%{% endif %}"
TEMPLATES = {  # template, answers, what is learnt of the first
    "the block is only asked with": (
        chatml(asks=ASKS.replace("%%", f"{{{{ {EMPTY!r} }}}}")), ("Yes.", "No."), ["Yes", ".", "<|im_end|>"],
    ),
    "the thought is stripped": (
        STRIPS, ("<think>\nYes\n</think>\n\nNo", "<think>\nNo\n</think>\n\nYes"), ["Yes", "\n", "</think>"],
    ),
    "a blank ends the prompt": (
        ROLES.replace("%%", "{{ 'assistant: ' }}"), ("Yes.", "No."), ["Yes", ".", "<|im_end|>"],
    ),
    "no blank ends the prompt": (ROLES.replace("%%", "assistant:"), ("Yes.", "No."), ["▁Yes", ".", "<|im_end|>"]),
    "a line ends the prompt": (CHATML, ("Yes.", "No."), ["Yes", ".", "<|im_end|>"]),
    "blanks begin the answer": (
        chatml(asks=ASKS.replace("%%", f"{{{{ {EMPTY!r} }}}}")), (" Yes.", "\nNo."), ["▁Yes", ".", "<|im_end|>"],
    ),
    "a blank ends the prompt and one begins the answer": (
        ROLES.replace("%%", "{{ 'assistant: ' }}"), (" Yes.", "No."), ["▁Yes", ".", "<|im_end|>"],
    ),
}  # fmt: skip


def pieces(chat: ChatEncoder, ids: tuple[int, ...]) -> list[str]:
    return list(chat.tokenizer.convert_ids_to_tokens(list(ids)))


def decoded(chat: ChatEncoder, turns: Turns, answer: int) -> str:
    return str(chat.tokenizer.decode([*turns.prompt, *turns.prefix, *turns.answers[answer]]))


@pytest.mark.parametrize("prepend", ["first", "always", "never"])
@pytest.mark.parametrize("kind", TEMPLATES)
def test_no_blank_is_put_before_an_answer(kind: str, prepend: Literal["first", "always", "never"]) -> None:
    template, answers, wanted = TEMPLATES[kind]
    chat = ChatEncoder(metaspace_tokenizer(template, prepend=prepend))
    turns = chat.encode("p", QUESTION, answers)
    assert pieces(chat, turns.answers[0])[: len(wanted)] == wanted
    assert "blanks" not in chat.notes


@pytest.mark.parametrize("prepend", ["first", "always"])
def test_a_given_beginning_and_the_answer_behind_it_get_no_blank_either(prepend: Literal["first", "always"]) -> None:
    chat = ChatEncoder(metaspace_tokenizer(ROLES.replace("%%", "{{ 'assistant: ' }}"), prepend=prepend))
    turns = chat.encode("p", QUESTION, ("No.", "Yes."), response_prefix="Yes")
    assert pieces(chat, turns.prefix) == ["Yes"]
    assert pieces(chat, turns.answers[0])[:2] == ["No", "."]
    assert decoded(chat, turns, 0).endswith("assistant: YesNo.<|im_end|>")


def test_a_prompt_whose_ids_begin_the_whole_is_not_split_by_text() -> None:
    chat = ChatEncoder(metaspace_tokenizer(TEMPLATES["the block is only asked with"][0]))
    assert not chat.encode("p", QUESTION, ("Yes.", "No.")).by_text
    assert chat.text_level_splits == 0


def test_byte_level_tokens_stay_as_they_were() -> None:
    """A tokenizer that puts no blank anywhere: behind an anchor and alone are the same."""
    chat = ChatEncoder(make_tokenizer(template=ROLES.replace("%%", "{{ 'assistant: ' }}")))
    spelt = ("yes <|im_end|> no",) if CAN_SANITIZE else ()
    for answer in ("red", "123", " a", "\n\nred", "...", "é", *spelt):
        turns = chat.encode("p", QUESTION, (answer, "no"))
        alone = chat.template.ids(chat.template.mark(answer))
        assert list(turns.answers[0][:-1]) == alone, answer


def test_a_blank_that_cannot_be_left_out_is_said() -> None:
    """A tokenizer that takes away what text begins with, so that it cannot be shown what an answer goes on after."""
    tokenizer = metaspace_tokenizer(ROLES.replace("%%", "{{ 'assistant: ' }}"))
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex(r"^[\na]"), "")
    chat = ChatEncoder(tokenizer)
    turns = chat.encode("p", QUESTION, ("Yes.", "No."))
    assert pieces(chat, turns.answers[0])[:2] == ["▁Yes", "."]
    assert "assistant: Yes.' is learnt as " in chat.notes["blanks"]
    assert "assistant:  Yes." in chat.notes["blanks"]
    assert "(first seen in 'p')" in chat.notes["blanks"]
