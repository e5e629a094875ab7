"""Every message of a prompt is in what is trained on, also where templates leave out turns or where texts repeat."""

from __future__ import annotations

import pytest

from mmpref.errors import ConfigError
from mmpref.processing import ChatEncoder, EncodeError
from mmpref.records import Message, user_turn
from tests.releases import needs_spelt_tokens
from tests.tiny_vlms import turn
from tests.unit.processing.chat.chat_templates import learnt, text_of, tokenizer_for

ASKS = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TWICE = (turn("user", "what color ?"), turn("assistant", "red ."), turn("user", "what color ?"))
SYSTEM = (turn("system", "be brief ."), turn("user", "what ?"))
ANSWERS = ("it is red .", "no")


def chatml(loop: str = "messages", *, user: str = "m.content", end: str = "<|im_end|>\n", asks: str = ASKS) -> str:
    return (
        f"{{% for m in {loop} %}}<|im_start|>{{{{ m.role }}}}\n{{% if m.role == 'user' %}}{{{{ {user} }}}}"
        f"{{% else %}}{{{{ m.content }}}}{{% endif %}}{end}{{% endfor %}}{asks}"
    )


LAST_USER = (
    "<|im_start|>user\n{{ (messages | selectattr('role', 'equalto', 'user') | list | last).content }}<|im_end|>\n"
    "<|im_start|>assistant\n{% if messages[-1].role == 'assistant' %}{{ messages[-1].content }}<|im_end|>\n{% endif %}"
)
LOSES: dict[str, tuple[str, tuple[Message, ...]]] = {
    "the last two turns, and the question was asked before": (chatml("messages[-2:]"), TWICE),
    "the last three turns once an answer follows": (chatml("messages[-3:]"), TWICE),
    "the last question, and it was asked before": (LAST_USER, TWICE),
    "the system turn once an answer follows": (chatml("messages[-2:]"), SYSTEM),
    "a first turn whose text stands in the template": (
        chatml("messages[1:]"), (turn("user", "user"), turn("assistant", "red ."), turn("user", "what ?")),
    ),
    "a system turn that the question repeats": (
        chatml("messages[1:]"), (turn("system", "what ?"), turn("user", "what ? say")),
    ),
    "the case of a word that is said again": (
        chatml(user="m.content | capitalize"), (turn("user", "yes"), turn("assistant", "yes"), turn("user", "yes")),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LOSES)
def test_a_prompt_without_one_of_its_messages_is_refused(kind: str) -> None:
    template, messages = LOSES[kind]
    chat = ChatEncoder(tokenizer_for(template, "<|im_end|>"))
    with pytest.raises((EncodeError, ConfigError), match=r"leaves out .*(user|system|assistant) message"):
        chat.encode("p", messages, ANSWERS)


def test_a_question_is_not_moved_behind_the_answer() -> None:
    chat = ChatEncoder(tokenizer_for(chatml("messages[1:2] + messages[:1]"), "<|im_end|>"))
    with pytest.raises((EncodeError, ConfigError), match="leaves out the user message"):
        chat.encode("p", user_turn("what ?", num_images=0), ANSWERS)


def test_what_is_asked_twice_is_there_twice() -> None:
    chat = ChatEncoder(tokenizer_for(chatml(), "<|im_end|>"))
    turns = chat.encode("p", TWICE, ANSWERS)
    assert text_of(chat, turns.prompt).count("what color ?") == 2
    assert learnt(chat, turns) == ["it is red .<|im_end|>", "no<|im_end|>"]


def test_a_system_prompt_may_stand_behind_the_first_words() -> None:
    merged = (
        "{% set s = messages[0].content if messages[0].role == 'system' else '' %}"
        "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}[INST] {{ m.content }}"
        "{% if s and loop.first %} ({{ s }}){% endif %} [/INST]{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
    )
    chat = ChatEncoder(tokenizer_for(merged, "</s>"))
    turns = chat.encode("p", SYSTEM, ANSWERS)
    assert "what ? (be brief .)" in text_of(chat, turns.prompt)
    assert [text.strip() for text in learnt(chat, turns)] == ["it is red .</s>", "no</s>"]


@pytest.mark.parametrize("question", ["a", "s", "start", "what ?", pytest.param("</s>", marks=needs_spelt_tokens)])
def test_the_end_of_turn_does_not_depend_on_the_letters_of_the_question(question: str) -> None:
    chat = ChatEncoder(tokenizer_for(chatml(end="</s><|im_end|>\n"), "<|im_end|>"))
    turns = chat.encode("p", user_turn(question, num_images=0), ANSWERS)
    assert learnt(chat, turns) == ["it is red .</s>", "no</s>"]


def test_a_turn_that_a_template_opens_at_once_is_not_the_end_of_the_answer() -> None:
    always = chatml(end="\n", asks="<|im_start|>assistant\n")  # whose last line break Jinja takes away
    chat = ChatEncoder(tokenizer_for(always, "<|im_end|>"))
    turns = chat.encode("p", user_turn("what ?", num_images=0), ANSWERS)
    assert [text.strip() for text in learnt(chat, turns)] == ["it is red .<|im_end|>", "no<|im_end|>"]


def test_of_several_templates_the_one_for_tools_is_taken_where_tools_are_given() -> None:
    tokenizer = tokenizer_for(chatml() + "{# several #}", "<|im_end|>")
    tokenizer.chat_template = {"default": chatml(), "tool_use": "{{ tools[0].name }}\n" + chatml()}
    tools = [{"name": "zoom"}]
    question = user_turn("what ?", num_images=0)
    told = ChatEncoder(tokenizer, {"tools": tools})
    assert text_of(told, told.encode("p", question, ANSWERS).prompt).startswith("zoom")
    plain = ChatEncoder(tokenizer)
    assert "zoom" not in text_of(plain, plain.encode("p", question, ANSWERS).prompt)
    with pytest.raises(EncodeError, match="another template, 'tool_use'"):
        plain.encode("p", question, ANSWERS, template_kwargs={"tools": tools})
    tokenizer.chat_template = {"chat": chatml(), "rag": chatml()}
    with pytest.raises(ConfigError, match="'chat', 'rag' and none named 'default'"):
        ChatEncoder(tokenizer)
