"""AdaDPO: the published formula, coefficients by hand, bounds, value modes, extremes. The balance: test_ada_balance."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpref.losses import PairLogps
from mmpref.losses.ada_dpo import AdaDPO
from tests.unit.losses.leaves import DOUBLE, REFERENCE_FREE, build

PAIR_BASES = ("dpo", "robust", "hinge", "ipo", "rdpo", "simpo", "cpo", "orpo")


def published(x: PairLogps, beta: float, eps: float, *, ceiling: float | None, per_token: bool, reference: bool):
    """The loss as the secondary sources write it: beta_w = beta sg(R), beta_l = beta."""
    h_w, h_l = x.chosen - x.ref_chosen, x.rejected - x.ref_rejected
    one, two = (h_w, h_l) if reference else (x.chosen, x.rejected)
    if per_token:
        one, two = one / x.chosen_len, two / x.rejected_len
    ratio = (one - two).exp().detach()
    if ceiling is not None:
        ratio = ratio.clamp(max=ceiling)
    margin = beta * (ratio * h_w - h_l)
    return -(1 - eps) * torch.nn.functional.logsigmoid(margin) - eps * torch.nn.functional.logsigmoid(-margin), margin


@pytest.mark.parametrize("eps", [0.0, 0.1])
@pytest.mark.parametrize(
    ("ada", "form"),
    [
        (True, {"ceiling": 2.0, "per_token": True, "reference": True}),
        ({"clip": 1.5}, {"ceiling": 1.5, "per_token": True, "reference": True}),
        ({"use_reference": False}, {"ceiling": 2.0, "per_token": True, "reference": False}),
        ({"clip": None}, {"ceiling": None, "per_token": True, "reference": True}),
        ({"clip": None, "granularity": "sequence"}, {"ceiling": None, "per_token": False, "reference": True}),
        ({"clip": 10, "granularity": "sequence", "use_reference": False},
         {"ceiling": 10.0, "per_token": False, "reference": False}),
        ({"clip": None, "granularity": "power", "length_power": 0}, {"ceiling": None, "per_token": False,
                                                                     "reference": True}),
    ],
    ids=str,
)  # fmt: skip
def test_the_preset_and_its_neighbours_are_the_published_formula_in_value_and_gradient(random_pairs, ada, form, eps):
    x = random_pairs(64)
    # drifts of several nats per answer: R on both sides of 1 and of the ceiling, within what exp holds
    x = dataclasses.replace(x, ref_chosen=(x.chosen + 6 * torch.sin(x.chosen)).detach(),
                            ref_rejected=(x.rejected + 6 * torch.cos(x.rejected)).detach())  # fmt: skip
    out = build({"name": "adadpo", "beta": 0.05, "label_smoothing": eps, "ada": ada})(x)
    want, margin = published(x, 0.05, eps, **form)
    torch.testing.assert_close(out.per_pair, want)
    torch.testing.assert_close(out.stats["ada/margin"], margin.detach())
    got = torch.autograd.grad(out.per_pair.sum(), (x.chosen, x.rejected))
    for one, other in zip(got, torch.autograd.grad(want.sum(), (x.chosen, x.rejected)), strict=True):
        torch.testing.assert_close(one, other)
    if form["ceiling"] is not None:
        assert 0 < out.stats["ada/clipped"].mean() < 1, "some pairs on each side of the ceiling"


def test_exponents_weigh_the_two_probabilities_apart(random_pairs):
    """c_w = P_w^alpha_w / P_l^alpha_l, as the paper names it for later."""
    x = random_pairs()
    ada = {"share": 1, "alpha_w": 0.4, "alpha_l": 0.9, "clip": None, "use_reference": False}
    stats = build({"name": "adadpo", "ada": ada})(x).stats
    p_w, p_l = (x.chosen / x.chosen_len).exp(), (x.rejected / x.rejected_len).exp()
    torch.testing.assert_close(stats["ada/coef_chosen"], (p_w**0.4 / p_l**0.9).detach())
    assert stats["ada/coef_rejected"].tolist() == [1.0] * 16


def test_the_weight_reads_unscaled_numbers_whatever_the_balance_does(random_pairs):
    x = random_pairs()
    uni = build({"name": "uni_dpo"})(x).stats["uni/w_perf"]
    for balance_perf in (True, False):
        both = build({"name": "uni_adadpo", "ada": {"balance_perf": balance_perf}})(x).stats["uni/w_perf"]
        torch.testing.assert_close(both, uni)


def test_coefficients_of_the_preset_by_hand(pair):
    """hbar_w = 0.25, 2.5 and -1, hbar_l = -0.25, -0.25 and 1: R = e^0.5, e^2.75 > 2, and e^-2, which has no floor."""
    x = pair([-2.0, -2.0, -2.0], [-2.0] * 3, lengths=([4] * 3, [2] * 3),
             ref=([-3.0, -12.0, 2.0], [-1.5, -1.5, -4.0]))  # fmt: skip
    out = build({"name": "adadpo", "beta": 0.5})(x)
    assert out.stats["ada/log_ratio"].tolist() == pytest.approx([0.5, 2.75, -2.0])
    assert out.stats["ada/coef_chosen"].tolist() == pytest.approx([math.exp(0.5), 2.0, math.exp(-2.0)])
    assert out.stats["ada/coef_rejected"].tolist() == [1.0, 1.0, 1.0]
    assert out.stats["ada/clipped"].tolist() == [0.0, 1.0, 0.0]
    margins = [0.5 * (math.exp(0.5) * 1.0 + 0.5), 0.5 * (2.0 * 10.0 + 0.5), 0.5 * (math.exp(-2.0) * -4.0 - 2.0)]
    assert out.stats["ada/margin"].tolist() == pytest.approx(margins)
    assert out.stats["rewards/margins"].tolist() == pytest.approx([0.75, 5.25, -3.0])
    assert out.per_pair.tolist() == pytest.approx([math.log1p(math.exp(-m)) for m in margins])


def test_coefficients_of_the_even_split_by_hand(pair):
    """u_w = -0.5, u_l = -1: log R = 0.5; halves split it, c_w c_l = 1."""
    x = pair([-2.0], [-2.0], lengths=([4], [2]), ref=([-3.0], [-1.0]))
    out = build({"name": "adadpo_split", "beta": 0.5})(x)
    assert out.stats["ada/log_ratio"].item() == pytest.approx(0.5)
    assert out.stats["ada/coef_chosen"].item() == pytest.approx(math.exp(0.25))
    assert out.stats["ada/coef_rejected"].item() == pytest.approx(math.exp(-0.25))
    assert out.stats["ada/clipped"].item() == 0.0
    margin = 0.5 * (math.exp(0.25) * 1.0 - math.exp(-0.25) * -1.0)
    assert out.per_pair.item() == pytest.approx(math.log1p(math.exp(-margin)))
    grads = torch.autograd.grad(out.per_pair.sum(), (x.chosen, x.rejected))
    losing = 1 / (1 + math.exp(margin))
    assert grads[0].item() == pytest.approx(-0.5 * losing * math.exp(0.25))
    assert grads[1].item() == pytest.approx(0.5 * losing * math.exp(-0.25))


def log_sum(x: float) -> tuple[float, float]:
    return math.log(2 / (1 + math.exp(-x))), math.log(2 / (1 + math.exp(x)))


@pytest.mark.parametrize(
    ("ada", "log_w", "log_l"),
    [
        ({}, 0.25, -0.25),
        ({"share": 1.0}, 0.5, 0.0),
        ({"share": 0.0}, 0.0, -0.5),
        ({"share": 0.2}, 0.1, -0.4),
        ({"form": "sum"}, *log_sum(0.5)),
        ({"form": "sum", "target_ratio": 3}, *log_sum(0.5 + math.log(3))),
        ({"target_ratio": math.exp(0.4)}, 0.45, -0.45),
        ({"target_ratio": math.exp(-0.4), "share": 1}, 0.1, 0.0),
        ({"alpha_w": 2.0, "share": 1}, 0.0, 0.0),
        ({"alpha_w": 2.0, "alpha_l": 3.0, "share": 1}, 2.0, 0.0),
        ({"granularity": "geomean"}, (0.5 - math.log(2)) / 2, -(0.5 - math.log(2)) / 2),
        ({"granularity": "sequence"}, 0.0, 0.0),
        ({"granularity": "power", "length_power": 0.5}, (-1 + math.sqrt(2)) / 2, (1 - math.sqrt(2)) / 2),
        ({"granularity": "power", "length_power": 0}, 0.0, 0.0),
        ({"granularity": "power", "length_power": 1}, 0.25, -0.25),
        ({"use_reference": True}, 0.375, -0.375),
        ({"use_reference": True, "granularity": "power", "length_power": 0.5}, (0.5 + math.sqrt(0.5)) / 2,
         -(0.5 + math.sqrt(0.5)) / 2),
        ({"clip": math.exp(0.1)}, 0.05, -0.05),
        ({"clip": math.exp(0.1), "clip_mode": "ceiling"}, 0.05, -0.05),
        ({"clip": math.exp(0.1), "target_ratio": math.exp(-2)}, -0.05, 0.05),
        ({"clip": math.exp(0.1), "target_ratio": math.exp(-2), "clip_mode": "ceiling"}, -0.75, 0.75),
        ({"clip": math.exp(0.1), "form": "sum"}, *log_sum(0.1)),
        ({"clip": math.exp(0.1), "form": "sum", "target_ratio": math.exp(-2)}, *log_sum(-0.1)),
    ],
    ids=str,
)  # fmt: skip
def test_each_option_moves_the_coefficients_as_defined(pair, ada, log_w, log_l):
    """u_w = -0.5, u_l = -1, hbar_w = 0.25, hbar_l = -0.5, from the even split on."""
    x = pair([-2.0], [-2.0], lengths=([4], [2]), ref=([-3.0], [-1.0]))
    stats = build({"name": "adadpo_split", "ada": ada})(x).stats
    assert stats["ada/coef_chosen"].log().item() == pytest.approx(log_w, abs=1e-12)
    assert stats["ada/coef_rejected"].log().item() == pytest.approx(log_l, abs=1e-12)


@pytest.mark.parametrize(
    ("ada", "log_ratio"),
    [
        ({"granularity": "sequence"}, math.log(2)),
        ({"granularity": "power", "length_power": 0}, math.log(2)),
        ({"granularity": "power", "length_power": 0.5}, -1 + math.sqrt(2) + math.log(2) / 2),
        ({"granularity": "power", "length_power": 1}, 0.5),
        ({"granularity": "geomean"}, 0.5),
    ],
    ids=str,
)
def test_on_means_the_length_enters_by_as_much_as_the_power_leaves(pair, ada, log_ratio):
    x = pair([-2.0], [-2.0], lengths=([4], [2]), ref=([-3.0], [-1.0]))
    loss = {"name": "adadpo_split", "length_normalize": True, "ada": ada}
    assert build(loss)(x).stats["ada/log_ratio"].item() == pytest.approx(log_ratio)


def test_equal_probabilities_leave_the_base_as_it_is(pair):
    x = pair([-2.0, -8.0], [-1.0, -6.0], lengths=([4, 4], [2, 3]), ref=([-3.0, -7.0], [-1.5, -7.0]))
    for loss in ({"base": "dpo", "beta": 0.5}, {"base": "simpo"}, {"base": "orpo"}, {"base": "ipo"}):
        balanced = build({**loss, "ada": {"use_reference": False}})(x)
        assert balanced.stats["ada/coef_chosen"].tolist() == pytest.approx([1.0, 1.0])
        torch.testing.assert_close(balanced.per_pair, build(loss)(x).per_pair)


def test_at_the_reference_the_published_form_leaves_the_base_as_it_is(pair):
    x = pair([-2.0, -8.0], [-1.0, -3.0], lengths=([4, 4], [2, 3]), ref=([-2.0, -8.0], [-1.0, -3.0]))
    for loss in ({"base": "dpo", "beta": 0.5}, {"base": "ipo"}, {"base": "hinge"}):
        balanced, plain = build({**loss, "ada": True})(x), build(loss)(x)
        assert balanced.stats["ada/coef_chosen"].tolist() == [1.0, 1.0]
        grads = [torch.autograd.grad(o.per_pair.sum(), (x.chosen, x.rejected)) for o in (balanced, plain)]
        torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("off", [{"clip": 1.0, "clip_mode": "both"}, {"alpha_w": 0.0, "alpha_l": 0.0}])
def test_with_exponents_or_clip_at_their_neutral_value_the_loss_is_the_plain_base(random_pairs, off):
    x = random_pairs()
    torch.testing.assert_close(build({"name": "adadpo", "ada": off})(x).per_pair, build({"base": "dpo"})(x).per_pair)


def test_at_the_start_the_loss_is_log_two_whatever_the_coefficients(pair):
    x = pair([-2.0], [-9.0], lengths=([4], [2]), ref=([-2.0], [-9.0]))
    out = build({"name": "adadpo_split"})(x)
    assert out.stats["ada/coef_chosen"].item() > 2
    assert out.per_pair.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("base", PAIR_BASES)
def test_preserving_the_value_keeps_the_loss_of_the_base_and_changes_its_gradient(random_pairs, base):
    x = random_pairs()
    plain = build({"base": base})(x)
    kept = build({"base": base, "ada": {"value_mode": "value_preserving"}})(x)
    scaled = build({"base": base, "ada": {"value_mode": "scaled"}})(x)
    torch.testing.assert_close(kept.per_pair, plain.per_pair)
    assert not torch.allclose(scaled.per_pair, plain.per_pair)
    torch.testing.assert_close(kept.stats["ada/margin"], build({"base": base, "ada": {
        "value_mode": "value_preserving", "share": 0.5}})(x).stats["ada/margin"])  # fmt: skip
    moved = [torch.autograd.grad(o.per_pair.sum(), x.chosen)[0] for o in (kept, plain)]
    assert not torch.allclose(*moved)


@pytest.mark.parametrize("base", PAIR_BASES)
def test_the_scaled_margin_is_what_the_link_sees(random_pairs, base):
    """The reward margin is not scaled; ada/margin is the M that the loss is a curve of."""
    x = random_pairs()
    for value_mode in ("scaled", "value_preserving"):
        objective = build({"base": base, "ada": {"value_mode": value_mode}})
        out = objective(x)
        quiet = dataclasses.replace(objective, base=dataclasses.replace(objective.base, nll_weight=0.0))
        torch.testing.assert_close(objective.base.link.loss(out.stats["ada/margin"]), quiet(x).per_pair)
    if base in ("dpo", "hinge", "robust", "cpo"):
        scaled = build({"base": base, "ada": {"value_mode": "scaled"}})(x).stats
        want = scaled["ada/coef_chosen"] * scaled["rewards/chosen"] - scaled["ada/coef_rejected"] * scaled[
            "rewards/rejected"]  # fmt: skip
        torch.testing.assert_close(scaled["ada/margin"], want)


@pytest.mark.parametrize("base", PAIR_BASES)
def test_automatic_value_mode_scales_with_a_reference_and_preserves_without(base):
    mode = build({"base": base, "ada": True}).settings["ada"]["value_mode"]
    assert mode == ("value_preserving" if base in REFERENCE_FREE else "scaled")


def test_rewards_are_logged_unscaled(random_pairs):
    x = random_pairs()
    for base in ("dpo", "simpo", "orpo"):
        plain, balanced = build({"base": base})(x), build({"base": base, "ada": True})(x)
        for name in ("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"):
            torch.testing.assert_close(balanced.stats[name], plain.stats[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_ratio_too_large_for_any_float_is_held_and_reported(pair, dtype):
    x = pair([-1e-3, -1e4], [-1e4, -1e-3], ref=([-1.0, -1.0], [-1.0, -1.0]), dtype=dtype)
    for base in ("dpo", "ipo", "hinge", "simpo", "cpo", "orpo"):
        for keys in ({"share": 0.5}, {"share": 1.0}, {"share": 0.0}, {"alpha_w": 2.0, "alpha_l": 0.5}):
            out = build({"base": base, "ada": {"clip": None, "use_reference": False, **keys}})(x)
            grads = torch.autograd.grad(out.per_pair.sum(), (x.chosen, x.rejected))
            assert all(torch.isfinite(v).all() for v in (out.per_pair, *grads, *out.stats.values()))
            assert out.stats["ada/clipped"].tolist() == [1.0, 1.0]


def test_promotion_outweighs_suppression_more_than_under_dpo():
    """Directional check on a table of logits, from equal chances: gain in log p_w over loss in log p_l in the end."""

    def outcome(loss: dict) -> float:
        ratios = []
        for seed in range(5):
            g = torch.Generator().manual_seed(seed)
            start = torch.randn(12, generator=g, dtype=DOUBLE)
            start[1] = start[0]
            logits = start.clone().requires_grad_()
            ref = start.log_softmax(0)
            objective, one = build(loss), torch.ones(1)
            for _ in range(60):
                logp = logits.log_softmax(0)
                x = PairLogps(
                    chosen=logp[:1],
                    rejected=logp[1:2],
                    chosen_len=one,
                    rejected_len=one,
                    ref_chosen=ref[:1],
                    ref_rejected=ref[1:2],
                )
                (grad,) = torch.autograd.grad(objective(x).per_pair.sum(), logits)
                logits = (logits - 0.5 * grad).detach().requires_grad_()
            moved = logits.log_softmax(0) - ref
            ratios.append((moved[0] / -moved[1]).item())
        return sum(ratios) / len(ratios)

    plain = outcome({"name": "dpo", "beta": 0.5})
    for balanced in ({"name": "adadpo"}, {"name": "adadpo", "ada": {"use_reference": False}}, {"name": "adadpo_split"}):
        assert outcome({**balanced, "beta": 0.5}) > 1.2 * plain


EXTREMES = [-1e4, -500.0, -1.0, -1e-3]


@pytest.mark.parametrize("base", PAIR_BASES)
@pytest.mark.parametrize(
    "ada",
    [
        {}, {"share": 0.5, "clip": 10, "clip_mode": "both"}, {"share": 0.0, "clip": None}, {"clip": None},
        {"form": "sum", "clip": None}, {"clip": None, "target_ratio": 1e6}, {"clip": None, "target_ratio": 1e-6},
        {"clip": None, "granularity": "sequence"}, {"clip": None, "granularity": "power", "length_power": 0.5},
    ],
    ids=str,
)  # fmt: skip
def test_log_probs_of_minus_ten_thousand_stay_finite_in_float32(base, ada):
    if base == "orpo" and ada.get("granularity") in ("sequence", "power"):
        return  # refused
    grid = torch.tensor([(a, b) for a in EXTREMES for b in EXTREMES])
    for lengths in (1, 250):
        n = torch.full((len(grid),), lengths)
        x = PairLogps(
            chosen=grid[:, 0].clone().requires_grad_(),
            rejected=grid[:, 1].clone().requires_grad_(),
            chosen_len=n,
            rejected_len=n,
            ref_chosen=grid[:, 1] - 3.0,
            ref_rejected=grid[:, 0] + 90.0,
        )
        for value_mode in ("scaled", "value_preserving"):
            out = build({"base": base, "ada": {**ada, "value_mode": value_mode}})(x)
            grads = torch.autograd.grad(out.per_pair.sum(), (x.chosen, x.rejected))
            assert out.per_pair.dtype == torch.float32
            assert all(torch.isfinite(v).all() for v in (out.per_pair, *grads, *out.stats.values()))


@pytest.mark.parametrize("perf", ["stabilized", "focal"])
@pytest.mark.parametrize("ada", [{"share": 0.0}, {"share": 0.5, "clip": None}, {"granularity": "sequence"}], ids=str)
@pytest.mark.parametrize("base", PAIR_BASES)
def test_a_balanced_weight_beside_a_balanced_loss_stays_finite_in_float32(base, ada, perf):
    """The gradient through w_perf is the loss times the coefficient: two of them where there was one."""
    if base == "orpo" and "granularity" in ada:
        return  # refused
    grid = torch.tensor([(a, b) for a in EXTREMES for b in EXTREMES])
    for lengths in (1, 4000):
        n = torch.full((len(grid),), lengths)
        # the second: the rejected answer has become far likelier, and the chosen one has not moved
        for one, other in ((grid[:, 1] - 3.0, grid[:, 0] + 90.0), (grid[:, 0], grid[:, 1] - 1e4)):
            x = PairLogps(
                chosen=grid[:, 0].clone().requires_grad_(),
                rejected=grid[:, 1].clone().requires_grad_(),
                chosen_len=n,
                rejected_len=n,
                ref_chosen=one,
                ref_rejected=other,
                chosen_score=torch.full((len(grid),), 9.0),
                rejected_score=torch.zeros(len(grid)),
            )
            for sums in ({}, {"length_normalize": False} if base != "orpo" else {}):
                out = build({"base": base, **sums, "uni": {"perf_mode": perf}, "ada": ada})(x)
                grads = torch.autograd.grad(out.per_pair.sum(), (x.chosen, x.rejected))
                assert all(torch.isfinite(v).all() for v in (out.per_pair, *grads, *out.stats.values()))


class Frozen(AdaDPO):
    """Coefficients that do not follow the log-probs: what a stop-gradient makes of them."""

    kept: ClassVar[Any]

    def coefficients(self, kind, w, r, max_log_coef):
        if not hasattr(Frozen, "kept"):
            Frozen.kept = super().coefficients(kind, w, r, max_log_coef)
        return Frozen.kept


@pytest.mark.parametrize("ada", [{}, {"share": 0.5, "clip": None}, {"form": "sum"}, {"target_ratio": 1.5}], ids=str)
@pytest.mark.parametrize("base", PAIR_BASES)
def test_the_gradient_is_that_of_constant_coefficients(random_pairs, base, ada):
    """Against finite differences with the coefficients held still, and so without a path through them."""
    x = random_pairs(6, seed=3)
    objective = build({"base": base, "ada": {**ada, "value_mode": "scaled"}})
    frozen = dataclasses.replace(objective, ada=Frozen(**{f.name: getattr(objective.ada, f.name)
                                                          for f in dataclasses.fields(objective.ada)}))  # fmt: skip
    if hasattr(Frozen, "kept"):
        del Frozen.kept

    def loss(one, c, r):
        return one(dataclasses.replace(x, chosen=c, rejected=r)).per_pair

    live = torch.autograd.grad(loss(objective, x.chosen, x.rejected).sum(), (x.chosen, x.rejected))
    still = torch.autograd.grad(loss(frozen, x.chosen, x.rejected).sum(), (x.chosen, x.rejected))
    torch.testing.assert_close(live, still)
    assert torch.autograd.gradcheck(lambda c, r: loss(frozen, c, r), (x.chosen, x.rejected), eps=1e-6, atol=1e-6)
    del Frozen.kept


ADA_KEYS = st.fixed_dictionaries(
    {},
    optional={
        "share": st.floats(0, 1),
        "form": st.sampled_from(["power", "sum"]),
        "granularity": st.sampled_from(["token", "sequence", "geomean", "power"]),
        "length_power": st.floats(0, 1),
        "alpha_w": st.floats(0, 3),
        "target_ratio": st.floats(0.05, 20),
        "use_reference": st.sampled_from(["auto", False]),
        "clip": st.none() | st.floats(1, 50),
        "clip_mode": st.sampled_from(["ceiling", "both"]),
        "value_mode": st.sampled_from(["auto", "scaled", "value_preserving"]),
        "balance_perf": st.booleans(),
    },
)


@settings(max_examples=min(60, settings().max_examples), deadline=None)
@given(ada=ADA_KEYS, base=st.sampled_from(PAIR_BASES), seed=st.integers(0, 5))
def test_whatever_the_keys_the_coefficients_are_the_shares_of_the_bounded_ratio(ada, base, seed):
    if base == "orpo" and ada.get("granularity") in ("sequence", "power"):
        ada = {**ada, "granularity": "token"}
    objective = build({"base": base, "ada": ada})
    assert build(objective.settings) == objective
    keys = objective.settings["ada"]
    g = torch.Generator().manual_seed(seed)
    u = -4 * torch.rand(4, 8, generator=g, dtype=DOUBLE)
    n_w, n_l = torch.randint(1, 9, (2, 8), generator=g)
    x = PairLogps(
        chosen=(u[0] * n_w).requires_grad_(),
        rejected=(u[1] * n_l).requires_grad_(),
        chosen_len=n_w,
        rejected_len=n_l,
        ref_chosen=u[2] * n_w,
        ref_rejected=u[3] * n_l,
    )
    out = objective(x)
    wanted = out.stats["ada/log_ratio"] + math.log(keys["target_ratio"])
    bound = math.inf if keys["clip"] is None else math.log(keys["clip"])
    bounded = wanted.clamp(max=bound) if keys["clip_mode"] == "ceiling" else wanted.clamp(-bound, bound)
    log_w, log_l = out.stats["ada/coef_chosen"].log(), out.stats["ada/coef_rejected"].log()
    held = (log_w.abs() > 29) | (log_l.abs() > 29)  # the guard against overflow
    torch.testing.assert_close((log_w - log_l)[~held], bounded[~held], rtol=1e-9, atol=1e-9)
    if keys["form"] == "power":
        torch.testing.assert_close(log_w[~held], keys["share"] * bounded[~held], rtol=1e-9, atol=1e-9)
    else:
        total = out.stats["ada/coef_chosen"] + out.stats["ada/coef_rejected"]
        torch.testing.assert_close(total, torch.full_like(total, 2.0))
    grads = torch.autograd.grad(out.per_pair.sum(), (x.chosen, x.rejected))
    assert all(torch.isfinite(v).all() for v in (out.per_pair, *grads, *out.stats.values()))
