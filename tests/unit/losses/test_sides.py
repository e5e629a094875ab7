"""One answer's numbers: widths, lengths, log-odds at both ends."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from mmpref.errors import DataError
from mmpref.losses import PairLogps
from mmpref.losses.sides import chosen_side, log1mexp, log_odds, loss_dtype, rejected_side

DOUBLE = torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_log_one_minus_exp_is_accurate_and_differentiable_at_both_ends(dtype):
    u = torch.tensor([-1e4, -90.0, -20.0, -1.0, -0.7, -0.6931, -0.5, -1e-3, -1e-6, -1e-9], dtype=dtype)
    got = log1mexp(u.requires_grad_())
    exact = u.detach().double()
    want = torch.where(exact > -0.5, (-torch.expm1(exact)).log(), torch.log1p(-exact.exp()))
    torch.testing.assert_close(got.detach().double(), want, rtol=4 * torch.finfo(dtype).eps, atol=1e-30)
    (slope,) = torch.autograd.grad(got.sum(), u)
    torch.testing.assert_close(slope.double(), -1 / torch.expm1(-exact), rtol=1e-5, atol=1e-30)


def test_log_odds_are_held_where_an_answer_is_certain():
    u = torch.tensor([-2e-6, -1e-6, -1e-7, 0.0, 1e-4], dtype=DOUBLE, requires_grad=True)
    odds = log_odds(u)
    assert odds[1:].tolist() == pytest.approx([odds[1].item()] * 4)
    assert odds[1].item() == pytest.approx(13.8155, abs=1e-3)
    assert odds[0] < odds[1]
    (slope,) = torch.autograd.grad(odds.sum(), u)
    assert slope[2:].tolist() == [0.0, 0.0, 0.0]
    assert slope[0].item() == pytest.approx(5e5, rel=1e-3)


@pytest.mark.parametrize(
    ("chosen", "rejected", "want"),
    [
        (DOUBLE, torch.float32, DOUBLE),
        (torch.float32, DOUBLE, DOUBLE),
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.float16, torch.float16, torch.float32),
        (DOUBLE, None, DOUBLE),
        (torch.bfloat16, None, torch.float32),
    ],
)
def test_the_wider_side_decides_the_precision_and_float32_is_the_least(chosen, rejected, want):
    one = torch.ones(1)
    x = PairLogps(
        chosen=one.to(chosen),
        rejected=None if rejected is None else one.to(rejected),
        chosen_len=one,
        rejected_len=None if rejected is None else one,
    )
    assert loss_dtype(x) == want
    assert chosen_side(x).mean.dtype == want


def test_lengths_carry_no_gradient_and_are_at_least_one():
    n = torch.tensor([0.0, 4.0], requires_grad=True)
    two = torch.tensor([-2.0, -8.0])
    x = PairLogps(chosen=two, rejected=two, chosen_len=n, rejected_len=n, ref_chosen=two - 1, ref_rejected=two + 1)
    for side, ratio in ((chosen_side(x), 1.0), (rejected_side(x), -1.0)):
        assert not side.mean.requires_grad
        assert side.length.tolist() == [1.0, 4.0]
        assert side.mean.tolist() == [-2.0, -2.0]
        assert side.ratio(per_token=False).tolist() == [ratio, ratio]
        assert side.ratio(per_token=True).tolist() == [ratio, ratio / 4]


def test_a_side_that_is_not_there_is_named():
    one = torch.ones(1)
    x = PairLogps(chosen=one, rejected=one, chosen_len=one, rejected_len=one)
    with pytest.raises(DataError, match="ref_chosen and ref_rejected are needed"):
        chosen_side(x).ratio(per_token=True)
    with pytest.raises(DataError, match="rejected and rejected_len are needed"):
        rejected_side(dataclasses.replace(x, rejected=None, rejected_len=None))
