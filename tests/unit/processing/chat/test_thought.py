"""Think blocks: a thought that was cut is refused, and no plain answer is learnt inside a block, whatever its marks."""

from __future__ import annotations

import pytest

from mmpref.processing import ChatEncoder, EncodeError
from mmpref.processing.chat.thought import ends_named_thought, named_thought, never_closed
from mmpref.records import user_turn
from tests.tiny_vlms import CHATML, make_tokenizer
from tests.unit.processing.chat.chat_templates import learnt, text_of, tokenizer_for, trl_templates
from tests.unit.processing.chat.test_template import chat_for

ASKS = "<|im_start|>assistant\n{% endif %}"
QUESTION = user_turn("what ?", num_images=0)
PLAIN = ("it is red .", "no")
CUT = ("<think>\nlong cut", "<think>other cut")


def asking_with(opening: str) -> ChatEncoder:
    """ChatML that asks with ``opening`` and writes finished answers without it."""
    template = CHATML.replace(ASKS, ASKS.replace("{% endif %}", f"{{{{ {opening!r} }}}}{{% endif %}}"))
    assert template != CHATML
    return ChatEncoder(tokenizer_for(template, "<|im_end|>"))


def test_a_thought_that_was_cut_is_refused_by_every_template_that_has_such_marks() -> None:
    names = [name for name, source in trl_templates().items() if "<think>" in source]
    assert len(names) > 11
    for name in names:
        for answers in (CUT, ("<think>\nhm\n</think>\n\nyes", CUT[1]), (CUT[0], "no"), ("no", f"\n {CUT[1]}")):
            with pytest.raises(EncodeError, match=r"'p' .*begins with <think> and never writes </think>") as caught:
                chat_for(name).encode("p", QUESTION, answers)
            assert caught.value.reason == "unclosed_thought", name


def test_an_answer_that_names_the_mark_first_is_kept_with_a_word_before_it_or_without_its_brackets() -> None:
    names = [name for name, source in trl_templates().items() if "<think>" in source]
    rewritten = set()
    for name in names:
        chat = chat_for(name)
        with pytest.raises(EncodeError, match=r"or the answer only speaks of the mark.*put a word before <think>, or"):
            chat.encode("p", QUESTION, ("<think> is the tag that opens", "no"))
        given = "The <think> is the tag that opens"
        try:
            turns = chat.encode("p", QUESTION, (given, "no"))
        except EncodeError:  # the template takes the mark for a thought wherever it stands
            rewritten.add(name)
            given = given.replace("<think>", "think")
            turns = chat.encode("p", QUESTION, (given, "no"))
        assert learnt(chat, turns)[0].lstrip().startswith(given), name
    assert all(name.startswith("nemotron") for name in rewritten)
    assert len(rewritten) < len(names) / 2


def test_a_thought_cut_in_the_rejected_answer_alone_is_refused_and_the_reason_says_so() -> None:
    with pytest.raises(EncodeError, match=r"'<think>\\nlong cut'; .*\(a rejected one too: ") as caught:
        chat_for("qwen3").encode("p", QUESTION, ("yes", CUT[0]))
    assert caught.value.reason == "unclosed_thought"


@pytest.mark.parametrize("marks", [("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"), ("◁think▷", "◁/think▷")])
def test_other_marks_of_the_model_are_known_as_well(marks: tuple[str, str]) -> None:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(list(marks))
    chat = ChatEncoder(tokenizer)
    with pytest.raises(EncodeError, match="unclosed_thought"):
        chat.encode("p", QUESTION, (f"{marks[0]}hm", "no"))
    whole = f"{marks[0]}hm{marks[1]}yes"
    assert learnt(chat, chat.encode("p", QUESTION, (whole, "no"))) == [f"{whole}<|im_end|>", "no<|im_end|>"]


