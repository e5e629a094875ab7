"""Pairs that no row holds, that do not agree or that are not used are named before the first step."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import pytest

from mmpref.data.quarantine import LineNumber, QuarantinedRow
from mmpref.errors import DataError
from mmpref.processing import FitPlan, PairEncoder, plan_fit
from mmpref.processing.family import family_of
from mmpref.records import PreferencePair
from mmpref.training.run.pair_notes import describe_quarantined, describe_row_weights, notes_on_pairs
from tests.tiny_vlms import TINY, pair


@functools.cache
def encoder() -> PairEncoder:
    return PairEncoder(TINY["text"].processor(), family_of("llama", has_vision=False))


def planned(rows: Sequence[PreferencePair]) -> FitPlan:
    return plan_fit(rows, encoder(), lambda _: (1, 1))


def text_pair(name: str, chosen: str, rejected: str, **rest: object) -> PreferencePair:
    return pair(name, images=(), chosen=chosen, rejected=rejected, **rest)


def test_rows_of_weight_zero_are_named_and_nothing_else_is_refused() -> None:
    rows = [text_pair(str(number), "a dog .", "a cat .") for number in range(3)]
    assert describe_row_weights(rows) == ""
    nothing = [replace(row, weight=0.0) for row in rows]
    assert describe_row_weights([*rows, *nothing[:1]]).endswith(
        "1 of 4 pairs have the weight 0 and train nothing ('0')"
    )
    with pytest.raises(DataError, match=r"all 3 pairs of data\.train have the weight 0"):
        describe_row_weights(nothing)


def test_pairs_and_prompts_beyond_a_row_are_named_with_their_tokens() -> None:
    rows = [
        text_pair("short", "a dog .", "a cat ."),
        text_pair("long", "a dog . " * 10, "a cat ."),
        text_pair("both", "a dog . " * 9, "a cat . " * 10, question="is there a dog ?"),
        text_pair("also", "a dog . " * 9, "a red cat . " * 8, question="is there a dog ?"),
    ]
    of = {fit.pair_id: fit for fit in planned(rows).fits}
    limit = of["long"].tokens - 1
    assert of["both"].prompt + min(of["both"].run) < limit < of["both"].tokens
    assert notes_on_pairs(planned(rows), row_tokens=None, layout="shared_prefix") == []
    (line,) = notes_on_pairs(planned([*rows, rows[1]]), row_tokens=limit, layout="shared_prefix")
    assert line.startswith(f"processing.row_tokens={limit}: 3 pairs are longer and run by themselves")
    assert f"the longest, 'also', has {of['also'].tokens} tokens" in line or "'both'" in line
    limit = of["both"].prompt + min(of["both"].run) - 1
    lines = notes_on_pairs(planned(rows), row_tokens=limit, layout="shared_prefix")
    assert len(lines) == 2
    assert f"1 prompt is longer with one answer alone ('both' with {limit + 1})" in lines[1]
    plain = notes_on_pairs(planned(rows[:1]), row_tokens=of["short"].tokens, layout="plain")
    assert f"'short', has {2 * of['short'].longest} tokens" in plain[0]


def test_what_does_not_agree_is_said_of_the_training_pairs_once() -> None:
    rows = [
        text_pair("p1", "a dog .", "a cat .", score_chosen=4.0, score_rejected=1.0),
        text_pair("p2", "a cat .", "a dog .", score_chosen=3.0, score_rejected=2.0),
    ]
    lines = notes_on_pairs(planned([*rows, *rows]), row_tokens=None, layout="shared_prefix")
    assert len(lines) == 2
    assert lines[0].startswith("data.train: 2 answers of a prompt have different scores in different pairs (such as")
    assert "4 in 'p1' and 2 in 'p2'" in lines[0]
    assert "'p1' and 'p2'" in lines[1]


def test_pairs_that_are_left_out_are_named_by_reason() -> None:
    def out(name: str | None, reason: str) -> QuarantinedRow:
        return QuarantinedRow(source="s", file="f", row=LineNumber(1), id=name, reason=reason, detail="")

    rows = [out(f"p{number}", "identical_pair") for number in range(4)] + [out(None, "json")]
    assert (
        describe_quarantined(rows) == "quarantined: identical_pair 4 ('p0', 'p1', 'p2', ...), json 1 (a row without id)"
    )
    assert describe_quarantined([]) == ""


def test_answers_that_are_the_same_tokens_where_they_are_cut_are_named_where_lengths_are_planned() -> None:
    rows = [text_pair("same", "a dog is red .", "a dog is blue ."), text_pair("other", "a dog .", "no dog .")]
    (fit, _) = planned(rows).fits
    cut = PairEncoder(TINY["text"].processor(), family_of("llama", has_vision=False), max_length=fit.prompt + 3)
    plan = plan_fit([*rows, rows[0]], cut, lambda _: (1, 1))
    assert plan.describe().endswith("set aside: 2 identical_pair ('same')")
