"""What is learnt is the answer that was given and one end of turn, whatever the chat template does; or the row is
refused with the reason. Looked at from the outside: ids are decoded and compared with the text."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from mmpref.errors import ConfigError
from mmpref.processing import ChatEncoder, EncodeError, PairEncoder, family_of
from mmpref.processing.length_plan import plan_fit
from mmpref.records import Message, user_turn
from tests.tiny_vlms import CHATML, TINY, draw, make_tokenizer, pair, turn
from tests.unit.processing.chat.chat_templates import learnt, own_rendering, text_of, tokenizer_for, trl_templates

# family of a template in the TRL package -> the end of its turns
ENDS = {
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "cohere2": "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>",
    "deepseek": "<｜end▁of▁sentence｜>",
    "diffusion_gemma": "<turn|>",
    "gemma": "<end_of_turn>",
    "gemma4": "<turn|>",
    "glm4moe": "</s>",  # the template writes none, so that eos is learnt
    "glm4moe_training": "<|user|>",
    "gptoss": "<|return|>",
    "idefics3": "<end_of_utterance>",
    "lfm2": "<|im_end|>",
    "llama3": "<|eot_id|>",
    "llava_next": "</s>",
    "muse": "<|eot|>",
    "nemotron": "<|im_end|>",
    "phi3": "<|end|>",
    "qwen": "<|im_end|>",
    "smolvlm": "<end_of_utterance>",
}
# those that open a think block where they ask, or write an empty one before a plain answer
THINKING = ("deepseek", "glm4moe", "nemotron", "qwen3_5", "qwen3_6", "qwen3_8", "qwen3.jinja", "qwen3_training")
PLAIN = ("it is red .", "no")
THOUGHT = ("<think>\nlook at it\n</think>\n\nit is red .", "<think>\nhm\n</think>\n\nno")


def end_for(name: str) -> str:
    return ENDS[max((family for family in ENDS if name.startswith(family)), key=len)]


def chat_for(name: str, **kwargs: Any) -> ChatEncoder:
    end = end_for(name)
    eos = "<|endoftext|>" if name.startswith("phi3") else "<" + end.rpartition("<")[2]
    return ChatEncoder(tokenizer_for(trl_templates()[name], "</s>" if name.startswith("glm4moe") else eos), kwargs)


def asked(chat: ChatEncoder, prompt: str) -> str:
    """The end of a prompt from its think block on."""
    return prompt[prompt.rfind("what ?") + len("what ?") :]


@pytest.fixture(scope="module")
def names() -> list[str]:
    return list(trl_templates())


def test_plain_answers_are_learnt_as_given_by_every_template_of_trl(names: list[str]) -> None:
    assert len(names) > 50
    for name in names:
        chat = chat_for(name)
        turns = chat.encode("p", user_turn("what ?", num_images=0), PLAIN)
        assert [text.lstrip(" ") for text in learnt(chat, turns)] == [f"{a}{end_for(name)}" for a in PLAIN], name
        prompt = text_of(chat, turns.prompt)
        assert prompt.count("<think>", prompt.rfind("what ?")) == prompt.count("</think>", prompt.rfind("what ?")), name
        for answer, ids in zip(PLAIN, turns.answers, strict=True):
            parts = name.startswith(("idefics3", "smolvlm", "llava_next"))
            whole = own_rendering(chat, user_turn("what ?", num_images=0), answer, parts=parts)
            whole = whole.replace(f"{datetime.datetime.now():%Y-%m-%d}", "2026-01-01")
            whole = whole.replace(f"{datetime.datetime.now():%d %b %Y}", "01 Jan 2026")
            written = text_of(chat, turns.prompt + ids)
            assert whole.startswith(written.removesuffix("</s>") if name == "glm4moe" else written), name


def test_answers_that_think_are_learnt_whole_and_never_behind_another_think_block(names: list[str]) -> None:
    for name in names:
        chat = chat_for(name)
        turns = chat.encode("p", user_turn("what ?", num_images=0), THOUGHT)
        prompt = asked(chat, text_of(chat, turns.prompt))
        for answer, text in zip(THOUGHT, learnt(chat, turns), strict=True):
            whole = prompt[max(prompt.rfind("<think>"), 0) :] + text if "<think>" in prompt else text
            assert "".join(whole.split()) == "".join(f"{answer}{end_for(name)}".split()), name
            if "<think>" in chat.tokenizer.get_vocab():  # as the model writes it, and not letter by letter
                ids = [*turns.prompt, *turns.answers[0]]
                assert ids.count(chat.tokenizer.convert_tokens_to_ids("</think>")) == 1, name
            assert "\n\n\n" not in whole.replace(answer, ""), name


def test_one_thinking_answer_beside_a_plain_one_is_refused_where_their_prompts_would_differ(names: list[str]) -> None:
    for name in names:
        chat = chat_for(name)
        pair = (THOUGHT[0], PLAIN[1])
        if name.startswith(("qwen3_instruct", "qwen3_vl")) or not f"{name}.jinja".startswith(THINKING):
            assert [
                text.lstrip(" ") for text in learnt(chat, chat.encode("p", user_turn("what ?", num_images=0), pair))
            ]
        else:
            with pytest.raises(EncodeError, match=r"'p'.*template") as caught:
                chat.encode("p", user_turn("what ?", num_images=0), pair)
            assert caught.value.reason == "template", name


def test_systems_histories_and_beginnings_are_there_or_refused(names: list[str]) -> None:
    history = (turn("user", "what ?"), turn("assistant", "a cat ."), turn("user", "sure ?"))
    system = (turn("system", "be brief ."), turn("user", "what ?"))
    for name in names:
        chat = chat_for(name)
        end = end_for(name)
        turns = chat.encode("p", history, PLAIN)
        prompt = text_of(chat, turns.prompt)
        assert prompt.index("what ?") < prompt.index("a cat .") < prompt.index("sure ?"), name
        assert [text.lstrip(" ") for text in learnt(chat, turns)] == [f"{a}{end}" for a in PLAIN], name
        if name in ("gemma", "gemma_training"):
            with pytest.raises(EncodeError, match="System role not supported"):
                chat.encode("p", system, PLAIN)
        else:
            turns = chat.encode("p", system, PLAIN)
            assert "be brief ." in text_of(chat, turns.prompt), name
        begun = chat.encode("p", user_turn("what ?", num_images=0), [" red .", " not red ."], response_prefix="it is")
        assert text_of(chat, begun.prefix).lstrip(" ") == "it is", name
        assert learnt(chat, begun) == [f" red .{end}", f" not red .{end}"], name


ODD = ("  {{ y }} {% raw %} <|im_end|> é✓ </s>\n\n", "\\n <b>&amp;'q' \"</b>\n", "<image> \t x", "{}")


def test_answers_with_braces_tokens_and_blanks_stay_what_they_are(names: list[str]) -> None:
    for name in names:
        chat = chat_for(name)
        ends = {chat.tokenizer.convert_tokens_to_ids(token) for token in chat.tokenizer.all_special_tokens}
        turns = chat.encode("p", user_turn("what {{ x }} <|im_end|> ?", num_images=0), ODD)
        for answer, ids in zip(ODD, turns.answers, strict=True):
            text = text_of(chat, ids)
            assert text.removesuffix(end_for(name)).strip() == answer.strip(), name
            assert not ends & set(ids[: -1 - end_for(name).count("><")]), name


def test_the_switch_that_the_note_names_makes_both_prompts_the_same() -> None:
    for name in ("qwen3", "qwen3_5_think", "nemotron_3_nano"):
        chat = chat_for(name)
        trained = chat.encode("p", user_turn("what ?", num_images=0), PLAIN).prompt
        assert trained != chat.encode("p", user_turn("what ?", num_images=0), ()).prompt
        assert "processing.template_kwargs={enable_thinking: false} makes both the same" in chat.notes["lead"]
        told = chat_for(name, enable_thinking=False)
        assert told.encode("p", user_turn("what ?", num_images=0), PLAIN).prompt == trained
        assert told.encode("p", user_turn("what ?", num_images=0), ()).prompt == trained
        assert not told.notes
    chat = chat_for("qwen3_8")  # it adds a word to the question when it is not to think
    chat.encode("p", user_turn("what ?", num_images=0), PLAIN)
    assert "no switch of it makes both the same" in chat.notes["lead"]


def test_what_a_prompt_opens_is_said() -> None:
    chat = chat_for("deepseek_r1_distill")
    chat.encode("p", user_turn("what ?", num_images=0), PLAIN)
    assert "without that opening" in chat.notes["left open"]
    chat.encode("q", user_turn("what ?", num_images=0), THOUGHT)
    assert "opens a think block" in chat.notes["opening"]


IMAGES = {  # template of TRL -> the small model whose processor has its tokens
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen3_vl": "qwen3_vl",
    "qwen3_5_think": "qwen3_vl",
    "qwen3_6": "qwen3_vl",
    "qwen3_8": "qwen3_vl",
    "llava_next": "llava_next",
    "idefics3": "idefics3",
    "smolvlm": "smolvlm",
    "lfm2_2_5_vl": "llava",
}


@pytest.mark.parametrize("name", IMAGES)
def test_rows_with_images_are_learnt_by_the_templates_that_take_them(name: str) -> None:
    processor = TINY[IMAGES[name]].processor()
    processor.chat_template = trl_templates()[name]
    family = family_of(IMAGES[name], has_vision=True)
    encoder = PairEncoder(processor, family)
    for answers in (PLAIN, THOUGHT):
        row = pair(images=("60x30-1", "28x28-2"), chosen=answers[0], rejected=answers[1])
        encoded = encoder.encode(row, draw)
        plan = plan_fit([row], encoder, lambda ref: draw(ref).size)
        assert plan.fits[0].prompt == len(encoded.prompt)
        assert encoded.vision
        prompt = encoder.chat.tokenizer.decode(encoded.prompt_ids.tolist())
        for answer, (_, ids) in zip(answers, filter(None, encoded.sides()), strict=True):
            text = encoder.chat.tokenizer.decode(ids.tolist())
            given = answer.removeprefix("<think>\n") if prompt.endswith("<think>\n") else answer
            assert text.strip() == f"{given}{end_for(name)}"
        assert prompt.count("<think>") == prompt.count("</think>") or answers is THOUGHT


# --- templates of our own: one for each kind of fault --------------------------------------------------------------


TEXT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['role'] == 'assistant' %}ANSWER"
    "{% else %}{{ message['content'] }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def made(answer: str, *, replace: tuple[str, str] = ("", "")) -> ChatEncoder:
    template = TEXT.replace("ANSWER", answer).replace(*replace)
    return ChatEncoder(tokenizer_for(template, "<|im_end|>"))


def ask(chat: ChatEncoder, *answers: str, row: str = "p", prompt: tuple[Message, ...] | None = None) -> list[str]:
    return learnt(chat, chat.encode(row, prompt or user_turn("what ?", num_images=0), answers or PLAIN))


CONTENT = "{{ message['content'] }}"
HELD = {  # what the template does with an answer -> what is learnt of " red \n"
    "as it is": (CONTENT + "<|im_end|>\n", " red \n<|im_end|>"),
    "trims": ("{{ message['content'] | trim }}<|im_end|>\n", "red<|im_end|>"),
    "a blank before and a line after": (" " + CONTENT + "\n<|im_end|>\n", "  red \n\n<|im_end|>"),
    "two ends": (CONTENT + "<|im_end|></s>", " red \n<|im_end|>"),
    "two ends on two lines": (CONTENT + "<|im_end|>\n</s>\n", " red \n<|im_end|>"),
    "no end": (CONTENT + "\n", " red<|im_end|>"),
    "asks again at once": (CONTENT + "<|im_end|>\n<|im_start|>assistant\n", " red \n<|im_end|>"),
    "words before it": ("Answer: " + CONTENT + "<|im_end|>\n", " red \n<|im_end|>"),
}


@pytest.mark.parametrize("kind", HELD)
def test_spacing_is_the_template_s_and_the_end_is_one(kind: str) -> None:
    written, wanted = HELD[kind]
    assert ask(made(written), " red \n", "no")[0] == wanted


def test_a_template_that_always_asks_adds_nothing_to_the_answer() -> None:
    asks = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    assert asks in CHATML
    always = CHATML.replace(asks, "{{ '<|im_start|>assistant\n' }}")
    chat = ChatEncoder(make_tokenizer(template=always))
    assert ask(chat) == ["it is red .<|im_end|>", "no<|im_end|>"]
    open_ended = always.replace("<|im_end|>\n", "\n")
    assert ask(ChatEncoder(make_tokenizer(template=open_ended))) == ["it is red .<|im_end|>", "no<|im_end|>"]


REWRITTEN = {
    "upper case": "{{ message['content'] | upper }}<|im_end|>\n",
    "escaped": "{{ message['content'] | replace('&', '&amp;') | replace('<', '&lt;') }}<|im_end|>\n",
    "one line": "{{ message['content'].split() | join(' ') }}<|im_end|>\n",
    "cut": "{{ message['content'][:20] }}<|im_end|>\n",
    "strips thoughts": "{{ message['content'].split('</think>')[-1] }}<|im_end|>\n",
    "json": "{{ message['content'] | tojson }}<|im_end|>\n",
}


@pytest.mark.parametrize("kind", REWRITTEN)
def test_a_rewritten_answer_is_refused_with_both_texts(kind: str) -> None:
    chat = made(REWRITTEN[kind])
    answer = "<think>\nso & so\n</think>\n\nred  and\n<b>blue</b> in the middle of it"
    with pytest.raises((EncodeError, ConfigError), match=r"given '.*written '.*no switches") as caught:
        ask(chat, answer, "no", row="row 7")
    assert "row 7" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_row_that_is_not_rewritten_goes_on_with_such_a_template() -> None:
    assert ask(made(REWRITTEN["escaped"])) == ["it is red .<|im_end|>", "no<|im_end|>"]
    assert ask(made(REWRITTEN["strips thoughts"])) == ["it is red .<|im_end|>", "no<|im_end|>"]


HOPELESS = {
    "nothing": "<|im_end|>\n",
    "twice": CONTENT + CONTENT + "<|im_end|>\n",
    "words after it": CONTENT + " (checked)<|im_end|>\n",
    "upper case": "{{ message['content'] | upper }}<|im_end|>\n",
    "inside a thought": "<think>\n" + CONTENT + "<|im_end|>\n",
}


@pytest.mark.parametrize("kind", HOPELESS)
def test_a_template_that_can_hold_no_answer_stops_the_run(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"no answer can be trained on.*'p'"):
        ask(made(HOPELESS[kind]))


def test_its_own_switch_is_tried_and_named() -> None:
    keeps = "{% if keep_thinking %}{{ c }}{% else %}{{ c.split('</think>')[-1] }}{% endif %}<|im_end|>\n"
    chat = made("{% set c = message['content'] %}" + keeps)
    assert ask(chat, *THOUGHT) == [f"{answer}<|im_end|>" for answer in THOUGHT]
    assert "processing.template_kwargs={keep_thinking: true}" in chat.notes["switch"]
    told = ChatEncoder(chat.tokenizer, {"keep_thinking": True})
    assert ask(told, *THOUGHT) == [f"{answer}<|im_end|>" for answer in THOUGHT]
    assert not told.notes


def test_strings_are_tried_where_parts_are_printed_and_parts_where_strings_are_dropped() -> None:
    prints = CHATML.replace("{% if message['content'] is string %}", "{% if message['role'] == 'assistant' %}")
    processor = TINY["qwen2_vl"].processor()
    processor.chat_template = prints.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    chat = ChatEncoder(processor)
    assert learnt(chat, chat.encode("p", user_turn("what ?", num_images=1), PLAIN)) == [f"{a}<|im_end|>" for a in PLAIN]
    parts_only = CHATML.replace("{% if message['content'] is string %}{{ message['content'] }}{% else %}", "").replace(
        "{% endfor %}{% endif %}<|im_end|>", "{% endfor %}<|im_end|>"
    )
    chat = ChatEncoder(make_tokenizer(template=parts_only))
    turns = chat.encode("p", user_turn("what ?", num_images=0), PLAIN)
    assert learnt(chat, turns) == [f"{answer}<|im_end|>" for answer in PLAIN]
    assert "what ?" in text_of(chat, turns.prompt)


def test_a_dropped_system_prompt_is_refused_and_a_merged_one_is_not() -> None:
    system = (turn("system", "be brief ."), turn("user", "what ?"))
    drops = CHATML.replace("{% for message in messages %}", "{% for message in messages if message.role != 'system' %}")
    with pytest.raises(EncodeError, match=r"leaves out or rewrites the system message 'be brief .'"):
        ask(ChatEncoder(make_tokenizer(template=drops)), prompt=system)
    merged = (
        "{% set first = messages[0]['content'] ~ '\n\n' if messages[0].role == 'system' else '' %}{{ first }}" + drops
    )
    assert ask(ChatEncoder(make_tokenizer(template=merged)), prompt=system)[1] == "no<|im_end|>"


def test_what_a_template_raises_is_one_line_with_row_and_template() -> None:
    tokenizer = make_tokenizer(template="{{ raise_exception('roles\n must   alternate') }}" + CHATML)
    tokenizer.name_or_path = "some/model"
    with pytest.raises(ConfigError, match=r"'p'.*template of some/model, which refuses it: roles must alternate"):
        ask(ChatEncoder(tokenizer))
    wrong_type = CHATML.replace(
        "{{ message['role'] }}", "{{ message['role'] + 1 if message.role == 'system' else message.role }}"
    )
    with pytest.raises(EncodeError, match=r"'p'.*TypeError: can only concatenate"):
        ask(ChatEncoder(make_tokenizer(template=wrong_type)), prompt=(turn("system", "x"), turn("user", "y")))
    with pytest.raises(ConfigError, match=r"chat template of .* cannot be read"):
        ChatEncoder(make_tokenizer(template="{% if %}"))


def test_a_date_does_not_move_prompts_from_day_to_day() -> None:
    chat = ChatEncoder(make_tokenizer(template="{{ strftime_now('%Y-%m-%d') }}\n" + CHATML))
    assert text_of(chat, chat.encode("p", user_turn("what ?", num_images=0), PLAIN).prompt).startswith("2026-01-01\n")
    assert "template_kwargs={strftime_now: 2026-07-01}" in chat.notes["date"]
    told = ChatEncoder(chat.tokenizer, {"strftime_now": "2026-07-01"})
    assert text_of(told, told.encode("p", user_turn("what ?", num_images=0), PLAIN).prompt).startswith("2026-07-01\n")
    assert "date" not in told.notes
    with pytest.raises(ConfigError, match="'strftime_now' is the day"):
        ChatEncoder(chat.tokenizer, {"strftime_now": "yesterday"})
    named = chat_for("llama3_2", date_string="3 May 2020")
    assert "3 May 2020" in text_of(named, named.encode("p", user_turn("what ?", num_images=0), PLAIN).prompt)
    assert "date" not in named.notes
    assert "date" in chat_for("llama3_2").notes


def test_kwargs_that_a_template_does_not_read_are_refused() -> None:
    with pytest.raises(ConfigError, match="does not read 'enable_thinkin'; did you mean 'enable_thinking'"):
        chat_for("qwen3", enable_thinkin=False)
    with pytest.raises(ConfigError, match="does not read 'tools'; it reads none"):
        chat_for("phi3", tools=[])
    for name in ("messages", "add_generation_prompt", "eos_token"):
        with pytest.raises(ConfigError, match=f"'{name}' is given to chat templates by mmpref"):
            chat_for("qwen3", **{name: "x"})


def test_a_row_s_own_kwargs_stand_over_the_recipe_s() -> None:
    chat = chat_for("qwen3", enable_thinking=True)
    tools = [{"type": "function", "function": {"name": "look", "description": "sees", "parameters": {}}}]
    plain = chat.encode("p", user_turn("what ?", num_images=0), ())
    other = chat.encode("p", user_turn("what ?", num_images=0), (), template_kwargs={"enable_thinking": False})
    armed = chat.encode("p", user_turn("what ?", num_images=0), PLAIN, template_kwargs={"tools": tools})
    assert text_of(chat, other.prompt) == text_of(chat, plain.prompt) + "<think>\n\n</think>\n\n"
    assert '"name": "look"' in text_of(chat, armed.prompt)
    assert chat.encode("p", user_turn("what ?", num_images=0), ()) == plain
    with pytest.raises(EncodeError, match=r"'q'.*does not read 'tool'"):
        chat.encode("q", user_turn("what ?", num_images=0), PLAIN, template_kwargs={"tool": tools})


def test_a_tokenizer_that_gives_back_another_text_is_found_on_the_first_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = made(CONTENT + "<|im_end|>\n")
    ids_of = chat.template.ids_of
    monkeypatch.setattr(chat.template, "ids_of", lambda texts: ids_of([text.replace("red", "blue") for text in texts]))
    with pytest.raises(EncodeError, match=r"'p'.*'it is red .<\|im_end\|>' becomes 'it is blue"):
        ask(chat)