def test_a_given_beginning_may_open_what_the_answer_closes_and_not_what_it_leaves_open() -> None:
    chat = chat_for("qwen3")
    turns = chat.encode("p", QUESTION, ("hm\n</think>\n\nyes", "ha\n</think>\n\nno"), response_prefix="<think>\n")
    assert text_of(chat, turns.prefix) == "<think>\n"
    with pytest.raises(EncodeError, match="unclosed_thought"):
        chat.encode("p", QUESTION, ("hm\n</think>\n\nyes", "ha and ha"), response_prefix="<think>\n")
    assert chat.encode("p", QUESTION, (), response_prefix="<think>\n").prefix  # a model that is asked goes on by itself


def test_marks_that_are_text_to_the_model_are_noted_and_not_refused() -> None:
    chat = ChatEncoder(make_tokenizer())
    assert learnt(chat, chat.encode("p", QUESTION, ("<thought> is a tag", "no")))[0] == "<thought> is a tag<|im_end|>"
    assert "an answer of 'p' begins with <thought> and never writes </thought>" in chat.notes["cut thought"]


def test_an_answer_that_only_speaks_of_such_marks_is_no_cut_thought() -> None:
    assert never_closed("the mark <think> opens it") is None
    assert never_closed("<think>a</think> and <think> again") is None
    assert never_closed("<think>a</thinking>yes") == ("<think>", "</think>")
    assert never_closed("</think>") is None


OPENINGS = [
    "<longcat_think>\n", "<|START_THINKING|>", "<|channel|>analysis<|message|>", "<|inner_prefix|>",
    "<unused94>thought\n", "<reasoning>\n", "<scratchpad>\n", "<|thinking|>\n", "<mm:think>", "<Think>\n",
    "<reflection>", "<|think_start|>\n", "<|begin_of_thought|>", "[REASONING]\n", "<|channel>thought\n",
    "<reasoning>\n</reasoning>\n<reasoning>\n",
]  # fmt: skip


@pytest.mark.parametrize("opening", OPENINGS)
def test_plain_answers_are_not_learnt_behind_an_opening_of_a_thought(opening: str) -> None:
    chat = asking_with(opening)
    turns = chat.encode("p", QUESTION, PLAIN)
    assert text_of(chat, turns.prompt).endswith("<|im_start|>assistant\n")
    assert learnt(chat, turns) == ["it is red .<|im_end|>", "no<|im_end|>"]
    assert repr(opening)[1:-1] in chat.notes["left open"]
    assert "'p'" in chat.notes["left open"]
    assert not turns.by_text
    # asked without an answer, the template's own prompt
    assert text_of(chat, chat.encode("p", QUESTION, ()).prompt).endswith(f"<|im_start|>assistant\n{opening}")


def test_a_role_that_thinks_is_not_the_role_that_answers() -> None:
    """HyperCLOVA X asks with ``assistant/think``."""
    template = CHATML.replace(ASKS, "<|im_start|>assistant/think\n{% endif %}")
    chat = ChatEncoder(tokenizer_for(template, "<|im_end|>"))
    turns = chat.encode("p", QUESTION, PLAIN)
    assert text_of(chat, turns.prompt).endswith("<|im_start|>assistant\n")
    assert learnt(chat, turns) == ["it is red .<|im_end|>", "no<|im_end|>"]
    assert "assistant/think" in chat.notes["left open"]


STAYS = [
    "Sure, here is the answer: ",
    "let me think step by step : ",
    "think : ",
    "<think off>\n",
    "<|no_think|>",
    "A: ",
]


@pytest.mark.parametrize("opening", STAYS)
def test_other_text_that_only_the_asked_prompt_has_stays_and_is_said(opening: str) -> None:
    chat = asking_with(opening)
    turns = chat.encode("p", QUESTION, PLAIN)
    assert text_of(chat, turns.prompt).endswith(f"assistant\n{opening}")
    assert learnt(chat, turns) == ["it is red .<|im_end|>", "no<|im_end|>"]
    assert f"asks with {opening!r}, which it does not write before finished answers" in chat.notes["asked only"]
    assert "left open" not in chat.notes


