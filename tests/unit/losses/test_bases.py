"""Each base by hand: a value, a gradient, its limits."""

from __future__ import annotations

import math

import pytest
import torch

from mmpref.losses import SuspiciousLossWarning, build_objective
from mmpref.losses.bases import Hinge, Logistic, Robust, Square

REFERENCE_BASES = ("dpo", "robust", "hinge", "ipo", "rdpo")


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def value_and_grads(loss: dict, x) -> tuple[float, float, float]:
    out = build_objective(loss)(x).per_pair
    assert out.shape == (1,)
    grads = torch.autograd.grad(out.sum(), (x.chosen, x.rejected), allow_unused=True)
    return out.item(), grads[0].item(), 0.0 if grads[1] is None else grads[1].item()


@pytest.mark.parametrize("base", ["dpo", "rdpo"])
def test_a_policy_equal_to_its_reference_costs_log_two(pair, base):
    x = pair([-3.0], [-7.0], ref=([-3.0], [-7.0]))
    assert build_objective({"base": base, "beta": 0.3})(x).per_pair.item() == pytest.approx(math.log(2))


def test_dpo_is_minus_log_sigmoid_of_beta_times_the_log_ratio_difference(pair):
    """h_w = 0.5, h_l = -1, M = 0.5 * 1.5 = 0.75; dL/dl_w = -b s(-M), dL/dl_l = +b s(-M)."""
    x = pair([-1.0], [-2.0], ref=([-1.5], [-1.0]))
    value, grad_w, grad_l = value_and_grads({"base": "dpo", "beta": 0.5}, x)
    assert value == pytest.approx(math.log1p(math.exp(-0.75)))
    assert grad_w == pytest.approx(-0.5 * sigmoid(-0.75))
    assert grad_l == pytest.approx(0.5 * sigmoid(-0.75))


def test_dpo_per_token_divides_each_log_ratio_by_its_own_length(pair):
    """h_w = 4 over 4 tokens, h_l = -1 over 2: M = 0.5 * (1 + 0.5) = 0.75."""
    x = pair([-8.0], [-5.0], lengths=([4], [2]), ref=([-12.0], [-4.0]))
    value, grad_w, grad_l = value_and_grads({"base": "dpo", "beta": 0.5, "length_normalize": True}, x)
    assert value == pytest.approx(math.log1p(math.exp(-0.75)))
    assert grad_w == pytest.approx(-0.5 / 4 * sigmoid(-0.75))
    assert grad_l == pytest.approx(0.5 / 2 * sigmoid(-0.75))


def test_label_smoothing_mixes_in_the_loss_of_the_flipped_pair(pair):
    x = pair([-1.0], [-2.0], ref=([-1.5], [-1.0]))
    value, grad_w, _ = value_and_grads({"base": "dpo", "beta": 0.5, "label_smoothing": 0.2}, x)
    assert value == pytest.approx(0.8 * math.log1p(math.exp(-0.75)) + 0.2 * math.log1p(math.exp(0.75)))
    assert grad_w == pytest.approx(-0.5 * (0.8 * sigmoid(-0.75) - 0.2 * sigmoid(0.75)))


def test_robust_subtracts_the_flipped_pair_and_rescales(pair):
    x = pair([-1.0], [-2.0], ref=([-1.5], [-1.0]))
    value, grad_w, _ = value_and_grads({"base": "robust", "beta": 0.5, "label_smoothing": 0.2}, x)
    assert value == pytest.approx((0.8 * math.log1p(math.exp(-0.75)) - 0.2 * math.log1p(math.exp(0.75))) / 0.6)
    assert grad_w == pytest.approx(-0.5 * (0.8 * sigmoid(-0.75) + 0.2 * sigmoid(0.75)) / 0.6)


def test_robust_without_noise_is_dpo(random_pairs):
    x = random_pairs()
    with pytest.warns(SuspiciousLossWarning, match="label_smoothing 0"):
        robust = build_objective({"base": "robust", "beta": 0.1})
    torch.testing.assert_close(robust(x).per_pair, build_objective({"base": "dpo", "beta": 0.1})(x).per_pair)


