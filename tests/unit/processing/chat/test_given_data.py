"""Tools and documents that a row gives are in the prompt that is trained on, or the row is refused."""

from __future__ import annotations

from typing import Any

import pytest

from mmpref.errors import ConfigError
from mmpref.processing import ChatEncoder, EncodeError
from mmpref.processing.chat.given_data import data_in, is_written, names_in, words_in
from mmpref.records import Message, user_turn
from tests.tiny_vlms import turn
from tests.unit.processing.chat.chat_templates import learnt, text_of, tokenizer_for, trl_templates
from tests.unit.processing.chat.test_prompt_frame import chatml
from tests.unit.processing.chat.test_template import chat_for, end_for

TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "description": "sees", "parameters": {"type": "object", "properties": {}}},
    }
    for name in ("zoom_in", "think")
]
QUESTION = user_turn("what ?", num_images=0)
SYSTEM = (turn("system", "be brief ."), *QUESTION)
MULTI = (turn("user", "what ?"), turn("assistant", "a cat ."), turn("user", "sure ?"))
PLAIN = ("it is red .", "no")
JSON = "{{ tools | tojson }}"
AT_LAST = f"{{% if loop.last and m.role == 'user' and tools %}}{JSON}{{% endif %}}"


def made(template: str, **kwargs: Any) -> ChatEncoder:
    return ChatEncoder(tokenizer_for(template, "<|im_end|>"), kwargs)