CLOSED = [
    "<think>\n\n</think>\n\n", "<reasoning></reasoning>\n", "<|START_THINKING|><|END_THINKING|>", "[THINK][/THINK]",
    "<|inner_prefix|><|inner_suffix|>", "<|channel>thought\n<channel|>", "<unused94>thought\n<unused95>",
    "<|channel|>analysis<|message|><|end|>", "<|think_start|>\n<|think_end|>\n",
]  # fmt: skip


@pytest.mark.parametrize("opening", CLOSED)
def test_an_empty_block_that_only_the_asked_prompt_has_is_nothing_to_say(opening: str) -> None:
    chat = asking_with(opening)
    turns = chat.encode("p", QUESTION, PLAIN)
    assert text_of(chat, turns.prompt).endswith(f"assistant\n{opening}")
    assert not chat.notes


@pytest.mark.parametrize("opening", ["\n", " ", ""])
def test_blanks_that_only_the_asked_prompt_has_are_nothing_to_say(opening: str) -> None:
    chat = asking_with(opening)
    assert learnt(chat, chat.encode("p", QUESTION, PLAIN)) == ["it is red .<|im_end|>", "no<|im_end|>"]
    assert not chat.notes


def test_answers_that_end_the_opened_block_go_on_inside_it() -> None:
    chat = asking_with("<longcat_think>\n")
    answers = ("hm\n</longcat_think>\nyes", "ha\n</longcat_think>\nno")
    turns = chat.encode("p", QUESTION, answers)
    assert text_of(chat, turns.prompt).endswith("<longcat_think>\n")
    assert learnt(chat, turns) == [f"{answer}<|im_end|>" for answer in answers]
    with pytest.raises(EncodeError, match="begins the two answers differently"):
        chat.encode("q", QUESTION, (answers[0], "no"))


def test_a_block_with_its_own_marks_is_not_learnt_inside_another() -> None:
    chat = asking_with("<longcat_think>\n")
    turns = chat.encode("p", QUESTION, ("<think>hm</think>yes", "<think>ha</think>no"))
    assert text_of(chat, turns.prompt).endswith("assistant\n")
    assert learnt(chat, turns) == ["<think>hm</think>yes<|im_end|>", "<think>ha</think>no<|im_end|>"]


@pytest.mark.parametrize("opening", ["<longcat_think>\n", "Sure : "])
def test_the_switch_that_the_note_names_leaves_the_opening_out(opening: str) -> None:
    written = f"{{% if enable_thinking is not defined or enable_thinking %}}{{{{ {opening!r} }}}}{{% endif %}}"
    template = CHATML.replace(ASKS, ASKS.replace("{% endif %}", written + "{% endif %}"))
    chat = ChatEncoder(tokenizer_for(template, "<|im_end|>"))
    chat.encode("p", QUESTION, PLAIN)
    (note,) = chat.notes.values()
    assert "processing.template_kwargs={enable_thinking: false} makes both the same" in note
    told = ChatEncoder(chat.tokenizer, {"enable_thinking": False})
    assert told.encode("p", QUESTION, PLAIN).prompt == told.encode("p", QUESTION, ()).prompt
    assert not told.notes


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("", ""), ("<b>", ""), ("a thought", ""), ("<|end|>", ""), ("/think\n", "open"), ("/no_think", ""),
        ("<|commentary|>", ""), ("<think", ""), ("</think>", "closed"), ("<rethink>", "open"),
        ("<|winner|>", ""), ("<dinner>\n", ""), ("<|spinner|>", ""), ("<|inner|>", "open"), ("<inner_thought>", "open"),
        ("<|INNER|>", "open"),
    ],
)  # fmt: skip
def test_names_of_marks_say_what_they_do(text: str, state: str) -> None:
    assert named_thought(text, ("<|end|>",)) == state


def test_the_first_mark_in_an_answer_decides_whether_it_was_opened_before() -> None:
    assert ends_named_thought("so </reasoning> yes", ())
    assert not ends_named_thought("<reasoning>so</reasoning> yes", ())
    assert not ends_named_thought("a </b> thought", ())
