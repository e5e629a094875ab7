"""The ``ada:`` section as it was written before: refused, and what the refusal advises does what was meant."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpref.errors import ConfigError
from mmpref.losses import SuspiciousLossWarning, build_objective, resolve
from mmpref.losses.former_keys import refuse_former_ada
from mmpref.recipe.loading import load_recipe


def refusal(ada: dict) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve({"name": "adadpo", "ada": ada})
    return str(caught.value)


def advised(message: str) -> dict:
    """The keys that a refusal says to write, taken out of its words."""
    words = re.findall(
        r"(share|form|use_reference|clip|clip_mode): ([a-z0-9.]+?)(?=[,;) ]|$)",
        message.split("; write share: 1 beside")[0],
    )
    return {key: {"false": False}.get(value, value) if value.isalpha() else float(value) for key, value in words}


def build(ada: dict):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspiciousLossWarning)
        return build_objective({"name": "adadpo", "ada": ada})


def former_loss(x, alpha_w: float, alpha_l: float, clip: float | None, *, use_reference: bool):
    """What the old spelling computed, written out."""
    u = [(x.chosen - (x.ref_chosen if use_reference else 0)) / x.chosen_len,
         (x.rejected - (x.ref_rejected if use_reference else 0)) / x.rejected_len]  # fmt: skip
    bound = math.inf if clip is None else math.log(clip)
    log_r = (u[0] - u[1]).detach().clamp(-bound, bound)
    margin = 0.1 * ((alpha_w * log_r).exp() * (x.chosen - x.ref_chosen)
                    - (-alpha_l * log_r).exp() * (x.rejected - x.ref_rejected))  # fmt: skip
    return (1 + (-margin).exp()).log()


@pytest.mark.parametrize(
    ("former", "share"),
    [
        ({"alpha_w": 0.5, "alpha_l": 0.5}, "0.5"),
        ({"alpha_w": 1, "alpha_l": 0}, "1"),
        ({"alpha_w": 0.0, "alpha_l": 1.0}, "0"),
        ({"alpha_w": 0.3, "alpha_l": 0.7}, "0.3"),
        ({"alpha_w": 1 / 3, "alpha_l": 2 / 3}, "0.3333333333333333"),
        ({"alpha_w": 0.5, "alpha_l": 0.5, "clip": 3.0}, "0.5"),
        ({"alpha_w": 0.5, "alpha_l": 0.5, "clip": None}, "0.5"),
        ({"alpha_w": 0.25, "alpha_l": 0.75, "use_reference": True}, "0.25"),
        ({"alpha_w": 0.5, "alpha_l": 0.5, "share": None, "clip_mode": None}, "0.5"),
        ({"form": "power", "alpha_w": 0.5, "alpha_l": 0.5}, "0.5"),
        ({"form": "split"}, "0.5"),
        ({"form": "split", "alpha_w": 0.2, "alpha_l": 0.8}, "0.2"),
        ({"form": "split", "clip": 4.0}, "0.5"),
    ],
    ids=str,
)
def test_a_former_split_is_refused_and_what_is_advised_is_the_loss_it_was(random_pairs, former, share) -> None:
    message = refusal(former)
    assert f"write share: {share}" in message
    kept = {k: v for k, v in former.items() if k not in ("alpha_w", "alpha_l", "form", "share", "clip_mode")}
    x = random_pairs(32)
    got = build({**kept, **advised(message)})(x).per_pair
    want = former_loss(x, former.get("alpha_w", 0.5), former.get("alpha_l", 0.5), former.get("clip", 10.0),
                       use_reference=former.get("use_reference", False))  # fmt: skip
    assert ((got - want).abs() < 1e-12).all()


@pytest.mark.parametrize("former", [{"alpha_w": 0.5, "alpha_l": 0.5}, {"form": "sum", "alpha_w": 0.5, "alpha_l": 0.5}])
def test_the_other_advice_makes_the_same_numbers_exponents(former) -> None:
    message = refusal(former)
    assert "write share: 1 beside alpha_w and alpha_l if you mean the exponents" in message
    with pytest.warns(SuspiciousLossWarning, match="not 1:1"):
        ada = resolve({"name": "adadpo", "ada": {**former, "share": 1}})["ada"]
    assert (ada["share"], ada["alpha_w"], ada["alpha_l"]) == (1.0, 0.5, 0.5)


def test_alphas_that_had_no_effect_are_to_be_taken_out() -> None:
    assert "take both out" in refusal({"form": "sum", "alpha_w": 0.5, "alpha_l": 0.5})
    assert resolve({"name": "adadpo", "ada": {"form": "sum"}})["ada"]["form"] == "sum"


@pytest.mark.parametrize("key", [{"share": 0.5}, {"target_ratio": 1.0}, {"length_power": 1.0}, {"clip_mode": "both"}])
def test_beside_a_key_that_is_as_new_the_alphas_are_exponents(key) -> None:
    with pytest.warns(SuspiciousLossWarning, match="not 1:1"):
        assert resolve({"name": "adadpo", "ada": {**key, "alpha_w": 0.5, "alpha_l": 0.5}})["ada"]["alpha_l"] == 0.5


@pytest.mark.parametrize("ada", [{"alpha_w": 0.5}, {"alpha_l": 0.0}, {"alpha_w": 1.0, "alpha_l": 1.0},
                                 {"alpha_w": 0.5, "alpha_l": 0.4}, {"alpha_w": 1.0}], ids=str)  # fmt: skip
def test_alphas_that_never_were_a_split_are_exponents(ada) -> None:
    refuse_former_ada(ada)


@pytest.mark.parametrize("former", [{"form": "own"}, {"form": "own", "alpha_w": 0.5, "alpha_l": 0.5}], ids=str)
def test_the_form_own_is_refused_and_the_form_in_its_place_has_the_same_ratio(random_pairs, former) -> None:
    message = refusal(former)
    assert "form own was dropped" in message
    assert advised(message) == {"form": "power", "share": 1.0}
    x = random_pairs(32)
    stats = build({**former, "form": "power", "share": 1, "clip": None, "use_reference": False})(x).stats
    a_w, a_l = former.get("alpha_w", 1.0), former.get("alpha_l", 1.0)
    own = a_w * (x.chosen / x.chosen_len) - a_l * (x.rejected / x.rejected_len)
    assert ((stats["ada/coef_chosen"] / stats["ada/coef_rejected"]).log() - own).abs().max() < 1e-12


def test_a_split_that_did_not_add_to_one_is_told_which_key_is_which_now() -> None:
    message = refusal({"form": "split", "alpha_w": 0.5, "alpha_l": 0.8})
    assert "is now form: power" in message
    assert "share, from 0 to 1" in message
    assert "write share: 1 beside" in message
    with pytest.warns(SuspiciousLossWarning, match="not 1:1"):
        resolve({"name": "adadpo", "ada": {"form": "power", "alpha_w": 0.5, "alpha_l": 0.8, "share": 1}})
    resolve({"name": "adadpo", "ada": {"form": "power", "share": 0.4}})


def test_a_split_outside_its_range_is_not_advised_to_stay_there() -> None:
    message = refusal({"alpha_w": 2.0, "alpha_l": -1.0})
    assert "no longer offered" in message
    assert "write share: 2" not in message


def test_a_former_form_beside_share_only_changes_its_name() -> None:
    assert refusal({"form": "split", "share": 0.3}).endswith("write form: power")
    resolve({"name": "adadpo", "ada": {"form": "power", "share": 0.3}})


@pytest.mark.parametrize("alphas", [("0.5", 0.5), (True, 0), (True, False), (0.5, None)])
def test_what_is_no_number_is_left_to_the_check_of_numbers(alphas) -> None:
    refuse_former_ada({"alpha_w": alphas[0], "alpha_l": alphas[1]})


@given(st.floats(0, 1))
def test_every_share_that_is_advised_reads_back_as_itself(share: float) -> None:
    message = refusal({"alpha_w": share, "alpha_l": 1.0 - share})
    said = re.search(r"write share: (\S+) in place", message)
    assert said is not None
    assert float(said[1]) == share


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("loss.ada={alpha_w: 0.5, alpha_l: 0.5}", "write share: 0.5"),
        ("loss.ada.form=split", "write share: 0.5"),
        ("loss.ada.form=own", "form own was dropped"),
        ("loss.ada.form=pwoer", "did you mean 'power'"),
    ],
)
def test_a_recipe_with_a_former_spelling_is_refused_before_anything_is_loaded(
    tmp_path: Path, override: str, said: str
) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(
        "output: out\nmodel: {path: m}\ndata: {train: p.jsonl}\nloss: {name: adadpo}\ntrain: {learning_rate: 1e-6}\n"
    )
    with pytest.raises(ConfigError, match=re.escape(said)):
        build_objective(load_recipe(file, [override]).loss.as_mapping())
