"""Uni-DPO's weights and calibrated NLL: values and gradients by hand, gates, limits, missing scores."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from mmpref.errors import DataError
from mmpref.losses import SuspiciousLossWarning, build_objective

PLAIN = {"base": "dpo", "beta": 2.0, "length_normalize": True}
UNI = {"eta": 0.7, "tau_ref": 2.0, "gamma": 3.0, "nll_lambda": 0.0, "tau_good": 2.5}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def uni(**changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspiciousLossWarning)
        return build_objective({**PLAIN, "uni": {**UNI, **changes}})


@pytest.fixture
def one(pair):
    """u_w = -0.5, u_l = -1, hbar_w = 0.25, hbar_l = -0.5: Delta = 1.5, beta (u_w - u_l) = 1; scores 4 and 2."""
    return pair([-2.0], [-2.0], lengths=([4], [2]), ref=([-3.0], [-1.0]), scores=([4.0], [2.0]))


def test_the_loss_is_the_pair_loss_times_both_weights(one):
    out = uni()(one)
    w_qual, w_perf = sigmoid(0.7 * 2), (1 - sigmoid(1.0 - 2.0)) ** 3
    assert out.stats["uni/w_qual"].item() == pytest.approx(w_qual)
    assert out.stats["uni/w_perf"].item() == pytest.approx(w_perf)
    assert out.per_pair.item() == pytest.approx(w_qual * w_perf * softplus(-1.5))


@pytest.mark.parametrize("detached", [False, True])
def test_the_gradient_flows_through_w_perf_unless_it_is_detached(one, detached):
    """dL/du_w = -w_qual beta w_perf [ s(-D) + gamma s(z) softplus(-D) ]; detached, the second term is gone."""
    out = uni(perf_detach=detached)(one)
    grads = torch.autograd.grad(out.per_pair.sum(), (one.chosen, one.rejected))
    second = 0.0 if detached else 3 * sigmoid(-1.0) * softplus(-1.5)
    want = sigmoid(1.4) * 2 * (1 - sigmoid(-1.0)) ** 3 * (sigmoid(-1.5) + second)
    assert grads[0].item() == pytest.approx(-want / 4)
    assert grads[1].item() == pytest.approx(want / 2)


@pytest.mark.parametrize(("tau_ref", "ratio"), [(2.0, 1.50), (0.8, 2.29)])
def test_at_the_start_flow_through_w_perf_enlarges_the_gradient_as_published(pair, tau_ref, ratio):
    sizes = []
    for detached in (False, True):
        x = pair([-1.0], [-1.0], ref=([-1.0], [-1.0]), scores=([4.0], [2.0]))
        out = uni(tau_ref=tau_ref, perf_detach=detached)(x)
        sizes.append(torch.autograd.grad(out.per_pair.sum(), x.chosen)[0].item())
    expected = 1 + 3 * sigmoid(-tau_ref) * math.log(2) / 0.5
    assert sizes[0] / sizes[1] == pytest.approx(expected)
    assert expected == pytest.approx(ratio, abs=0.01)


def test_the_focal_weight_reads_the_margin_measured_against_the_reference(one):
    out = uni(perf_mode="focal")(one)
    assert out.stats["uni/w_perf"].item() == pytest.approx((1 - sigmoid(1.5)) ** 3)
    grad = torch.autograd.grad(out.per_pair.sum(), one.chosen)[0].item()
    inner = sigmoid(-1.5) + 3 * sigmoid(1.5) * softplus(-1.5)
    assert grad == pytest.approx(-sigmoid(1.4) * 2 * (1 - sigmoid(1.5)) ** 3 * inner / 4)


def test_the_focal_weight_of_ipo_reads_its_reward_margin(one):
    out = build_objective({"base": "ipo", "beta": 2.0, "uni": {**UNI, "perf_mode": "focal"}})(one)
    assert out.stats["uni/w_perf"].item() == pytest.approx((1 - sigmoid(1.5)) ** 3)


def test_the_stabilised_weight_is_the_focal_weight_of_simpo_with_target_tau_ref(random_pairs):
    x = random_pairs()
    simpo = {"base": "simpo", "beta": 2.0, "gamma_beta_ratio": 1.0, "uni": {**UNI, "perf_mode": "focal"}}
    torch.testing.assert_close(build_objective(simpo)(x).stats["uni/w_perf"], uni()(x).stats["uni/w_perf"])


def test_without_the_performance_weight_only_quality_remains(one):
    out = uni(perf_mode="none")(one)
    assert out.stats["uni/w_perf"].item() == 1.0
    assert out.per_pair.item() == pytest.approx(sigmoid(1.4) * softplus(-1.5))


def test_the_quality_weight_is_a_half_on_a_tie_and_less_where_scores_contradict_the_label(pair):
    x = pair([-1.0] * 3, [-1.0] * 3, ref=([-1.0] * 3, [-1.0] * 3), scores=([3.0, 2.0, 5.0], [3.0, 4.0, 1.0]))
    assert uni()(x).stats["uni/w_qual"].tolist() == pytest.approx([0.5, sigmoid(-1.4), sigmoid(2.8)])


def test_with_every_part_at_its_neutral_value_the_loss_is_the_plain_base(random_pairs):
    x = random_pairs()
    plain = build_objective(PLAIN)(x)
    torch.testing.assert_close(uni(eta=None, gamma=0.0, nll_lambda=0.0)(x).per_pair, plain.per_pair)
    torch.testing.assert_close(uni(eta=0.0, gamma=0.0, nll_lambda=0.0)(x).per_pair, plain.per_pair / 2)


def test_without_any_use_for_scores_none_are_asked_for(pair):
    x = pair([-1.0], [-1.0], ref=([-1.0], [-1.0]))
    for eta, weight in ((None, 1.0), (0.0, 0.5)):
        objective = uni(eta=eta, gamma=0.0)
        assert not objective.needs_scores
        assert objective(x).stats["uni/w_qual"].item() == weight


def test_scores_are_read_for_the_quality_gate_even_without_a_quality_weight():
    for eta in (None, 0.0):
        assert uni(eta=eta, nll_lambda=0.3).needs_scores
        assert uni(eta=eta, nll_lambda=0.3).requires_scores


def test_scores_that_are_not_read_may_be_anything(pair):
    nan = math.nan
    x = pair([-1.0, -1.0], [-1.0, -1.0], ref=([-1.0] * 2, [-1.0] * 2), scores=([nan, 4.0], [nan, nan]))
    assert uni(eta=0.0)(x).stats["uni/w_qual"].tolist() == [0.5, 0.5]
    assert uni(eta=None)(x).stats["uni/w_qual"].tolist() == [1.0, 1.0]


def test_an_unchecked_lonely_score_counts_as_none(pair):
    nan = math.nan
    x = pair([-1.0] * 2, [-1.0] * 2, ref=([-0.5] * 2, [-1.0] * 2), scores=([nan, 4.0], [4.0, nan]))
    out = uni(on_missing_score="neutral", nll_lambda=0.3)(x, check=False)
    assert out.stats["uni/w_qual"].tolist() == [1.0, 1.0]
    assert out.stats["uni/nll_active"].tolist() == [0.0, 0.0]


def test_the_calibrated_nll_counts_below_the_reference_strictly_and_from_the_good_score_on(pair):
    """Pairs: below and good; equal to the reference; above it; below but not good; below and exactly good."""
    x = pair(
        [-4.0] * 5,
        [-4.0] * 5,
        lengths=([4] * 5, [2] * 5),
        ref=([-3.0, -4.0, -5.0, -3.0, -3.0], [-4.0] * 5),
        scores=([4.0, 4.0, 4.0, 2.4, 2.5], [1.0] * 5),
    )
    out, without = uni(nll_lambda=0.3)(x), uni(nll_lambda=0.0)(x)
    assert out.stats["uni/nll_active"].tolist() == [1.0, 0.0, 0.0, 0.0, 1.0]
    assert without.stats["uni/nll_active"].tolist() == [0.0] * 5
    assert (out.per_pair - without.per_pair).tolist() == pytest.approx([0.3, 0.0, 0.0, 0.0, 0.3])
    grads = [torch.autograd.grad(o.per_pair.sum(), (x.chosen, x.rejected)) for o in (out, without)]
    assert (grads[0][0] - grads[1][0]).tolist() == pytest.approx([-0.075, 0.0, 0.0, 0.0, -0.075])
    assert (grads[0][1] - grads[1][1]).tolist() == pytest.approx([0.0] * 5)


def test_the_margin_of_the_calibrated_nll_is_per_token_and_strict(pair):
    ref = ([-3.0, -2.0, -1.0], [-4.0] * 3)
    x = pair([-4.0] * 3, [-4.0] * 3, lengths=([4] * 3, [2] * 3), ref=ref, scores=([4.0] * 3, [1.0] * 3))
    active = uni(nll_lambda=0.3, nll_margin=0.5)(x).stats["uni/nll_active"]
    assert active.tolist() == [0.0, 0.0, 1.0]


def test_a_missing_score_is_neutral_when_asked_for(pair):
    nan = math.nan
    ref = ([-0.5, -0.5], [-1.0, -1.0])
    x = pair([-1.0, -1.0], [-1.0, -1.0], ref=ref, scores=([nan, 4.0], [nan, 2.0]))
    objective = uni(on_missing_score="neutral", nll_lambda=0.3)
    out = objective(x)
    assert out.stats["uni/w_qual"].tolist() == pytest.approx([1.0, sigmoid(1.4)])
    assert out.stats["uni/nll_active"].tolist() == [0.0, 1.0]
    grads = torch.autograd.grad(out.per_pair.sum(), (x.chosen, x.rejected))
    assert all(torch.isfinite(g).all() for g in (*grads, out.per_pair))
    assert objective.needs_scores
    assert not objective.requires_scores


def test_a_batch_without_any_scores_is_neutral_when_asked_for(pair):
    x = pair([-1.0], [-1.0], ref=([-0.5], [-1.0]))
    out = uni(on_missing_score="neutral", nll_lambda=0.3)(x)
    assert out.stats["uni/w_qual"].tolist() == [1.0]
    assert out.stats["uni/nll_active"].tolist() == [0.0]


def test_scores_that_are_needed_and_missing_are_refused(pair):
    objective = uni()
    assert objective.requires_scores
    with pytest.raises(DataError, match="chosen_score"):
        objective(pair([-1.0], [-1.0], ref=([-0.5], [-1.0])))
    with pytest.raises(DataError, match=r"no scores at pair \[1\] of 2"):
        objective(pair([-1.0] * 2, [-1.0] * 2, ref=([-0.5] * 2, [-1.0] * 2), scores=([4.0, math.nan], [2.0, math.nan])))
    with pytest.raises(DataError, match="chosen_score"):
        objective(pair([-1.0], [-1.0], ref=([-0.5], [-1.0])), check=False)


def test_one_score_without_the_other_is_refused_even_when_missing_is_neutral(pair):
    x = pair([-1.0] * 2, [-1.0] * 2, ref=([-0.5] * 2, [-1.0] * 2), scores=([4.0, math.nan], [2.0, 3.0]))
    with pytest.raises(DataError, match=r"chosen_score: no score although .* pair \[1\] of 2"):
        uni(on_missing_score="neutral")(x)


def test_the_performance_weight_stays_exact_where_one_minus_sigmoid_underflows():
    weigh = uni().uni
    z = torch.tensor([20.0, 25.0, 28.0], requires_grad=True)
    got = weigh.performance(z)
    torch.testing.assert_close(got, torch.exp(-3 * z.detach().double()).float(), rtol=1e-5, atol=0.0)
    (slope,) = torch.autograd.grad(got.sum(), z)
    torch.testing.assert_close(weigh.performance_slope(z.detach()), slope)


def test_the_performance_weight_has_a_finite_gradient_for_a_gentle_exponent():
    weigh = uni(gamma=0.5).uni
    z = torch.tensor([-200.0, 0.0, 60.0, 300.0], requires_grad=True)
    (slope,) = torch.autograd.grad(weigh.performance(z).sum(), z)
    assert torch.isfinite(slope).all()


def test_uni_on_a_reference_free_base_needs_no_reference_unless_its_nll_does(pair):
    x = pair([-2.0], [-2.0], lengths=([4], [2]), scores=([4.0], [2.0]))
    objective = build_objective({"name": "uni_dpo", "base": "simpo"})
    assert not objective.needs_reference
    w_perf = (1 - sigmoid(2.0 * 0.5 - 2.0)) ** 3
    assert objective(x).per_pair.item() == pytest.approx(sigmoid(1.4) * w_perf * softplus(-2.0 * (0.5 - 0.5)))
    gated = build_objective({"base": "simpo", "uni": {"nll_lambda": 0.1, "tau_good": 2.5}})
    assert gated.needs_reference
    with pytest.raises(DataError, match="ref_chosen"):
        gated(x)


def test_a_nll_of_the_base_stays_outside_the_weights(pair):
    x = pair([-2.0], [-2.0], lengths=([4], [2]), scores=([1.0], [5.0]))
    plain = build_objective({"base": "cpo", "beta": 1.0, "length_normalize": True, "nll_weight": 0.0})(x).per_pair
    weighted = build_objective({"base": "cpo", "beta": 1.0, "nll_weight": 0.6, "uni": UNI})(x)
    weight = weighted.stats["uni/w_qual"] * weighted.stats["uni/w_perf"]
    torch.testing.assert_close(weighted.per_pair, weight * plain + 0.6 * 0.5)


def official_on(x, *, per_token: bool, beta: float, **uni: float) -> torch.Tensor:
    """The authors' loss written out from their formula: one reduction of the log-probs serves all its terms."""
    n_w, n_l = (x.chosen_len, x.rejected_len) if per_token else (1, 1)
    y_w, y_l, ref_w, ref_l = x.chosen / n_w, x.rejected / n_l, x.ref_chosen / n_w, x.ref_rejected / n_l
    w_qual = torch.sigmoid(uni["eta"] * (x.chosen_score - x.rejected_score))
    w_perf = (1 - torch.sigmoid(beta * (y_w - y_l) - uni["tau_ref"])) ** uni["gamma"]
    pair = -w_qual * w_perf * torch.nn.functional.logsigmoid(beta * ((y_w - y_l) - (ref_w - ref_l)))
    gate = torch.clamp(torch.sign(ref_w - y_w), min=0) * (x.chosen_score >= uni["tau_good"])
    return pair - uni["nll_lambda"] * gate.detach() * y_w


