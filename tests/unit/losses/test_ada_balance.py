"""The balance theorem, proved by autograd on probabilities in float64.

With both exponents at 1 the gradient on the chosen answer's variable is exactly k times that on the rejected one's; in
general  k e^((alpha_w - 1) v_w - (alpha_l - 1) v_l)  times; and where a bound acts, clip(kR) stands in place of kR.
"""

from __future__ import annotations

import itertools
import math

import pytest

from tests.tiers import checkerboard
from tests.unit.losses.leaves import BASES, PER_TOKEN, REFERENCE_FREE, Leaves, build, pair_term

GRANULARITIES = [("token", 1.0), ("sequence", 0.0), ("geomean", 1.0), ("power", 0.0), ("power", 0.4), ("power", 1.0)]
CASES = [
    (name, granularity, power, use_reference)
    for name, (granularity, power), use_reference in itertools.product(BASES, GRANULARITIES, (False, True))
    # refused, and tested as such: no reference to use, and odds of anything but the mean
    if not (name in REFERENCE_FREE and use_reference) and not (name == "orpo" and power < 1.0)
]


def leaves_of(name: str, granularity: str = "token", power: float = 1.0, **kwargs) -> Leaves:
    return Leaves(granularity, per_token_score=name in PER_TOKEN, power=power, **kwargs)


def ada_of(granularity: str, power: float, **keys) -> dict:
    return {"granularity": granularity, **({"length_power": power} if granularity == "power" else {}), **keys}


@pytest.mark.parametrize(
    ("name", "granularity", "power", "use_reference", "share", "value_mode"),
    checkerboard(CASES, [1.0, 0.5, 0.0, 0.3], ["scaled", "value_preserving"]),
)
def test_both_answers_are_pulled_equally_hard_however_the_ratio_is_shared(
    name, granularity, power, use_reference, share, value_mode
):
    leaves = leaves_of(name, granularity, power)
    ada = ada_of(granularity, power, use_reference=use_reference, clip=None, value_mode=value_mode, share=share)
    loss = pair_term(build({**BASES[name], "ada": ada}), leaves.batch())
    assert leaves.ratio(loss, relative_to_reference=use_reference) == pytest.approx(1.0, rel=1e-9)
    plain = pair_term(build(BASES[name]), leaves.batch())
    assert leaves.ratio(plain, relative_to_reference=use_reference) != pytest.approx(1.0, rel=1e-2)


@pytest.mark.parametrize(
    ("name", "granularity", "power", "use_reference", "target", "form"),
    checkerboard(CASES, [0.4, 1.0, 2.5], ["power", "sum"]),
)
def test_the_chosen_answer_is_pulled_exactly_as_many_times_as_hard_as_asked_for(
    name, granularity, power, use_reference, target, form
):
    leaves = leaves_of(name, granularity, power)
    ada = ada_of(granularity, power, use_reference=use_reference, clip=None, form=form, target_ratio=target)
    loss = pair_term(build({**BASES[name], "ada": ada}), leaves.batch())
    assert leaves.ratio(loss, relative_to_reference=use_reference) == pytest.approx(target, rel=1e-9)


@pytest.mark.parametrize("exponents", [(1.0, 0.5), (0.5, 1.0), (1.3, 0.8), (0.0, 0.0)])
@pytest.mark.parametrize(("name", "granularity", "power", "use_reference"), CASES)
def test_exponents_leave_exactly_the_powers_by_which_they_differ_from_one(
    name, granularity, power, use_reference, exponents
):
    leaves, target, (a_w, a_l) = leaves_of(name, granularity, power), 1.7, exponents
    keys = {"use_reference": use_reference, "clip": None, "target_ratio": target, "alpha_w": a_w, "alpha_l": a_l}
    objective = build({**BASES[name], "ada": ada_of(granularity, power, **keys)})
    v_w, v_l = leaves.log_weights(objective, relative_to_reference=use_reference)
    got = leaves.ratio(pair_term(objective, leaves.batch()), relative_to_reference=use_reference)
    assert got == pytest.approx(target * math.exp((a_w - 1) * v_w - (a_l - 1) * v_l), rel=1e-9)


PLACES = {"inside": 0.3, "inside, reversed": -0.3, "above": 1.6, "below": -0.85}
# the ratio of log-odds is that of p (1-p), which falls again beyond 1/2
ODDS_PLACES = {"inside": 0.15, "inside, reversed": -0.15, "above": -0.8, "below": 0.8}


