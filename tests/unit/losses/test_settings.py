"""The ``loss:`` section: presets, defaults, refusals and warnings, each naming its key."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest

from mmpref.errors import ConfigError
from mmpref.losses import ScoreScaleWarning, SuspiciousLossWarning, build_objective, resolve
from mmpref.losses.presets import ADA_DEFAULTS, BASES, OPTION_KEYS, PRESETS, SINGLE_ANSWER_BASES, UNI_DEFAULTS


def quiet(mapping: dict, **kwargs) -> dict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspiciousLossWarning)
        return resolve(mapping, **kwargs)


def test_uni_dpo_is_the_papers_multimodal_setting():
    got = quiet({"name": "uni_dpo"})
    assert (got["base"], got["beta"], got["length_normalize"], got["ada"]) == ("dpo", 2.0, True, None)
    assert got["uni"] == {
        "eta": 0.7, "tau_ref": 2.0, "gamma": 3.0, "nll_lambda": 0.001, "tau_good": 2.5, "perf_mode": "stabilized",
        "perf_detach": False, "nll_margin": 0.0, "on_missing_score": "error",
    }  # fmt: skip


PAPER = {
    "share": 1.0, "form": "power", "granularity": "token", "length_power": 1.0, "alpha_w": 1.0, "alpha_l": 1.0,
    "target_ratio": 1.0, "use_reference": True, "clip": 2.0, "clip_mode": "ceiling", "value_mode": "scaled",
    "balance_perf": False,
}  # fmt: skip
EVEN = {"share": 0.5, "use_reference": False, "clip": 10.0, "clip_mode": "both"}


def test_adadpo_is_dpo_with_the_papers_balance():
    got = quiet({"name": "adadpo"})
    assert (got["base"], got["beta"], got["length_normalize"], got["uni"]) == ("dpo", 0.1, False, None)
    assert got["ada"] == PAPER
    assert quiet({"name": "dpo", "ada": True})["ada"] == PAPER


def test_adadpo_split_shares_the_ratio_evenly_and_its_keys_change_one_by_one():
    got = quiet({"name": "adadpo_split"})
    assert (got["base"], got["beta"], got["length_normalize"], got["uni"]) == ("dpo", 0.1, False, None)
    assert got["ada"] == {**PAPER, **EVEN}
    assert quiet({"name": "adadpo_split", "ada": {"clip": 5}})["ada"] == {**PAPER, **EVEN, "clip": 5.0}
    assert quiet({"name": "adadpo_split", "ada": {"clip": None}})["ada"] == {**PAPER, **EVEN, "clip": None}
    assert quiet({"name": "adadpo_split", "ada": {"share": None}})["ada"] == {**PAPER, **EVEN}
    assert quiet({"name": "adadpo_split", "ada": True, "base": "simpo"})["ada"]["share"] == 0.5


@pytest.mark.parametrize("base", [b for b in BASES if b not in SINGLE_ANSWER_BASES])
def test_the_balance_is_in_ratio_space_exactly_where_the_base_has_a_reference(base):
    has_one = BASES[base].needs_reference
    assert quiet({"base": base, "ada": True})["ada"]["use_reference"] is has_one
    assert quiet({"base": base, "ada": {"use_reference": "auto"}})["ada"]["use_reference"] is has_one
    assert quiet({"base": base, "ada": {"use_reference": False}})["ada"]["use_reference"] is False


def test_the_combined_preset_balances_the_weight_too():
    got = quiet({"name": "uni_adadpo"})
    assert (got["beta"], got["length_normalize"], got["ada"]["balance_perf"]) == (2.0, True, True)
    assert got["uni"] == quiet({"name": "uni_dpo"})["uni"]


@pytest.mark.parametrize("name", PRESETS)
def test_resolving_twice_changes_nothing_and_a_preset_is_its_base_with_defaults(name):
    once = quiet({"name": name})
    assert quiet(once) == once
    assert set(once) == {
        "name", "base", "beta", "length_normalize", "label_smoothing", "gamma_beta_ratio", "length_weight",
        "nll_weight", "pair_weight", "uni", "ada", "image", "anchor", "kto", "token_weights",
    }  # fmt: skip
    if name in BASES and name != "robust":
        assert quiet({"base": name}) == {**once, "name": None}


TERMS = {"nll_weight": 0.0, "pair_weight": 1.0}


@pytest.mark.parametrize(
    ("name", "beta", "extra"),
    [
        ("dpo", 0.1, {"label_smoothing": 0.0, **TERMS}),
        ("robust", 0.1, {"label_smoothing": 0.1, **TERMS}),
        ("hinge", 0.1, TERMS),
        ("ipo", 0.1, TERMS),
        ("rdpo", 0.1, {"label_smoothing": 0.0, "length_weight": 0.01, **TERMS}),
        ("simpo", 2.0, {"label_smoothing": 0.0, "gamma_beta_ratio": 0.5, **TERMS}),
        ("cpo", 0.1, {"label_smoothing": 0.0, "nll_weight": 1.0, "pair_weight": 1.0}),
        ("orpo", 0.1, {"pair_weight": 1.0}),
        ("sft", 1.0, {}),
        ("kto", 0.1, {}),
    ],
)
def test_each_base_has_its_documented_defaults(name, beta, extra):
    got = quiet({"name": name})
    assert got["beta"] == beta
    options = {k: got[k] for k in OPTION_KEYS}
    assert {k: v for k, v in options.items() if v is not None} == extra


def test_a_preset_is_overridden_key_by_key_also_inside_its_parts():
    got = quiet({"name": "uni_dpo", "beta": 3.5, "uni": {"tau_ref": 0.8}})
    assert got["beta"] == 3.5
    assert got["uni"] == {**UNI_DEFAULTS, "tau_ref": 0.8}
    got = quiet({"name": "uni_adadpo", "ada": {"clip": None}})
    assert got["ada"] == {
        **ADA_DEFAULTS, "clip": None, "use_reference": True, "value_mode": "scaled", "balance_perf": True,
    }  # fmt: skip
    assert got["uni"] == dict(UNI_DEFAULTS)


def test_null_means_not_given_except_where_it_is_a_value():
    got = quiet({"name": "uni_adadpo", "beta": None, "base": None, "uni": {"gamma": None, "eta": None}})
    assert (got["beta"], got["base"], got["uni"]["gamma"], got["uni"]["eta"]) == (2.0, "dpo", 3.0, None)


@pytest.mark.parametrize("section", ["uni", "ada"])
def test_a_part_is_turned_on_by_its_keys_or_true_and_off_by_null_or_false(section):
    key = {"uni": {"eta": 0.5}, "ada": {"clip": 5}}[section]
    name = {"uni": "uni_dpo", "ada": "adadpo"}[section]
    assert quiet({"name": "dpo", section: key})[section] is not None
    assert quiet({"name": "dpo", section: True})[section] is not None
    assert quiet({"name": "dpo", section: {}})[section] is not None
    assert quiet({"name": name, section: {}})[section] is not None
    for off in (None, False):
        assert quiet({"name": name, section: off})[section] is None
        assert quiet({"name": "dpo", section: off})[section] is None


def test_uni_makes_a_base_per_token_unless_told_otherwise():
    assert quiet({"base": "dpo", "uni": {"eta": 0.7}})["length_normalize"] is True
    assert quiet({"base": "dpo"})["length_normalize"] is False


def test_the_calibrated_nll_is_off_by_default_where_there_is_no_reference():
    assert quiet({"name": "uni_dpo", "base": "simpo"})["uni"]["nll_lambda"] == 0.0
    assert quiet({"name": "uni_dpo", "base": "simpo", "uni": {"nll_lambda": 0.1}})["uni"]["nll_lambda"] == 0.1
    assert quiet({"name": "uni_dpo", "base": "rdpo"})["uni"]["nll_lambda"] == 0.001


def test_a_combining_preset_takes_another_base_but_orpo_keeps_its_own_beta():
    assert quiet({"name": "uni_dpo", "base": "simpo"})["beta"] == 2.0
    assert quiet({"name": "uni_dpo", "base": "orpo"})["beta"] == 0.1
    assert quiet({"name": "adadpo", "base": "simpo"})["beta"] == 2.0


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"name": "uni_dop"}, r"loss\.name must be one of .*did you mean 'uni_dpo'"),
        ({"name": "symmpo"}, r"no preset: SymMPO's rows become weighted pairs .*anchor: \{chosen: 1\}"),
        ({"name": "Re-Align"}, r"no preset: .*data\.other_image=column"),
        ({"name": "halva"}, r"no preset: .*docs/image_losses\.md says why"),
        ({"base": "simp"}, r"loss\.base .*did you mean 'simpo'"),
        ({}, "loss needs a name"),
        ({"beta": 0.1}, "loss needs a name"),
        ("dpo", "loss must be a mapping"),
        ({"name": "dpo", "length_norm": True}, r"unknown key 'loss\.length_norm', .*'loss\.length_normalize'"),
        ({"name": "dpo", "eta": 0.7}, r"unknown key 'loss\.eta', did you mean 'loss\.uni\.eta'"),
        ({"name": "uni_dpo", "uni": {"beta": 2}}, r"unknown key 'loss\.uni\.beta', did you mean 'loss\.beta'"),
        ({"name": "uni_dpo", "uni": {"tau_god": 2}}, r"unknown key 'loss\.uni\.tau_god', .*'loss\.uni\.tau_good'"),
        ({"name": "adadpo", "ada": {"clipp": 2}}, r"unknown key 'loss\.ada\.clipp', .*'loss\.ada\.clip'"),
        ({"name": "dpo", "zzz": 1}, r"unknown key 'loss\.zzz', known are name, base"),
        ({"name": "dpo", "base": "simpo"}, r"loss\.name dpo and loss\.base simpo contradict"),
        ({"name": "dpo", "beta": 0}, r"loss\.beta must be > 0, got 0"),
        ({"name": "dpo", "beta": -1.0}, r"loss\.beta must be > 0"),
        ({"name": "dpo", "beta": "0.1"}, r"loss\.beta must be a number, got '0\.1'"),
        ({"name": "dpo", "beta": True}, r"loss\.beta must be a number"),
        ({"name": "dpo", "beta": float("nan")}, r"loss\.beta must be finite"),
        ({"name": "dpo", "beta": float("inf")}, r"loss\.beta must be finite"),
        ({"name": "dpo", "length_normalize": "yes"}, r"loss\.length_normalize must be true or false"),
        ({"name": "dpo", "label_smoothing": 0.5}, r"loss\.label_smoothing must be in \[0, 0\.5\)"),
        ({"name": "robust", "label_smoothing": -0.1}, r"loss\.label_smoothing must be >= 0"),
        ({"name": "hinge", "label_smoothing": 0.1}, r"loss\.label_smoothing does not exist for base hinge"),
        ({"name": "dpo", "gamma_beta_ratio": 0.5}, r"loss\.gamma_beta_ratio does not exist for base dpo .*simpo"),
        ({"name": "sft", "nll_weight": 0.5}, r"loss\.nll_weight does not exist for base sft .*cpo"),
        ({"name": "orpo", "nll_weight": 0.0}, r"loss\.nll_weight does not exist for base orpo"),
        ({"name": "simpo", "gamma_beta_ratio": -1}, r"loss\.gamma_beta_ratio must be >= 0"),
        ({"name": "cpo", "nll_weight": -1}, r"loss\.nll_weight must be >= 0"),
        ({"name": "rdpo", "length_weight": -1}, r"loss\.length_weight must be >= 0"),
        ({"name": "orpo", "length_normalize": False}, r"loss\.length_normalize cannot be false for base orpo"),
        ({"name": "sft", "uni": {"eta": 1}}, r"loss\.uni works on pairs"),
        ({"name": "adadpo", "base": "sft"}, r"loss\.ada works on pairs"),
        ({"name": "uni_dpo", "uni": 3}, r"loss\.uni must be a mapping"),
        ({"name": "uni_dpo", "uni": {"eta": -1}}, r"loss\.uni\.eta must be >= 0"),
        ({"name": "uni_dpo", "uni": {"gamma": -1}}, r"loss\.uni\.gamma must be >= 0"),
        ({"name": "uni_dpo", "uni": {"nll_lambda": -1}}, r"loss\.uni\.nll_lambda must be >= 0"),
        ({"name": "uni_dpo", "uni": {"nll_margin": -1}}, r"loss\.uni\.nll_margin must be >= 0"),
        ({"name": "uni_dpo", "uni": {"tau_ref": "2"}}, r"loss\.uni\.tau_ref must be a number"),
        ({"name": "uni_dpo", "uni": {"perf_mode": "stabilised"}}, r"loss\.uni\.perf_mode .*did you mean 'stabilized'"),
        ({"name": "uni_dpo", "uni": {"on_missing_score": "skip"}}, r"loss\.uni\.on_missing_score must be one of"),
        ({"name": "uni_dpo", "uni": {"perf_detach": 1}}, r"loss\.uni\.perf_detach must be true or false"),
        ({"name": "adadpo", "ada": {"clip": 0.5}}, r"loss\.ada\.clip must be >= 1"),
        ({"name": "adadpo", "ada": {"granularity": "tokens"}}, r"loss\.ada\.granularity .*did you mean 'token'"),
        ({"name": "adadpo", "ada": {"form": "half"}}, r"loss\.ada\.form must be one of"),
        ({"name": "adadpo", "ada": {"value_mode": "x"}}, r"loss\.ada\.value_mode must be one of"),
        ({"name": "adadpo", "ada": {"alpha_w": "a"}}, r"loss\.ada\.alpha_w must be a number"),
        ({"name": "adadpo", "ada": {"balance_perf": "on"}}, r"loss\.ada\.balance_perf must be true or false"),
        ({"name": "adadpo", "ada": {"share": 1.01}}, r"loss\.ada\.share must be <= 1, got 1\.01"),
        ({"name": "adadpo", "ada": {"share": -0.01}}, r"loss\.ada\.share must be >= 0"),
        ({"name": "adadpo", "ada": {"share": "half"}}, r"loss\.ada\.share must be a number"),
        ({"name": "adadpo", "ada": {"length_power": 2}}, r"loss\.ada\.length_power must be <= 1"),
        ({"name": "adadpo", "ada": {"length_power": -1}}, r"loss\.ada\.length_power must be >= 0"),
        ({"name": "adadpo", "ada": {"target_ratio": 0}}, r"loss\.ada\.target_ratio must be > 0"),
        ({"name": "adadpo", "ada": {"alpha_l": float("inf")}}, r"loss\.ada\.alpha_l must be finite"),
        ({"name": "adadpo", "ada": {"clip_mode": "ceil"}}, r"loss\.ada\.clip_mode .*did you mean 'ceiling'"),
        ({"name": "adadpo", "ada": {"use_reference": "yes"}}, r"use_reference must be true, false or auto, got 'yes'"),
        ({"base": "simpo", "ada": {"use_reference": True}}, r"loss\.ada\.use_reference cannot be true: base simpo"),
        ({"base": "orpo", "ada": {"granularity": "sequence"}}, r"loss\.ada\.granularity sequence is not defined"),
        ({"base": "orpo", "ada": {"granularity": "power", "length_power": 0.9}}, r"granularity power is not defined"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_work_is_refused_by_key(mapping, message):
    with pytest.raises(ConfigError, match=message):
        quiet(mapping)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"name": "dpo", "beta": 2.0}, r"loss\.beta 2\.0 on sums"),
        ({"name": "simpo", "length_normalize": False, "beta": 0.1}, r"loss\.length_normalize false makes SimPO"),
        ({"base": "robust"}, r"loss\.label_smoothing 0"),
        ({"name": "sft", "beta": 0.1}, r"loss\.beta only scales"),
        ({"name": "uni_dpo", "uni": {"eta": 0.0, "tau_good": 2.5}}, r"loss\.uni\.eta 0"),
        ({"base": "robust", "label_smoothing": 0.1, "uni": {"tau_good": 3}}, r"loss\.uni\.perf_detach"),
        ({"name": "adadpo", "ada": {"granularity": "sequence"}}, r"loss\.ada\.granularity sequence .* is for study"),
        ({"base": "simpo", "ada": {"value_mode": "scaled"}}, r"loss\.ada\.value_mode scaled"),
        ({"name": "adadpo", "ada": {"alpha_w": 1.5}}, r"alpha_w and alpha_l are 1\.5 and 1: the balance .* not 1:1"),
        ({"name": "adadpo", "ada": {"alpha_l": 0.5}}, r"alpha_w and alpha_l are 1 and 0\.5: the balance .* not 1:1"),
        ({"name": "adadpo", "ada": {"target_ratio": 1.5}}, r"loss\.ada\.target_ratio 1\.5: the balance is not 1:1"),
        ({"name": "adadpo", "ada": {"form": "sum", "share": 0.7}}, r"share has no effect with form sum"),
        ({"name": "adadpo", "ada": {"clip": 1, "clip_mode": "both"}}, r"loss\.ada\.clip 1 with clip_mode both cuts"),
        ({"name": "adadpo", "ada": {"granularity": "power"}}, r"granularity power without loss\.ada\.length_power"),
        ({"name": "adadpo", "ada": {"granularity": "power", "length_power": 0}}, r"length_power 0\) is for study"),
        ({"name": "adadpo", "ada": {"length_power": 0.5}}, r"length_power has no effect with granularity token"),
        ({"name": "uni_dpo", "length_normalize": False, "beta": 0.1}, r"loss\.length_normalize false with loss\.uni"),
        ({"name": "adadpo", "ada": {"balance_perf": True}}, r"loss\.ada\.balance_perf has no effect"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_probably_a_mistake_is_warned_about_by_key(mapping, message):
    with pytest.warns(SuspiciousLossWarning, match=message):
        resolve(mapping)


@pytest.mark.parametrize(
    "mapping",
    [
        *({"name": n} for n in PRESETS if "uni" not in n),
        {"name": "uni_dpo", "uni": {"tau_good": 3.2}},
        {"name": "uni_dpo", "uni": {"nll_lambda": 0.0}},
        {"name": "uni_dpo", "base": "simpo"},
        {"name": "hinge", "label_smoothing": 0.0},
        {"name": "orpo", "nll_weight": 1.0},
        {"name": "dpo", "beta": 1.0},
        {"name": "simpo", "beta": 10.0},
        {"name": "adadpo", "ada": {"form": "sum"}},
        {"name": "adadpo", "ada": {"share": 0.3, "clip_mode": "both"}},
        {"name": "adadpo", "ada": {"share": 0}},
        {"name": "adadpo", "ada": {"alpha_w": 1, "alpha_l": 1, "target_ratio": 1, "use_reference": False}},
        {"name": "adadpo", "ada": {"granularity": "power", "length_power": 0.5}},
        {"base": "orpo", "ada": {"granularity": "power", "length_power": 1.0}},
        {"name": "adadpo", "ada": {"granularity": "geomean"}},
        {"name": "sft", "beta": 1.0},
        {"name": "adadpo", "ada": {"clip": 1.5}},
        {"name": "adadpo", "ada": {"clip": 1}},
        {"name": "adadpo", "ada": {"clip": 1.5, "clip_mode": "both"}},
    ],
    ids=str,
)
def test_sound_settings_say_nothing(mapping):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve(mapping)


def test_robust_without_noise_is_never_negative_so_its_weight_may_keep_its_gradient():
    with pytest.warns(SuspiciousLossWarning) as caught:
        resolve({"base": "robust", "uni": {"tau_good": 3}})
    assert not any("perf_detach" in str(w.message) for w in caught)


def test_a_good_score_nobody_chose_is_warned_about_and_checked_against_a_declared_scale():
    for mapping in ({"name": "uni_dpo"}, {"base": "dpo", "uni": {"nll_lambda": 0.1}}):
        with pytest.warns(ScoreScaleWarning, match=r"loss\.uni\.tau_good"):
            resolve(mapping)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve({"name": "uni_dpo"}, score_scale=(1.0, 5.0))
        build_objective({"name": "uni_dpo"}, score_scale=(2.5, 5.0))
        resolve({"name": "uni_dpo"}, score_scale=(1.0, 2.5))
    for scale in ((3.0, 10.0), (0.0, 1.0)):
        with pytest.raises(ConfigError, match=r"loss\.uni\.tau_good 2\.5 is outside the data's score scale"):
            resolve({"name": "uni_dpo"}, score_scale=scale)


def test_settings_are_checked_without_loading_torch():
    code = (
        "import sys; from mmpref.losses import resolve, SuspiciousLossWarning; resolve({'name': 'simpo'});"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_of_the_room_is_an_attribute_error():
    import mmpref.losses

    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        mmpref.losses.nope  # noqa: B018
    assert all(getattr(mmpref.losses, name) is not None for name in mmpref.losses.__all__)
