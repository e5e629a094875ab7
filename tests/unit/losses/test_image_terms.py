"""Image terms, anchors, weights and single answers: limits, the balance, finiteness, what must be given."""

from __future__ import annotations

import dataclasses
import itertools
import math
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpref.errors import ConfigError, DataError
from mmpref.losses import PairLogps, SuspiciousLossWarning, build_objective

BASES = ("dpo", "robust", "hinge", "ipo", "rdpo", "simpo", "cpo", "orpo")
NAMES = ("chosen", "rejected")
REFERENCE_FREE = ("simpo", "cpo", "orpo")
PRESETS = ("mdpo", "chip", "ddpo", "ddpo_masked", "hsa", "mpo")
UNI = {"eta": None, "nll_lambda": 0.0, "tau_ref": 0.3, "gamma": 2.0}
TERMS = ({}, {"uni": UNI, "length_normalize": True}, {"ada": {"use_reference": False}},
         {"uni": UNI, "length_normalize": True, "ada": {"clip": None}})  # fmt: skip


def build(loss: dict[str, Any]):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspiciousLossWarning)
        return build_objective(loss)


def shown(x: PairLogps, seed: int = 11, **changes: Any) -> PairLogps:
    """The pairs with the chosen answer under another image."""
    g = torch.Generator().manual_seed(seed)
    moved = x.chosen_len * 0.3 * torch.randn(x.num_pairs, generator=g, dtype=torch.float64)
    other = (x.chosen.detach() - moved).clamp(max=-0.01).requires_grad_()
    return dataclasses.replace(x, other=other, ref_other=x.ref_chosen - 0.8 * moved, **changes)


def loss_and_grads(objective, x: PairLogps) -> list[torch.Tensor]:
    loss = objective(x).per_pair
    answers = [side for side in (x.chosen, x.rejected, x.other) if side is not None and side.requires_grad]
    grads = torch.autograd.grad(loss.sum(), answers, allow_unused=True)
    return [loss.detach(), *(torch.zeros_like(loss) if grad is None else grad for grad in grads)]


def same(one: list[torch.Tensor], two: list[torch.Tensor], *, exactly: bool = False) -> None:
    for a, b in zip(one, two, strict=True):
        if exactly:
            assert torch.equal(a, b)
        else:
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


# ---- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("combine", ["own", "joint"])
@pytest.mark.parametrize("base", BASES)
def test_at_weight_0_the_loss_is_the_base_bit_for_bit_and_the_image_is_still_measured(random_pairs, base, combine):
    x = shown(random_pairs())
    for terms in TERMS:
        plain = {"base": base, **terms}
        measured = build({**plain, "image": {"weight": 0.0, "combine": combine}})
        same(loss_and_grads(measured, x), loss_and_grads(build(plain), x), exactly=True)
        assert measured.needs_other
        assert "image/lift" in measured(x).stats


@pytest.mark.parametrize("base", BASES)
def test_the_image_term_is_the_objective_of_the_pair_of_images(random_pairs, base):
    """Values and gradients of f(M_img) are those of the same loss called with `other` as the rejected answer."""
    x = shown(random_pairs())
    again = dataclasses.replace(x, rejected=x.other, ref_rejected=x.ref_other, rejected_len=x.chosen_len,
                                other=None, ref_other=None)  # fmt: skip
    for terms in TERMS:
        plain = {"base": base, "nll_weight": 0.0, **terms} if base == "cpo" else {"base": base, **terms}
        image = {"weight": 1.0, "uni": "own" if "uni" in terms else "none"}
        text, both = build(plain)(x).per_pair, build({**plain, "image": image})(x).per_pair
        nll = x.chosen / x.chosen_len if base == "orpo" else 0.0  # stands once in the whole
        want = text + build(plain)(again).per_pair + nll
        torch.testing.assert_close(both, want, rtol=1e-10, atol=1e-12)
        sides = (x.chosen, x.rejected, x.other)
        same(*([*torch.autograd.grad(loss.sum(), sides, retain_graph=True)] for loss in (both, want)))


