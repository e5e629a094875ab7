"""The loss as a whole: precision, extremes, gradients against finite differences, diagnostics against autograd."""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from typing import Any

import pytest
import torch

from mmpref.errors import DataError
from mmpref.losses import PairLogps, SuspiciousLossWarning, build_objective

PRESETS = ("dpo", "simpo", "ipo", "hinge", "robust", "rdpo", "cpo", "orpo", "sft", "uni_dpo", "adadpo", "adadpo_split",
           "uni_adadpo")  # fmt: skip
BASES = ("dpo", "robust", "hinge", "ipo", "rdpo", "simpo", "cpo", "orpo")
UNI = {"nll_lambda": 0.1, "tau_good": 2.5}
MIXTURES: list[dict[str, Any]] = [
    {"base": base, "length_normalize": True, **parts}
    for base in BASES
    for parts in (
        {},
        {"ada": True},
        {"ada": {"share": 0.5, "clip": 3.0, "clip_mode": "both", "use_reference": False}},
        {"uni": UNI},
        {"uni": {**UNI, "perf_mode": "focal"}},
        {"uni": UNI, "ada": True},
        {"uni": {**UNI, "perf_mode": "focal"}, "ada": True},
        {"uni": UNI, "ada": {"use_reference": False, "clip": None}},
        {"uni": UNI, "ada": {"balance_perf": False}},
        {"uni": {**UNI, "perf_detach": True}, "ada": True},
        {"uni": {**UNI, "perf_mode": "none"}},
    )
]
# on sums a gentle beta, so that the weights do not all underflow
MIXTURES += [
    {"base": base, "beta": 0.02, "length_normalize": False, **parts}
    for base in ("dpo", "ipo", "rdpo", "simpo")
    for parts in ({"uni": UNI}, {"uni": UNI, "ada": True}, {"uni": {**UNI, "perf_mode": "focal"}, "ada": True})
]


def build(loss: dict):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspiciousLossWarning)
        return build_objective(loss)


def with_logps(x: PairLogps, chosen: torch.Tensor, rejected: torch.Tensor) -> PairLogps:
    return dataclasses.replace(x, chosen=chosen, rejected=rejected)


# AdaDPO's coefficients and a detached weight are constants by definition: a finite difference would move them
DIFFERENTIABLE = [m for m in MIXTURES if "ada" not in m and not m.get("uni", {}).get("perf_detach")]