@pytest.mark.parametrize(("beta", "value", "grad"), [(0.5, 0.25, -0.5), (1.0, 0.0, 0.0)])
def test_hinge_pushes_until_the_margin_is_one(pair, beta, value, grad):
    x = pair([-1.0], [-2.0], ref=([-1.5], [-1.0]))
    assert value_and_grads({"base": "hinge", "beta": beta}, x) == pytest.approx((value, grad, -grad))


def test_ipo_squares_the_distance_of_mean_log_ratios_from_its_target(pair):
    """hbar_w - hbar_l = 1 + 0.5, target 1 / (2 * 0.25) = 2: loss 0.25, gradient 2 * (-0.5) / n."""
    x = pair([-8.0], [-5.0], lengths=([4], [2]), ref=([-12.0], [-4.0]))
    assert value_and_grads({"base": "ipo", "beta": 0.25}, x) == pytest.approx((0.25, -0.25, 0.5))


def test_ipo_on_sums_is_available(pair):
    x = pair([-8.0], [-5.0], lengths=([4], [2]), ref=([-12.0], [-4.0]))
    loss = {"base": "ipo", "beta": 0.25, "length_normalize": False}
    assert value_and_grads(loss, x) == pytest.approx((9.0, 6.0, -6.0))


def test_rdpo_gives_a_longer_chosen_answer_a_larger_margin(pair):
    x = pair([-1.0], [-2.0], lengths=([30], [20]), ref=([-1.5], [-1.0]))
    value, grad_w, _ = value_and_grads({"base": "rdpo", "beta": 0.5, "length_weight": 0.1}, x)
    assert value == pytest.approx(math.log1p(math.exp(-1.75)))
    assert grad_w == pytest.approx(-0.5 * sigmoid(-1.75))


def test_simpo_subtracts_its_target_margin_inside_beta(pair):
    """u_w = -0.5, u_l = -1.5: M = 2 (1 - 0.25) = 1.5."""
    x = pair([-2.0], [-3.0], lengths=([4], [2]))
    value, grad_w, grad_l = value_and_grads({"base": "simpo", "beta": 2.0, "gamma_beta_ratio": 0.25}, x)
    assert value == pytest.approx(math.log1p(math.exp(-1.5)))
    assert grad_w == pytest.approx(-2.0 / 4 * sigmoid(-1.5))
    assert grad_l == pytest.approx(2.0 / 2 * sigmoid(-1.5))


def test_cpo_adds_the_mean_nll_of_the_chosen_answer_to_the_loss_on_sums(pair):
    x = pair([-2.0], [-3.0], lengths=([4], [2]))
    value, grad_w, grad_l = value_and_grads({"base": "cpo", "beta": 0.5, "nll_weight": 0.8}, x)
    assert value == pytest.approx(math.log1p(math.exp(-0.5)) + 0.8 * 0.5)
    assert grad_w == pytest.approx(-0.5 * sigmoid(-0.5) - 0.8 / 4)
    assert grad_l == pytest.approx(0.5 * sigmoid(-0.5))


def test_orpo_weighs_the_odds_term_by_beta_and_adds_the_nll(pair):
    """p_w = 1/2 (odds 1), p_l = 1/5 (odds 1/4): M = log 4."""
    x = pair([4 * math.log(0.5)], [2 * math.log(0.2)], lengths=([4], [2]))
    value, grad_w, grad_l = value_and_grads({"base": "orpo", "beta": 0.3}, x)
    assert value == pytest.approx(0.3 * math.log(1.25) + math.log(2))
    assert grad_w == pytest.approx((-0.3 * 0.2 / 0.5 - 1) / 4)
    assert grad_l == pytest.approx(0.3 * 0.2 / 0.8 / 2)


def test_sft_is_the_mean_nll_of_the_chosen_answer_and_needs_no_rejected_one(pair):
    x = pair([-2.0], None, lengths=([4], None))
    objective = build_objective({"base": "sft"})
    out = objective(x)
    assert out.per_pair.item() == pytest.approx(0.5)
    assert torch.autograd.grad(out.per_pair.sum(), x.chosen)[0].item() == pytest.approx(-0.25)
    assert set(out.stats) == {"logps/chosen", "len/chosen", "rewards/chosen"}
    assert not objective.needs_rejected
    assert not objective.needs_reference


