"""AdaDPO: the balance theorem, proved by autograd on probabilities; coefficients, clip, forms and value modes."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch

from mmpref.losses import PairLogps, SuspiciousLossWarning, build_objective

DOUBLE = torch.float64
BASES = {
    "dpo": {"base": "dpo", "beta": 0.1},
    "dpo smoothed": {"base": "dpo", "beta": 0.1, "label_smoothing": 0.2},
    "dpo per token": {"base": "dpo", "beta": 2.0, "length_normalize": True},
    "robust": {"base": "robust", "beta": 0.1, "label_smoothing": 0.1},
    "rdpo": {"base": "rdpo", "beta": 0.1, "length_weight": 0.05},
    "ipo": {"base": "ipo", "beta": 0.3},
    "ipo on sums": {"base": "ipo", "beta": 0.3, "length_normalize": False},
    "hinge": {"base": "hinge", "beta": 0.02},
    "simpo": {"base": "simpo", "beta": 2.0, "gamma_beta_ratio": 0.5},
    "cpo": {"base": "cpo", "beta": 0.1, "nll_weight": 0.0},
    "orpo": {"base": "orpo", "beta": 0.5},
}
REFERENCE_FREE = {"simpo", "cpo", "orpo"}
EXPONENTS = [(0.5, 0.5), (1.0, 0.0), (0.0, 1.0), (0.3, 0.7)]


def build(loss: dict):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspiciousLossWarning)
        return build_objective(loss)


class Leaves:
    """One pair whose log-probs are made of leaves: every token's probability, or one variable for each answer."""

    def __init__(self, granularity: str, *, per_token_score: bool, spread: float = 0.4, n: tuple = (7, 4)) -> None:
        g = torch.Generator().manual_seed(5)
        self.n = n
        self.tokens = granularity == "token" and not per_token_score
        self.leaves = []
        sums = []
        for length, level in zip(n, (-0.9 + spread, -0.9 - spread), strict=True):
            if self.tokens:  # every token its own leaf
                leaf = torch.exp(level + 0.3 * torch.randn(length, generator=g, dtype=DOUBLE)).requires_grad_()
                sums.append(leaf.log().sum())
            elif granularity == "sequence":
                leaf = torch.tensor(math.exp(level * length), dtype=DOUBLE).requires_grad_()
                sums.append(leaf.log())
            else:
                leaf = torch.tensor(math.exp(level), dtype=DOUBLE).requires_grad_()
                sums.append(length * leaf.log())
            self.leaves.append(leaf)
        self.sums = sums
        self.ref = [s.detach() + 0.11 * length for s, length in zip(sums, (n[0], -n[1]), strict=True)]
        self.granularity = granularity

    def batch(self) -> PairLogps:
        def vec(x) -> torch.Tensor:
            return torch.as_tensor(x, dtype=DOUBLE).reshape(1)

        return PairLogps(
            self.sums[0].reshape(1), self.sums[1].reshape(1), vec(self.n[0]), vec(self.n[1]), vec(self.ref[0]),
            vec(self.ref[1]), vec(4.0), vec(2.0),
        )  # fmt: skip

    def ratio(self, loss: torch.Tensor, *, relative_to_reference: bool = False) -> float:
        """|dL/dq_w| / |dL/dq_l|; for token leaves q is the geometric mean over the tokens.

        Relative to the reference the variable is x = p / p_ref, so dL/dx = p_ref dL/dp.
        """
        sizes = []
        grads = torch.autograd.grad(loss, self.leaves, retain_graph=True)
        for grad, length, ref in zip(grads, self.n, self.ref, strict=True):
            size = grad.abs().log().mean()
            if relative_to_reference:
                size = size + (ref if self.granularity == "sequence" else ref / length)
            sizes.append(size)
        return (sizes[0] - sizes[1]).exp().item()


def per_token_score(name: str) -> bool:
    return name in ("dpo per token", "ipo", "simpo", "orpo")


def pair_term(objective, x: PairLogps) -> torch.Tensor:
    """The loss without the NLL of the chosen answer, which pulls on one side by design."""
    out = objective(x).per_pair.sum()
    nll = objective.base.nll_weight
    return out + nll * (x.chosen / x.chosen_len).sum()


