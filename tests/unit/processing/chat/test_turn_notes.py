"""What is said of a template is true of the rows: of the prompt, and of the end that is learnt."""

from __future__ import annotations

import pytest

from mmpref.errors import MMPrefError
from mmpref.processing import ChatEncoder
from mmpref.records import user_turn
from tests.tiny_vlms import VICUNA, make_tokenizer, turn
from tests.unit.processing.chat.chat_templates import learnt, text_of, tokenizer_for
from tests.unit.processing.chat.test_prompt_frame import chatml
from tests.unit.processing.chat.test_template import chat_for

QUESTION = user_turn("what ?", num_images=0)
PLAIN = ("it is red .", "no")
HISTORY = (turn("user", "what ?"), turn("assistant", "a cat ."), turn("user", "sure ?"))


def made(template: str, eos: str = "<|im_end|>") -> ChatEncoder:
    return ChatEncoder(tokenizer_for(template, eos))


DIFFER = {  # template -> (what is trained on, what is asked)
    "a word behind the last question": (
        chatml(user="m.content ~ (' /brief' if loop.last else '')"), ("what ?<|im_end|>", "what ? /brief<|im_end|>"),
    ),
    "a word about thinking behind the last question": (
        chatml(user="m.content ~ (' /think' if loop.last else '')"), ("what ?<|im_end|>", "what ? /think<|im_end|>"),
    ),
    "the number of messages": ("[{{ messages | length }} turns]" + chatml(), ("[2 turns]", "[1 turns]")),
    "another name of the role": (
        chatml().replace("{{ m.role }}", "{{ 'model' if m.role == 'assistant' else m.role }}"),
        ("<|im_start|>model\\n", "<|im_start|>assistant\\n"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DIFFER)
def test_a_prompt_that_differs_for_another_reason_is_not_said_to_open_a_thought(kind: str) -> None:
    template, (trained, asked) = DIFFER[kind]
    chat = made(template)
    assert learnt(chat, chat.encode("p", QUESTION, PLAIN)) == ["it is red .<|im_end|>", "no<|im_end|>"]
    assert list(chat.notes) == ["other prompt"]
    before, _, after = chat.notes["other prompt"].partition("is trained on")
    assert trained in before
    assert asked in after
    assert "(first seen in 'p')" in after
    assert "think block" not in chat.notes["other prompt"]


def test_a_block_that_the_answers_close_is_not_called_empty() -> None:
    chat = chat_for("qwen3")
    chat.encode("p", QUESTION, ("hm\n</think>\n\nyes", "ha\n</think>\n\nno"))
    assert "the prompt opens a think block: '<think>\\n'" in chat.notes["opening"]
    assert "lead" not in chat.notes
    chat.encode("q", QUESTION, PLAIN)
    assert "'<think>\\n\\n</think>\\n\\n', which is not learnt (first seen in 'q')" in chat.notes["lead"]


def test_a_row_that_is_refused_leaves_no_note_and_neither_does_a_row_of_our_own() -> None:
    # as Jinja writes it where a template escapes whole turns: the end is then text, and letters of answers change
    escapes = chatml(user="m.content | e").replace("{{ m.content }}{% endif %}", "{{ m.content | e }}{% endif %}")
    chat = made(escapes.replace("<|im_end|>\n{% endfor %}", "{{ '<|im_end|>\n' | e }}{% endfor %}"))
    for answer in ("<b>", "a & b", "1 < 2"):
        with pytest.raises(MMPrefError):
            chat.encode("p", (turn("user", "1 < 2 ?"),), (answer, "no"))
    assert not chat.notes


NO_LAST_END = chatml(end="{% if not (loop.last and m.role == 'assistant') %}<|im_end|>\n{% endif %}")


@pytest.mark.parametrize("messages", [QUESTION, HISTORY], ids=["one", "several"])
def test_an_end_that_only_earlier_answers_have_is_said_and_the_advice_works(messages: tuple[object, ...]) -> None:
    chat = made(NO_LAST_END, "<|endoftext|>")
    turns = chat.encode("p", messages, PLAIN)  # type: ignore[arg-type]
    assert learnt(chat, turns) == ["it is red .<|endoftext|>", "no<|endoftext|>"]
    note = chat.notes["other end"]
    assert "eos '<|endoftext|>' is learnt, and ends earlier answers with '<|im_end|>' (first seen in 'p')" in note
    assert "set eos_token to it" in note
    told = made(NO_LAST_END, "<|im_end|>")
    assert learnt(told, told.encode("p", HISTORY, PLAIN)) == ["it is red .<|im_end|>", "no<|im_end|>"]
    assert not told.notes


def test_an_end_of_answers_alone_is_said_as_well() -> None:
    ends = "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} {% else %}ANSWER: {{ m.content }}"
    ends += "{% if not loop.last %}<|eot|>{% endif %}{% endif %}{% endfor %}"
    chat = made(ends + "{% if add_generation_prompt %}ANSWER:{% endif %}", "</s>")
    chat.encode("p", QUESTION, PLAIN)
    assert "earlier answers with '<|eot|>'" in chat.notes["other end"]


def test_a_token_that_opens_the_next_question_is_no_end() -> None:
    for chat in (chat_for("glm4moe"), ChatEncoder(make_tokenizer(template=VICUNA)), made(chatml())):
        chat.encode("p", HISTORY, PLAIN)
        assert "other end" not in chat.notes
    opens = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    chat = made(opens + "{% if add_generation_prompt %}<|assistant|>{% endif %}{# <|user|> #}", "</s>")
    assert learnt(chat, chat.encode("p", HISTORY, PLAIN)) == ["it is red .</s>", "no</s>"]
    assert "other end" not in chat.notes


def test_a_default_system_prompt_does_not_hide_the_end() -> None:
    chat = made("<|im_start|>system\nbe brief .<|im_end|>\n" + NO_LAST_END, "<|endoftext|>")
    assert text_of(chat, chat.encode("p", QUESTION, PLAIN).prompt).startswith("<|im_start|>system")
    assert "'<|im_end|>'" in chat.notes["other end"]