@pytest.mark.parametrize("per_token", [True, False])
def test_per_token_or_on_sums_it_is_the_loss_of_the_authors_code(random_pairs, per_token):
    x = random_pairs(32)
    keys = {**UNI, "nll_lambda": 0.3}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        out = build_objective({**PLAIN, "beta": 0.05, "length_normalize": per_token, "uni": keys})(x)
    want = official_on(x, per_token=per_token, beta=0.05, **keys)
    torch.testing.assert_close(out.per_pair, want)
    grads = [torch.autograd.grad(o.sum(), (x.chosen, x.rejected)) for o in (out.per_pair, want)]
    torch.testing.assert_close(grads[0], grads[1])
    assert 0 < out.stats["uni/nll_active"].mean() < 1
    said = [str(w.message) for w in caught if w.category is SuspiciousLossWarning]
    assert any("length_normalize false with loss.uni" in text for text in said) is not per_token


def test_on_sums_the_margin_of_the_gate_stays_per_token(pair):
    x = pair([-4.0] * 2, [-4.0] * 2, lengths=([4] * 2, [2] * 2), ref=([-1.0, -3.0], [-4.0] * 2),
             scores=([4.0] * 2, [1.0] * 2))  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspiciousLossWarning)
        sums = build_objective({"base": "dpo", "beta": 0.1, "length_normalize": False,
                                "uni": {**UNI, "nll_lambda": 0.3, "nll_margin": 0.5}})  # fmt: skip
    assert sums(x).stats["uni/nll_active"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("off", "stat", "neutral"),
    [({"eta": None}, "uni/w_qual", 1.0), ({"perf_mode": "none"}, "uni/w_perf", 1.0),
     ({"nll_lambda": 0.0}, "uni/nll_active", 0.0)],
    ids=str,
)  # fmt: skip
def test_each_part_is_off_by_one_key_and_the_others_stay(random_pairs, off, stat, neutral):
    """The paper's ablations, each from the whole."""
    x = random_pairs(32)
    whole, ablated = (uni(**{"nll_lambda": 0.3, **keys})(x) for keys in ({}, off))
    parts = ("uni/w_qual", "uni/w_perf", "uni/nll_active")
    for name in parts:
        if name == stat:
            assert ablated.stats[name].tolist() == [neutral] * 32
        else:
            torch.testing.assert_close(ablated.stats[name], whole.stats[name])
    pair_loss = build_objective(PLAIN)(x).per_pair
    w_qual, w_perf, active = (ablated.stats[name] for name in parts)
    nll = -off.get("nll_lambda", 0.3) * active * x.chosen / x.chosen_len
    torch.testing.assert_close(ablated.per_pair, w_qual * w_perf * pair_loss + nll)
    assert not torch.allclose(ablated.per_pair, whole.per_pair)


def test_the_weights_on_sums_stay_finite_where_they_underflow():
    from mmpref.losses import PairLogps

    u = torch.tensor([-1e4, -1.0, -1e-3, -1e4])
    n = torch.full((4,), 300)
    x = PairLogps(
        chosen=u.clone().requires_grad_(),
        rejected=u.flip(0).clone().requires_grad_(),
        chosen_len=n,
        rejected_len=n,
        ref_chosen=u + 1,
        ref_rejected=u - 1,
        chosen_score=torch.full((4,), 9.0),
        rejected_score=torch.zeros(4),
    )
    for extra in ({}, {"ada": True}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SuspiciousLossWarning)
            out = build_objective({"name": "uni_dpo", "length_normalize": False, **extra})(x)
        grads = torch.autograd.grad(out.per_pair.sum(), (x.chosen, x.rejected))
        assert all(torch.isfinite(v).all() for v in (out.per_pair, *grads, *out.stats.values()))
