"""Conversations with an image in the templates of this year's families: what the model is asked, and what is learnt."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import transformers as tf

from mmpref.processing.chat.conversation import ChatEncoder
from mmpref.processing.errors import EncodeError
from mmpref.records import Message
from tests.model_types import chats
from tests.tiny_vlms import turn
from tests.unit.processing.chat.chat_templates import learnt

ASKED: tuple[Message, ...] = (
    turn("system", "please ."),
    turn("user", None, "is it red ?"),
    turn("assistant", "yes ."),
    turn("user", "why ?"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One family's template, and what it makes of ``ASKED`` with a plain answer."""

    template: str
    image: str
    eos: str
    prompt: str
    end: str
    bos: str = ""
    tokens: tuple[str, ...] = ()


SHAPES: dict[str, Shape] = {
    "GLM-4.1V": Shape(
        template=chats.GLM_4_1,
        image="<|image|>",
        eos="<|endoftext|>",
        tokens=("<|user|>", "<|assistant|>", "<|system|>", "<|begin_of_image|>", "<|end_of_image|>"),
        prompt=(
            "[gMASK]<sop><|system|>\nplease .<|user|>\n"
            "<|begin_of_image|><|image|><|end_of_image|>is it red ?<|assistant|>\nyes .<|user|>\nwhy ?"
            "<|assistant|>\n"
        ),
        end="<|endoftext|>",
    ),
    "GLM-4.5V": Shape(
        template=chats.GLM_THINKS,
        image="<|image|>",
        eos="<|endoftext|>",
        tokens=("<|user|>", "<|assistant|>", "<|system|>", "<|begin_of_image|>", "<|end_of_image|>"),
        prompt=(
            "[gMASK]<sop><|system|>\nplease .<|user|>\n"
            "<|begin_of_image|><|image|><|end_of_image|>is it red ?<|assistant|>\n<think></think>\nyes ."
            "<|user|>\nwhy ?<|assistant|>\n<think></think>\n"
        ),
        end="<|endoftext|>",
    ),
    "Qwen3.5": Shape(
        template=chats.QWEN_THINKS,
        image="<|image_pad|>",
        eos="<|im_end|>",
        tokens=("<|im_start|>", "<|vision_start|>", "<|vision_end|>"),
        prompt=(
            "<|im_start|>system\nplease .<|im_end|>\n<|im_start|>user\n"
            "<|vision_start|><|image_pad|><|vision_end|>is it red ?<|im_end|>\n<|im_start|>assistant\n"
            "yes .<|im_end|>\n<|im_start|>user\nwhy ?<|im_end|>\n<|im_start|>assistant\n<think>\n\n"
            "</think>\n\n"
        ),
        end="<|im_end|>",
    ),
    "Gemma 4": Shape(
        template=chats.GEMMA_4,
        image="<|image|>",
        bos="<bos>",
        eos="<eos>",
        tokens=("<|turn>", "<turn|>"),
        prompt=(
            "<bos><|turn>system\nplease . <turn|>\n<|turn>user\n<|image|>is it red ?<turn|>\n"
            "<|turn>model\nyes .<turn|>\n<|turn>user\nwhy ?<turn|>\n<|turn>model\n"
        ),
        end="<turn|>",
    ),
    "Llama 4": Shape(
        template=chats.LLAMA_4,
        image="<|image|>",
        bos="<|begin_of_text|>",
        eos="<|eot|>",
        tokens=("<|header_start|>", "<|header_end|>"),
        prompt=(
            "<|begin_of_text|><|header_start|>system<|header_end|>\n\nplease .<|eot|>"
            "<|header_start|>user<|header_end|>\n\n<|image|>is it red ?<|eot|>"
            "<|header_start|>assistant<|header_end|>\n\nyes .<|eot|><|header_start|>user<|header_end|>\n\n"
            "why ?<|eot|><|header_start|>assistant<|header_end|>\n\n"
        ),
        end="<|eot|>",
    ),
    "MiniCPM-V 4.6": Shape(
        template=chats.MINICPM,
        image="<|image_pad|>",
        eos="<|im_end|>",
        tokens=("<|im_start|>",),
        prompt=(
            "<|im_start|>system\nplease .<|im_end|>\n<|im_start|>user\n<|image_pad|>\n"
            "is it red ?<|im_end|>\n<|im_start|>assistant\nyes .<|im_end|>\n<|im_start|>user\n"
            "why ?<|im_end|>\n<|im_start|>assistant\n"
        ),
        end="<|im_end|>",
    ),
    "HunYuan-VL": Shape(
        template=chats.HUNYUAN,
        image="<｜hy_place▁holder▁no▁102｜>",
        eos="<｜hy_Assistant｜>",
        tokens=("<｜hy_User｜>", "<｜hy_begin▁of▁sentence｜>", "<｜hy_place▁holder▁no▁3｜>"),
        prompt=(
            "<｜hy_begin▁of▁sentence｜>please .<｜hy_place▁holder▁no▁3｜><｜hy_place▁holder▁no▁100｜>"
            "<｜hy_place▁holder▁no▁102｜><｜hy_place▁holder▁no▁101｜>is it red ?"
            "<｜hy_User｜>yes .<｜hy_Assistant｜>why ?<｜hy_User｜>"
        ),
        end="<｜hy_Assistant｜>",
    ),
    "MiniMax-M3": Shape(
        template=chats.MINIMAX,
        image="]<]image[>[",
        eos="[e~[",
        tokens=("]~b]", "]~!b["),
        prompt=(
            "]~!b[]~b]system\nplease .[e~[\n]~b]user\n]<]image[>[is it red ?[e~[\n]~b]ai\nyes .[e~[\n"
            "]~b]user\nwhy ?[e~[\n]~b]ai\n"
        ),
        end="[e~[",
    ),
    "Muse": Shape(
        template=chats.MUSE,
        image="<|patch|>",
        bos="<|begin_of_text|>",
        eos="<|eot|>",
        tokens=("<|start|>", "<|message|>"),
        prompt=(
            "<|begin_of_text|><|start|>system<|message|>please .\n\nReasoning strength: high.<|eot|>"
            "<|start|>user<|message|><|patch|>is it red ?<|eot|>"
            "<|start|>assistant to=user<|message|>yes .<|eot|><|start|>user<|message|>why ?<|eot|>"
            "<|start|>assistant to=user<|message|>"
        ),
        end="<|eot|>",
    ),
    "ERNIE-4.5-VL": Shape(
        template=chats.ERNIE,
        image="<|IMAGE_PLACEHOLDER|>",
        eos="<|end_of_sentence|>",
        tokens=("<|begin_of_sentence|>", "<|IMAGE_START|>", "<|IMAGE_END|>"),
        prompt=(
            "<|begin_of_sentence|>please .\n"
            "User: Picture 1:<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>is it red ?\n"
            "Assistant: yes .<|end_of_sentence|>User: why ?\nAssistant: "
        ),
        end="<|end_of_sentence|>",
    ),
    "dots3-note": Shape(
        template=chats.DOTS,
        image="<|imgpad|>",
        eos="<|endofassistant|>",
        tokens=("<|img|>", "<|endofimg|>", "<|user|>", "<|endofuser|>", "<|assistant|>"),
        prompt=(
            "<|system|>please .<|endofsystem|>"
            "<|user|><|img|><|imgpad|><|endofimg|>is it red ?<|endofuser|>"
            "<|assistant|>yes .<|endofassistant|><|user|>why ?<|endofuser|><|assistant|>"
        ),
        end="<|endofassistant|>",
    ),
}


