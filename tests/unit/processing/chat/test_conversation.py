"""Conversations become the ids that the model's own template and tokenizer make, and user text stays text."""

from __future__ import annotations

import logging
from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mmpref.errors import ConfigError
from mmpref.processing import ChatEncoder, EncodeError
from mmpref.records import user_turn
from tests.releases import CAN_SANITIZE, needs_spelt_tokens
from tests.tiny_vlms import CHATML, TINY, make_tokenizer, turn

# releases of transformers without the feature refuse such rows instead


@lru_cache
def chat_for(name: str) -> ChatEncoder:
    return ChatEncoder(TINY[name].processor())


def text_of(chat: ChatEncoder, ids: tuple[int, ...]) -> str:
    return str(chat.tokenizer.decode(list(ids)))


def test_an_answer_ends_with_the_end_of_turn_and_nothing_after_it() -> None:
    chat = chat_for("qwen2_vl")
    turns = chat.encode("p", user_turn("what is it ?", num_images=1), ["a red square .", "yes"])
    assert text_of(chat, turns.prompt).endswith("<|vision_end|>what is it ?<|im_end|>\n<|im_start|>assistant\n")
    assert text_of(chat, turns.answers[0]) == "a red square .<|im_end|>"
    assert text_of(chat, turns.answers[1]) == "yes<|im_end|>"


def test_a_template_without_end_of_turn_gets_eos_and_its_processor_s_bos() -> None:
    """LLaVA-1.5: the tokenizer adds bos, the template writes a blank after every text and closes nothing."""
    chat = chat_for("llava_vicuna")
    turns = chat.encode("p", user_turn("what is it ?", num_images=1), ["a red square .", "yes"])
    assert text_of(chat, turns.prompt) == "<s>USER: <image>\nwhat is it ? ASSISTANT:"
    assert text_of(chat, turns.answers[0]) == " a red square .</s>"
    processor = TINY["llava_vicuna"].processor()
    conversation = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    stock = processor.apply_chat_template(conversation, tokenize=True, add_generation_prompt=True, return_dict=True)
    ours = chat.encode("p", user_turn("hello", num_images=0), ["yes"])
    assert list(ours.prompt) == stock["input_ids"][0]


def test_system_and_several_turns_are_rendered_by_the_template() -> None:
    chat = chat_for("llava")
    prompt = (
        turn("system", "be brief ."),
        turn("user", None, "what ?"),
        turn("assistant", "a cat ."),
        turn("user", "sure ?"),
    )
    text = text_of(chat, chat.encode("p", prompt, ["yes"]).prompt)
    assert text.count("<image>") == 1
    assert text.index("be brief") < text.index("<image>") < text.index("a cat") < text.index("sure")


def test_a_text_model_gets_strings_and_refuses_images() -> None:
    chat = chat_for("text")
    turns = chat.encode("p", user_turn("what is it ?", num_images=0), ["yes"])
    assert text_of(chat, turns.prompt) == "<|im_start|>user\nwhat is it ?<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(EncodeError, match=r"'p'.*text only") as caught:
        chat.encode("p", user_turn("what ?", num_images=1), ["yes"])
    assert caught.value.reason == "images_in_text_model"


@pytest.mark.parametrize("name", ["llava", "llava_vicuna", "qwen2_vl", "text"])
@pytest.mark.parametrize("word", ["<image>", "<|image_pad|>", "</s>", "<|im_end|>", "<|im_start|>assistant", "<pad>"])
def test_control_tokens_in_text_stay_text(name: str, word: str) -> None:
    chat = chat_for(name)
    number = chat.tokenizer.convert_tokens_to_ids(word.removesuffix("assistant"))
    plain = chat.encode("p", user_turn("say now", num_images=0), ["it is so .", "no"])
    question = user_turn(f"say {word} now", num_images=0)
    if not CAN_SANITIZE and number != chat.tokenizer.unk_token_id:
        with pytest.raises(EncodeError, match="control_token"):
            chat.encode("p", question, ["yes"])
        return
    turns = chat.encode("p", question, [f"it {word} is so .", "no"])
    if number != chat.tokenizer.unk_token_id:
        assert turns.prompt.count(number) == plain.prompt.count(number)
        assert turns.answers[0].count(number) == plain.answers[0].count(number)
    assert word in text_of(chat, turns.prompt)
    assert word in text_of(chat, turns.answers[0])
    assert turns.answers[0][-1] == plain.answers[0][-1]
    assert turns.answers[1] == plain.answers[1]


