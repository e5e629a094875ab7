"""Special tokens in answers stay text, and that is said: how many answers, which tokens, the first row."""

from __future__ import annotations

import dataclasses

import pytest

from mmpref.data.formats import FormatOptions, read_row
from mmpref.data.formats.columns import BOXES
from mmpref.data.pairs import pair_from_row
from mmpref.data.quarantine import RowError
from mmpref.processing import ChatEncoder, PairEncoder, family_of, plan_fit
from mmpref.processing.chat.spelt_tokens import SpeltOut
from mmpref.records import user_turn
from tests.releases import needs_spelt_tokens
from tests.tiny_vlms import CHATML, pair
from tests.unit.processing.chat.chat_templates import learnt, tokenizer_for

QUESTION = user_turn("what ?", num_images=0)
BOX = "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>"
TOKENS = ("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>")
GROUNDING = CHATML + f"{{# {' '.join(TOKENS)} #}}"


def grounding() -> ChatEncoder:
    return ChatEncoder(tokenizer_for(GROUNDING, "<|im_end|>"))


@needs_spelt_tokens
def test_tokens_that_answers_spell_out_are_counted_and_stay_text() -> None:
    chat = grounding()
    chat.encode("plain", QUESTION, ("yes", "no"))
    assert not chat.notes
    turns = chat.encode("p", QUESTION, (BOX, "no"))
    assert learnt(chat, turns)[0] == f"{BOX}<|im_end|>"
    numbers = {chat.tokenizer.convert_tokens_to_ids(token) for token in TOKENS}
    assert not numbers & set(turns.answers[0])
    assert chat.notes["letters"].startswith("1 answer writes special tokens as text, ")
    chat.encode("q", QUESTION, (BOX, "at <|box_start|>(1,1)"))
    note = chat.notes["letters"]
    assert note.startswith("3 answers write special tokens as text, <|box_start|>, <|box_end|>, ")
    assert "(first seen in 'p')" in note
    assert "learnt letter by letter" in note
    assert all(token in note for token in TOKENS)


@needs_spelt_tokens
def test_rows_that_are_kept_are_counted_again() -> None:
    chat = grounding()
    for row in ("p", "q"):
        chat.encode(row, QUESTION, (BOX, "no"))
    assert chat.notes["letters"].startswith("2 answers write")


@needs_spelt_tokens
def test_questions_and_marks_of_a_thought_are_not_counted() -> None:
    chat = ChatEncoder(tokenizer_for(CHATML + "{% if false %}<think></think>{% endif %}", "<|im_end|>"))
    chat.encode("p", user_turn("say <|im_end|> ?", num_images=0), ("<think>hm</think>yes", "<think>ha</think>no"))
    assert "letters" not in chat.notes
    chat.encode("q", QUESTION, ("<think>hm</think>yes <think>", "no"))
    assert "1 answer writes special tokens as text, <think> (first seen in 'q')" in chat.notes["letters"]


@needs_spelt_tokens
def test_helping_processes_count_the_same() -> None:
    rows = [
        dataclasses.replace(pair(f"r{i}", images=()), chosen=f"{BOX} {i}" if i % 5 in (2, 3) else f"yes {i}")
        for i in range(140)
    ]
    notes = []
    for workers in (0, 2):
        encoder = PairEncoder(tokenizer_for(GROUNDING, "<|im_end|>"), family_of("llama", has_vision=False))
        plan_fit(rows, encoder, lambda ref: (1, 1), num_workers=workers)
        notes.append(encoder.chat.notes)
    assert notes[0] == notes[1]
    assert notes[0]["letters"].startswith("56 answers write")
    assert "(first seen in 'r2')" in notes[0]["letters"]


def test_many_tokens_are_named_in_part() -> None:
    found = SpeltOut()
    assert found.describe() == ""
    found.add("p", [[f"<{letter}>" for letter in "abcdefgh"]])
    assert "<a>, <b>, <c>, <d>, <e>, <f> and 2 more (first seen in 'p')" in found.describe()


def test_the_advice_about_boxes_gives_an_answer_that_is_learnt_as_it_is_written() -> None:
    row = {"prompt": "where ?", "chosen": "the cat is at 1 , 2 , 3 , 4", "rejected": "no", "boxes": [[1, 2, 3, 4]]}
    with pytest.raises(RowError, match="write their numbers into the text as plain words"):
        read_row(row, None, FormatOptions(place="f:1"))
    assert "drop it" in BOXES.advice
    del row["boxes"]
    _, found = read_row(row, None, FormatOptions(place="f:1"))
    read = pair_from_row(found[0], source="f", line=1)
    chat = grounding()
    assert learnt(chat, chat.encode(read.id, read.prompt, (read.chosen,))) == [f"{row['chosen']}<|im_end|>"]
    assert not chat.notes
