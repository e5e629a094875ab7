"""What must hold for every batch: pairs are independent, order does not matter, the two sides mirror each other."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpref.losses import PairLogps, SuspiciousLossWarning, build_objective

PRESETS = ("dpo", "simpo", "ipo", "hinge", "robust", "rdpo", "cpo", "orpo", "sft", "uni_dpo", "adadpo", "adadpo_split",
           "uni_adadpo")  # fmt: skip

mean_logp = st.floats(-6.0, 0.0)
row = st.tuples(
    mean_logp, mean_logp, st.integers(1, 400), st.integers(1, 400), mean_logp, mean_logp, st.floats(0, 10),
    st.floats(0, 10),
)  # fmt: skip
batches = st.lists(row, min_size=1, max_size=6)
quick = settings(max_examples=min(25, settings().max_examples), deadline=None)


def build(loss: dict):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspiciousLossWarning)
        return build_objective(loss)


def batch_of(rows: list[tuple]) -> PairLogps:
    u_w, u_l, n_w, n_l, ru_w, ru_l, s_w, s_l = torch.tensor(rows, dtype=torch.float64).T
    return PairLogps(
        chosen=(u_w * n_w).requires_grad_(),
        rejected=(u_l * n_l).requires_grad_(),
        chosen_len=n_w,
        rejected_len=n_l,
        ref_chosen=ru_w * n_w,
        ref_rejected=ru_l * n_l,
        chosen_score=s_w,
        rejected_score=s_l,
    )


def pick(x: PairLogps, order: torch.Tensor) -> PairLogps:
    given = {f.name: getattr(x, f.name) for f in dataclasses.fields(x)}
    return PairLogps(**{name: value.detach()[order] for name, value in given.items() if value is not None})


def swap(x: PairLogps) -> PairLogps:
    return PairLogps(
        chosen=x.rejected,
        rejected=x.chosen,
        chosen_len=x.rejected_len,
        rejected_len=x.chosen_len,
        ref_chosen=x.ref_rejected,
        ref_rejected=x.ref_chosen,
        chosen_score=x.rejected_score,
        rejected_score=x.chosen_score,
    )


@pytest.mark.parametrize("name", PRESETS)
@quick
@given(rows=batches, data=st.data())
def test_permuting_pairs_permutes_losses_and_statistics(name, rows, data):
    x, objective = batch_of(rows), build({"name": name})
    order = torch.tensor(data.draw(st.permutations(range(len(rows)))))
    out, moved = objective(x), objective(pick(x, order))
    torch.testing.assert_close(moved.per_pair, out.per_pair.detach()[order])
    for key, value in out.stats.items():
        torch.testing.assert_close(moved.stats[key], value[order])


@pytest.mark.parametrize("name", PRESETS)
@quick
@given(rows=batches)
def test_a_batch_is_its_pairs_one_by_one(name, rows):
    x, objective = batch_of(rows), build({"name": name})
    out = objective(x)
    grads = torch.autograd.grad(out.per_pair.sum(), x.chosen)[0]
    for i, one in enumerate(rows):
        alone_x = batch_of([one])
        alone = objective(alone_x)
        torch.testing.assert_close(alone.per_pair[0], out.per_pair[i])
        torch.testing.assert_close(torch.autograd.grad(alone.per_pair.sum(), alone_x.chosen)[0][0], grads[i])


@pytest.mark.parametrize("form", ["power", "sum"])
@pytest.mark.parametrize("base", ["dpo", "ipo", "simpo", "orpo"])
@quick
@given(rows=batches)
def test_swapping_the_answers_exchanges_and_for_halves_inverts_the_coefficients(base, form, rows):
    x = batch_of(rows)
    objective = build({"name": "adadpo_split", "base": base, "ada": {"form": form}})
    here, there = objective(x).stats, objective(swap(x)).stats
    torch.testing.assert_close(there["ada/coef_chosen"], here["ada/coef_rejected"])
    torch.testing.assert_close(there["ada/coef_rejected"], here["ada/coef_chosen"])
    torch.testing.assert_close(there["ada/log_ratio"], -here["ada/log_ratio"])
    torch.testing.assert_close(there["ada/clipped"], here["ada/clipped"])
    if form == "power":
        torch.testing.assert_close(there["ada/coef_chosen"], 1 / here["ada/coef_chosen"])


@quick
@given(rows=batches)
def test_the_published_form_is_not_the_same_for_both_answers(rows):
    """All of R is on the chosen side and only its top is held: swapping the answers does not mirror the loss."""
    stats = build({"name": "adadpo"})(batch_of(rows)).stats
    assert (stats["ada/coef_rejected"] == 1.0).all()
    assert (stats["ada/coef_chosen"] <= 2.0 * (1 + 1e-12)).all()


@pytest.mark.parametrize("name", ["dpo", "adadpo_split", "rdpo"])
@quick
@given(rows=batches)
def test_swapping_the_answers_mirrors_the_margin(name, rows):
    """-log s(M) and -log s(-M) differ by M."""
    x, objective = batch_of(rows), build({"name": name})
    here, there = objective(x), objective(swap(x))
    torch.testing.assert_close(there.stats["rewards/margins"], -here.stats["rewards/margins"])
    probability = torch.exp(-here.per_pair) + torch.exp(-there.per_pair)
    torch.testing.assert_close(probability, torch.ones_like(probability))


@pytest.mark.parametrize("name", [p for p in PRESETS if p != "sft"])
@quick
@given(rows=batches)
def test_every_loss_pushes_the_chosen_answer_up_and_the_rejected_one_down(name, rows):
    x = batch_of(rows)
    grads = torch.autograd.grad(build({"name": name})(x).per_pair.sum(), (x.chosen, x.rejected))
    if name == "ipo":  # beyond its target it pulls back
        torch.testing.assert_close(grads[0] * x.chosen_len, -grads[1] * x.rejected_len)
        return
    assert (grads[0] <= 0).all()
    assert (grads[1] >= 0).all()


@quick
@given(rows=batches)
def test_weights_stay_within_their_ranges(rows):
    even = {"share": 0.5, "clip": 10, "clip_mode": "both"}
    stats = build({"name": "uni_adadpo", "ada": even})(batch_of(rows)).stats
    for key in ("uni/w_qual", "uni/w_perf", "uni/nll_active", "ada/clipped"):
        assert ((stats[key] >= 0) & (stats[key] <= 1)).all()
    coefs = stats["ada/coef_chosen"] * stats["ada/coef_rejected"]
    torch.testing.assert_close(coefs, torch.ones_like(coefs))
    ratio = stats["ada/coef_chosen"] / stats["ada/coef_rejected"]
    assert ((ratio <= 10 * (1 + 1e-9)) & (ratio >= 0.1 * (1 - 1e-9))).all()