@pytest.mark.parametrize("base", BASES)
def test_the_same_image_again_has_margin_0_and_helps_nobody(random_pairs, base):
    x = random_pairs()
    x = dataclasses.replace(x, other=x.chosen.detach().clone(), ref_other=x.ref_chosen)
    stats = build({"base": base, "image": True})(x).stats
    for name in ("image/margin", "image/accuracies", "image/helps", "image/lift"):
        assert stats[name].abs().max() == 0.0
    if base not in REFERENCE_FREE:
        assert stats["ref_image/helps"].max() == stats["ref_image/lift"].abs().max() == 0.0


def test_statistics_of_the_reference_are_its_own(random_pairs):
    x = shown(random_pairs())
    stats = build({"name": "mdpo"})(x).stats
    torch.testing.assert_close(stats["ref_image/lift"], (x.ref_chosen - x.ref_other) / x.chosen_len)
    torch.testing.assert_close(stats["ref_image/helps"], (x.ref_chosen > x.ref_other).double())
    torch.testing.assert_close(stats["ref_logps/other"], x.ref_other)
    assert 0.0 < stats["ref_image/helps"].mean() < 1.0
    assert not [name for name in build({"base": "simpo", "image": True})(
        dataclasses.replace(x, ref_other=None)).stats if name.startswith("ref_image")]  # fmt: skip


def test_detached_the_other_image_weighs_and_does_not_steer(random_pairs):
    x = shown(random_pairs())
    for plain in ({"base": "dpo", "image": {}}, {"name": "uni_dpo", "uni": UNI, "image": {"uni": "own"}}):
        free = build(plain)
        bound = build({**plain, "image": {**plain["image"], "detach": True}})
        loss, chosen, rejected, other = loss_and_grads(bound, x)
        want = loss_and_grads(free, x)
        same([loss, chosen, rejected], want[:3], exactly=True)
        assert other.abs().max() == 0.0
        assert want[3].abs().max() > 0.0


def test_an_anchor_of_the_other_image_keeps_its_gradient_beside_a_detached_image_term(random_pairs):
    x = shown(random_pairs())
    objective = build({"base": "dpo", "image": {"detach": True}, "anchor": {"other": 0.5}})
    h = (x.other - x.ref_other).detach()
    torch.testing.assert_close(loss_and_grads(objective, x)[3], 0.5 * 0.1 * torch.sigmoid(0.1 * h))


@pytest.mark.parametrize("name", PRESETS)
def test_token_weights_of_1_are_plain_sums(random_pairs, name):
    x = shown(random_pairs(), anchor_shift=torch.full((16,), 0.1))
    weighted = dataclasses.replace(x, chosen_len=x.chosen_len.double(), rejected_len=x.rejected_len.double(),
                                   chosen_tokens=x.chosen_len, rejected_tokens=x.rejected_len)  # fmt: skip
    objective = build({"name": name})
    same(loss_and_grads(objective, weighted), loss_and_grads(objective, x), exactly=True)


def test_with_token_weights_lengths_are_numbers_of_tokens_and_the_sums_have_their_own_name(random_pairs):
    x = random_pairs(3)
    effective = torch.tensor([0.25, 4.0, 9.5], dtype=torch.float64)
    tokens = torch.tensor([3, 4, 5])
    weighted = dataclasses.replace(x, chosen_len=effective, rejected_len=2 * effective, chosen_tokens=tokens,
                                   rejected_tokens=tokens + 1)  # fmt: skip
    stats = build({"name": "ddpo"})(weighted).stats
    assert stats["len/chosen"].tolist() == [3.0, 4.0, 5.0]
    assert stats["len/rejected"].tolist() == [4.0, 5.0, 6.0]
    torch.testing.assert_close(stats["weights/effective_len"], effective)
    torch.testing.assert_close(stats["weights/effective_len_rejected"], 2 * effective)
    assert not any(name.startswith("weights/") for name in build({"name": "ddpo"})(x).stats)