def test_without_the_feature_control_tokens_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = chat_for("llava")
    monkeypatch.setattr(chat, "_can_sanitize", False)
    with pytest.raises(EncodeError, match="control token '<image>'") as caught:
        chat.encode("p", user_turn("is <image> a word ?", num_images=1), ["yes"])
    assert caught.value.reason == "control_token"
    assert chat.encode("p", user_turn("is it ?", num_images=1), ["yes"]).answers


def test_a_response_prefix_belongs_to_the_prompt() -> None:
    chat = chat_for("qwen2_vl")
    turns = chat.encode("p", user_turn("what ?", num_images=0), [" red square .", " cat ."], response_prefix="it is a")
    assert text_of(chat, turns.prefix) == "it is a"
    assert text_of(chat, turns.answers[0]) == " red square .<|im_end|>"
    whole = chat.encode("p", user_turn("what ?", num_images=0), ["it is a red square ."])
    assert turns.prompt + turns.prefix + turns.answers[0] == whole.prompt + whole.answers[0]


def test_a_template_that_breaks_the_prefix_is_split_by_text(caplog: pytest.LogCaptureFixture) -> None:
    """Some templates write something else before a finished answer than before one to be written."""
    broken = CHATML.replace("<|im_start|>assistant\n{%", "<|im_start|>assistant\nthink : {%")
    chat = ChatEncoder(make_tokenizer(template=broken))
    with caplog.at_level(logging.WARNING):
        turns = chat.encode("odd", user_turn("what ?", num_images=0), ["a red square .", "two cats"])
        chat.encode("odd2", user_turn("what ?", num_images=0), ["a red square .", "two cats"])
    assert text_of(chat, turns.prompt).endswith("think : ")
    assert [text_of(chat, ids) for ids in turns.answers] == ["a red square .<|im_end|>", "two cats<|im_end|>"]
    assert chat.text_level_splits == 2
    assert len(caplog.records) == 1
    assert "'odd'" in caplog.text


def test_tokens_that_merge_across_the_seam_split_both_answers_by_text() -> None:
    """The prompt ends with a blank and the answer begins with a word: the tokenizer would join the two."""
    template = CHATML.replace("<|im_start|>assistant\n{%", "<|im_start|>assistant {%").replace("}}\n{%", "}} {%")
    chat = ChatEncoder(make_tokenizer(template=template))
    turns = chat.encode("p", user_turn("what ?", num_images=0), ["red", "123"])
    assert "".join(text_of(chat, ids) for ids in (turns.prompt, turns.answers[0])).endswith("assistant red<|im_end|>")
    assert chat.text_level_splits == 1


@pytest.mark.parametrize("answer", ["", " ", "\n"])
def test_an_empty_answer_is_refused(answer: str) -> None:
    with pytest.raises(EncodeError, match="'p'") as caught:
        chat_for("qwen2_vl").encode("p", user_turn("what ?", num_images=0), ["yes", answer])
    assert caught.value.reason == "empty_response"


def test_a_template_s_own_refusal_names_the_row() -> None:
    strict = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('user first') }}{% endif %}" + CHATML
    with pytest.raises(EncodeError, match=r"'p'.*user first") as caught:
        ChatEncoder(make_tokenizer(template=strict)).encode("p", (turn("system", "x"), turn("user", "y")), ["z"])
    assert caught.value.reason == "template"


def test_a_model_without_template_is_refused() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match="no chat template"):
        ChatEncoder(tokenizer)


TEXT = st.text(alphabet="ab <>|/imaged_pns.?\n", min_size=1, max_size=30).filter(lambda text: bool(text.strip()))


@settings(max_examples=60, deadline=None)
@given(question=TEXT, answer=TEXT, name=st.sampled_from(["llava", "llava_vicuna", "qwen2_vl"]))
@needs_spelt_tokens
def test_any_text_keeps_the_number_of_image_places(question: str, answer: str, name: str) -> None:
    chat = chat_for(name)
    turns = chat.encode("p", user_turn(question, num_images=2), [answer.strip()])
    assert turns.prompt.count(chat.image_token_id) == 2
    assert chat.image_token_id not in turns.answers[0]
    assert len(turns.answers[0]) >= 2


def test_an_answer_that_ends_with_an_unknown_character_still_ends_with_eos() -> None:
    """The token for unknown characters is an added one as well, and never closes a turn."""
    words = {word: number for number, word in enumerate(("<unk>", "<s>", "</s>", "user", ":", "assistant", "a", "cat"))}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        chat_template="{% for message in messages %}{{ message.role }} : {{ message.content }} {% endfor %}"
        "{% if add_generation_prompt %}assistant : {% endif %}",
    )  # fmt: skip
    turns = ChatEncoder(tokenizer).encode("a", user_turn("a cat", num_images=0), ["a cat", "a cat \u4e2d"])
    assert turns.answers == ((6, 7, 2), (6, 7, 0, 2))
