"""A row is rendered and tokenised at once, with its answers, and comes out as if each text had had its own turn."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from mmpref.errors import ConfigError
from mmpref.processing import ChatEncoder, EncodeError
from mmpref.processing.chat import renderer
from mmpref.processing.chat.conversation import Turns
from mmpref.records import user_turn
from tests.unit.processing.chat.chat_templates import tokenizer_for

FRAME = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}ANSWER{% else %}{{ message['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {
    "as it is": "{{ message['content'] }}",
    "trims": "{{ message['content'] | trim }}",
    "refuses some": "{{ raise_exception('no green') if 'green' in message['content'] else message['content'] }}",
    "writes too much": "{{ message['content'] }}{% if 'long' in message['content'] %}{{ 'x' * 100000 }}{% endif %}",
}
ROWS = (
    ("it is red .", "no"),
    (" it is blue .\n", "it is red ."),
    ("it is green .", "no"),
    ("no", "it is green ."),
    ("say <|im_end|> now", "no"),
    ("<think>\nhm\n</think>\n\nno", "it is red ."),
    ("same", "same"),
    ("it is long .", "no"),
)


def chat_of(name: str) -> ChatEncoder:
    return ChatEncoder(tokenizer_for(FRAME.replace("ANSWER", TEMPLATES[name]), "<|im_end|>"))


def outcomes(chat: ChatEncoder) -> list[Turns | str]:
    found: list[Turns | str] = []
    for number, answers in enumerate(ROWS):
        try:
            found.append(chat.encode(f"row {number}", user_turn("what ?", num_images=0), answers))
        except (EncodeError, ConfigError) as err:
            found.append(f"{type(err).__name__}: {err}")
    return found


def count_exchanges(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each exchange with the process that renders from now on."""
    sizes: list[int] = []
    exchange = renderer._PROCESS._exchange

    def counted(request: bytes) -> bytes | None:
        sizes.append(len(request))
        return exchange(request)

    monkeypatch.setattr(renderer._PROCESS, "_exchange", counted)
    return sizes


@pytest.mark.parametrize("name", TEMPLATES)
def test_rows_and_refusals_are_those_of_one_text_after_the_other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = outcomes(chat_of(name))
    alone = chat_of(name)
    monkeypatch.setattr(renderer, "render_all", lambda *_: [])
    monkeypatch.setattr(alone.template, "ids_of", lambda texts: [alone.template.ids(text) for text in texts])
    assert outcomes(alone) == at_once
    assert any(isinstance(one, Turns) for one in at_once)
    refused = [one for one in at_once if isinstance(one, str)]
    assert ("cannot be trained on" in " ".join(refused)) == (name == "refuses some")
    assert ("characters where" in " ".join(refused)) == (name == "writes too much")


def test_a_row_takes_one_exchange_once_its_template_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = chat_of("as it is")
    chat.encode("first", user_turn("what ?", num_images=0), ROWS[0])
    exchanges = count_exchanges(monkeypatch)
    chat.encode("second", user_turn("where ?", num_images=0), ROWS[1])
    assert len(exchanges) == 1


def test_a_text_that_a_tokenizer_cannot_read_is_named_also_among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = chat_of("as it is")
    stock = type(chat.tokenizer).__call__

    def failing(self: Any, text: Any, **settings: Any) -> Any:
        if any("red" in one for one in ([text] if isinstance(text, str) else text)):
            raise ValueError("no red")
        return stock(self, text, **settings)

    monkeypatch.setattr(type(chat.tokenizer), "__call__", failing)
    with pytest.raises(EncodeError, match=r"'p' has a control token.*no red"):
        chat.encode("p", user_turn("what ?", num_images=0), ROWS[0])


@pytest.mark.parametrize("name", TEMPLATES)
def test_pairs_of_one_prompt_are_what_each_alone_is(name: str) -> None:
    """What was written and read for one pair serves the others, refusals included."""
    together, answers = chat_of(name), list(dict.fromkeys(answer for row in ROWS for answer in row))

    def outcome(chat: ChatEncoder, one: str, other: str) -> Turns | str:
        try:
            return chat.encode("p", user_turn("what ?", num_images=0), (one, other))
        except (EncodeError, ConfigError) as err:
            return f"{type(err).__name__}: {err}"

    for one, other in permutations(answers[:7], 2):
        assert outcome(together, one, other) == outcome(chat_of(name), one, other)


def test_of_pairs_of_one_prompt_only_new_answers_are_rendered_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    chat, asked = chat_of("as it is"), user_turn("what ?", num_images=0)
    chat.encode("first", asked, ("a dog .", "a cat ."))  # the way is not known yet
    chat.encode("second", asked, ("a bird .", "a cat ."))
    exchanges = count_exchanges(monkeypatch)
    read: list[str] = []
    stock = type(chat.tokenizer).__call__

    def reading(self: Any, text: Any, **settings: Any) -> Any:
        read.extend([text] if isinstance(text, str) else text)
        return stock(self, text, **settings)

    monkeypatch.setattr(type(chat.tokenizer), "__call__", reading)
    monkeypatch.setattr(chat, "_proved", 1000)  # which reads more
    chat.encode("third", asked, ("a bird .", "a dog ."))
    assert len(exchanges) == 1  # the dog of the first pair was not rendered ahead
    assert read == []
    chat.encode("fourth", asked, ("a dog .", "a mouse ."))
    assert len(exchanges) == 2
    assert [text.count("a mouse .") for text in read] == [1]
    chat.encode("fifth", asked, ("a mouse .", "a cat ."))
    assert len(exchanges) == 2
    for number in range(400):
        chat.encode("many", asked, (f"{number} dogs .", "a cat ."))
    assert len(chat.writer._written) == len(chat.template._read) == 256