def test_an_anchor_under_the_other_image_alone_says_what_it_looks_at(random_pairs):
    x = shown(random_pairs())
    anchored = build({"name": "dpo", "anchor": {"other": 1}})(x).stats
    measured = build({"name": "dpo", "image": {"weight": 0}})(x).stats
    names = [name for name in measured if name.startswith("ref_image/") or name.endswith("/other")]
    for name in ("image/lift", "image/helps", "rewards/other", *names):
        torch.testing.assert_close(anchored[name], measured[name], equal_nan=True)
    assert "image/margin" not in anchored, "no two are compared"
    both = build({"name": "dpo", "image": {"beta": 0.5}, "anchor": {"other": 1}})(x).stats
    torch.testing.assert_close(both["rewards/other"], 5.0 * measured["rewards/other"], equal_nan=True)


def test_symmpo_is_three_weighted_rows(random_pairs):
    """-log s(b(H1w - H1l)) + L [ -log s(b(H1w - H12)) - log s(b(H22 - H2w)) ], each H a log-ratio."""
    h = {"1w": 0.7, "1l": -0.4, "12": 0.2, "22": 0.5, "2w": 0.9}
    share, beta = 0.5, 0.1
    pairs = [("1w", "1l"), ("1w", "12"), ("22", "2w")]
    ref = torch.tensor([-3.0, -4.0, -5.0], dtype=torch.float64)
    n = torch.ones(3)
    x = PairLogps(
        chosen=ref + torch.tensor([h[one] for one, _ in pairs], dtype=torch.float64),
        rejected=ref + torch.tensor([h[two] for _, two in pairs], dtype=torch.float64),
        chosen_len=n, rejected_len=n, ref_chosen=ref, ref_rejected=ref, weight=torch.tensor([1.0, share, share]),
    )  # fmt: skip
    terms = [math.log1p(math.exp(-beta * (h[one] - h[two]))) for one, two in pairs]
    want = terms[0] + share * (terms[1] + terms[2])
    assert build({"name": "dpo"})(x).per_pair.sum().item() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("name", [*PRESETS, "uni_dpo", "uni_adadpo", "orpo", "sft"])
def test_a_pairs_weight_multiplies_its_whole_loss_and_the_statistics_of_the_loss(random_pairs, name):
    x = shown(random_pairs(), anchor_shift=torch.full((16,), 0.1))
    weight = torch.arange(16) / 4.0
    objective = build({"name": name})
    plain, weighted = objective(x), objective(dataclasses.replace(x, weight=weight))
    torch.testing.assert_close(weighted.per_pair, weight.double() * plain.per_pair)
    for stat, value in plain.stats.items():
        scales = stat.startswith("loss/") or stat in ("grad/chosen", "grad/rejected")
        torch.testing.assert_close(weighted.stats[stat], weight.double() * value if scales else value)
    if any(stat.startswith("loss/") for stat in plain.stats):
        parts = [value for stat, value in weighted.stats.items() if stat.startswith("loss/")]
        torch.testing.assert_close(sum(parts), weighted.per_pair.detach())


def test_statistics_of_the_terms_are_there_exactly_where_there_are_several(random_pairs):
    x = shown(random_pairs(), anchor_shift=torch.full((16,), 0.1))
    for loss, names in (
        ({"name": "dpo"}, set()), ({"name": "chip"}, set()), ({"name": "hsa"}, set()), ({"name": "sft"}, set()),
        ({"name": "mdpo"}, {"pair", "image", "anchor"}), ({"name": "mpo"}, {"pair", "anchor", "nll"}),
        ({"name": "cpo"}, {"pair", "nll"}), ({"name": "dpo", "image": True}, {"pair", "image"}),
    ):  # fmt: skip
        assert {s.removeprefix("loss/") for s in build(loss)(x).stats if s.startswith("loss/")} == names
    assert "anchor/shift" in build({"name": "mpo"})(x).stats
    assert "anchor/shift" not in build({"name": "mdpo"})(x).stats


