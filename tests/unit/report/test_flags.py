from __future__ import annotations

import pytest

from mmpref.report.flags import Signs, caption_flags, yes_flag

BASE = Signs(
    chair_s=0.4, chair_i=0.15, recall=0.95, mean_length=10, empty_share=0.0, repetition=0.0, same_answer=0.02,
    chosen_start=-6.0,
)  # fmt: skip


def changed(**values):
    fields = {name: getattr(BASE, name) for name in BASE.__slots__}
    return Signs(**(fields | values))


def kinds(flags):
    return {column: [flag.kind for flag in found] for column, found in flags.items()}


def test_an_honest_win_has_no_flag():
    assert caption_flags(changed(chair_s=0.1, chair_i=0.03, recall=0.92, mean_length=9.0), BASE) == {}
    assert caption_flags(BASE, BASE) == {}


def test_lower_chair_with_lower_recall_is_saying_less():
    found = caption_flags(changed(chair_s=0.1, chair_i=0.03, recall=0.90), BASE)
    assert kinds(found) == {"chair_s": ["says_less"], "chair_i": ["says_less"], "recall": ["says_less"]}
    assert "recall fell by 5.0 points" in found["chair_s"][0].why


def test_lower_chair_with_shorter_captions_is_saying_less():
    found = caption_flags(changed(chair_s=0.1, mean_length=8.5), BASE)
    assert kinds(found) == {"chair_s": ["says_less"], "mean_length": ["says_less"]}
    assert "15 % shorter" in found["mean_length"][0].why


def test_lower_recall_without_lower_chair_buys_nothing():
    assert caption_flags(changed(recall=0.5), BASE) == {}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mean_length": 15.0}, "50 % longer"),
        ({"empty_share": 0.05}, "5 % of the captions are empty"),
        ({"repetition": 0.3}, "30 % of word triples"),
        ({"same_answer": 0.5}, "50 % of the captions are the same"),
    ],
)
def test_collapse_of_the_captions(values, words):
    found = caption_flags(changed(**values), BASE)
    assert kinds(found) == {"mean_length": ["collapse"]}
    assert words in found["mean_length"][0].why


def test_collapse_marks_the_chair_that_it_lowers():
    found = caption_flags(changed(chair_s=0.0, empty_share=0.9), BASE)
    assert kinds(found) == {"mean_length": ["collapse"], "chair_s": ["collapse"]}


@pytest.mark.parametrize(
    ("values", "flagged"),
    [
        ({"chosen_per_token": -0.3}, True),
        ({"chosen_per_token": -0.29}, False),
        ({"chosen_per_token": 0.5}, False),
        ({"chosen_change": -3.5}, True),
        ({"chosen_change": -2.0}, False),
        ({"chosen_change": -0.6, "chosen_start": -0.8}, False),
        ({"chosen_change": -3.5, "chosen_per_token": -0.1}, False),
    ],
)
def test_collapse_of_the_chosen_answers(values, flagged):
    found = kinds(caption_flags(changed(**values), BASE))
    assert found == ({"logp_chosen": ["collapse"]} if flagged else {})


@pytest.mark.parametrize(
    ("share", "before", "flagged"),
    [
        (0.81, 0.8, True),
        (0.8, 0.75, False),
        (0.1, None, True),
        (0.5, None, False),
        (0.7, 0.54, True),
        (0.3, 0.46, True),
        (0.54, 0.7, False),  # towards even
        (0.65, 0.5, False),  # 15 points is not more than 15
        (None, 0.5, False),
    ],
)
def test_always_yes_or_no(share, before, flagged):
    assert (yes_flag(share, before) is not None) == flagged


def test_yes_flag_says_the_direction():
    assert "towards no" in yes_flag(0.3, 0.5).why
    assert "90 % of the answers are yes" in yes_flag(0.9, 0.5).why


def test_what_was_not_measured_raises_nothing():
    assert caption_flags(Signs(), Signs()) == {}
    assert caption_flags(changed(chair_s=None, recall=None, mean_length=None), BASE) == {}
