"""Self-consistency: what the other samples of a prompt say too."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpref.errors import ConfigError
from mmpref.records import Candidate, Candidates, ImageRef, Prompt, user_turn
from mmpref.sampling.scorers import build_scorer, check_options
from mmpref.sampling.scorers.contract import ScoreContext

PROMPT = Prompt(id="p", images=(ImageRef(path="a.png"),), prompt=user_turn("Is there a dog?", num_images=1))


def scores(*answers):
    found = build_scorer("a", "agreement", {}, ScoreContext()).score(
        [Candidates(prompt=PROMPT, answers=tuple(Candidate(text=text, times=times) for text, times in answers))]
    )
    return [score.value if score.value is not None else score.why for score in found]


def test_yes_and_no_get_the_share_of_the_others_that_say_the_same():
    assert scores(("Yes", 3), ("no", 1)) == [pytest.approx(2 / 3), 0.0]
    assert scores(("Yes.", 1), ("yes", 1), ("No.", 2)) == [pytest.approx(1 / 3)] * 2 + [pytest.approx(1 / 3)]


def test_words_in_common_by_hand():
    # 2 words in common of 2 + 3: 0.8; nothing in common with the third
    assert scores(("red dog", 1), ("a red dog", 1), ("cats", 1)) == [pytest.approx(0.4), pytest.approx(0.4), 0.0]


def test_a_single_sample_agrees_with_nothing():
    assert scores(("a dog", 1)) == ["one_sample"]
    assert scores(("a dog", 2)) == [1.0]


def test_texts_without_words_are_compared_as_they_are():
    assert scores(("?", 1), ("!", 1)) == [0.0, 0.0]
    assert scores(("", 1), (" ", 1)) == [1.0, 1.0]


texts = st.lists(st.sampled_from(["dog", "cat", "red", "A"]), max_size=4).map(" ".join)


@given(st.dictionaries(texts, st.integers(1, 3), min_size=1, max_size=4), st.randoms())
def test_order_does_not_count_and_one_more_of_a_text_never_lowers_it(answers, chance):
    listed = list(answers.items())
    found = dict(zip(answers, scores(*listed), strict=True))
    chance.shuffle(listed)
    assert dict(zip([text for text, _ in listed], scores(*listed), strict=True)) == pytest.approx(found)
    text, times = listed[0]
    after = scores((text, times + 1), *listed[1:])[0]
    assert found[text] == "one_sample" or 0 <= found[text] <= after + 1e-12 <= 1 + 1e-12


def test_it_has_no_options():
    with pytest.raises(ConfigError, match="has no option 'n'; it has: none"):
        check_options("a", "agreement", {"n": 1})