@pytest.mark.parametrize("length_normalize", [False, True])
@pytest.mark.parametrize("name", ["mdpo", "chip", "mpo"])
def test_a_pair_without_another_image_is_its_text_pair_and_gets_no_gradient_there(random_pairs, name, length_normalize):
    x = random_pairs(4)
    nan = torch.tensor([-1.0, math.nan, -3.0, math.inf], dtype=torch.float64).requires_grad_()
    has = torch.tensor([True, False, True, False])
    loss = {"name": name, "length_normalize": length_normalize, "image": {"combine": "joint"} if name == "chip" else {}}
    some = dataclasses.replace(x, other=nan, ref_other=nan.detach(), has_other=has, anchor_shift=torch.full((4,), 0.2))
    plain = build({**loss, "image": None})
    for terms in ({}, {"uni": UNI}, {"ada": True}, {"anchor": {"other": 1.0, "chosen": float(name == "mdpo")}}):
        objective = build({**loss, **terms})
        got = loss_and_grads(objective, some)
        assert all(torch.isfinite(value).all() for value in got)
        text = {key: value for key, value in terms.items() if key != "anchor"}
        if terms == {} or text:
            want = loss_and_grads(build({**plain.settings, **text}), x if name != "mpo" else some)
            for one, two in zip(got[:3], want[:3], strict=False):
                torch.testing.assert_close(one[~has], two[~has])
        assert got[3][~has].abs().max() == 0.0
        stats = objective(some).stats
        for stat in ("image/margin", "image/lift", "rewards/other", "ref_image/helps"):
            assert torch.isnan(stats[stat]).tolist() == [False, True, False, True]


# ---- the balance ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("combine", ["own", "joint"])
@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize(
    ("base", "use_reference"),
    [(base, used) for base in BASES for used in (False, True) if not (used and base in REFERENCE_FREE)],
)
def test_each_pair_of_terms_pulls_equally_hard_on_its_two_probabilities(base, share, use_reference, combine):
    """By autograd, with respect to p = e^u of each answer, or p / p_ref."""
    p = [torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in (0.41, 0.33, 0.37)]
    ref = [math.log(value) for value in (0.39, 0.36, 0.4)]
    n = (6.0, 4.0, 6.0)

    def column(value: float) -> torch.Tensor:
        return torch.tensor([value], dtype=torch.float64)

    x = PairLogps(
        chosen=n[0] * p[0].log(), rejected=n[1] * p[1].log(), other=n[2] * p[2].log(),
        chosen_len=column(n[0]), rejected_len=column(n[1]),
        ref_chosen=column(n[0] * ref[0]), ref_rejected=column(n[1] * ref[1]), ref_other=column(n[2] * ref[2]),
    )  # fmt: skip
    loss = {"base": base, "length_normalize": True, "image": {"weight": 0.7, "combine": combine},
            "ada": {"clip": None, "share": share, "use_reference": use_reference}}  # fmt: skip
    if base == "hinge":
        loss["beta"] = 0.02
    kinds = [{}, {"uni": {**UNI, "perf_mode": "stabilized"}}, {"uni": {**UNI, "perf_mode": "focal"}}]
    for terms in kinds:
        image = {**loss["image"], "uni": "own"} if terms and combine == "own" else loss["image"]
        objective = build({**loss, **terms, "image": image})
        objective = dataclasses.replace(objective, base=dataclasses.replace(objective.base, nll_weight=0.0))
        if combine == "own":
            objective = dataclasses.replace(objective, pair_weight=0.0)
        grads = torch.autograd.grad(objective(x).per_pair.sum(), p, retain_graph=True)
        sizes = [g.abs().item() * (math.exp(r) if use_reference else 1.0) for g, r in zip(grads, ref, strict=True)]
        assert sizes[2] > 0.0
        if combine == "own":
            assert sizes[0] == pytest.approx(sizes[2], rel=1e-9)
        else:  # each difference has coefficients of its own, so the chosen answer carries the sum of both pulls
            assert sizes[0] == pytest.approx(sizes[1] + sizes[2], rel=1e-9)