def encoder(name: str) -> ChatEncoder:
    shape = SHAPES[name]
    tokens = chats.tokenizer_of(
        shape.template,
        bos=shape.bos,
        eos=shape.eos,
        pad="<pad>",
        named={"image_token": shape.image},
        unnamed=shape.tokens,
        words=("<think>", "</think>"),
    )
    images = tf.CLIPImageProcessorPil(size={"height": 28, "width": 28}, crop_size={"height": 28, "width": 28})
    processor = tf.LlavaProcessor(
        images,
        tokens,
        patch_size=14,
        vision_feature_select_strategy="full",
        image_token=shape.image,
        chat_template=tokens.chat_template,
    )
    return ChatEncoder(processor)


@pytest.mark.parametrize("name", SHAPES)
def test_the_model_is_asked_in_its_family_s_words_and_learns_the_answer_and_one_end(name: str) -> None:
    chat = encoder(name)
    turns = chat.encode("row", ASKED, ("a cat .", "it is not red ."))
    assert turns.text == SHAPES[name].prompt
    assert learnt(chat, turns) == [f"a cat .{SHAPES[name].end}", f"it is not red .{SHAPES[name].end}"]
    assert list(turns.prompt).count(chat.image_token_id) == 1


@pytest.mark.parametrize("name", ["GLM-4.5V", "Qwen3.5"])
def test_answers_that_think_are_learnt_with_their_thought_behind_the_same_prompt(name: str) -> None:
    chat = encoder(name)
    answers = ("<think>is it a dog ? no</think>a cat .", "<think>is it red ? yes</think>it is red .")
    turns = chat.encode("row", ASKED, answers)
    whole = [turns.text + text for text in learnt(chat, turns)]
    assert all(f"yes .{other}" in whole[0] for other in ("<|user|>", "<|im_end|>") if other in whole[0])
    for text, thought, said in zip(
        whole, ("is it a dog ? no", "is it red ? yes"), ("a cat .", "it is red ."), strict=True
    ):
        asked, _, answer = text.rpartition("<think>")
        assert asked.endswith("assistant|>\n" if name == "GLM-4.5V" else "assistant\n")
        assert answer.replace("\n", "") == f"{thought}</think>{said}{SHAPES[name].end}"


def test_a_system_message_that_is_a_list_is_not_printed_as_one() -> None:
    text = encoder("GLM-4.1V").encode("row", ASKED, ("a cat .", "no")).text
    assert "type" not in text
    assert "please ." in text


def test_a_place_that_the_template_cannot_show_is_refused_and_not_written_without_its_marks() -> None:
    messages = (turn("system", None, "please ."), *ASKED[1:])
    with pytest.raises(EncodeError, match="writes messages as Python prints lists"):
        encoder("GLM-4.1V").encode("row", messages, ("a cat .", "no"))
