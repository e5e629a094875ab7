"""Arms that take a method apart: each is a loss of its own, and differs from the whole in the one thing it names."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from mmpref.errors import ConfigError
from mmpref.losses import resolve
from mmpref.losses.settings import idle_keys
from mmpref.recipe.loading import load_recipe
from mmpref.sweeps.ablations import ABLATIONS, ablation_arms
from mmpref.training.run.facts import flatten

RECIPE = Path(__file__).parents[3] / "scripts/experiments/demo.yaml"


def _loss(*changes: str) -> dict[str, object]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return flatten(resolve(load_recipe(RECIPE, ["output=x", *changes]).loss.as_mapping()))


@pytest.mark.parametrize("name", ABLATIONS)
@pytest.mark.parametrize(
    "changes",
    [(), ("loss.name=simpo",), ("loss.name=uni_adadpo", "loss.uni.tau_good=2.5"), ("loss.name=adadpo_split",)],
)
def test_each_arm_differs_from_the_whole_in_one_key(name: str, changes: tuple[str, ...]) -> None:
    arms = ablation_arms(name, load_recipe(RECIPE, ["output=x", *changes]), changes)
    whole = _loss(*changes, *arms[0].changes)
    assert len(arms) >= 6
    assert len({arm.name for arm in arms}) == len(arms)
    seen = set()
    for arm in arms[1:]:
        loss = _loss(*changes, *arm.changes)
        different = {key for key in loss if loss[key] != whole.get(key)} - {"uni.tau_good"}
        assert len(different) == 1, (arm, different)
        seen.add((*different, *(str(loss[key]) for key in different)))
    assert len(seen) == len(arms) - 1


def test_the_components_of_uni_dpo_are_off_one_by_one() -> None:
    changes = ("loss.name=uni_dpo", "loss.uni.tau_good=2.5")
    arms = ablation_arms("uni_dpo", load_recipe(RECIPE, ["output=x", *changes]), changes)
    assert {arm.name: arm.changes for arm in arms} == {
        "Uni-DPO": (),
        "Uni-DPO without w_qual": ("loss.uni.eta=null",),
        "Uni-DPO without w_perf": ("loss.uni.perf_mode=none",),
        "Uni-DPO without c-NLL": ("loss.uni.nll_lambda=0",),
        "Uni-DPO without length normalisation": ("loss.length_normalize=false",),
        "Uni-DPO focal w_perf": ("loss.uni.perf_mode=focal",),
    }


def test_a_recipe_of_another_loss_becomes_the_method_with_a_threshold_of_its_scores() -> None:
    whole, *_ = ablation_arms("uni_dpo", load_recipe(RECIPE, ["output=x"]), ())
    assert whole.changes == ("loss.name=uni_dpo", "loss.uni.tau_good=median")
    whole, *_ = ablation_arms("uni_dpo", load_recipe(RECIPE, ["output=x"]), ("loss.uni.tau_good=1",))
    assert whole.changes == ("loss.name=uni_dpo",)


def test_an_ablation_that_there_is_not_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'uni_dpo'"):
        ablation_arms("uni-dpo", load_recipe(RECIPE, ["output=x"]), ())


@pytest.mark.parametrize(
    ("loss", "idle"),
    [
        ({"name": "dpo"}, set()),
        ({"name": "sft"}, {"beta"}),
        (
            {"name": "uni_dpo", "uni": {"perf_mode": "none", "tau_good": 1}},
            {"uni.tau_ref", "uni.gamma", "uni.perf_detach"},
        ),
        ({"name": "uni_dpo", "uni": {"nll_lambda": 0}}, {"uni.tau_good", "uni.nll_margin"}),
        ({"name": "adadpo", "ada": {"clip": None}}, {"ada.clip_mode", "ada.length_power", "ada.balance_perf"}),
        ({"name": "adadpo", "ada": {"form": "sum"}}, {"ada.share", "ada.length_power", "ada.balance_perf"}),
    ],
)
def test_keys_that_do_nothing_are_known(loss: dict[str, object], idle: set[str]) -> None:
    assert set(idle_keys(resolve(loss))) == idle