@pytest.mark.parametrize("loss", DIFFERENTIABLE, ids=str)
def test_gradients_agree_with_finite_differences(random_pairs, loss):
    x = random_pairs(6, seed=3)
    objective = build(loss)
    assert torch.autograd.gradcheck(
        lambda c, r: objective(with_logps(x, c, r)).per_pair, (x.chosen, x.rejected), eps=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("loss", MIXTURES, ids=str)
def test_gradient_statistics_are_those_of_autograd(random_pairs, loss):
    """|d pair term / du| / pbar on each side (/dl on sums), without the likelihood terms."""
    x = random_pairs(12, seed=4)
    objective = build(loss)
    out = objective(x)
    quiet = dataclasses.replace(
        objective,
        base=dataclasses.replace(objective.base, nll_weight=0.0),
        uni=objective.uni and dataclasses.replace(objective.uni, nll_lambda=0.0),
    )
    grads = torch.autograd.grad(quiet(x).per_pair.sum(), (x.chosen, x.rejected))
    want_w, want_l = (
        (g * (n if loss["length_normalize"] else 1)).abs() * torch.exp(-s.detach() / n)
        for g, n, s in zip(grads, (x.chosen_len, x.rejected_len), (x.chosen, x.rejected), strict=True)
    )
    torch.testing.assert_close(out.stats["grad/chosen"], want_w)
    torch.testing.assert_close(out.stats["grad/rejected"], want_l)
    moving = want_l > 0
    torch.testing.assert_close(out.stats["grad/ratio"][moving], (want_w / want_l)[moving])
    if loss.get("ada") == {"use_reference": False, "clip": None} and loss["base"] != "orpo":
        torch.testing.assert_close(out.stats["grad/ratio"], torch.ones(12, dtype=torch.float64))
    if loss.get("ada") is True and objective.settings["ada"]["use_reference"]:
        # balanced with respect to p / p_ref: what is left in p is the reference's own ratio
        free = (out.stats["ada/clipped"] == 0) & moving
        own = x.ref_rejected / x.rejected_len - x.ref_chosen / x.chosen_len
        torch.testing.assert_close(out.stats["grad/ratio"][free], own.exp()[free])
        torch.testing.assert_close(out.stats["grad/ratio_to_ref"][free], torch.ones_like(own)[free])
    if objective.needs_reference:
        own = x.ref_chosen / x.chosen_len - x.ref_rejected / x.rejected_len
        torch.testing.assert_close(out.stats["grad/ratio_to_ref"][moving], (want_w / want_l * own.exp())[moving])


@pytest.mark.parametrize("base", ["dpo", "cpo", "rdpo"])
def test_gradient_statistics_on_sums_are_geometric_means_over_tokens(random_pairs, base):
    x = random_pairs(12, seed=4)
    out = build({"base": base, "nll_weight": 0.0} if base == "cpo" else {"base": base})(x)
    grads = torch.autograd.grad(out.per_pair.sum(), (x.chosen, x.rejected))
    torch.testing.assert_close(out.stats["grad/chosen"], grads[0].abs() * torch.exp(-x.chosen.detach() / x.chosen_len))
    torch.testing.assert_close(
        out.stats["grad/rejected"], grads[1].abs() * torch.exp(-x.rejected.detach() / x.rejected_len)
    )


def test_a_satisfied_hinge_reports_the_ratio_it_would_have(pair):
    x = pair([-1.0], [-2.0], ref=([-3.0], [-1.0]))
    stats = build({"base": "hinge", "beta": 2.0})(x).stats
    assert stats["grad/chosen"].item() == stats["grad/rejected"].item() == 0.0
    assert stats["grad/ratio"].item() == pytest.approx(torch.tensor(-1.0).exp().item())
    balanced = build({"base": "hinge", "beta": 2.0, "ada": {"use_reference": False, "clip": None}})(x).stats
    assert balanced["grad/ratio"].item() == pytest.approx(1.0)


def test_two_certain_answers_under_log_odds_count_as_even(pair):
    stats = build({"base": "orpo"})(pair([0.0], [0.0])).stats
    assert (stats["grad/chosen"].item(), stats["grad/ratio"].item()) == (0.0, 1.0)


def test_gradient_statistics_of_log_odds_stop_exactly_where_the_odds_are_held():
    """One answer at the bound, one just beyond it, one before it; also where the sum is not beyond but the mean is."""
    u = torch.tensor([-1e-6, -5e-7, -2e-6, -1e-6], dtype=torch.float64)
    n = torch.tensor([1.0, 4.0, 4.0, 1.0], dtype=torch.float64)
    x = PairLogps(
        chosen=(u * n).requires_grad_(),
        rejected=torch.full((4,), -1.0, dtype=torch.float64).requires_grad_(),
        chosen_len=n,
        rejected_len=n,
    )
    objective = build({"base": "orpo"})
    quiet = dataclasses.replace(objective, base=dataclasses.replace(objective.base, nll_weight=0.0))
    (grad,) = torch.autograd.grad(quiet(x).per_pair.sum(), x.chosen)
    torch.testing.assert_close(objective(x).stats["grad/chosen"], (grad * n).abs() * torch.exp(-u))


def test_a_pair_whose_weight_has_faded_to_nothing_reports_the_ratio_of_its_coefficients(pair):
    """Log-odds: ds/dp = 1 / (p (1-p)) on each side, so without a balance the ratio is that of these two."""
    x = pair([-0.5], [-30.0], scores=([4.0], [2.0]))
    stats = build({"base": "orpo", "beta": 10.0, "uni": {"nll_lambda": 0.0}})(x).stats
    assert stats["grad/chosen"].item() == stats["grad/rejected"].item() == 0.0
    p_w, p_l = math.exp(-0.5), math.exp(-30.0)
    assert stats["grad/ratio"].item() == pytest.approx(p_l * (1 - p_l) / (p_w * (1 - p_w)), rel=1e-9, abs=0.0)


def test_no_autocast_reaches_the_inside_of_the_loss(random_pairs):
    seen = []

    class Spy:
        degree = 1

        def loss(self, margin):
            seen.append(torch.is_autocast_enabled("cpu"))
            return -margin

        def slope(self, margin):
            return -torch.ones_like(margin)

    objective = build({"name": "dpo"})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dataclasses.replace(objective, base=dataclasses.replace(objective.base, link=Spy()))(random_pairs())
    assert seen == [False]


EXTREME = [-1e4, -88.0, -20.0, -1.0, -1e-3, 0.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("beta", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("name", PRESETS)
def test_extreme_log_probs_stay_finite_in_value_gradient_and_statistics(name, beta, dtype):
    grid = torch.tensor(list(itertools.product(EXTREME, EXTREME)), dtype=dtype)
    for lengths in (1, 300):
        for uni in ({}, {"perf_mode": "focal", "gamma": 0.5}):
            n = torch.full((len(grid),), lengths)
            shift = torch.tensor([0.0, -3.0, 90.0] * 12, dtype=dtype)
            x = PairLogps(
                chosen=grid[:, 0].clone().requires_grad_(),
                rejected=grid[:, 1].clone().requires_grad_(),
                chosen_len=n,
                rejected_len=n,
                ref_chosen=grid[:, 1] + shift,
                ref_rejected=grid[:, 0] - shift,
                chosen_score=torch.full((len(grid),), 9.0),
                rejected_score=torch.zeros(len(grid)),
            )
            extra = {"uni": uni} if uni and "uni" in name else {}
            out = build({"name": name, "beta": beta, **extra})(x)
            grads = torch.autograd.grad(out.per_pair.sum(), (x.chosen, x.rejected), allow_unused=True)
            assert torch.isfinite(out.per_pair).all()
            assert all(torch.isfinite(g.float()).all() for g in grads if g is not None)
            assert all(torch.isfinite(s).all() for s in out.stats.values())


@pytest.mark.parametrize("name", PRESETS)
def test_half_precision_is_widened_and_double_stays_double(random_pairs, name):
    for given, used in ((torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64,) * 2):
        x = random_pairs(dtype=given)
        out = build({"name": name})(x)
        wide = {
            f.name: v.to(used) if (v := getattr(x, f.name)) is not None and v.is_floating_point() else v
            for f in dataclasses.fields(x)
        }
        assert out.per_pair.dtype == used
        assert {s.dtype for s in out.stats.values()} == {used}
        torch.testing.assert_close(out.per_pair, build({"name": name})(PairLogps(**wide)).per_pair)


def test_a_double_rejected_side_makes_the_loss_double(random_pairs):
    x = random_pairs()
    mixed = dataclasses.replace(x, chosen=x.chosen.detach().float())
    assert build({"name": "dpo"})(mixed).per_pair.dtype == torch.float64


@pytest.mark.parametrize("name", PRESETS)
def test_a_surrounding_autocast_changes_nothing(random_pairs, name):
    x = random_pairs(dtype=torch.float32)
    objective = build({"name": name})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = objective(x)
    assert torch.equal(inside.per_pair, objective(x).per_pair)


@pytest.mark.parametrize("name", PRESETS)
def test_statistics_are_per_pair_and_carry_no_graph(random_pairs, name):
    x = random_pairs(5)
    out = build({"name": name})(x)
    assert out.per_pair.requires_grad
    assert all(s.shape == (5,) and not s.requires_grad for s in out.stats.values())


def test_every_contracted_statistic_is_there(random_pairs):
    stats = build({"name": "uni_adadpo"})(random_pairs()).stats
    assert set(stats) == {
        "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies",
        "logps/chosen", "logps/rejected", "ref_logps/chosen", "ref_logps/rejected", "len/chosen", "len/rejected",
        "uni/w_qual", "uni/w_perf", "uni/nll_active",
        "ada/coef_chosen", "ada/coef_rejected", "ada/log_ratio", "ada/clipped", "ada/margin",
        "grad/chosen", "grad/rejected", "grad/ratio", "grad/ratio_to_ref", "loss/pair", "loss/nll",
    }  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_a_bad_pair_that_slips_through_spoils_no_other_gradient(random_pairs, name):
    objective = build({"name": name})
    good = random_pairs(4, seed=8)
    nan = torch.tensor([0.0, float("nan"), 0.0, 0.0], dtype=torch.float64)
    none = torch.tensor([1, 1, 0, 1])
    bad = PairLogps(
        chosen=(good.chosen + nan).detach().requires_grad_(),
        rejected=good.rejected.detach().requires_grad_(),
        chosen_len=good.chosen_len * none,
        rejected_len=good.rejected_len * none,
        ref_chosen=good.ref_chosen,
        ref_rejected=good.ref_rejected,
        chosen_score=good.chosen_score,
        rejected_score=good.rejected_score,
    )
    out, want = objective(bad, check=False), objective(good)
    keep = torch.tensor([0, 3])
    torch.testing.assert_close(out.per_pair[keep], want.per_pair[keep])
    got = torch.autograd.grad(out.per_pair.sum(), bad.chosen)[0]
    torch.testing.assert_close(got[keep], torch.autograd.grad(want.per_pair.sum(), good.chosen)[0][keep])
    assert torch.isfinite(out.per_pair[2])
    assert torch.isnan(out.per_pair[1])


def test_the_reference_and_the_scores_receive_no_gradient(random_pairs):
    x = random_pairs()
    names = ("ref_chosen", "ref_rejected", "chosen_score", "rejected_score")
    consts = {n: getattr(x, n).clone().requires_grad_() for n in names}
    out = build({"name": "uni_adadpo", "ada": {"use_reference": True}})(dataclasses.replace(x, **consts))
    grads = torch.autograd.grad(out.per_pair.sum(), tuple(consts.values()), allow_unused=True)
    assert all(g is None for g in grads)


def test_values_are_checked_on_the_cpu_unless_told_otherwise(random_pairs):
    x = random_pairs(3)
    bad = dataclasses.replace(x, chosen=torch.tensor([-1.0, float("nan"), -1.0], dtype=torch.float64))
    objective = build({"name": "dpo"})
    for check in (None, True):
        with pytest.raises(DataError, match=r"chosen.*pair \[1\] of 3"):
            objective(bad, check=check)
    assert torch.isnan(objective(bad, check=False).per_pair).tolist() == [False, True, False]


def test_missing_parts_are_named_when_they_are_needed(random_pairs):
    x = random_pairs(3)
    with pytest.raises(DataError, match="ref_chosen and ref_rejected are needed"):
        build({"name": "dpo"})(dataclasses.replace(x, ref_chosen=None, ref_rejected=None))
    with pytest.raises(DataError, match="rejected and rejected_len are needed"):
        build({"name": "simpo"})(PairLogps(chosen=x.chosen, rejected=None, chosen_len=x.chosen_len, rejected_len=None))


def test_the_recorded_settings_build_the_same_objective_and_cannot_be_changed_from_outside():
    objective = build({"name": "uni_adadpo", "uni": {"gamma": 1.5}})
    settings = objective.settings
    assert build(settings) == objective
    settings["uni"]["gamma"] = 9.0
    assert objective.settings["uni"]["gamma"] == 1.5