def test_on_sums_the_image_pair_is_balanced_over_tokens_and_text_pair_and_image_pair_have_their_own_ratio():
    x = PairLogps(
        chosen=torch.tensor([-6.0], dtype=torch.float64, requires_grad=True),
        rejected=torch.tensor([-5.0], dtype=torch.float64, requires_grad=True),
        other=torch.tensor([-9.0], dtype=torch.float64, requires_grad=True),
        chosen_len=torch.tensor([6.0]), rejected_len=torch.tensor([4.0]),
        ref_chosen=torch.tensor([-6.5]), ref_rejected=torch.tensor([-4.5]), ref_other=torch.tensor([-8.0]),
    )  # fmt: skip
    stats = build({"name": "adadpo", "image": True})(x).stats
    assert stats["ada/coef_chosen"].item() == pytest.approx(math.exp(0.5 / 6 - -0.5 / 4))
    assert stats["ada/image_coef_chosen"].item() == pytest.approx(math.exp(0.5 / 6 - -1.0 / 6))
    assert stats["ada/image_coef_other"].item() == 1.0
    assert stats["ada/image_log_ratio"].item() == pytest.approx(1.5 / 6)
    assert stats["ada/image_clipped"].item() == 0.0


def test_weighted_tokens_are_balanced_in_their_weighted_geometric_mean():
    """AdaDPO with token weights a: the weighted geometric means of |dL/dp_t| / a_t of the two answers are equal."""
    g = torch.Generator().manual_seed(3)
    sides = []
    for count in (5, 7):
        p = (0.2 + 0.6 * torch.rand(count, generator=g, dtype=torch.float64)).requires_grad_()
        a = torch.tensor([4.0, 1.0, 1.0, 4.0, 0.5, 1.0, 2.0], dtype=torch.float64)[:count]
        sides.append((p, a))
    ref = torch.tensor([-3.0], dtype=torch.float64)
    for length_normalize in (False, True):
        x = PairLogps(
            **{name: (a * p.log()).sum().reshape(1) for name, (p, a) in zip(NAMES, sides, strict=True)},
            **{f"{name}_len": a.sum().reshape(1) for name, (_, a) in zip(NAMES, sides, strict=True)},
            ref_chosen=ref, ref_rejected=ref,
        )  # fmt: skip
        ada = {"clip": None, "use_reference": False}
        loss = build({"name": "ddpo", "length_normalize": length_normalize, "beta": 0.5, "ada": ada})(x).per_pair
        grads = torch.autograd.grad(loss.sum(), [p for p, _ in sides])
        if length_normalize:  # the variable is the weighted geometric mean e^u itself: dL/du e^-u
            sizes = [
                ((grad * p).sum().abs().log() - (a * p.log()).sum() / a.sum()).item()
                for grad, (p, a) in zip(grads, sides, strict=True)
            ]
        else:
            sizes = [
                ((a * (grad.abs() / a).log()).sum() / a.sum()).item() for grad, (_, a) in zip(grads, sides, strict=True)
            ]
        assert sizes[0] == pytest.approx(sizes[1], rel=1e-9)


