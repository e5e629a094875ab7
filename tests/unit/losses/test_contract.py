"""Bad input is refused with the field and the pair positions."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from mmpref.errors import DataError, NonFiniteError
from mmpref.losses import PairLogps


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


@pytest.fixture
def good() -> PairLogps:
    two = column(-1.0, -2.0)
    n = torch.tensor([3, 4])
    return PairLogps(
        chosen=two,
        rejected=two,
        chosen_len=n,
        rejected_len=n,
        ref_chosen=two,
        ref_rejected=two,
        chosen_score=column(4.0, 5.0),
        rejected_score=column(1.0, 2.0),
    )


def test_fields_are_given_by_name_only():
    two, n = column(-1.0, -2.0), torch.tensor([3, 4])
    with pytest.raises(TypeError, match="positional"):
        PairLogps(two, two, n, n)


def test_fields_are_those_that_are_documented(good):
    names = [f.name for f in dataclasses.fields(good)]
    assert names == [
        "chosen", "rejected", "chosen_len", "rejected_len", "ref_chosen", "ref_rejected", "chosen_score",
        "rejected_score", "router_balance", "other", "ref_other", "has_other", "anchor_shift", "kl", "desirable",
        "weight", "chosen_tokens", "rejected_tokens",
    ]  # fmt: skip
    assert good.num_pairs == 2
    good.validate(missing_scores="error")


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(PairLogps) if f.name != "chosen"])
def test_a_column_of_another_length_is_refused_by_name(good, field):
    with pytest.raises(DataError, match=rf"PairLogps.{field} has shape \(3,\), want \(2,\)"):
        dataclasses.replace(good, **{field: column(1.0, 1.0, 1.0)})


@pytest.mark.parametrize("shape", [(), (2, 1)])
def test_anything_but_one_number_per_pair_is_refused(good, shape):
    with pytest.raises(DataError, match="one number per pair"):
        dataclasses.replace(good, chosen=torch.zeros(shape))


def test_a_column_that_would_broadcast_is_refused(good):
    with pytest.raises(DataError, match="rejected has shape"):
        dataclasses.replace(good, rejected=column(-1.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": [1.0, 2.0]}, "chosen must be a tensor"),
        ({"chosen": None}, "needs chosen"),
        ({"chosen_len": None}, "needs chosen"),
        ({"chosen": torch.tensor([1, 2])}, "floating point"),
        ({"ref_rejected": torch.tensor([1, 2])}, "floating point"),
        ({"chosen_len": torch.tensor([True, True])}, "real numbers"),
        ({"chosen_score": torch.tensor([1j, 2j])}, "real numbers"),
        ({"rejected": None}, "rejected_len is given without rejected"),
        ({"rejected_len": None}, "rejected is given without rejected_len"),
        ({"ref_chosen": None}, "ref_rejected is given without ref_chosen"),
        ({"ref_rejected": None}, "ref_chosen is given without ref_rejected"),
        ({"chosen_score": None}, "rejected_score is given without chosen_score"),
        ({"rejected_score": None}, "chosen_score is given without rejected_score"),
        ({"rejected": None, "rejected_len": None}, "ref_rejected is given without rejected"),
        ({"rejected": torch.zeros(2, device="meta")}, "rejected is on meta"),
        ({"ref_other": column(-1.0, -2.0)}, "ref_other is given without other"),
        ({"has_other": torch.tensor([True, False])}, "has_other is given without other"),
        ({"rejected_tokens": column(1.0, 2.0)}, "rejected_tokens is given without chosen_tokens"),
        ({"other": torch.tensor([1, 2])}, "other holds log-probs and must be floating point"),
        ({"kl": torch.tensor([1, 2])}, "kl .* floating point"),
        ({"weight": torch.tensor([True, False])}, "weight must hold real numbers"),
    ],
)
def test_a_field_of_the_wrong_kind_is_refused_by_name(good, change, message):
    with pytest.raises(DataError, match=message):
        dataclasses.replace(good, **change)


def test_the_chosen_side_alone_is_allowed(good):
    alone = dataclasses.replace(
        good, rejected=None, rejected_len=None, ref_rejected=None, chosen_score=None, rejected_score=None
    )
    alone.validate()
    assert alone.num_pairs == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["chosen", "rejected", "ref_chosen", "ref_rejected"])
def test_a_log_prob_that_is_not_finite_is_refused_with_its_position(good, field, value):
    bad = dataclasses.replace(good, **{field: column(-1.0, value)})
    for kind in (NonFiniteError, DataError):
        with pytest.raises(kind, match=rf"PairLogps.{field}: NaN or infinite log-probs at pair \[1\] of 2"):
            bad.validate()


def test_flags_may_be_truth_values_and_weights_whole_numbers(good):
    true = torch.tensor([True, False])
    given = dataclasses.replace(good, other=good.chosen, has_other=true, desirable=true, weight=torch.tensor([0, 2]))
    given.validate()


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("field", ["other", "ref_other"])
def test_what_is_given_of_another_image_is_finite_where_there_is_one(good, field, value):
    bad = dataclasses.replace(good, **{"other": good.chosen, "ref_other": good.chosen, field: column(-1.0, value)})
    with pytest.raises(NonFiniteError, match=rf"PairLogps.{field}: NaN or infinite log-probs at pair \[1\] of 2"):
        bad.validate()
    dataclasses.replace(bad, has_other=torch.tensor([True, False])).validate()
    with pytest.raises(NonFiniteError, match=rf"PairLogps.{field}"):
        dataclasses.replace(bad, has_other=torch.tensor([False, True])).validate()


@pytest.mark.parametrize(
    ("field", "value", "kind", "message"),
    [
        ("kl", math.nan, NonFiniteError, "NaN or infinite values"),
        ("kl", -0.01, DataError, "negative values, where KTO's estimate is at least 0,"),
        ("anchor_shift", math.inf, NonFiniteError, "NaN or infinite values"),
        ("weight", math.nan, NonFiniteError, "NaN or infinite weights"),
        ("weight", math.inf, NonFiniteError, "NaN or infinite weights"),
        ("weight", -1.0, DataError, "negative weights"),
        ("desirable", 0.5, DataError, "a label that is neither 1 nor 0"),
        ("desirable", math.nan, DataError, "a label that is neither 1 nor 0"),
        ("chosen_tokens", 0.5, DataError, "answers without a single token"),
        ("rejected_tokens", 0.0, DataError, "answers without a single token"),
    ],
)
def test_values_of_further_terms_are_refused_with_their_position(good, field, value, kind, message):
    one = column(1.0, 1.0)
    good = dataclasses.replace(good, chosen_tokens=one, rejected_tokens=one, kl=0 * one, desirable=one, weight=0 * one)
    good.validate()
    with pytest.raises(kind, match=rf"PairLogps.{field}: {message} at pair \[1\] of 2"):
        dataclasses.replace(good, **{field: column(1.0, value)}).validate()


def test_with_weighted_tokens_an_answer_may_count_less_than_one_token(good):
    dataclasses.replace(good, chosen_len=column(0.02, 4.0)).validate()


@pytest.mark.parametrize("field", ["chosen_len", "rejected_len"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_an_answer_without_a_counted_token_is_refused_with_its_position(good, field, value):
    bad = dataclasses.replace(good, **{field: column(value, 4.0)})
    with pytest.raises(DataError, match=rf"{field}: answers without a single counted token at pair \[0\] of 2"):
        bad.validate()


def test_an_infinite_length_is_refused(good):
    with pytest.raises(NonFiniteError, match="infinite token counts"):
        dataclasses.replace(good, chosen_len=column(math.inf, 4.0)).validate()


def test_scores_are_looked_at_only_when_a_loss_reads_them(good):
    bad = dataclasses.replace(good, chosen_score=column(math.nan, 1.0))
    bad.validate()
    for policy in ("error", "neutral"):
        with pytest.raises(DataError, match=r"chosen_score: no score although .* pair \[0\] of 2"):
            bad.validate(missing_scores=policy)
    other = dataclasses.replace(good, rejected_score=column(1.0, math.nan))
    with pytest.raises(DataError, match=r"rejected_score: no score although .* pair \[1\] of 2"):
        other.validate(missing_scores="neutral")


def test_a_pair_without_scores_is_refused_or_neutral(good):
    bad = dataclasses.replace(good, chosen_score=column(math.nan, 1.0), rejected_score=column(math.nan, 1.0))
    bad.validate(missing_scores="neutral")
    with pytest.raises(DataError, match=r"no scores at pair \[0\] of 2; drop these pairs or set .*neutral"):
        bad.validate(missing_scores="error")
    without = dataclasses.replace(good, chosen_score=None, rejected_score=None)
    without.validate(missing_scores="neutral")
    with pytest.raises(DataError, match="not given"):
        without.validate(missing_scores="error")


def test_an_infinite_score_is_refused(good):
    with pytest.raises(NonFiniteError, match=r"rejected_score: infinite scores at pair \[1\]"):
        dataclasses.replace(good, rejected_score=column(1.0, -math.inf)).validate(missing_scores="neutral")


def test_as_many_positions_as_fit_are_written_out():
    n = torch.ones(8)
    with pytest.raises(DataError, match=r"pairs \[0, 1, 2, 3, 4, 5, 6, 7\] of 8"):
        PairLogps(chosen=torch.full((8,), math.nan), rejected=n, chosen_len=n, rejected_len=n).validate()


def test_many_positions_are_shortened():
    n = torch.ones(20)
    with pytest.raises(DataError, match=r"pairs \[0, 1, 2, 3, 4, 5, 6, 7, \.\.\. 12 more\] of 20"):
        PairLogps(chosen=torch.full((20,), math.nan), rejected=n, chosen_len=n, rejected_len=n).validate()