def test_sft_leaves_the_rejected_answer_alone_but_reports_it(pair):
    x = pair([-2.0], [-3.0], lengths=([4], [2]))
    out = build_objective({"base": "sft"})(x)
    assert torch.autograd.grad(out.per_pair.sum(), x.rejected, allow_unused=True)[0] is None
    assert out.stats["rewards/chosen"].item() == -0.5
    assert out.stats["rewards/margins"].item() == pytest.approx(1.0)


def test_sft_on_sums_is_available(pair):
    x = pair([-2.0], None, lengths=([4], None))
    assert build_objective({"base": "sft", "length_normalize": False})(x).per_pair.item() == pytest.approx(2.0)


@pytest.mark.parametrize("base", ["dpo", "robust", "hinge", "ipo", "rdpo", "simpo", "cpo", "orpo", "sft"])
def test_each_base_declares_what_it_needs(base):
    objective = build_objective({"base": base, "label_smoothing": 0.1} if base == "robust" else {"base": base})
    assert objective.needs_reference == (base in REFERENCE_BASES)
    assert objective.needs_rejected == (base != "sft")
    assert not objective.needs_scores
    assert objective.settings["length_normalize"] == (base in ("ipo", "simpo", "orpo", "sft"))


@pytest.mark.parametrize(
    "link", [Logistic(), Logistic(smoothing=0.3, weight=0.7), Robust(smoothing=0.2), Hinge(), Square()], ids=repr
)
def test_the_closed_form_slope_of_a_link_is_its_derivative(link):
    margin = torch.linspace(-6.0, 6.0, 25, dtype=torch.float64, requires_grad=True)
    (want,) = torch.autograd.grad(link.loss(margin).sum(), margin)
    torch.testing.assert_close(link.slope(margin.detach()), want)


def test_rewards_are_beta_times_the_unscaled_score(pair):
    x = pair([-8.0, -8.0], [-5.0, -5.0], lengths=([4, 4], [2, 2]), ref=([-12.0, -8.0], [-4.0, -5.0]))
    for loss, want_w, want_l in (
        ({"base": "dpo", "beta": 0.5}, [2.0, 0.0], [-0.5, 0.0]),
        ({"base": "ipo", "beta": 0.5}, [0.5, 0.0], [-0.25, 0.0]),
        ({"base": "adadpo", "beta": 0.5}, [2.0, 0.0], [-0.5, 0.0]),
        ({"base": "simpo", "beta": 0.5, "gamma_beta_ratio": 3.0}, [-1.0, -1.0], [-1.25, -1.25]),
        ({"base": "cpo", "beta": 0.5}, [-4.0, -4.0], [-2.5, -2.5]),
    ):
        named = {"name": "adadpo", "beta": 0.5} if loss["base"] == "adadpo" else loss
        stats = build_objective(named)(x).stats
        assert stats["rewards/chosen"].tolist() == pytest.approx(want_w)
        assert stats["rewards/rejected"].tolist() == pytest.approx(want_l)
        assert stats["rewards/margins"].tolist() == pytest.approx([a - b for a, b in zip(want_w, want_l, strict=True)])
    assert stats["logps/chosen"].tolist() == [-8.0, -8.0]
    assert stats["logps/rejected"].tolist() == [-5.0, -5.0]
    assert stats["ref_logps/chosen"].tolist() == [-12.0, -8.0]
    assert stats["ref_logps/rejected"].tolist() == [-4.0, -5.0]
    assert stats["len/chosen"].tolist() == [4.0, 4.0]
    assert stats["len/rejected"].tolist() == [2.0, 2.0]


def test_a_tie_of_rewards_is_not_counted_as_accurate(pair):
    x = pair([-3.0, -3.0, -3.0], [-7.0, -7.0, -7.0], ref=([-3.0, -4.0, -2.0], [-7.0, -7.0, -7.0]))
    assert build_objective({"base": "dpo"})(x).stats["rewards/accuracies"].tolist() == [0.0, 1.0, 0.0]