# ---- gradients and finiteness ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("terms", [{}, {"uni": {"nll_lambda": 0.1, "tau_good": 2.5}}], ids=["plain", "uni"])
@pytest.mark.parametrize("name", [*PRESETS, "kto"])
def test_gradients_agree_with_finite_differences(random_pairs, name, terms):
    x = shown(random_pairs(5, seed=3), anchor_shift=torch.full((5,), 0.1))
    loss = {"name": name, **terms}
    if name == "kto":
        if terms:
            return  # refused
        labels = torch.tensor([1, 0, 1, 0, 1])
        x = PairLogps(chosen=x.chosen, rejected=None, chosen_len=x.chosen_len, rejected_len=None,
                      ref_chosen=x.ref_chosen, desirable=labels, kl=torch.full((5,), 0.3))  # fmt: skip
        objective = build(loss)
        assert torch.autograd.gradcheck(lambda c: objective(dataclasses.replace(x, chosen=c)).per_pair, (x.chosen,))
        return
    objective = build(loss)
    assert torch.autograd.gradcheck(
        lambda c, r, o: objective(dataclasses.replace(x, chosen=c, rejected=r, other=o)).per_pair,
        (x.chosen, x.rejected, x.other), eps=1e-6, atol=1e-6,
    )  # fmt: skip


EXTREMES = [-1e4, -88.0, -1.0, -1e-3, 0.0]
KINDS = [
    {"name": name, **terms, **({"beta": beta} if beta else {})}
    for name in PRESETS
    for terms in ({}, {"uni": {"perf_mode": "focal", "gamma": 0.5}}, {"ada": True}, {"uni": {}, "ada": {"clip": None}})
    for beta in (None, 10.0)
] + [
    {"base": base, "image": {"uni": "own"}, "uni": {}, "ada": {"clip": None, "share": 0.5}}
    for base in ("simpo", "orpo", "ipo")
]


@pytest.mark.parametrize("loss", KINDS, ids=str)
def test_extreme_log_probs_stay_finite_in_value_gradient_and_statistics(loss):
    grid = torch.tensor(list(itertools.product(EXTREMES, repeat=3)))
    count = len(grid)
    chosen, rejected, other = (grid[:, place].clone().requires_grad_() for place in range(3))
    n = torch.tensor([1.0, 300.0, 0.2]).repeat(count)[:count]
    x = PairLogps(
        chosen=chosen, rejected=rejected, other=other, chosen_len=n, rejected_len=n.flip(0),
        ref_chosen=grid[:, 1], ref_rejected=grid[:, 2], ref_other=grid[:, 0],
        chosen_score=torch.full((count,), 9.0), rejected_score=torch.zeros(count),
        anchor_shift=torch.full((count,), 3.0), has_other=torch.arange(count) % 4 > 0,
    )  # fmt: skip
    objective = build(loss)
    out = objective(x)
    grads = torch.autograd.grad(out.per_pair.sum(), (chosen, rejected, other), allow_unused=True)
    assert torch.isfinite(out.per_pair).all()
    assert all(torch.isfinite(grad).all() for grad in grads if grad is not None)
    for name, value in out.stats.items():
        absent = ~x.has_other if "image" in name or name.endswith("/other") else torch.zeros_like(x.has_other)
        assert torch.equal(torch.isnan(value), absent), name
        assert not torch.isinf(value).any()


sums = st.floats(-1e4, 0.0, width=32)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(sums, sums, sums, sums, sums, sums, st.floats(2.0**-7, 500.0, width=32), st.booleans()),
                     min_size=1, max_size=4),
       loss=st.sampled_from([*KINDS[::3], {"name": "kto"}]), beta=st.floats(1e-3, 20.0))  # fmt: skip
def test_any_log_probs_give_finite_losses_and_gradients(rows, loss, beta):
    columns = [torch.tensor(column) for column in zip(*rows, strict=True)]
    chosen = columns[0].clone().requires_grad_()
    also = {"rejected": None, "rejected_len": None, "kl": -columns[1] / 1e3, "desirable": columns[7]}
    if loss["name" if "name" in loss else "base"] != "kto":
        also = {"rejected": columns[1], "rejected_len": columns[6] * 2, "ref_rejected": columns[4], "other": columns[2],
                "ref_other": columns[5], "chosen_score": columns[6], "rejected_score": columns[6].flip(0),
                "anchor_shift": columns[1] / 1e3, "has_other": columns[7]}  # fmt: skip
    x = PairLogps(chosen=chosen, chosen_len=columns[6], ref_chosen=columns[3], **also)
    out = build({**loss, "beta": beta})(x)
    (grad,) = torch.autograd.grad(out.per_pair.sum(), chosen)
    assert torch.isfinite(out.per_pair).all()
    assert torch.isfinite(grad).all()


