"""What each token of an answer counts: by the published rule, restated here without difflib, or as rows say."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmpref.errors import ConfigError
from mmpref.processing import EncodeError, PairEncoder, family_of, plan_fit
from mmpref.processing.token_weights import (
    TokenWeightSettings,
    changed_tokens,
    characters,
    describe_weights,
    token_weights,
)
from mmpref.records import PreferencePair, WeightSpan
from tests.tiny_vlms import CHATML, TINY, draw, pair
from tests.unit.processing.metaspace import metaspace_tokenizer

DIFF = TokenWeightSettings(rule="diff", eos="rule")
COLUMN = TokenWeightSettings(rule="column")


def letters(chosen: str, rejected: str, **changes: Any) -> tuple[str, str]:
    """Answers of one letter a token; the changed ones of each in capitals."""
    found = changed_tokens(list(map(ord, chosen)), list(map(ord, rejected)), dataclasses.replace(DIFF, **changes))
    marked = ("".join(c.upper() if one else c for c, one in zip(text, of, strict=True))
              for text, of in zip((chosen, rejected), found, strict=True))  # fmt: skip
    first, second = marked
    return first, second


@pytest.mark.parametrize(
    ("given", "want"),
    [
        (("abcdefgh.", "abcxefgh."), ("abcDefgh.", "abcXefgh.")),  # one word is another
        (("abcdef.", "abcxxdef."), ("abcdef.", "abcxxdef.")),  # words in between: published as shared
        (("abcdef.", "abcdefxx."), ("abcdef.", "abcdefXX.")),  # said at the end: "." is alone, and part of the gap
        (("abcdxy.", "abcd."), ("abcdXY.", "abcd.")),
        (("abxcdxefx", "abycdyefy"), ("ABXCDXEFX", "ABYCDYEFY")),  # equal runs of two tokens are dropped
        (("abcx.", "abcy."), ("abcX.", "abcY.")),
        (("ab.", "ab."), ("ab.", "ab.")),  # equal answers (under two images)
        (("a.", "a."), ("A.", "A.")),  # shorter than a block
    ],
)  # fmt: skip
def test_what_is_changed_in_answers_of_single_letters(given: tuple[str, str], want: tuple[str, str]) -> None:
    """A full stop is the end of turn; it has no capital, and is looked at below."""
    assert letters(*given) == want


def test_the_end_of_turn_is_changed_by_the_rule_and_shared_by_default() -> None:
    chosen, rejected = [1, 2, 3, 4, 9], [1, 2, 3, 5, 9]
    assert changed_tokens(chosen, rejected, DIFF) == ([False] * 3 + [True] * 2, [False] * 3 + [True] * 2)
    kept = TokenWeightSettings(rule="diff")
    assert kept.eos == "same"
    assert changed_tokens(chosen, rejected, kept) == ([False] * 3 + [True, False], [False] * 3 + [True, False])
    long_tail = ([1, 4, 6, 7, 9], [1, 5, 6, 7, 9])  # the equal tail has three tokens with the end
    assert changed_tokens(*long_tail, DIFF) == ([True] * 2 + [False] * 3, [True] * 2 + [False] * 3)


def test_insertions_count_where_they_are_asked_for() -> None:
    assert letters("abcdef", "abcxxdef") == ("abcdef", "abcxxdef")
    assert letters("abcdef", "abcxxdef", insertions=True) == ("abcdef", "abcXXdef")
    assert letters("xabcdef", "abcdefy", insertions=True) == ("Xabcdef", "abcdefY")


def test_frequent_tokens_begin_no_block_in_long_answers_unless_asked() -> None:
    """difflib leaves out what is more than 1 % of 200 elements or more."""
    chosen = [*itertools.chain.from_iterable((1, 2, 3, 100 + n) for n in range(60))]
    rejected = [*itertools.chain.from_iterable((1, 2, 3, 500 + n) for n in range(60))]
    by_heuristic = changed_tokens(chosen, rejected, DIFF)
    exact = changed_tokens(chosen, rejected, dataclasses.replace(DIFF, autojunk=False))
    assert exact == ([False, False, False, True] * 60, [False, False, False, True] * 60)
    assert by_heuristic != exact
    short = dataclasses.replace(DIFF, autojunk=False)
    assert changed_tokens(chosen[:196], rejected[:196], DIFF) == changed_tokens(chosen[:196], rejected[:196], short)


def restated(chosen: Sequence[int], rejected: Sequence[int], rule: TokenWeightSettings) -> tuple[list[bool], ...]:
    """The rule from its description: the longest common run first, the same to its left and right, and so on."""
    frequent: set[int] = set()
    if rule.autojunk and len(rejected) >= 200:
        frequent = {one for one, count in Counter(rejected).items() if count > len(rejected) // 100 + 1}

    def runs(a: range, b: range) -> list[tuple[int, int, int]]:
        size, first, second = 0, a.start, b.start
        for i, j in itertools.product(a, b):
            n = 0
            while i + n < a.stop and j + n < b.stop and chosen[i + n] == rejected[j + n] not in frequent:
                n += 1
            if n > size:
                size, first, second = n, i, j
        while first > a.start and second > b.start and chosen[first - 1] == rejected[second - 1]:
            first, second, size = first - 1, second - 1, size + 1
        while first + size < a.stop and second + size < b.stop and chosen[first + size] == rejected[second + size]:
            size += 1
        if not size:
            return []
        left = runs(range(a.start, first), range(b.start, second))
        right = runs(range(first + size, a.stop), range(second + size, b.stop))
        return [*left, (first, second, size), *right]

    joined: list[tuple[int, int, int]] = []
    for run in runs(range(len(chosen)), range(len(rejected))):
        if joined and (last := joined[-1]) and (last[0] + last[2], last[1] + last[2]) == run[:2]:
            joined[-1] = (*last[:2], last[2] + run[2])
        else:
            joined.append(run)
    shared = [run for run in joined if run[2] >= rule.min_match]
    kept = [{first + n for first, _, size in shared for n in range(size)},
            {second + n for _, second, size in shared for n in range(size)}]  # fmt: skip
    answers = (chosen, rejected)
    found = [[place not in of for place in range(len(one))] for one, of in zip(answers, kept, strict=True)]
    if not rule.insertions:
        ends = [(0, 0), *((first + size, second + size) for first, second, size in shared)]
        starts = [*((first, second) for first, second, _ in shared), (len(chosen), len(rejected))]
        for end, start in zip(ends, starts, strict=True):
            if end[0] == start[0] or end[1] == start[1]:
                for side in (0, 1):
                    found[side][end[side] : start[side]] = [False] * (start[side] - end[side])
    if rule.eos == "same":
        found[0][-1] = found[1][-1] = False
    return tuple(found)


tokens = st.lists(st.integers(0, 3), min_size=1, max_size=14)
rules = st.builds(
    TokenWeightSettings, rule=st.just("diff"), min_match=st.integers(1, 4), insertions=st.booleans(),
    eos=st.sampled_from(["same", "rule"]), autojunk=st.booleans(),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(tokens, tokens, rules)
@example([1, 2, 3, 9], [1, 2, 3, 4, 5, 9], DIFF)
def test_the_rule_equals_its_description(chosen: list[int], rejected: list[int], rule: TokenWeightSettings) -> None:
    assert changed_tokens(chosen, rejected, rule) == restated(chosen, rejected, rule)


@settings(max_examples=8, deadline=None)
@given(st.randoms(use_true_random=False), rules)
def test_the_rule_equals_its_description_beyond_200_tokens(random: Any, rule: TokenWeightSettings) -> None:
    chosen = [random.choice((1, 2, random.randrange(3, 90))) for _ in range(210)]
    rejected = [one if random.random() < 0.8 else random.randrange(1, 90) for one in chosen]
    assert changed_tokens(chosen, rejected, rule) == restated(chosen, rejected, rule)


# ---- weights that rows have ---------------------------------------------------------------------------------------


def encoder(name: str = "text", rule: TokenWeightSettings | None = COLUMN, **options: Any) -> PairEncoder:
    kind = {"text": "llama"}.get(name, name)
    return PairEncoder(
        TINY[name].processor(), family_of(kind, has_vision=name != "text"), token_weights=rule, **options
    )


def row(chosen: str = "a red square", rejected: str | None = "a green circle", **fields: Any) -> PreferencePair:
    return dataclasses.replace(pair("row", images=()), chosen=chosen, rejected=rejected, **fields)


def pieces(of: PairEncoder, ids: torch.Tensor, weights: torch.Tensor) -> list[tuple[str, float]]:
    return [(of.chat.decoded([int(one)]), float(w)) for one, w in zip(ids, weights, strict=True)]


def test_a_number_is_for_every_token_and_the_end_of_turn() -> None:
    """HSA-DPO multiplies the whole sum of the rejected answer."""
    of = encoder()
    found = of.encode(row(rejected_weight=2.5), draw)
    assert found.rejected_weights is not None
    assert found.chosen_weights is not None
    assert found.rejected_ids is not None
    assert found.rejected_weights.tolist() == [2.5] * len(found.rejected_ids)
    assert found.chosen_weights.tolist() == [1.0] * len(found.chosen_ids)


def test_spans_weigh_the_tokens_that_have_some_of_their_characters() -> None:
    of = encoder()
    found = of.encode(row("a red square .", chosen_weight=(WeightSpan(2, 5, 3.0), WeightSpan(6, 12, 0.5))), draw)
    assert found.chosen_weights is not None
    by_weight: dict[float, str] = {}
    for piece, weight in pieces(of, found.chosen_ids, found.chosen_weights):
        by_weight[weight] = by_weight.get(weight, "") + piece
    assert by_weight == {1.0: "a .<|im_end|>", 3.0: " red", 0.5: " square"}


def test_a_token_of_two_spans_takes_the_larger_weight_and_one_partly_outside_that_of_the_span() -> None:
    of = encoder()
    text = "the image"
    ids = of.chat.encode("r", row().prompt, [text]).answers[0]
    places = characters("r", "chosen", text, ids[:-1], of.chat.decoded)
    begin, end = next(place for place in places if place[1] - place[0] > 3)
    two = (WeightSpan(begin, begin + 1, 0.25), WeightSpan(begin + 1, end, 2.0))
    one = (WeightSpan(begin, begin + 1, 0.25),)
    at = places.index((begin, end))
    for spans, want in ((two, 2.0), (two[::-1], 2.0), (one, 0.25)):
        found = of.encode(row(text, chosen_weight=spans), draw).chosen_weights
        assert found is not None
        assert found[at] == want


LONG = "there is no dog , é 🐈 好 " * 9 + "there is one red square . " * 9
ASCII_LONG = "Yes No Yes\n No " * 15


PLAIN_TEXTS = ["a red square .", "Yes\n\n  No ", "x", ASCII_LONG]
TEXTS = [*PLAIN_TEXTS, "  it shows 🐈 and é, 好 .", LONG, "🐈" * 20]


@pytest.mark.parametrize(
    ("tokenizer", "text"),
    [*((name, text) for name in ("text", "llava_vicuna", "qwen2_vl") for text in TEXTS),
     *(("metaspace", text) for text in PLAIN_TEXTS)],  # its few letters are ASCII
)  # fmt: skip
def test_characters_of_tokens_are_those_that_the_tokenizer_itself_names(tokenizer: str, text: str) -> None:
    """Blanks aside: tokenizers differ in whose they are."""
    if tokenizer == "metaspace":
        made: Any = metaspace_tokenizer(CHATML)
    else:
        made = TINY[tokenizer].processor()
        made = getattr(made, "tokenizer", made)
    mapped = made(text, return_offsets_mapping=True, add_special_tokens=False)
    found = characters("r", "chosen", text, mapped["input_ids"], lambda ids: str(made.decode(list(ids))))
    words = {place for place, letter in enumerate(text) if letter.strip()}
    tokens_of_words = [n for n, one in enumerate(mapped["input_ids"]) if str(made.decode([one])).strip()]
    assert tokens_of_words
    for place in tokens_of_words:
        assert words & set(range(*found[place])) == words & set(range(*mapped["offset_mapping"][place]))


@pytest.mark.parametrize("name", ["text", "llava_vicuna", "qwen2_vl"])
def test_spans_count_from_the_answer_and_not_from_what_stands_before_it(name: str) -> None:
    """Templates write blanks before an answer, and rows begin one with a response prefix or with blanks."""
    kind = {"text": "llama", "llava_vicuna": "llava"}.get(name, name)
    of = PairEncoder(TINY[name].processor(), family_of(kind, has_vision=name != "text"), token_weights=COLUMN)
    for text, prefix in (("a red square", ""), ("  a red square ", ""), ("a red square", "it is not")):
        start = text.index("red")
        span = (WeightSpan(start, start + 3, 7.0),)
        found = of.encode(row(text, chosen_weight=span, response_prefix=prefix), draw)
        assert found.chosen_weights is not None
        heavy = "".join(piece for piece, weight in pieces(of, found.chosen_ids, found.chosen_weights) if weight == 7.0)
        assert heavy.strip() == "red", (text, prefix)


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (-1.0, "chosen_weight -1.0; a weight is a finite number of at least 0"),
        (math.nan, "chosen_weight nan"),
        (math.inf, "chosen_weight inf"),
        (True, "chosen_weight True"),
        ((WeightSpan(0, 3, -0.5),), "chosen_weight -0.5"),
        ((WeightSpan(5, 30, 2.0),), "characters 5 to 30 of its chosen answer, which has 12"),
        ((WeightSpan(-2, 3, 2.0),), "characters -2 to 3"),
        ((WeightSpan(3, 3, 2.0),), "characters 3 to 3"),
        ((WeightSpan(0, 4, 2.0), WeightSpan(3, 6, 1.0)), "3 to 6 and one for 0 to 4: spans must not overlap"),
        ((WeightSpan(1, 2, 2.0),), "characters 1 to 2, which are blanks"),
    ],
)  # fmt: skip
def test_weights_that_cannot_be_meant_are_refused_with_the_row(weight: Any, says: str) -> None:
    with pytest.raises(EncodeError, match=r"^'row' has") as caught:
        encoder().encode(row(chosen_weight=weight), draw)
    assert says in str(caught.value)
    assert caught.value.reason == "token_weights"


def test_characters_of_a_text_that_does_not_come_back_are_refused_with_what_to_write() -> None:
    def decode(ids: Sequence[int]) -> str:
        return "something else"[: len(ids)]

    spans = row(chosen_weight=(WeightSpan(0, 1, 2.0),))
    with pytest.raises(EncodeError, match="write one number as chosen_weight"):
        token_weights(spans, [[5] * 15, [6] * 15], COLUMN, decode)
    advised = dataclasses.replace(spans, chosen_weight=2.0)
    assert token_weights(advised, [[5] * 15, [6] * 15], COLUMN, decode)[0].tolist() == [2.0] * 15


# ---- pairs in which nothing counts --------------------------------------------------------------------------------


def test_pairs_without_a_token_that_counts_are_set_aside_with_the_reason_and_the_cure() -> None:
    masked = TokenWeightSettings(rule="diff", changed=1.0, same=0.0)
    longer = row("a red square and a cat is there .", "a red square and a dog and a cat is there .")
    differs = dataclasses.replace(row("there is no dog in the image", "there is one cat in the image"), id="differs")
    of = encoder(rule=masked)
    plan = plan_fit([longer, differs], of, lambda ref: (28, 28))
    assert [one.id for one in plan.pairs] == ["differs"]
    [(aside, error)] = plan.set_aside
    assert (aside.id, error.reason) == ("row", "no_weight")
    assert "set aside: 1 no_weight ('row')" in plan.describe()
    assert "`loss.token_weights.same=1`" in str(error)
    cured = dataclasses.replace(masked, same=1.0)
    assert len(plan_fit([longer, differs], encoder(rule=cured), lambda ref: (28, 28)).pairs) == 2
    with pytest.raises(EncodeError, match="without a token that counts"):
        of.encode(longer, draw)


def test_weights_of_0_for_a_whole_answer_and_for_all_that_is_not_cut_are_set_aside() -> None:
    whole = row(rejected_weight=0)
    start = dataclasses.replace(row("a red square and a green circle", chosen_weight=(WeightSpan(0, 12, 0.0),)), id="b")
    of = encoder()
    plan = plan_fit([whole, start], of, lambda ref: (28, 28))
    assert [one.id for one in plan.pairs] == ["b"]
    assert "every token is 0 by rejected_weight" in str(plan.set_aside[0][1])
    prompt = len(of.encode(start, draw).prompt)
    cut = plan_fit([start], encoder(max_length=prompt + 3), lambda ref: (28, 28))
    assert [error.reason for _, error in cut.set_aside] == ["no_weight"]


def test_weights_are_found_before_answers_are_cut() -> None:
    """The equal words are a block as a whole, and would be none up to the cut."""
    both = row("yes a red square is there", "no a red square is there")
    whole = encoder(rule=DIFF).encode(both, draw)
    assert whole.chosen_weights is not None
    space = int((whole.chosen_weights == 4.0).sum()) + 2
    cut = encoder(rule=DIFF, max_length=len(whole.prompt) + space).encode(both, draw)
    assert cut.chosen_weights is not None
    assert cut.rejected_ids is not None
    assert len(cut.chosen_ids) == len(cut.rejected_ids) == space
    assert cut.chosen_weights.tolist() == [4.0] * (space - 2) + [1.0, 1.0]
    assert changed_tokens(cut.chosen_ids.tolist(), cut.rejected_ids.tolist(), DIFF)[0] == [True] * space


def test_a_row_with_one_answer_cannot_be_compared() -> None:
    with pytest.raises(EncodeError, match=r"loss\.token_weights\.rule=none") as caught:
        encoder(rule=DIFF).encode(row(rejected=None), draw)
    assert caught.value.reason == "token_weights"
    assert plan_fit([row(rejected=None)], encoder(rule=DIFF), lambda ref: (28, 28)).set_aside
    assert encoder(rule=None).encode(row(rejected=None), draw).chosen_weights is None
    found = encoder().encode(row(rejected=None, chosen_weight=2), draw)
    assert found.chosen_weights is not None
    assert set(found.chosen_weights.tolist()) == {2.0}


# ---- what is said of them -----------------------------------------------------------------------------------------


def test_rows_without_weights_are_counted_and_none_at_all_is_refused() -> None:
    weighed, plain = row(rejected_weight=2.0), row()
    assert describe_weights(COLUMN, [weighed, weighed]) == ""
    assert describe_weights(COLUMN, [weighed, plain, plain]) == (
        "1 of 3 pairs have chosen_weight or rejected_weight; in the others every token counts 1"
    )
    with pytest.raises(ConfigError, match="none of 2 pairs has chosen_weight or rejected_weight"):
        describe_weights(COLUMN, [plain, plain])
    assert "which this loss does not read; `loss.token_weights.rule=column` does" in describe_weights(None, [weighed])
    assert describe_weights(None, [plain]) == describe_weights(DIFF, [plain]) == ""


def test_settings_are_those_of_the_loss_and_bad_ones_name_their_key() -> None:
    given: dict[str, Any] = {
        "rule": "diff", "changed": 3.0, "same": 0.5, "min_match": 2, "insertions": True, "eos": "rule",
        "autojunk": False,
    }  # fmt: skip
    assert dataclasses.asdict(TokenWeightSettings.of(given) or DIFF) == given
    assert TokenWeightSettings.of(None) is None
    with pytest.raises(ConfigError, match=r"loss\.token_weights\.changed is -1\.0"):
        TokenWeightSettings(rule="diff", changed=-1.0)


def test_the_pair_s_own_weight_and_label_reach_the_tensors() -> None:
    found = encoder(rule=None).encode(row(rejected=None, weight=0.5, label=True), draw)
    assert (found.weight, found.desirable) == (0.5, True)
    for weight in (-1.0, math.nan):
        with pytest.raises(EncodeError, match="'row' has the weight"):
            encoder(rule=None).encode(row(weight=weight), draw)
