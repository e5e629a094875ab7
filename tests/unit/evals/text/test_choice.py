"""Answers to multiple-choice questions, and the option that a careful person takes each for."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpref.evals.text.choice import UNPARSED, read_choice
from mmpref.evals.text.options import options_of

ASKED = {
    "wings": ("Are the butterfly's wings closer to being open or closed?", {"A": "Open", "B": "Closed"}),
    "sofa": ("What is on the sofa?", {"A": "a dog", "B": "a cat", "C": "a horse", "D": "two birds"}),
    "yes_no": ("Are the wings open?", {"A": "Yes", "B": "No"}),
    "rider": (
        "What is the relationship between the man and the horse?",
        {"A": "on", "B": "riding", "C": "beside", "D": "holding"},
    ),
    "long": (
        "",
        {
            "A": "Yes, a red bench, a dog and a lamp",
            "B": "No, but a red bench, a cat and a lamp",
            "C": "No, but a blue bench, a dog and a lamp",
            "D": "No, but a red bench, a dog and a tree",
            "E": "No, but a red bench, a dog and a bike",
        },
    ),
    "count": ("How many dogs are there?", {"A": "2", "B": "3", "C": "4", "D": "5"}),
    "side": ("Is the dog facing left or right from the camera's perspective?", {"A": "Left", "B": "Right"}),
    "sentences": ("", {"A": "The man is on the left", "B": "The man is on the right"}),
    "door": ("", {"A": "Wide open", "B": "Open"}),
    "pet": ("", {"A": "The dog is brown", "B": "The dog is black"}),
    "colour": ("", {"A": "Red", "B": "Green", "C": "Blue", "D": "Yellow"}),
    "dogs": ("", {"A": "One", "B": "Two", "C": "Three", "D": "Four or more"}),
    "true_false": ("", {"A": "True", "B": "False"}),
    "none_of_these": ("", {"A": "An umbrella", "B": "A hat", "C": "None of the above"}),
    "place": ("", {"A": "in front of", "B": "behind", "C": "on top of", "D": "next to"}),
    "posture": ("", {"A": "Standing", "B": "Sitting"}),
    "tusks": ("", {"A": "Long", "B": "Short"}),
    "yes_no_in_full": ("", {"A": "Yes, there is a dog", "B": "No, there is no dog"}),
    "from_none_on": ("", {"A": "0", "B": "1", "C": "2", "D": "More than 2"}),
    "coat": ("", {"A": "White and black", "B": "White", "C": "Black", "D": "Brown"}),
}
READ = Path(__file__).parents[3] / "fixtures" / "evals" / "choices_read.jsonl"
"""Answers with what people take them for: a letter, or "unparsed"; ``asked`` is a question of ``ASKED``."""
ROWS = [json.loads(line) for line in READ.read_text(encoding="utf-8").splitlines()]
CASES = [(row["asked"], row["letter"], row["text"]) for row in ROWS]


def read(asked, text):
    question, options = ASKED[asked]
    return read_choice(text, options, question)


@pytest.mark.parametrize("asked", ASKED)
def test_an_answer_is_read_as_the_option_that_people_take_it_for(asked):
    cases = [(text, letter) for name, letter, text in CASES if name == asked]
    assert [(text, read(asked, text)) for text, _ in cases] == cases


def test_spaces_and_finished_thinking_change_nothing():
    for asked, letter, text in CASES:
        assert read(asked, f"  \n{text}  ") == letter
        assert read(asked, f"<think>A? C? The answer is D.</think>\n{text}") == letter


AROUND = (
    "Sure, {}", "Sure! {}", "Answer: {}", "**{}**", "{}\n\nUSER: next question?", "Based on the image, {}",
    "{} I hope this helps!", "{} ",
)  # fmt: skip


@pytest.mark.parametrize("around", AROUND)
def test_courtesies_change_nothing(around):
    marked = ("<", "{", "[", "`", "$", "\\", "◁")  # these are the answer, wherever they stand
    plain = [case for case in CASES if case[2].strip() and not case[2].startswith(marked)]
    read_as = [(asked, text, read(asked, around.format(text))) for asked, _, text in plain]
    assert read_as == [(asked, text, letter) for asked, letter, text in plain]


def test_words_about_the_image_are_no_option_but_those_of_an_option_count():
    assert read("rider", "In the image, the man is riding the horse.") == "B"
    options = {"A": "A dog in the image", "B": "A dog on the sofa", "C": "Nothing"}
    assert read_choice("There is a dog in the image", options) == "A"
    assert read_choice("In this picture there is a dog on the sofa.", options) == "B"


LETTERS = st.sampled_from("ABCD")


@given(
    LETTERS,
    st.sampled_from(
        ["{}", "({})", "{}.", "The answer is {}.", "Answer: {}", "**{}**", "I think it is {}.", "答案是{}"]
    ),
    st.sampled_from(["", "Sure! ", "Sure, ", "Certainly. "]),
    st.booleans(),
)
def test_a_letter_reads_alike_in_every_dress(letter, dress, opening, small):
    text = opening + dress.format(letter.lower() if small and not opening else letter)
    assert read("rider", text) == letter


@given(
    LETTERS,
    st.sampled_from(["Not {}.", "It is not {}", "The answer is not {}.", "{} is wrong.", "Option {} is incorrect"]),
)
def test_a_denied_letter_is_never_the_answer(letter, denial):
    assert read("rider", denial.format(letter)) == UNPARSED


@given(st.sampled_from(["on", "riding", "beside", "holding"]), st.sampled_from(["is not", "isn't", "is never"]))
def test_a_denied_option_is_never_the_answer_nor_turned_round(word, denial):
    assert read("rider", f"The man {denial} {word} the horse.") == UNPARSED
    assert read("wings", "The wings are not open.") == UNPARSED


@given(st.text(max_size=60))
def test_any_text_is_read_as_an_option_or_not_at_all(text):
    assert read("rider", text) in {*"ABCD", UNPARSED}
    assert read_choice(text, {}) == UNPARSED


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("(a) Open (b) Closed", {"A": "Open", "B": "Closed"}),
        ("(a) Yes\n(b) No", {"A": "Yes", "B": "No"}),
        ("(A) 1 (one) (B) 2 (two)", {"A": "1 (one)", "B": "2 (two)"}),
        (
            "Which?\nA. x y\nB. z\nAnswer with the option's letter from the given choices directly.",
            {"A": "x y", "B": "z"},
        ),
        ("Which?\nA) x\nB) y\nC) z", {"A": "x", "B": "y", "C": "z"}),
        ("Which? A: x B: y", {"A": "x", "B": "y"}),
        ("Is it A or B?", {}),
        ("(a) Open", {}),
        ("", {}),
    ],
)
def test_the_options_of_a_question_are_found(text, options):
    assert options_of(text) == options
