"""Prompts and answers that are written out in a chat template: read where that is exact, else refused, always told."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest

from mmpref.data.formats import FORMATS
from mmpref.data.loading import load_pairs
from mmpref.data.pair_writing import pair_to_row
from mmpref.data.quarantine import Quarantine, RowError
from mmpref.processing import ChatEncoder
from mmpref.records import ImageRef
from tests.growth_of_time import assert_time_grows_less_than_squared
from tests.tiny_vlms import CHATML as CHATML_TEMPLATE
from tests.tiny_vlms import make_tokenizer
from tests.unit.data.formats.more_rows import ANSWERS, BAD, GOOD, Row, said
from tests.unit.data.formats.test_formats import read

CHATML = "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n"
TURNS = [("user", "Q?"), ("assistant", "Yes."), ("user", "More?")]
WRITTEN: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    "ChatML": (CHATML, "<|im_end|>\n", [("system", "S"), ("user", "Q?")]),
    "ChatML, longer": (
        "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n<|im_start|>user\nMore?<|im_end|>\n"
        "<|im_start|>assistant\n", "<|im_end|>", TURNS,
    ),
    "ChatML, not opened": ("<|im_start|>user\nQ?\n\nNow.<|im_end|>\n", "<|im_end|>", [("user", "Q?\n\nNow.")]),
    "Llama 3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user"
        "<|end_header_id|>\n\nQ?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|eot_id|>", [("system", "S"), ("user", "Q?")],
    ),
    "Gemma": (
        "<bos><start_of_turn>user\nQ?<end_of_turn>\n<start_of_turn>model\nYes.<end_of_turn>\n<start_of_turn>user\nMore?"
        "<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>\n", TURNS,
    ),
    "Zephyr": ("<|system|>\n</s>\n<|user|>\nQ?</s>\n<|assistant|>\n", "</s>", [("system", ""), ("user", "Q?")]),
    "Phi-3": ("<|user|>\nQ?<|end|>\n<|assistant|>\n", "<|end|>", [("user", "Q?")]),
    "HH": ("\n\nHuman: Q?\n\nAssistant: Yes.\n\nHuman: More?\n\nAssistant:", "", TURNS),
    "HH, cut": ("Human: Q?\n\nAssistant:", "", [("user", "Q?")]),
}  # fmt: skip


@pytest.mark.parametrize("key", ["prompt", "question", "instruction"])
@pytest.mark.parametrize("name", WRITTEN)
def test_a_prompt_of_nothing_but_turns_is_read_as_turns(name: str, key: str) -> None:
    prompt, end, turns = WRITTEN[name]
    blank = " " if name.startswith("HH") else ""
    pair = read({key: prompt, "chosen": blank + GOOD + end, "rejected": blank + BAD + end})
    assert [(turn.role, turn.text) for turn in pair.prompt] == turns
    assert (pair.chosen, pair.rejected) == (GOOD, BAD)
    assert pair.meta["chat_markup_taken_off"] == name.partition(",")[0]
    assert pair.meta.get("end_marks_taken_off") == ([end.strip()] if end else None)
    as_messages = read({"prompt": [said(*turn) for turn in turns], **answers(GOOD, BAD)})
    assert (as_messages.prompt, as_messages.chosen) == (pair.prompt, GOOD), "as if it had come as messages"


def answers(chosen: str, rejected: str) -> Row:
    return {"chosen": [said("assistant", chosen)], "rejected": [said("assistant", rejected)]}


ZEPHYR = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


@pytest.mark.parametrize("template", [CHATML_TEMPLATE, ZEPHYR], ids=["chatml", "zephyr"])
def test_a_row_that_a_template_wrote_becomes_the_tokens_that_it_wrote(template: str) -> None:
    """The point of it all: marks once, as marks, and one end of the answer."""
    tokenizer = make_tokenizer(template=template, unnamed=("<|system|>", "<|user|>", "<|assistant|>"))
    turns = [said("system", "be brief ."), said("user", "what ?"), said("assistant", "a cat ."), said("user", "sure ?")]
    written = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    end = "<|im_end|>" if template == CHATML_TEMPLATE else "</s>"
    pair = read({"prompt": written, "chosen": f"yes{end}\n", "rejected": f"no{end}\n"})
    assert [said(turn.role, turn.text) for turn in pair.prompt] == turns
    encoded = ChatEncoder(tokenizer).encode("p", pair.prompt, [pair.chosen, pair.rejected or ""])
    assert list(encoded.prompt) == tokenizer(written)["input_ids"]
    assert [tokenizer.decode(list(answer)) for answer in encoded.answers] == [f"yes{end}", f"no{end}"]


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ({"prompt": CHATML, "image": "a.png"}, ["", "Q?"]),
        ({"question": CHATML, "image": "a.png"}, ["", "Q?"]),
        ({"prompt": CHATML.replace("Q?", "<image>\nQ?"), "image": "a.png"}, ["", "Q?"]),
        ({"prompt": CHATML.replace("Q?", "Q? <image>"), "image": "a.png"}, ["Q? ", ""]),
    ],
)
def test_images_keep_their_place_in_the_turns(row: Row, parts: list[str]) -> None:
    pair = read({**row, **ANSWERS})
    assert (pair.images, pair.prompt[0].text) == ((ImageRef("a.png"),), "S")
    assert [part.text for part in pair.prompt[1].parts] == parts


def test_a_column_may_repeat_what_was_written_out() -> None:
    talks = [said("user", "Q?"), said("assistant", GOOD + "</s>")]
    row = {"prompt": "Q?", "chosen": GOOD + "</s>", "rejected": BAD + "</s>", "messages": talks}
    assert (read(row).chosen, read(row).meta["messages"]) == (GOOD, talks)
    written = WRITTEN["HH"][0]
    for column in (written, "Q?"):
        assert read({"prompt": written, "query": column, **ANSWERS}).meta["query"] == column


UNCLEAR = {
    "[INST] Q? [/INST]": "Q?",
    "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nQ? [/INST]": "Q?",
    "A chat. USER: Q? ASSISTANT:": "Q?",
    "Q?\n\nAssistant:": "Q?",
    "Read this.\n\nHuman: Q?\n\nAssistant:": "Q?",
    "Q?<|im_end|>\n<|im_start|>assistant\n": "Q?",
    "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n<think>\n": "Q?",
    "<|im_start|>user<|im_sep|>Q?<|im_end|><|im_start|>assistant<|im_sep|>": "Q?",
    "<|im_start|>user\nWhat is <|im_start|>?<|im_end|>\n<|im_start|>assistant\n": "Q?",
    "<｜User｜>Q?<｜Assistant｜>": "Q?",
    "<start_of_turn>user\nQ?\n<start_of_turn>model\n": "Q?",
    "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\nWell,": "Q?",
    "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>\n": "Q?",
    "<|user|>\nQ?</s>\nGo on.": "Q?",
}


@pytest.mark.parametrize("prompt", UNCLEAR)
def test_a_prompt_that_is_opened_and_cannot_be_read_is_refused(prompt: str) -> None:
    rows = [{"prompt": prompt}, {"question": prompt}, {"instruction": prompt}, {"prompt": prompt, "image": "a.png"}]
    for row in rows[:3] if "USER:" in prompt else rows:  # LLaVA's, with an image, is mDPO's format
        with pytest.raises(RowError, match="take the marks off, or give the turns as lists of messages") as caught:
            read({**row, **ANSWERS})
        assert caught.value.reason == "chat_markup"
    asked = UNCLEAR[prompt]
    assert read({"prompt": asked, **ANSWERS}).prompt[0].text == asked, "the first advice"
    assert read({"prompt": [said("user", asked)], **answers(GOOD, BAD)}).prompt[0].text == asked, "the second"


@pytest.mark.parametrize(
    "prompt",
    [
        "What does <|im_start|> mean?", "Explain <|im_start|>assistant and its end.", "Why does it end in [/INST]?",
        "Human: who are you?", "Write a talk that begins with Assistant: hello", "Assistant: who?\nHuman: me",
        "Is <|user|> a token?", "a USER: b", "ASSISTANT:",
    ],
)  # fmt: skip
def test_a_prompt_about_templates_stays(prompt: str) -> None:
    pair = read({"prompt": prompt, **ANSWERS})
    assert (pair.prompt[0].text, pair.meta) == (prompt, {})


def test_what_someone_says_in_messages_may_end_with_a_name() -> None:
    """Public sets of talks hold prompts that ask to go on with a dialogue."""
    said_so = "\n\nHuman: Hi\n\nAssistant:"
    assert read({"prompt": [said("user", said_so)], **answers(GOOD, BAD)}).prompt[0].text == said_so
    talks = {side: [said("user", said_so), said("assistant", answer)] for side, answer in ANSWERS.items()}
    assert read({"prompt": said_so, **talks}).prompt[0].text == said_so


@pytest.mark.parametrize(
    ("prompt", "turns"),
    [
        ("\n\nHuman: Hi\n\nHuman: Q?\n\nAssistant:", [("user", "Hi\n\nQ?")]),
        (
            "\n\nHuman: Hi\n\nAssistant: Yo\n\nAssistant: Well?\n\nHuman: a\n\nHuman: b\n\nHuman: c\n\nAssistant:",
            [("user", "Hi"), ("assistant", "Yo\n\nWell?"), ("user", "a\n\nb\n\nc")],
        ),
    ],
)
def test_turns_in_words_of_one_speaker_are_joined(prompt: str, turns: list[tuple[str, str]]) -> None:
    pair = read({"prompt": prompt, **ANSWERS})
    assert [(turn.role, turn.text) for turn in pair.prompt] == turns
    assert pair.meta == {"chat_markup_taken_off": "HH"}


@pytest.mark.parametrize(
    ("prompt", "which", "repaired"),
    [
        (
            "\n\nHuman: hey\n\nAssistant: \n\nHuman: are you there?\n\nAssistant:", "turn 2, Assistant, is empty",
            "\n\nHuman: hey\n\nHuman: are you there?\n\nAssistant:",
        ),
        ("Human:\n\nHuman: Q?\n\nAssistant:", "turn 1, Human, is empty", "Human: Q?\n\nAssistant:"),
        (
            "\n\nHuman: a\n\nHuman: b\n\nAssistant:\n\nHuman: c\n\nAssistant:", "turn 3, Assistant, is empty",
            "\n\nHuman: a\n\nHuman: b\n\nHuman: c\n\nAssistant:",
        ),
        (
            "\n\nAssistant: Hello.\n\nHuman: Q?\n\nAssistant:", "turn 1 is Assistant's, an answer to nothing",
            "\n\nHuman: Q?\n\nAssistant:",
        ),
    ],
)  # fmt: skip
def test_a_turn_in_words_that_cannot_be_one_is_named_as_it_is_written(prompt: str, which: str, repaired: str) -> None:
    with pytest.raises(RowError, match=f"{which}.*take (it|the turn) out") as caught:
        read({"prompt": prompt, **ANSWERS})
    assert caught.value.reason == "chat_markup"
    assert read({"prompt": repaired, **ANSWERS}).meta == {"chat_markup_taken_off": "HH"}, "the advice"


def test_an_image_alone_may_be_what_is_said_in_words() -> None:
    pair = read({"prompt": "\n\nHuman: \n\nAssistant: A cup?\n\nHuman: Q?\n\nAssistant:", "image": "a.png", **ANSWERS})
    assert [part.kind for part in pair.prompt[0].parts] == ["image"]
    assert [turn.text for turn in pair.prompt[1:]] == ["A cup?", "Q?"]


@pytest.mark.parametrize(
    "mark", ["</s>", "<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<end_of_turn>", "<|end|>", "<|end_of_text|>"]
)
def test_the_end_of_a_turn_is_no_word_of_the_answer(mark: str) -> None:
    for tail in (mark, mark + "\n", mark + mark, " " + mark):
        pair = read({"prompt": "Q?", "chosen": GOOD + tail, "rejected": BAD + tail})
        assert (pair.chosen.rstrip(), pair.rejected.rstrip()) == (GOOD, BAD)  # type: ignore[union-attr]
        assert pair.meta == {"end_marks_taken_off": [mark]}
    one = read({"prompt": "Q?", "chosen": GOOD, "rejected": BAD + mark, "image": "a.png"})
    assert (one.chosen, one.rejected, one.meta) == (GOOD, BAD, {"end_marks_taken_off": [mark]})
    in_messages = read({"prompt": [said("user", "Q?")], **answers(GOOD + mark, BAD + mark)})
    assert (in_messages.chosen, in_messages.rejected) == (GOOD, BAD)


def test_an_end_that_may_be_a_word_is_refused_and_one_of_html_stays() -> None:
    for answer in ("The token is </s>", "It stops at <|im_end|>"):
        with pytest.raises(RowError, match="put a full stop after it") as caught:
            read({"prompt": "Q?", "chosen": answer, "rejected": BAD})
        assert caught.value.reason == "end_mark"
        assert read({"prompt": "Q?", "chosen": answer + ".", "rejected": BAD}).chosen == answer + "."
        assert read({"prompt": "Q?", "chosen": answer.rpartition(" ")[0], "rejected": BAD}).meta == {}
    about = read({"prompt": "Q?", "chosen": "<|im_start|> opens a turn.", "rejected": "[INST] does"})
    assert (about.chosen, about.rejected, about.meta) == ("<|im_start|> opens a turn.", "[INST] does", {})
    html = read({"prompt": "Q?", "chosen": "Write <s>old</s>", "rejected": "Write <s>x</s>"})
    assert (html.chosen, html.meta) == ("Write <s>old</s>", {})
    with pytest.raises(RowError) as caught:
        read({"prompt": "Q?", "chosen": "</s>", "rejected": BAD})
    assert caught.value.reason == "empty_response"


BOTH_END = {
    "the same words": ("Llama 2 closes an answer with </s>", "ChatGLM closes an answer with </s>"),
    "other marks": ("It stops when the model emits </s>", "It stops when the model emits <|endoftext|>"),
    "identical but for them": ("The EOS token is </s>", "The EOS token is <|endoftext|>"),
    "after a colon": ("The token:</s>", "It is this token:</s>"),
    "after a sentence": ("Which? </s>", "Which? <|endoftext|>"),
    "in quotation marks": ('He writes "</s>', 'She writes "</s>'),
    "in Chinese": ("终止符是</s>", "它输出</s>"),
    "in Japanese": ("終わりは</s>", "これを</s>"),
    "one without": ("Paris is it.</s>", "Paris is it."),
    "a word and an end": ("It is </s></s>", "The end is </s></s>"),
}


@pytest.mark.parametrize("name", BOTH_END)
def test_an_end_that_may_be_a_word_of_both_answers_is_refused(name: str) -> None:
    chosen, rejected = BOTH_END[name]
    rows = [("Q?", *BOTH_END[name]), ("Q?", rejected, chosen), (WRITTEN["HH"][0], *BOTH_END[name])]
    for prompt, better, worse in [*rows, (CHATML, *BOTH_END[name])]:
        with pytest.raises(RowError, match="put a full stop after") as caught:
            read({"prompt": prompt, "chosen": better, "rejected": worse})
        assert caught.value.reason == "end_mark"
    pair = read({"prompt": "Q?", "chosen": chosen + ".", "rejected": rejected + "."})
    assert (pair.chosen, pair.rejected, pair.meta) == (chosen + ".", rejected + ".", {})


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ("apple", "pear"), ("a red cup , and a dog", "a dog"), ("it is red .", "it is blue ."),
        ('" yes , " he says', "no"),
    ],
)  # fmt: skip
def test_a_detokenised_answer_loses_the_blank_before_its_end_too(chosen: str, rejected: str) -> None:
    pair = read({"prompt": "Q?", "chosen": chosen + " </s>", "rejected": rejected + " </s>"})
    assert (pair.chosen, pair.rejected) == (chosen, rejected)
    assert pair.meta == {"end_marks_taken_off": ["</s>"]}


@pytest.mark.parametrize(
    "text", ['print("a")\n```', "```sh\nls\n```", 'He said "yes"', "the dogs'", "a (b)", "**a**", "no", "苹果"]
)
def test_a_mark_right_after_the_answer_is_its_end(text: str) -> None:
    text = "```py\n" + text if text.count("```") == 1 else text
    for rejected in (BAD, BAD + "</s>"):
        assert read({"prompt": "Q?", "chosen": text + "</s>", "rejected": rejected}).chosen == text


def test_the_end_of_a_template_that_wrote_the_prompt_may_follow_anything() -> None:
    texts = ("Llama 2 ends with ", "It is: ")
    pair = read({"prompt": CHATML, "chosen": texts[0] + "<|im_end|>\n", "rejected": texts[1] + "<|im_end|>"})
    assert (pair.chosen, pair.rejected) == texts
    for words in (("It is </s>", BAD), (BAD, "It is </s>"), ("It is <|im_end|>", BAD)):
        with pytest.raises(RowError) as caught:
            read({"prompt": CHATML, "chosen": words[0] + "<|im_end|>", "rejected": words[1] + "<|im_end|>"})
        assert caught.value.reason == "end_mark", "a word and an end"


@pytest.mark.parametrize(
    "answer",
    [
        '<p>Was <s class="old">$10</s>', '<s id="1">Hello.</s>\n<s id="2">Bye.</s>', "<S>Hello.</s>",
        "<s\nid='1'>Hi.</s>", "<s>a</s>",
    ],
)  # fmt: skip
def test_a_closing_tag_is_no_end(answer: str) -> None:
    for rejected in (BAD, BAD + "</s>", answer.replace("H", "B") + "x</s>"):
        assert read({"prompt": "Q?", "chosen": answer, "rejected": rejected}).chosen == answer
    ended = read({"prompt": "Q?", "chosen": answer + "<|im_end|>", "rejected": BAD + "<|im_end|>"})
    assert ended.chosen == answer, "only what ends the turn"


@pytest.mark.parametrize(
    "begin", ["<|assistant|>\n", "<|im_start|>assistant\n", "<start_of_turn>model\n", "[INST] Q? [/INST] "]
)
def test_an_answer_that_begins_with_a_turn_is_refused(begin: str) -> None:
    for row in ({"chosen": begin + GOOD, "rejected": begin + BAD}, answers(begin + GOOD, begin + BAD)):
        prompt = "Q?" if isinstance(row["chosen"], str) else [said("user", "Q?")]
        with pytest.raises(RowError, match="'chosen' begins with the marks of a chat template") as caught:
            read({"prompt": prompt, **row})
        assert caught.value.reason == "chat_markup"


def test_an_answer_about_the_marks_of_a_turn_stays() -> None:
    for answer in (
        "[INST] is a tag [/INST]. Use it.", "[INST] and [/INST] stand around it.", "<|im_start|>assistant opens it.",
        "<start_of_turn>model begins it.", "<|start_header_id|>user<|end_header_id|> is a header.", "<|user|> too",
        "[INST] opens [/INST], and later [/INST] again",
    ):  # fmt: skip
        pair = read({"prompt": "Q?", "chosen": answer, "rejected": BAD})
        assert (pair.chosen, pair.meta) == (answer, {})


ABOUT_MARKS = [
    "Explain this token: <|im_start|>assistant", "What does Llama 2 write after [/INST]",
    "What is the meaning of <|assistant|>", "<|im_start|>user\nHi<|im_end|>\nWhat is wrong with this prompt?",
    "Which comes first, <|user|> or <|assistant|>", "What stands between [INST] and [/INST]",
    "Explain <start_of_turn>model", "Who reads <|start_header_id|>assistant<|end_header_id|>",
]  # fmt: skip


@pytest.mark.parametrize("asked", ABOUT_MARKS)
def test_a_question_in_messages_about_a_mark_stays(asked: str) -> None:
    """As the advice for the same words in plain text says."""
    pair = read({"prompt": [said("user", asked)], **answers(GOOD, BAD)})
    assert (pair.prompt[0].text, pair.meta) == (asked, {})
    with pytest.raises(RowError, match="or give the turns as lists of messages"):
        read({"prompt": asked, **ANSWERS})


@pytest.mark.parametrize(
    "turn", ["<|im_start|>user\nHi<|im_end|>", "<start_of_turn>user\nHi<end_of_turn>\n", "<|user|>\nHi</s>\n"]
)
def test_one_turn_that_someone_says_in_messages_is_not_rewritten(turn: str) -> None:
    pair = read({"prompt": [said("user", turn)], **answers(GOOD, BAD)})
    assert (pair.prompt[0].text, pair.meta) == (turn, {})
    assert read({"prompt": turn, **ANSWERS}).prompt[0].text == "Hi", "a plain prompt is"


@pytest.mark.parametrize(
    "asked",
    [
        "[INST] Q? [/INST]", "<s>[INST] Q? [/INST]", "Q?<|im_end|>\n<|im_start|>assistant\n",
        "<｜User｜>Q?<｜Assistant｜>",
        "Go on:\n<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n",
        "<start_of_turn>user\nQ?\n<start_of_turn>model\n",
    ],
)  # fmt: skip
def test_turns_and_an_opening_in_one_message_are_refused_with_advice_that_works(asked: str) -> None:
    advice = "give each turn as a message of its own, or, if .* letter by letter, write the row in mmpref's own format"
    with pytest.raises(RowError, match=advice) as caught:
        read({"prompt": [said("user", asked)], **answers(GOOD, BAD)})
    assert caught.value.reason == "chat_markup"
    assert read({"prompt": [said("user", "Q?")], **answers(GOOD, BAD)}).prompt[0].text == "Q?"
    for chosen in (GOOD, "[INST] x [/INST] y"):
        ours = {
            "id": "1",
            "prompt": [said("user", [{"type": "text", "text": asked}])],
            "chosen": chosen,
            "rejected": BAD,
        }
        assert (read(ours).prompt[0].text, read(ours).chosen) == (asked, chosen)


def read_or_refuse(row: Row) -> None:
    with suppress(RowError):
        read(row)


PHI = "<|user|>\nWhat is in it?<|end|>\n<|assistant|>\nA cup and a dog.<|end|>\n"
LONG = {
    "heads": lambda times: {"prompt": "<|user|>\n" * times * 4, **ANSWERS},
    "a Phi-3 talk": lambda times: {"prompt": PHI * times * 3 + "<|user|>\nMore?<|end|>\n<|assistant|>\n", **ANSWERS},
    "blanks before an answer": lambda times: {"prompt": "Q?", "chosen": " " * times * 10 + "x>", "rejected": BAD},
    "a talk in words": lambda times: {"prompt": "USER: a ASSISTANT: b " * times * 6 + "ASSISTANT: the end", **ANSWERS},
    "ends": lambda times: {"prompt": "Q?", "chosen": "a." + "</s>" * times * 20, "rejected": BAD},
    "blanks in messages": lambda times: {
        "prompt": [said("user", " " * times * 20 + "x <|assistant|>")], **answers(GOOD, BAD)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", LONG)
def test_a_text_of_eight_times_the_length_does_not_take_sixty_four_times_the_time(name: str) -> None:
    """As it does if each mark looks through the rest of the text."""
    assert_time_grows_less_than_squared(read_or_refuse, LONG[name](400), LONG[name](3200))


def test_the_rows_that_lost_marks_are_counted(tmp_path: Path) -> None:
    rows = [{"prompt": CHATML, **ANSWERS}, {"prompt": "Q?", "chosen": GOOD + "</s>", "rejected": BAD}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    quarantine = Quarantine()
    assert len(load_pairs([tmp_path / "rows.jsonl"], allow_demonstrations=False, quarantine=quarantine)) == 2
    assert dict(quarantine.left_over) == {"chat_markup_taken_off": 1, "end_marks_taken_off": 1}


@pytest.mark.parametrize("target", ["trl", "llamafactory_alpaca", "llamafactory_sharegpt", "ms_swift"])
def test_literal_marks_of_our_own_rows_are_not_written_where_they_would_be_taken_off(target: str) -> None:
    ours = {"id": "1", "prompt": [said("user", [{"type": "text", "text": "Q?"}])], **ANSWERS}
    write = FORMATS[target].from_canonical
    assert write is not None
    assert read(write(pair_to_row(read(ours)))).chosen == GOOD
    literal = [{"type": "text", "text": CHATML}]
    for changes in ({"chosen": GOOD + "</s>"}, {"prompt": [said("user", literal)]}, {"rejected": "[INST] x [/INST] y"}):
        row = pair_to_row(read({**ours, **changes}))
        assert row["chosen"] == changes.get("chosen", GOOD), "our own rows are literal"
        with pytest.raises(RowError) as caught:
            write(row)
        assert caught.value.reason == "literal_chat_markup"