# ---- what must be given ---------------------------------------------------------------------------------------------


def test_what_an_objective_needs_is_said_by_its_properties():
    def needs(loss: dict[str, Any]) -> set[str]:
        objective = build(loss)
        names = ("reference", "scores", "rejected", "other", "kl", "shift", "labels")
        return {name for name in names if getattr(objective, f"needs_{name}")}

    assert needs({"name": "dpo"}) == {"reference", "rejected"}
    assert needs({"name": "mdpo"}) == needs({"name": "chip"}) == {"reference", "rejected", "other"}
    assert needs({"name": "mpo"}) == {"reference", "rejected", "shift"}
    assert needs({"name": "kto"}) == {"reference", "kl", "labels"}
    assert needs({"base": "dpo", "anchor": {"other": 1}}) == {"reference", "rejected", "other"}
    assert needs({"base": "dpo", "anchor": {"chosen": 1}}) == {"reference", "rejected"}
    assert needs({"base": "simpo", "image": {"weight": 0.0}}) == {"rejected", "other"}
    assert build({"name": "dpo"}).token_weights is None
    assert build({"name": "ddpo"}).token_weights["changed"] == 4.0


@pytest.mark.parametrize(
    ("loss", "left_out", "message"),
    [
        ({"name": "mdpo"}, "other", "other is needed"),
        ({"name": "mdpo"}, "ref_other", "ref_other is needed"),
        ({"base": "dpo", "anchor": {"other": 1}}, "other", "other is needed"),
        ({"name": "mpo"}, "anchor_shift", "anchor_shift is needed"),
    ],
)
def test_what_is_left_out_is_named(random_pairs, loss, left_out, message):
    x = shown(random_pairs(3), anchor_shift=torch.zeros(3))
    build(loss)(x)
    fields = {left_out: None, **({"ref_other": None} if left_out == "other" else {})}
    with pytest.raises(DataError, match=f"PairLogps.{message}"):
        build(loss)(dataclasses.replace(x, **fields))


def test_a_loss_without_a_reference_looks_at_the_other_image_without_one(random_pairs):
    x = dataclasses.replace(shown(random_pairs(3)), ref_other=None)
    assert torch.isfinite(build({"base": "simpo", "image": True})(x).per_pair).all()


def test_kto_says_what_it_needs_and_takes_no_pairs(random_pairs):
    x = random_pairs(3)
    objective = build({"name": "kto"})
    with pytest.raises(DataError, match="rejected is given to base kto"):
        objective(x)
    alone = {"chosen": x.chosen, "rejected": None, "chosen_len": x.chosen_len, "rejected_len": None,
             "desirable": torch.tensor([True, False, True]), "kl": torch.zeros(3)}  # fmt: skip
    assert torch.isfinite(objective(PairLogps(**alone, ref_chosen=x.ref_chosen)).per_pair).all()
    for name, message in (("desirable", "desirable is needed"), ("kl", "kl is needed")):
        with pytest.raises(DataError, match=f"PairLogps.{message}"):
            objective(PairLogps(**{**alone, name: None}, ref_chosen=x.ref_chosen))
    with pytest.raises(DataError, match="ref_chosen and ref_rejected are needed"):
        objective(PairLogps(**alone))