@pytest.mark.parametrize(
    ("name", "use_reference", "place", "target", "clip_mode", "form"),
    checkerboard(
        [(n, r) for n, g, _, r in CASES if g == "token"], PLACES, [1.0, 1.1], ["ceiling", "both"], ["power", "sum"]
    ),
)
def test_beyond_a_bound_exactly_the_rest_that_it_cuts_off_remains(name, use_reference, place, target, clip_mode, form):
    """|dL/dq_w| / |dL/dq_l| = k clip(kR) / (kR): the imbalance is kR / clip(kR)."""
    clip = 1.4 if name == "orpo" else 2.5
    leaves = leaves_of(name, spread=(ODDS_PLACES if name == "orpo" else PLACES)[place])
    ada = {"clip": clip, "clip_mode": clip_mode, "form": form, "target_ratio": target, "share": 0.8}
    objective = build({**BASES[name], "ada": {**ada, "use_reference": use_reference}})
    x = leaves.batch()
    stats = objective(x).stats
    v_w, v_l = leaves.log_weights(objective, relative_to_reference=use_reference)
    assert stats["ada/log_ratio"].item() == pytest.approx(v_w - v_l, rel=1e-9)
    wanted = target * math.exp(v_w - v_l)
    if not use_reference:  # whose drift is too small to reach a bound
        acts = {"above": True, "below": clip_mode == "both"}.get(place, False)
        assert (wanted > clip) == (place == "above")
        assert (wanted < 1 / clip) == (place == "below")
        assert stats["ada/clipped"].item() == float(acts)
    bounded = min(wanted, clip) if clip_mode == "ceiling" else min(max(wanted, 1 / clip), clip)
    assert stats["ada/clipped"].item() == float(bounded != wanted)
    assert stats["ada/coef_chosen"].item() / stats["ada/coef_rejected"].item() == pytest.approx(bounded, rel=1e-9)
    got = leaves.ratio(pair_term(objective, x), relative_to_reference=use_reference)
    assert got == pytest.approx(target * bounded / wanted, rel=1e-9)


@pytest.mark.parametrize("drift", [1.5, -1.5])
@pytest.mark.parametrize("clip_mode", ["ceiling", "both"])
@pytest.mark.parametrize("name", [n for n in BASES if n not in REFERENCE_FREE])
def test_the_same_holds_in_ratio_space_where_the_policy_has_drifted_far(name, clip_mode, drift):
    leaves = leaves_of(name)
    leaves.ref = [s.detach() - sign * drift / 2 * n for s, n, sign in zip(leaves.sums, leaves.n, (1, -1), strict=True)]
    objective = build({**BASES[name], "ada": {"clip": 2.0, "clip_mode": clip_mode}})
    bounded = 2.0 if drift > 0 else 0.5 if clip_mode == "both" else math.exp(drift)
    assert objective(leaves.batch()).stats["ada/log_ratio"].item() == pytest.approx(drift)
    got = leaves.ratio(pair_term(objective, leaves.batch()), relative_to_reference=True)
    assert got == pytest.approx(bounded / math.exp(drift), rel=1e-9)


@pytest.mark.parametrize("share", [1.0, 0.5])
@pytest.mark.parametrize("perf_mode", ["stabilized", "focal", "none"])
@pytest.mark.parametrize("length_normalize", [True, False])
@pytest.mark.parametrize(
    ("name", "use_reference"),
    [(n, False) for n in ("dpo per token", "robust", "rdpo", "ipo", "hinge", "simpo", "orpo")]
    + [(n, True) for n in ("dpo per token", "robust", "rdpo", "ipo", "hinge")],
)
def test_the_combined_loss_is_balanced_although_its_weight_has_a_gradient(
    name, use_reference, length_normalize, perf_mode, share
):
    if name == "orpo" and not length_normalize:
        return  # refused
    leaves = Leaves("geomean" if length_normalize else "token", per_token_score=length_normalize)
    uni = {"nll_lambda": 0.0, "perf_mode": perf_mode}
    ada = {"use_reference": use_reference, "clip": None, "share": share}
    loss = {**BASES[name], "length_normalize": length_normalize, "uni": uni, "ada": ada}
    if not length_normalize:
        loss["beta"] = 0.1
    objective = build(loss)
    assert objective.settings["ada"]["balance_perf"]
    balanced = leaves.ratio(pair_term(objective, leaves.batch()), relative_to_reference=use_reference)
    assert balanced == pytest.approx(1.0, rel=1e-9)
    if perf_mode != "none":
        official = build({**loss, "ada": {**ada, "balance_perf": False}})
        off = leaves.ratio(pair_term(official, leaves.batch()), relative_to_reference=use_reference)
        assert off != pytest.approx(1.0, rel=1e-4)
        detached = build({**loss, "uni": {**uni, "perf_detach": True}, "ada": {**ada, "balance_perf": False}})
        still = leaves.ratio(pair_term(detached, leaves.batch()), relative_to_reference=use_reference)
        assert still == pytest.approx(1.0, rel=1e-9)
