"""The keys of image terms, anchors, single answers and token weights: defaults, refusals with their cure, doubts."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmpref.errors import ConfigError
from mmpref.losses import SuspiciousLossWarning, build_objective, resolve
from mmpref.losses.loss_line import loss_line
from mmpref.losses.presets import PRESETS
from mmpref.recipe.loading import load_recipe

IMAGE = {"weight": 1.0, "beta": None, "combine": "own", "detach": False, "uni": "none"}
ANCHOR = {"chosen": 0.0, "rejected": 0.0, "other": 0.0, "beta": None, "delta": 0.0}
DIFF = {"rule": "diff", "changed": 4.0, "same": 1.0, "min_match": 3, "insertions": False, "eos": "same",
        "autojunk": True}  # fmt: skip
SECTIONS = ("image", "anchor", "kto", "token_weights")


def quiet(mapping: dict[str, Any]) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspiciousLossWarning)
        return resolve(mapping)


def on(mapping: dict[str, Any]) -> dict[str, Any]:
    """The sections that are on."""
    return {key: value for key in SECTIONS if (value := quiet(mapping)[key]) is not None}


def test_presets_are_what_the_methods_do():
    for name, base, sections in (
        ("mdpo", "dpo", {"image": IMAGE, "anchor": {**ANCHOR, "chosen": 1.0}}),
        ("chip", "dpo", {"image": {**IMAGE, "combine": "joint"}}),
        ("ddpo", "dpo", {"token_weights": DIFF}),
        ("ddpo_masked", "dpo", {"token_weights": {**DIFF, "changed": 1.0, "same": 0.0}}),
        ("hsa", "dpo", {"token_weights": {**DIFF, "rule": "column"}}),
        ("mpo", "dpo", {"anchor": {**ANCHOR, "chosen": 0.2, "rejected": 0.2, "delta": "running"}}),
        ("kto", "kto", {"kto": {"desirable_weight": 1.0, "undesirable_weight": 1.0}}),
    ):
        got = quiet({"name": name})
        assert (got["base"], got["beta"], got["length_normalize"]) == (base, 0.1, False)
        assert on({"name": name}) == sections
        weights = {"mpo": (0.8, 1.0), "kto": (None, None)}.get(name, (1.0, 0.0))
        assert (got["pair_weight"], got["nll_weight"]) == weights
    assert all(on({"name": name}) == {} for name in ("dpo", "uni_dpo", "adadpo", "simpo", "sft"))


def test_presets_change_key_by_key_and_sections_switch_on_and_off():
    assert on({"name": "mdpo", "image": {"weight": 0.3}})["image"] == {**IMAGE, "weight": 0.3}
    assert on({"name": "chip", "image": {"weight": 0.3}})["image"] == {**IMAGE, "weight": 0.3, "combine": "joint"}
    assert on({"name": "mpo", "anchor": {"delta": 0.5}})["anchor"]["chosen"] == 0.2
    assert on({"name": "ddpo", "token_weights": {"changed": 5}})["token_weights"] == {**DIFF, "changed": 5.0}
    assert on({"name": "mdpo", "image": {"beta": None}})["image"] == IMAGE
    for value in (True, {}):
        assert on({"name": "dpo", "image": value}) == {"image": IMAGE}
        assert on({"name": "ddpo", "token_weights": value}) == {"token_weights": DIFF}
        assert on({"name": "kto", "kto": value}) == on({"name": "kto"})
    for value in (False, None):
        assert on({"name": "mdpo", "image": value, "anchor": value}) == {}
        assert on({"name": "ddpo", "token_weights": value}) == {}
        assert on({"name": "dpo", "kto": value}) == {}
    assert on({"name": "kto", "kto": None}) == on({"name": "kto"})
    assert on({"name": "ddpo", "token_weights": {"rule": "none"}}) == {}


@pytest.mark.parametrize(
    "mapping",
    [
        *({"name": name} for name in PRESETS),
        {"name": "mdpo", "base": "simpo", "anchor": None, "image": {"beta": 1.5}},
        {"name": "chip", "token_weights": {"rule": "diff"}, "ada": True, "nll_weight": 0.2},
        {"base": "ipo", "pair_weight": 0, "image": True, "uni": {"nll_lambda": 0}},
        {"name": "uni_adadpo", "image": {"uni": "own"}, "anchor": {"other": 0.1, "beta": 0.2}},
        {"base": "orpo", "pair_weight": 0.5},
    ],
    ids=str,
)
def test_resolving_twice_changes_nothing_and_the_settings_build_the_same_objective(mapping):
    once = quiet(mapping)
    assert quiet(once) == once
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspiciousLossWarning)
        objective = build_objective(mapping)
        assert build_objective(objective.settings) == objective


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"base": "simpo", "anchor": {"chosen": 1}}, r"loss\.anchor compares with the reference, and base simpo has none"),
    ({"base": "orpo", "anchor": {"other": 1}}, r"loss\.anchor .* base orpo"),
    ({"name": "mdpo", "base": "cpo"}, r"loss\.anchor .* base cpo"),
    ({"name": "dpo", "anchor": True}, r"loss\.anchor has chosen, rejected and other at 0"),
    ({"name": "mdpo", "image": {"detach": True}, "ada": True}, r"loss\.image\.detach with loss\.ada"),
    ({"name": "mdpo", "image": {"uni": "own"}}, r"loss\.image\.uni own .* loss\.uni does, which is off"),
    ({"name": "uni_dpo", "image": {"uni": "own", "combine": "joint"}}, r"loss\.image\.uni own with combine joint"),
    ({"name": "chip", "image": {"beta": 0.2}}, r"loss\.image\.beta with combine joint"),
    ({"base": "sft", "image": True}, r"loss\.image works on pairs; base sft has only the chosen answer"),
    ({"name": "mdpo", "base": "sft"}, r"loss\.image works on pairs; .*image=null loss\.anchor=null"),
    ({"name": "kto", "uni": {"tau_good": 2}}, r"loss\.uni works on pairs; base kto has single answers"),
    ({"name": "kto", "ada": True}, r"loss\.ada works on pairs"),
    ({"name": "kto", "image": True}, r"loss\.image works on pairs"),
    ({"name": "kto", "anchor": {"chosen": 1}}, r"loss\.anchor works on pairs"),
    ({"name": "kto", "token_weights": {"rule": "diff"}}, r"loss\.token_weights\.rule diff works on pairs; base kto"),
    ({"name": "ddpo", "base": "sft"}, r"loss\.token_weights\.rule diff works on pairs; base sft"),
    ({"name": "kto", "pair_weight": 0.5}, r"loss\.pair_weight does not exist for base kto"),
    ({"name": "sft", "pair_weight": 0.5}, r"loss\.pair_weight does not exist for base sft"),
    ({"name": "kto", "nll_weight": 0.5}, r"loss\.nll_weight does not exist for base kto"),
    ({"name": "kto", "label_smoothing": 0.1}, r"loss\.label_smoothing does not exist for base kto"),
    ({"name": "kto", "kto": False}, r"loss\.kto cannot be switched off"),
    ({"name": "kto", "kto": {"desirable_weight": 0, "undesirable_weight": 0}}, r"loss\.kto\..* are both 0"),
    ({"name": "dpo", "kto": {"desirable_weight": 2}}, r"loss\.kto belongs to base kto, and the base is dpo"),
    ({"name": "dpo", "kto": True}, r"loss\.kto belongs to base kto"),
    ({"name": "ddpo", "base": "rdpo"}, r"loss\.token_weights with base rdpo"),
    ({"name": "hsa", "base": "rdpo"}, r"loss\.token_weights with base rdpo"),
    ({"name": "ddpo", "token_weights": {"changed": 0, "same": 0}}, r"changed and same are both 0"),
    ({"name": "dpo", "token_weights": True}, r"loss\.token_weights does not say by which rule"),
    ({"name": "dpo", "token_weights": {"changed": 3}}, r"loss\.token_weights does not say by which rule"),
    ({"name": "dpo", "pair_weight": 0}, r"loss\.pair_weight is 0 and no other term"),
    ({"name": "dpo", "pair_weight": 0, "image": {"weight": 0}}, r"loss\.pair_weight is 0 and no other term"),
    ({"name": "chip", "pair_weight": 0}, r"loss\.pair_weight is 0 and no other term"),
    ({"name": "uni_dpo", "pair_weight": 0, "uni": {"nll_lambda": 0}}, r"loss\.pair_weight is 0 and no other term"),
    (
        {"name": "mpo", "anchor": {"delta": "walking"}},
        r"loss\.anchor\.delta must be a number or running, got 'walking'",
    ),
]


@pytest.mark.parametrize(("mapping", "message"), REFUSED, ids=str)
def test_what_cannot_work_is_refused_by_key_and_what_the_message_says_to_write_works(mapping, message, tmp_path: Path):
    with pytest.raises(ConfigError, match=message) as refused:
        quiet(mapping)
    recipe = {"output": "out", "model": {"path": "m"}, "data": {"train": "p.jsonl"}, "train": {"learning_rate": 1e-6}}
    file = tmp_path / "recipe.yaml"
    said = re.findall(r"`(loss\.[^`]+)`", str(refused.value))
    assert said
    for advice in said:
        given = dict(mapping)
        if given.get("anchor") == {"delta": "walking"}:
            given["anchor"] = {}  # the type of a key is refused before the loss is looked at
        file.write_text(yaml.safe_dump({**recipe, "loss": given}), encoding="utf-8")
        quiet(load_recipe(file, advice.split()).loss.as_mapping())


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"name": "mdpo", "image": {"weight": -1}}, r"loss\.image\.weight must be >= 0"),
        ({"name": "mdpo", "image": {"beta": 0}}, r"loss\.image\.beta must be > 0"),
        ({"name": "mdpo", "image": {"combine": "joined"}}, r"loss\.image\.combine .*did you mean 'joint'"),
        ({"name": "mdpo", "image": {"detach": 1}}, r"loss\.image\.detach must be true or false"),
        ({"name": "mdpo", "image": {"uni": True}}, r"loss\.image\.uni must be one of none, own"),
        ({"name": "mdpo", "image": 3}, r"loss\.image must be a mapping"),
        ({"name": "mdpo", "image": {"wieght": 1}}, r"unknown key 'loss\.image\.wieght', .*'loss\.image\.weight'"),
        ({"name": "mdpo", "anchor": {"chosen": -1}}, r"loss\.anchor\.chosen must be >= 0"),
        ({"name": "mdpo", "anchor": {"rejected": -1}}, r"loss\.anchor\.rejected must be >= 0"),
        ({"name": "mdpo", "anchor": {"other": "x"}}, r"loss\.anchor\.other must be a number"),
        ({"name": "mdpo", "anchor": {"beta": 0}}, r"loss\.anchor\.beta must be > 0"),
        ({"name": "mdpo", "anchor": {"delta": True}}, r"loss\.anchor\.delta must be a number"),
        ({"name": "kto", "kto": {"desirable_weight": -1}}, r"loss\.kto\.desirable_weight must be >= 0"),
        ({"name": "ddpo", "token_weights": {"rule": "dif"}}, r"loss\.token_weights\.rule .*did you mean 'diff'"),
        ({"name": "ddpo", "token_weights": {"changed": -1}}, r"loss\.token_weights\.changed must be >= 0"),
        ({"name": "ddpo", "token_weights": {"same": -1}}, r"loss\.token_weights\.same must be >= 0"),
        ({"name": "ddpo", "token_weights": {"min_match": 0}}, r"loss\.token_weights\.min_match must be >= 1, got 0"),
        ({"name": "ddpo", "token_weights": {"min_match": 2.5}}, r"min_match must be a whole number, got 2\.5"),
        ({"name": "ddpo", "token_weights": {"min_match": True}}, r"min_match must be a whole number"),
        ({"name": "ddpo", "token_weights": {"eos": "other"}}, r"loss\.token_weights\.eos must be one of same, rule"),
        ({"name": "ddpo", "token_weights": {"insertions": "no"}}, r"token_weights\.insertions must be true or false"),
        ({"name": "ddpo", "token_weights": {"autojunk": 0}}, r"token_weights\.autojunk must be true or false"),
        ({"name": "dpo", "pair_weight": -0.5}, r"loss\.pair_weight must be >= 0"),
        ({"name": "dpo", "nll_weight": -0.5}, r"loss\.nll_weight must be >= 0"),
    ],
    ids=str,
)  # fmt: skip
def test_values_are_checked_by_key(mapping, message):
    with pytest.raises(ConfigError, match=message):
        quiet(mapping)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"name": "mdpo", "image": {"weight": 0}}, r"loss\.image\.weight 0 trains nothing"),
        ({"name": "mdpo", "image": {"weight": 0, "beta": 0.2}}, r"loss\.image\.beta 0\.2 has no effect with weight 0"),
        ({"name": "mdpo", "image": {"weight": 0, "detach": True}}, r"image\.detach True has no effect with weight 0"),
        ({"name": "uni_dpo", "image": {"weight": 0, "uni": "own"}}, r"image\.uni own has no effect with weight 0"),
        ({"name": "uni_dpo", "image": {"uni": "own"}, "uni": {"gamma": 0}}, r"image\.uni own .* loss\.uni\.gamma 0"),
        ({"name": "uni_dpo", "image": {"uni": "own"}, "uni": {"perf_mode": "none"}}, r"uni own .*perf_mode none"),
        ({"name": "mdpo", "image": {"beta": 2}}, r"loss\.image\.beta 2 on sums of log-probs saturates"),
        ({"name": "mdpo", "anchor": {"beta": 1.5}}, r"loss\.anchor\.beta 1\.5 on sums of log-probs saturates"),
        ({"name": "mdpo", "pair_weight": 0}, r"loss\.pair_weight 0 leaves out the term that compares the two answers$"),
        ({"name": "chip", "pair_weight": 0, "nll_weight": 1}, r"loss\.pair_weight 0 .* and the image's"),
        ({"name": "uni_dpo", "pair_weight": 0, "uni": {"nll_lambda": 0}, "image": True}, r"loss\.uni has no effect"),
        ({"name": "adadpo", "pair_weight": 0, "nll_weight": 1}, r"loss\.ada has no effect with loss\.pair_weight 0"),
        ({"name": "kto", "kto": {"undesirable_weight": 0}}, r"loss\.kto\.undesirable_weight 0: such answers"),
        ({"name": "ddpo", "token_weights": {"changed": 1}}, r"changed and same are both 1: every token"),
        ({"name": "hsa", "token_weights": {"changed": 2}}, r"token_weights\.changed 2 has no effect with rule column"),
        ({"name": "dpo", "token_weights": {"rule": "none", "min_match": 5}}, r"min_match 5 .* with rule none"),
    ],
    ids=str,
)  # fmt: skip
def test_what_does_nothing_is_warned_about_by_key(mapping, message):
    with pytest.warns(SuspiciousLossWarning, match=message):
        resolve(mapping)


@pytest.mark.parametrize(
    "mapping",
    [
        {"name": "mdpo", "length_normalize": True, "image": {"beta": 2}, "anchor": {"beta": 2}},
        {"name": "mdpo", "image": {"beta": 1.0, "detach": True, "weight": 0.5}},
        {"name": "hsa", "token_weights": {"changed": 4.0}},
        {"name": "orpo", "pair_weight": 0.5, "image": {"beta": 2.0}},
        {"name": "chip", "image": {"detach": True}, "token_weights": {"rule": "diff"}},
        {"name": "sft", "token_weights": {"rule": "column"}},
        {"name": "kto", "token_weights": {"rule": "column"}, "pair_weight": 1.0, "nll_weight": 0.0},
        {"name": "dpo", "nll_weight": 0.5},
    ],
    ids=str,
)
def test_sound_settings_say_nothing(mapping):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve(mapping)


@pytest.mark.parametrize(
    "mapping",
    [
        {"pair_weight": 0, "image": True}, {"pair_weight": 0, "anchor": {"chosen": 1}},
        {"pair_weight": 0, "nll_weight": 1}, {"pair_weight": 0, "uni": {"nll_lambda": 0.1, "tau_good": 2}},
        {"pair_weight": 0, "base": "orpo"},
    ],
    ids=str,
)  # fmt: skip
def test_any_other_term_may_stand_alone(mapping):
    assert quiet({"base": "dpo", **mapping})["pair_weight"] == 0.0


@pytest.mark.parametrize(
    ("mapping", "words"),
    [
        ({"name": "mdpo"}, "image term (weight 1); anchors (chosen 1); reference: r"),
        ({"name": "mdpo", "image": {"beta": 0.2, "detach": True}}, "image term (weight 1, beta 0.2, detached)"),
        ({"name": "chip"}, "image term (weight 1, in one link with the text pair)"),
        ({"name": "uni_dpo", "uni": {"tau_good": 2}, "image": {"uni": "own", "weight": 0.5}},
         "image term (weight 0.5, with a performance weight of its own)"),
        ({"name": "mpo"}, "nll_weight 1, pair_weight 0.8"),
        ({"name": "mpo"}, "anchors (chosen 0.2, rejected 0.2, delta running)"),
        ({"name": "mdpo", "anchor": {"other": 0.3, "beta": 0.5, "delta": -0.1}},
         "anchors (chosen 1, other 0.3, beta 0.5, delta -0.1)"),
        ({"name": "kto"}, "single answers (desirable 1, undesirable 1)"),
        ({"name": "ddpo"}, "token weights (rule diff, changed 4, same 1)"),
        ({"name": "ddpo", "token_weights": {"min_match": 2, "eos": "rule", "autojunk": False, "insertions": True}},
         "token weights (rule diff, changed 4, same 1, min_match 2, insertions True, eos rule, autojunk False)"),
        ({"name": "hsa"}, "token weights (rule column)"),
        ({"name": "dpo", "pair_weight": 0, "nll_weight": 1}, "pair_weight 0"),
    ],
)  # fmt: skip
def test_one_line_says_all_terms(mapping, words):
    assert words in loss_line(quiet(mapping), reference="r")


def test_what_still_acts_without_the_pair_term_is_not_called_idle():
    for mapping in (
        {"name": "adadpo", "pair_weight": 0, "image": True},
        {"name": "uni_dpo", "pair_weight": 0, "uni": {"nll_lambda": 0}, "image": {"uni": "own"}},
        {"name": "uni_dpo", "pair_weight": 0, "uni": {"tau_good": 2}},
    ):
        with pytest.warns(SuspiciousLossWarning) as caught:
            resolve(mapping)
        assert [str(found.message) for found in caught] == [
            "loss.pair_weight 0 leaves out the term that compares the two answers"
        ]


def test_one_line_says_nothing_of_what_is_off():
    line = loss_line(quiet({"name": "dpo"}), reference="r")
    assert not re.search(r"image|anchor|token weights|single|pair_weight|nll_weight", line)


def test_a_name_given_later_replaces_the_sections_but_for_keys_given_with_it(tmp_path: Path):
    file = tmp_path / "recipe.yaml"
    tree = {"output": "out", "model": {"path": "m"}, "data": {"train": "p.jsonl"}, "train": {"learning_rate": 1e-6},
            "loss": {"name": "mdpo", "image": {"weight": 0.5}, "anchor": {"chosen": 2.0}}}  # fmt: skip
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")

    def loss(*overrides: str) -> dict[str, Any]:
        return on(load_recipe(file, list(overrides)).loss.as_mapping())

    assert loss() == {"image": {**IMAGE, "weight": 0.5}, "anchor": {**ANCHOR, "chosen": 2.0}}
    assert loss("loss.name=dpo") == {}
    assert loss("loss.name=chip") == {"image": {**IMAGE, "combine": "joint"}}
    assert loss("loss.name=dpo", "loss.image.weight=0.7") == {"image": {**IMAGE, "weight": 0.7}}
    assert loss("loss.image=null") == {"anchor": {**ANCHOR, "chosen": 2.0}}
    assert loss("loss.image=false", "loss.anchor=false") == {}
    assert loss("loss.image=true") == loss()
    assert loss("loss.image.detach=true")["image"] == {**IMAGE, "weight": 0.5, "detach": True}
    assert loss("loss.anchor.delta=running")["anchor"]["delta"] == "running"
    assert loss("loss.token_weights.rule=diff")["token_weights"] == DIFF
    assert loss("loss.name=kto", "loss.kto.undesirable_weight=2")["kto"]["undesirable_weight"] == 2.0
    with pytest.raises(ConfigError, match=r"loss\.anchor\.delta.*finite number, or running"):
        loss("loss.anchor.delta=walking")


def test_the_settings_of_token_weights_are_a_mapping_that_others_read():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspiciousLossWarning)
        objective = build_objective({"name": "ddpo", "token_weights": {"min_match": 2}})
    assert dict(objective.token_weights or {}) == {**DIFF, "min_match": 2}


@pytest.mark.parametrize(
    ("mapping", "whose"),
    [({"name": "mdpo", "uni": {"tau_good": 2.5}}, "base dpo"), ({"base": "dpo", "uni": {"tau_good": 2.5}}, "base dpo")],
)
def test_a_beta_of_sums_is_warned_of_where_uni_takes_means(mapping: dict[str, Any], whose: str) -> None:
    with pytest.warns(SuspiciousLossWarning, match=rf"loss\.beta 0\.1 is {whose}'s.*`loss\.beta=2`"):
        resolved = resolve(mapping)
    for settled in (
        {**mapping, "beta": 2},
        {**mapping, "beta": 0.1},
        {"name": "uni_dpo", "uni": {"tau_good": 2.5}},
        resolved,
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error", SuspiciousLossWarning)
            resolve(settled)