@pytest.mark.parametrize("value_mode", ["scaled", "value_preserving"])
@pytest.mark.parametrize("exponents", EXPONENTS)
@pytest.mark.parametrize(
    ("name", "granularity", "use_reference"),
    [
        case
        for case in itertools.product(BASES, ("token", "sequence", "geomean"), (False, True))
        # refused, and tested as such: no reference to use, and odds of a whole answer
        if not (case[0] in REFERENCE_FREE and case[2]) and case[:2] != ("orpo", "sequence")
    ],
)
def test_both_answers_are_pulled_equally_hard(name, granularity, use_reference, exponents, value_mode):
    leaves = Leaves(granularity, per_token_score=per_token_score(name))
    ada = {"granularity": granularity, "use_reference": use_reference, "clip": None, "value_mode": value_mode,
           "alpha_w": exponents[0], "alpha_l": exponents[1]}  # fmt: skip
    loss = pair_term(build({**BASES[name], "ada": ada}), leaves.batch())
    assert leaves.ratio(loss, relative_to_reference=use_reference) == pytest.approx(1.0, rel=1e-9)
    plain = pair_term(build(BASES[name]), leaves.batch())
    assert leaves.ratio(plain, relative_to_reference=use_reference) != pytest.approx(1.0, rel=1e-2)


@pytest.mark.parametrize("form", ["sum", "own"])
@pytest.mark.parametrize("name", BASES)
def test_the_other_forms_balance_as_well(name, form):
    leaves = Leaves("token", per_token_score=per_token_score(name))
    loss = pair_term(build({**BASES[name], "ada": {"form": form, "clip": None}}), leaves.batch())
    assert leaves.ratio(loss) == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize("form", ["split", "sum", "own"])
@pytest.mark.parametrize("spread", [0.4, -0.4, 1.6, -0.85])
@pytest.mark.parametrize("name", BASES)
def test_beyond_the_clip_exactly_the_unclipped_rest_remains(name, spread, form):
    """|dL/dq_w| / |dL/dq_l| = clip(R) / R."""
    leaves = Leaves("token", per_token_score=per_token_score(name), spread=spread if name != "orpo" else spread / 2)
    objective = build({**BASES[name], "ada": {"clip": 3.0, "form": form}})
    x = leaves.batch()
    stats = objective(x).stats
    ratio = math.exp(stats["ada/log_ratio"].item())
    bounded = min(max(ratio, 1 / 3), 3.0)
    assert stats["ada/clipped"].item() == float(bounded != ratio)
    assert leaves.ratio(pair_term(objective, x)) == pytest.approx(bounded / ratio, rel=1e-9)
    assert stats["ada/coef_chosen"].item() / stats["ada/coef_rejected"].item() == pytest.approx(bounded, rel=1e-9)


@pytest.mark.parametrize("perf_mode", ["stabilized", "focal", "none"])
@pytest.mark.parametrize(
    ("name", "use_reference"),
    [(n, False) for n in ("dpo per token", "robust", "rdpo", "ipo", "hinge", "simpo", "orpo")]
    + [(n, True) for n in ("dpo per token", "robust", "rdpo", "ipo", "hinge")],
)
def test_the_combined_loss_is_balanced_although_its_weight_has_a_gradient(name, use_reference, perf_mode):
    leaves = Leaves("geomean", per_token_score=True)
    uni = {"nll_lambda": 0.0, "perf_mode": perf_mode}
    loss = {**BASES[name], "length_normalize": True, "uni": uni, "ada": {"use_reference": use_reference, "clip": None}}
    objective = build(loss)
    assert objective.settings["ada"]["balance_perf"]
    balanced = leaves.ratio(pair_term(objective, leaves.batch()), relative_to_reference=use_reference)
    assert balanced == pytest.approx(1.0, rel=1e-9)
    if perf_mode != "none":
        official = build({**loss, "ada": {**loss["ada"], "balance_perf": False}})
        off = leaves.ratio(pair_term(official, leaves.batch()), relative_to_reference=use_reference)
        assert off != pytest.approx(1.0, rel=1e-4)
        detached = build({**loss, "uni": {**uni, "perf_detach": True}, "ada": {**loss["ada"], "balance_perf": False}})
        still = leaves.ratio(pair_term(detached, leaves.batch()), relative_to_reference=use_reference)
        assert still == pytest.approx(1.0, rel=1e-9)


def test_the_weight_reads_unscaled_numbers_whatever_the_balance_does(random_pairs):
    x = random_pairs()
    uni = build({"name": "uni_dpo"})(x).stats["uni/w_perf"]
    for balance_perf in (True, False):
        both = build({"name": "uni_adadpo", "ada": {"balance_perf": balance_perf}})(x).stats["uni/w_perf"]
        torch.testing.assert_close(both, uni)


def test_coefficients_by_hand(pair):
    """u_w = -0.5, u_l = -1: log R = 0.5; halves split it, c_w c_l = 1."""
    x = pair([-2.0], [-2.0], lengths=([4], [2]), ref=([-3.0], [-1.0]))
    out = build({"name": "adadpo", "beta": 0.5})(x)
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


