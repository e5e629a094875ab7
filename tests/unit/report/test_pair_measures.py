"""Analyses of the pair log by number: quadrants on their edges, quantiles, weighted shares, bins, formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mmpref.losses import PairLogps, build_objective
from mmpref.report.pairs.formulas import (
    gradient_of_margin,
    loss_of_margin,
    performance_weight,
    quality_weight,
    score_margin_of,
    weighted_gradient,
)
from mmpref.report.pairs.log import read_log
from mmpref.report.pairs.measures import (
    QUADRANTS,
    axis_of,
    by_hash,
    effective_number,
    heaviest_share,
    histogram,
    length_bins,
    quadrants,
    quantile_row,
    share_within,
    stretches,
)


def array(*values):
    return np.array(values, dtype=np.float64)


def test_quadrants_have_a_place_for_zeros_and_ties_and_none_for_pairs_without_a_number():
    scores = array(1, 1, 1, -1, -1, -1, 0, 0, 0, math.nan, 1)
    rewards = array(2, 0, -2, 2, 0, -2, 2, 0, -2, 2, math.nan)
    found = {name: np.flatnonzero(mask).tolist() for name, mask in quadrants(scores, rewards).items()}
    assert found == {
        "agreed-learnt": [0],
        "agreed-unlearnt": [1, 2],  # a reward margin of 0 is not learnt
        "contradicted-learnt": [3],
        "contradicted-unlearnt": [4, 5],
        "tied-learnt": [6],
        "tied-unlearnt": [7, 8],
    }
    assert set(found) == set(QUADRANTS)


def test_the_heaviest_tenth_is_counted_in_whole_pairs():
    weights = array(*([1] * 18), 9, 9)  # 20 pairs: the heaviest two have 18 of 36
    assert heaviest_share(weights) == pytest.approx(0.5)
    assert heaviest_share(array(3, 1)) == pytest.approx(0.75)  # at least one pair
    assert heaviest_share(array(2, 2, math.nan, 2)) == pytest.approx(1 / 3)
    assert heaviest_share(np.ones(1000)) == pytest.approx(0.1)
    assert heaviest_share(array(0, 0)) is None
    assert heaviest_share(array()) is None


def test_the_effective_number_is_kish_s():
    assert effective_number(np.full(7, 0.3)) == pytest.approx(7)
    assert effective_number(array(1, 0, 0, math.nan)) == pytest.approx(1)
    assert effective_number(array(3, 1)) == pytest.approx(16 / 10)
    assert effective_number(array(0.0)) is None


def test_tenths_of_training_hold_every_row_once_and_begin_and_end_with_it():
    steps = np.repeat(np.arange(1.0, 21.0), 3)
    parts = stretches(steps)
    assert [int(part.rows.sum()) for part in parts] == [6] * 10
    assert (parts[0].step, parts[-1].step) == (1.5, 19.5)
    assert np.sum([part.rows for part in parts], axis=0).tolist() == [1] * 60
    assert [part.step for part in stretches(array(5, 5, 9))] == [5, 9]
    assert [part.step for part in stretches(array(4, 4))] == [4]
    assert stretches(array()) == []


def test_quantiles_are_those_of_the_finite_values():
    assert quantile_row(array(*range(101), math.nan)) == pytest.approx((5, 25, 50, 75, 95))
    assert quantile_row(array(math.nan)) is None


def test_the_share_near_one_counts_both_ends():
    assert share_within(array(1, 1.1, 1 / 1.1, 1.12, 0.9, math.nan)) == pytest.approx(3 / 5)
    assert share_within(array(math.nan)) is None


def test_length_bins_hold_every_pair_once_and_equal_differences_together():
    values = array(-9, -3, -3, 0, 0, 0, 0, 1, 4, 20, math.nan)
    bins = length_bins(values)
    assert bins == [(-9, -3), (0, 0), (1, 1), (4, 20)]
    inside = [int(((values >= low) & (values <= high)).sum()) for low, high in bins]
    assert sum(inside) == 10
    assert all(bins[at][1] < bins[at + 1][0] for at in range(len(bins) - 1))
    assert length_bins(array(2, 2, 2)) == [(2, 2)]
    assert length_bins(array(math.nan)) == []


def test_histograms_count_what_lies_beyond_the_axis_in_its_ends():
    assert histogram(array(-5, 0.1, 0.9, 7, math.nan), array(0, 0.5, 1)) == (0.5, 0.5)
    assert axis_of([array(math.nan)]) is None
    edges = axis_of([array(3, 3)])
    assert edges[0] < 3 < edges[-1]


def test_pairs_are_chosen_by_a_hash_of_their_ids_whatever_the_order():
    names = [f"pair-{number}" for number in range(50)]
    chosen = {names[place] for place in by_hash(names, 5)}
    backwards = names[::-1]
    assert {backwards[place] for place in by_hash(backwards, 5)} == chosen
    assert len(chosen) == 5
    assert chosen != set(names[:5])


def logps(count=12, seed=0):
    """Random pairs as leaves, with scores on a grid that has ties."""
    draw = torch.Generator().manual_seed(seed)

    def uniform(low, high):
        return torch.rand(count, generator=draw, dtype=torch.float64) * (high - low) + low

    lengths = [torch.randint(3, 20, (count,), generator=draw) for _ in range(2)]
    policy = [(-uniform(0.1, 3.0) * length).requires_grad_() for length in lengths]
    reference = [-uniform(0.1, 3.0) * length for length in lengths]
    scores = [torch.randint(0, 5, (count,), generator=draw).double() for _ in range(2)]
    return PairLogps(
        chosen=policy[0], rejected=policy[1], chosen_len=lengths[0], rejected_len=lengths[1],
        ref_chosen=reference[0], ref_rejected=reference[1], chosen_score=scores[0], rejected_score=scores[1],
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["stabilized", "focal"])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_curves_are_those_of_the_losses(mode, detach, smoothing):
    x = logps()
    uni = {"perf_mode": mode, "perf_detach": detach, "nll_lambda": 0.0, "gamma": 2.5, "eta": 0.4}
    uni |= {"tau_ref": 0.7} if mode == "stabilized" else {}
    keys = {"base": "dpo", "beta": 1.3, "length_normalize": True, "label_smoothing": smoothing, "uni": uni}
    out = build_objective(keys)(x)
    gradient = torch.autograd.grad(out.per_pair.sum(), x.chosen)[0] * x.chosen_len / 1.3  # d loss / d margin
    u = [(side / length).detach().numpy() for side, length in ((x.chosen, x.chosen_len), (x.rejected, x.rejected_len))]
    ref = [(side / length).numpy() for side, length in ((x.ref_chosen, x.chosen_len), (x.ref_rejected, x.rejected_len))]
    delta = 1.3 * (u[0] - ref[0] - u[1] + ref[1])
    z = delta if mode == "focal" else 1.3 * (u[0] - u[1]) - 0.7
    margin = (x.chosen_score - x.rejected_score).numpy()
    quality = quality_weight(margin, 0.4)
    assert out.stats["rewards/margins"].numpy() == pytest.approx(delta, rel=1e-5)
    assert out.stats["uni/w_qual"].numpy() == pytest.approx(quality, rel=1e-5)
    assert out.stats["uni/w_perf"].numpy() == pytest.approx(performance_weight(z, 2.5), rel=1e-5)
    assert score_margin_of(quality, 0.4) == pytest.approx(margin, abs=1e-9)
    value = quality * performance_weight(z, 2.5) * loss_of_margin(delta, smoothing)
    assert out.per_pair.detach().numpy() == pytest.approx(value, rel=1e-5)
    curve = quality * weighted_gradient(delta, z, 2.5, smoothing=smoothing, detach=detach)
    assert gradient.abs().numpy() == pytest.approx(curve, rel=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_dpo_s_gradient_is_that_of_the_loss(smoothing):
    x = logps(seed=1)
    out = build_objective({"base": "dpo", "beta": 0.2, "label_smoothing": smoothing})(x)
    gradient = torch.autograd.grad(out.per_pair.sum(), x.chosen)[0] / 0.2
    delta = out.stats["rewards/margins"].numpy()
    assert gradient.abs().numpy() == pytest.approx(gradient_of_margin(delta, smoothing), rel=1e-5)
    assert out.per_pair.detach().numpy() == pytest.approx(loss_of_margin(delta, smoothing), rel=1e-5)


def test_formulas_are_finite_at_both_ends():
    far = array(-1e4, 1e4)
    assert performance_weight(far, 3.0).tolist() == [1.0, 0.0]
    assert quality_weight(far, 1.0).tolist() == [0.0, 1.0]
    assert np.isfinite(weighted_gradient(far, far, 3.0)).all()
    assert np.isnan(score_margin_of(array(0.0, 1.0), 0.7)).all()


def test_a_damaged_log_is_told_column_by_column_and_the_rest_is_read():
    log, problems = read_log(
        {
            "step": [1, 1, None, 2],
            "pair_id": ["a", "b", "c", None],
            "rewards/margins": [0.5, "0.7", 1.0, 1.0],
            "len/chosen": [3.0, math.inf, 3.0, 3.0],
            "len/rejected": [1.0, 2.0],
            "score/chosen": [None, 2.0, 1.0, 1.0],
            "uni/w_perf": [None, math.nan, 1.0, 1.0],
        },
        "pairs.parquet",
    )
    assert log.ids.tolist() == ["a", "b"]
    assert log.by_id("rewards/margins") == {"a": 0.5}
    assert log.by_id("len/chosen") == {"a": 3.0}
    assert log.by_id("score/chosen") == {"b": 2.0}
    assert not log.has("len/rejected")
    assert len(problems) == 5  # rows, three columns, the short column; pairs without scores are none
    assert any("2 of 4 rows have no step or no pair_id" in text for text in problems)
    assert any("len/rejected has 2 rows and step 4" in text for text in problems)
    assert not any("score/chosen" in text for text in problems)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"step": [1]}, "no column pair_id"),
        ({"rewards/margins": [1]}, "no column step and no column pair_id"),
        ({"step": [1, 2], "pair_id": ["a"]}, "step has 2 rows and pair_id 1"),
    ],
)
def test_a_log_without_steps_or_pairs_is_told_and_empty(columns, said):
    log, problems = read_log(columns, "pairs.parquet")
    assert len(log) == 0
    assert said in problems[0]


def test_the_last_row_of_each_pair_is_that_of_its_last_step():
    log, _ = read_log({"step": [1, 2, 3, 4], "pair_id": ["b", "a", "b", "c"], "x": [1.0, 2.0, 3.0, 4.0]}, "f")
    last = log.last_of_each()
    assert dict(zip(last.ids, last.steps, strict=True)) == {"a": 2, "b": 3, "c": 4}
    assert last.by_id("x") == {"a": 2.0, "b": 3.0, "c": 4.0}
    assert len(read_log({}, "f")[0].last_of_each()) == 0