def test_kto_by_hand_and_its_statistics():
    """h = 1 and -0.5 against z = 0.2 at beta 0.1: 1.5 (1 - s(0.08)) and 0.5 (1 - s(0.07))."""
    x = PairLogps(
        chosen=torch.tensor([-3.0, -4.0], dtype=torch.float64, requires_grad=True), rejected=None,
        chosen_len=torch.tensor([4, 5]), rejected_len=None, ref_chosen=torch.tensor([-4.0, -3.5]),
        desirable=torch.tensor([1, 0]), kl=torch.tensor([0.2, 0.2]),
    )  # fmt: skip
    out = build({"name": "kto", "kto": {"desirable_weight": 1.5, "undesirable_weight": 0.5}})(x)
    want = [1.5 / (1 + math.exp(0.08)), 0.5 / (1 + math.exp(0.07))]
    assert out.per_pair.tolist() == pytest.approx(want, rel=1e-6)
    (grad,) = torch.autograd.grad(out.per_pair.sum(), x.chosen)
    assert (grad < 0).tolist() == [True, False]
    assert set(out.stats) == {"logps/chosen", "ref_logps/chosen", "len/chosen", "rewards/desirable",
                              "rewards/undesirable", "kto/kl", "kto/share_desirable"}  # fmt: skip
    assert out.stats["rewards/desirable"][0].item() == pytest.approx(0.1)
    assert out.stats["rewards/undesirable"][1].item() == pytest.approx(-0.05)
    assert out.stats["logps/chosen"].tolist() == [-3.0, -4.0]
    assert out.stats["len/chosen"].tolist() == [4.0, 5.0]
    assert torch.isnan(out.stats["rewards/undesirable"]).tolist() == [True, False]


def test_the_numbers_that_others_average_are_scores_and_rewards(random_pairs):
    x = random_pairs(4)
    h = (x.chosen - x.ref_chosen).detach()
    torch.testing.assert_close(build({"name": "kto"}).answer_scores(x), h)
    per_token = build({"name": "kto", "length_normalize": True}).answer_scores(x)
    torch.testing.assert_close(per_token, h / x.chosen_len)
    both = h + (x.rejected - x.ref_rejected).detach()
    for beta, anchor in ((0.1, {}), (0.3, {"beta": 0.3})):
        rewards = build({"name": "mpo", "anchor": anchor}).anchor_rewards(x)
        torch.testing.assert_close(rewards, beta * both / 2)
        assert not rewards.requires_grad
    with pytest.raises(ConfigError, match="no anchors"):
        build({"name": "dpo"}).anchor_rewards(x)


def test_a_reward_that_is_exactly_at_the_anchor_is_not_below_it(random_pairs):
    x = random_pairs(4)
    x = dataclasses.replace(x, ref_chosen=x.chosen.detach() + torch.tensor([0.0, 1.0, -1.0, 0.0]))
    assert build({"base": "dpo", "anchor": {"chosen": 1}})(x).stats["anchor/below"].tolist() == [0.0, 1.0, 0.0, 0.0]


def test_constants_from_other_pairs_carry_no_gradient(random_pairs):
    x = shown(random_pairs(3))
    shift = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    ref = x.ref_other.clone().requires_grad_()
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    out = build({"name": "mpo", "image": True})(
        dataclasses.replace(x, anchor_shift=shift, ref_other=ref, weight=weight)
    )
    assert torch.autograd.grad(out.per_pair.sum(), (shift, ref, weight), allow_unused=True) == (None, None, None)
    kl = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    alone = PairLogps(chosen=x.chosen, rejected=None, chosen_len=x.chosen_len, rejected_len=None, kl=kl,
                      ref_chosen=x.ref_chosen, desirable=torch.ones(3))  # fmt: skip
    loss = build({"name": "kto"})(alone).per_pair.sum()
    assert torch.autograd.grad(loss, kl, allow_unused=True) == (None,)


def test_a_double_other_side_makes_the_loss_double_and_half_precision_is_widened(random_pairs):
    x = shown(random_pairs(3))
    half = {f.name: v.to(torch.bfloat16) for f in dataclasses.fields(x)
            if (v := getattr(x, f.name)) is not None and v.is_floating_point()}  # fmt: skip
    low = dataclasses.replace(x, **half)
    assert build({"name": "mdpo"})(low).per_pair.dtype == torch.float32
    assert build({"name": "mdpo"})(dataclasses.replace(low, other=x.other)).per_pair.dtype == torch.float64
