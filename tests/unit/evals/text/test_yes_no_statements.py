"""Statements that answer a question about an attribute, a state, a place, a chart or a poster in other words."""

import json
from collections import Counter
from pathlib import Path

import pytest

from mmpref.evals.text.yes_no import read_mmpref
from mmpref.evals.text.yes_no.typos import put_right

_FIXTURE = Path(__file__).resolve().parents[3] / "fixtures" / "evals" / "read_statements.jsonl"
_ROWS = [json.loads(line) for line in _FIXTURE.read_text(encoding="utf-8").splitlines()]


def test_statements_are_read_as_people_read_them_with_no_flip_and_no_invention() -> None:
    wrong: Counter[str] = Counter()
    for row in _ROWS:
        said = read_mmpref(row["answer"], row["question"])
        if said != row["label"]:
            wrong["missed" if said == "unparsed" else f"{row['label']} read as {said}: {row['answer']}"] += 1
    missed = wrong.pop("missed", 0)
    assert not wrong
    assert missed <= 0.03 * len(_ROWS)


@pytest.mark.parametrize(
    "verb", ["is", "sits", "stands", "lies", "is placed", "appears to be", "is located", "remains"]
)
@pytest.mark.parametrize("place", ["on the left of", "to the left of", "left of", "on the left side of"])
def test_a_place_is_read_whatever_the_verb_and_never_turned_round(verb: str, place: str) -> None:
    question = "Is the cup on the left of the plate?"
    assert read_mmpref(f"The cup {verb} {place} the plate.", question) == "yes"
    assert read_mmpref(f"It {verb} {place} the plate.", question) == "yes"
    assert read_mmpref(f"The plate {verb} {place} the cup.", question) == "unparsed"
    assert read_mmpref(f"The fork {verb} {place} the plate.", question) == "unparsed"
    assert read_mmpref(f"The cup {verb} {place.replace('left', 'right')} the plate.", question) == "unparsed"


@pytest.mark.parametrize("subject", ["The doors", "They", "Both doors", "All of them", "All the doors", "Both of them"])
@pytest.mark.parametrize(
    "predicate", ["are {}open", "stand {}open", "look {}open", "remain {}open", "have been left {}open"]
)
def test_modifiers_quantities_and_other_verbs_leave_a_state_the_same(subject: str, predicate: str) -> None:
    question = "Are the doors open in this image?"
    for modifier in ("", "wide ", "fully "):
        assert read_mmpref(f"{subject} {predicate.format(modifier)}.", question) == "yes"
    for weaker in ("half ", "almost ", "partly ", "nearly "):
        assert read_mmpref(f"{subject} {predicate.format(weaker)}.", question) == "unparsed"


@pytest.mark.parametrize(
    "denial",
    ["The doors are not open.", "The doors don't look open.", "They do not seem to be open.", "None of them are open.",
     "No doors are open.", "Neither of the doors is open.", "The doors are neither open nor unlocked.", "Not open.",
     "I wouldn't call them open.", "I would not describe the doors as open.", "The doors are closed, not open.",
     "The doors are shut rather than open.", "The doors are anything but open.", "Anything but.",
     "Doesn't look like it."],
)  # fmt: skip
def test_denials_at_other_verbs_and_by_contrast_are_a_no(denial: str) -> None:
    assert read_mmpref(denial, "Are the doors open in this image?") == "no"


@pytest.mark.parametrize(
    "answer",
    ["The doors are open or closed.", "If the doors are open, it is summer.", "The window by the doors is open.",
     "Some of the doors are open.", "The doors are not completely open.", "The open window is beside the doors.",
     "A man opens an umbrella at the doors.", "The doors are closed.", "The doors have open windows.",
     "It is not clear whether the doors are open.", "The doors would be open in summer."],
)  # fmt: skip
def test_weaker_open_and_other_statements_stay_unread(answer: str) -> None:
    assert read_mmpref(answer, "Are the doors open in this image?") == "unparsed"


def test_words_one_letter_off_are_put_right_and_other_words_are_not() -> None:
    assert put_right("thre is no bycicle, no umbrela", "Is there a bicycle or an umbrella?") == (
        "there is no bicycle, no umbrella"
    )
    for text, question in [
        ("there is a god", "Is there a dog?"), ("three is a bat", "Is there a cat?"),
        ("these are horses", "Is it a house?"),
        ("a bandana", "Is there a banana?"), ("the closer door", "Is the door closed?"),
        ("bananas", "Is there a banana?"),
    ]:  # fmt: skip
        assert put_right(text, question) == text


def test_marks_of_tokenizers_are_spaces() -> None:
    assert read_mmpref("ĠYes", "Is the car red?") == "yes"
    assert read_mmpref("▁No▁,▁it▁is▁blue", "Is the car red?") == "no"