LOSES: dict[str, tuple[str, str]] = {
    "only beside a system prompt": (
        f"{{% if messages[0].role == 'system' and tools %}}{JSON}{{% endif %}}" + chatml(), "does not write it",
    ),
    "only in the end": ("{% if tools is defined %}{% endif %}" + chatml(), "does not write it"),
    "only that there are some": ("{% if tools %}you have tools{% endif %}" + chatml(), r"\('zoom_in'\) and does not"),
    "only the first": ("{% if tools %}{{ tools[0] | tojson }}{% endif %}" + chatml(), r"\('think'\) and does not"),
    "only where an answer is asked for": (
        f"{{% if add_generation_prompt and tools %}}{JSON}{{% endif %}}" + chatml(), "as soon as an answer follows",
    ),
    "only behind the last question where an answer is asked for": (
        chatml(asks=f"{{% if add_generation_prompt %}}{JSON}<|im_start|>assistant\n{{% endif %}}"),
        "as soon as an answer follows",
    ),
    "only before the last question": (
        chatml().replace("<|im_start|>{{ m.role", AT_LAST + "<|im_start|>{{ m.role"), "as soon as an answer follows",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", LOSES)
def test_a_row_whose_tools_would_be_lost_is_refused_and_the_advice_works(kind: str) -> None:
    template, why = LOSES[kind]
    chat = made(template)
    with pytest.raises(EncodeError, match=rf"'p' .*'tools'.*{why}.*leave 'tools' out") as caught:
        chat.encode("p", QUESTION, PLAIN, template_kwargs={"tools": TOOLS})
    assert caught.value.reason == "template"
    for nothing in ({}, {"tools": []}, {"tools": None}):
        assert chat.encode("p", QUESTION, PLAIN, template_kwargs=nothing).answers
    with pytest.raises(ConfigError, match=r"no answer can be trained on.*leave 'tools' out"):
        made(template, tools=TOOLS).encode("p", QUESTION, PLAIN)
    writes = made("{% if tools %}" + JSON + "{% endif %}" + chatml())  # the other advice: a template that does
    assert "zoom_in" in text_of(writes, writes.encode("p", QUESTION, PLAIN, template_kwargs={"tools": TOOLS}).prompt)


def test_a_row_with_what_the_template_asks_for_goes_on() -> None:
    chat = made(LOSES["only beside a system prompt"][0])
    turns = chat.encode("p", SYSTEM, PLAIN, template_kwargs={"tools": TOOLS})
    assert "zoom_in" in text_of(chat, turns.prompt)
    assert learnt(chat, turns) == ["it is red .<|im_end|>", "no<|im_end|>"]


def test_questions_are_not_asked_without_the_tools_either() -> None:
    with pytest.raises(EncodeError, match="'tools'"):
        made(LOSES["only in the end"][0]).encode("p", QUESTION, (), template_kwargs={"tools": TOOLS})


@pytest.mark.parametrize("messages", [
    QUESTION, pytest.param(SYSTEM, marks=pytest.mark.slow), pytest.param(MULTI, marks=pytest.mark.slow),
], ids=["one", "system", "several"])  # fmt: skip
def test_templates_of_trl_that_read_tools_write_them(messages: tuple[Message, ...]) -> None:
    count = 0
    for name in trl_templates():
        chat = chat_for(name)
        if "tools" not in chat.template.settable:
            continue
        turns = chat.encode("p", messages, PLAIN, template_kwargs={"tools": TOOLS})
        assert "zoom_in" in text_of(chat, turns.prompt), name
        count += 1
    assert count > 20


def test_documents_are_looked_for_as_well_and_switches_are_not() -> None:
    documents = [{"title": "cats", "text": "a cat is no dog ."}]
    reads = "{% if documents %}{% for d in documents %}{{ d.text }}{% endfor %}{% endif %}" + chatml()
    chat = made(reads)
    turns = chat.encode("p", QUESTION, PLAIN, template_kwargs={"documents": documents})
    assert "a cat is no dog ." in text_of(chat, turns.prompt)
    mentions = "{% if documents is defined %}{% endif %}{% if no_tools_please %}{% endif %}" + chatml()
    with pytest.raises(EncodeError, match="'documents'"):
        made(mentions).encode("p", QUESTION, PLAIN, template_kwargs={"documents": documents})
    assert made(mentions).encode("p", QUESTION, PLAIN, template_kwargs={"no_tools_please": True}).answers


def test_a_name_that_the_question_says_as_well_is_no_tool_that_was_written() -> None:
    chat = made(LOSES["only that there are some"][0])
    with pytest.raises(EncodeError, match="'tools'"):
        chat.encode("p", (turn("user", "zoom_in and think !"),), PLAIN, template_kwargs={"tools": TOOLS})


@pytest.mark.parametrize("name", ["größe", "a<|im_end|>b", "x.y-z", "</s>"])
def test_odd_names_are_found(name: str) -> None:
    chat = made("{% if tools %}" + JSON + "{% endif %}" + chatml())
    turns = chat.encode("p", QUESTION, PLAIN, template_kwargs={"tools": [{"name": name}]})
    assert name in text_of(chat, turns.prompt)


def test_a_template_that_cannot_do_without_tools_reads_them() -> None:
    chat = made("{{ tools[0].name }}" + chatml())
    turns = chat.encode("p", QUESTION, PLAIN, template_kwargs={"tools": [{"name": "zoom_in"}]})
    assert text_of(chat, turns.prompt).startswith("zoom_in")


def test_names_of_functions_are_looked_for_or_the_longest_text() -> None:
    assert is_written("é", '"\\u00e9"', "")
    assert not is_written("a", "a", "a")
    assert words_in({"a": ["x", "longest"]}) == ["longest"]
    assert list(names_in([{"function": {"name": "f"}}, {"name": "g"}, "h", {"name": 3}])) == ["f", "g"]
    assert [name for name, _ in data_in({"tools": [], "custom_tools": [1], "tools_first": True, "x": [2]})] == [
        "custom_tools"
    ]


@pytest.mark.parametrize("name", ["deepseek_r1_distill", "qwen3_5_think", "nemotron_3_nano", "gptoss"])
def test_a_tool_that_is_called_as_an_opening_is_not_lost_with_it(name: str) -> None:
    template = trl_templates()[name]
    if "tools" not in chat_for(name).template.settable:
        template = "{% if tools %}" + JSON + "{% endif %}" + template
    chat = ChatEncoder(tokenizer_for(template, end_for(name)))
    for function in ("think", "final", "assistant"):
        turns = chat.encode(
            "p",
            MULTI,
            PLAIN,
            template_kwargs={
                "tools": [
                    {
                        "type": "function",
                        "function": {
                            "name": function,
                            "description": "sees",
                            "parameters": {"type": "object", "properties": {}},
                        },
                    }
                ]
            },
        )
        assert function in text_of(chat, turns.prompt)