@pytest.mark.parametrize(
    ("ada", "log_w", "log_l"),
    [
        ({"alpha_w": 1.0, "alpha_l": 0.0}, 0.5, 0.0),
        ({"alpha_w": 0.0, "alpha_l": 1.0}, 0.0, -0.5),
        ({"form": "sum"}, math.log(2 / (1 + math.exp(-0.5))), math.log(2 / (1 + math.exp(0.5)))),
        ({"form": "own"}, -0.5, -1.0),
        ({"granularity": "geomean"}, (0.5 - math.log(2)) / 2, -(0.5 - math.log(2)) / 2),
        ({"granularity": "sequence"}, 0.0, 0.0),
        ({"use_reference": True}, 0.375, -0.375),
        ({"clip": math.exp(0.1)}, 0.05, -0.05),
        ({"form": "own", "clip": math.exp(0.1)}, -0.7, -0.8),
    ],
    ids=str,
)
def test_each_option_moves_the_coefficients_as_defined(pair, ada, log_w, log_l):
    x = pair([-2.0], [-2.0], lengths=([4], [2]), ref=([-3.0], [-1.0]))
    stats = build({"name": "adadpo", "ada": ada})(x).stats
    assert stats["ada/coef_chosen"].log().item() == pytest.approx(log_w, abs=1e-12)
    assert stats["ada/coef_rejected"].log().item() == pytest.approx(log_l, abs=1e-12)


def test_equal_probabilities_leave_the_base_as_it_is(pair):
    x = pair([-2.0, -8.0], [-1.0, -6.0], lengths=([4, 4], [2, 3]), ref=([-3.0, -7.0], [-1.5, -7.0]))
    for loss in ({"base": "dpo", "beta": 0.5}, {"base": "simpo"}, {"base": "orpo"}, {"base": "ipo"}):
        balanced = build({**loss, "ada": True})(x)
        assert balanced.stats["ada/coef_chosen"].tolist() == pytest.approx([1.0, 1.0])
        torch.testing.assert_close(balanced.per_pair, build(loss)(x).per_pair)


@pytest.mark.parametrize("off", [{"clip": 1.0}, {"alpha_w": 0.0, "alpha_l": 0.0}])
def test_with_exponents_or_clip_at_their_neutral_value_the_loss_is_the_plain_base(random_pairs, off):
    x = random_pairs()
    torch.testing.assert_close(build({"name": "adadpo", "ada": off})(x).per_pair, build({"base": "dpo"})(x).per_pair)


def test_at_the_start_the_loss_is_log_two_whatever_the_coefficients(pair):
    x = pair([-2.0], [-9.0], lengths=([4], [2]), ref=([-2.0], [-9.0]))
    out = build({"name": "adadpo"})(x)
    assert out.stats["ada/coef_chosen"].item() > 2
    assert out.per_pair.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("base", ["dpo", "simpo", "cpo", "orpo", "ipo", "hinge"])
def test_preserving_the_value_keeps_the_loss_of_the_base_and_changes_its_gradient(random_pairs, base):
    x = random_pairs()
    plain = build({"base": base})(x)
    kept = build({"base": base, "ada": {"value_mode": "value_preserving"}})(x)
    scaled = build({"base": base, "ada": {"value_mode": "scaled"}})(x)
    torch.testing.assert_close(kept.per_pair, plain.per_pair)
    assert not torch.allclose(scaled.per_pair, plain.per_pair)
    moved = [torch.autograd.grad(o.per_pair.sum(), x.rejected)[0] for o in (kept, plain)]
    assert not torch.allclose(*moved)


@pytest.mark.parametrize("base", ["dpo", "ipo", "hinge", "rdpo", "robust", "simpo", "cpo", "orpo"])
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
        for alphas in (0.5, 0.5), (1.0, 0.0), (2.0, -1.0):
            ada = {"clip": None, "alpha_w": alphas[0], "alpha_l": alphas[1]}
            out = build({"base": base, "ada": ada})(x)
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
                x = PairLogps(logp[:1], logp[1:2], one, one, ref[:1], ref[1:2])
                (grad,) = torch.autograd.grad(objective(x).per_pair.sum(), logits)
                logits = (logits - 0.5 * grad).detach().requires_grad_()
            moved = logits.log_softmax(0) - ref
            ratios.append((moved[0] / -moved[1]).item())
        return sum(ratios) / len(ratios)

    assert outcome({"name": "adadpo", "beta": 0.5}) > 1.2 * outcome({"name": "dpo", "beta": 0.5})
