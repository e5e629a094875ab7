"""``tau_good`` as a quantile of the chosen training scores: what it becomes, and what is refused."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpref.errors import ConfigError, DataError
from mmpref.losses import SuspiciousLossWarning, build_objective, resolve, resolve_tau_good

SCORES = [5.0, 1.0, None, 3.0, 2.0, math.nan]


def section(tau_good: object, **uni: object) -> dict:
    return {"name": "uni_dpo", "uni": {"tau_good": tau_good, **uni}}


@pytest.mark.parametrize(
    ("name", "number"), [("median", 2.5), ("q50", 2.5), ("q25", 1.75), ("q75", 3.5), ("q05", 1.15), ("q99", 4.94)]
)
def test_a_quantile_of_the_scores_that_are_there_takes_the_place_of_its_name(name: str, number: float) -> None:
    given_section = section(name, gamma=2.0)
    got = resolve_tau_good(given_section, SCORES)
    assert got["uni"] == {"tau_good": pytest.approx(number), "gamma": 2.0}
    assert got["name"] == "uni_dpo"
    assert given_section == section(name, gamma=2.0), "what was given is not changed"
    assert build_objective(got).settings["uni"]["tau_good"] == pytest.approx(number)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.integers(1, 99))
def test_a_quantile_is_that_of_the_standard_library_and_grows_with_its_share(scores: list[float], share: int) -> None:
    def at(name: str) -> float:
        return resolve_tau_good(section(name), scores)["uni"]["tau_good"]

    assert at("median") == pytest.approx(statistics.median(scores), rel=1e-12, abs=1e-9)
    got = at(f"q{share:02d}")
    if len(scores) > 1:
        want = statistics.quantiles(scores, n=100, method="inclusive")[share - 1]
        assert got == pytest.approx(want, rel=1e-9, abs=1e-6)
    assert min(scores) <= got <= max(scores) or got == pytest.approx(scores[0])
    assert at("q01") <= got + 1e-9 * abs(got)


@pytest.mark.parametrize(
    "mapping",
    [{"name": "dpo"}, section(2.5), section(3), section(None), {"name": "uni_dpo", "uni": True},
     {"name": "dpo", "uni": None}, {"name": "uni_dpo", "uni": {}}],
    ids=str,
)  # fmt: skip
def test_a_section_without_a_quantile_is_handed_back_as_it_is(mapping: dict) -> None:
    assert resolve_tau_good(mapping, []) == mapping
    assert resolve_tau_good(mapping, SCORES) == mapping


@pytest.mark.parametrize("scores", [[], [None, None], [math.nan, None]])
def test_without_one_score_it_is_refused_and_each_advice_works(scores: list) -> None:
    with pytest.raises(DataError, match=rf"median .* none of the {len(scores)} training pairs") as caught:
        resolve_tau_good(section("median"), scores)
    assert "loss.uni.tau_good=2.5" in str(caught.value)
    assert "loss.uni.nll_lambda=0" in str(caught.value)
    build_objective(resolve_tau_good(section(2.5), scores))
    off = build_objective(resolve_tau_good(section("median", nll_lambda=0, eta=None), scores))
    assert not off.needs_scores
    assert off.settings["uni"]["tau_good"] == "median"


def test_an_infinite_score_is_refused() -> None:
    for bad in (math.inf, -math.inf):
        with pytest.raises(DataError, match="infinite"):
            resolve_tau_good(section("q10"), [1.0, bad])


def test_resolving_the_settings_leaves_the_name_and_building_from_it_is_refused_with_the_way_out() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a quantile was chosen: nothing to warn of
        settings = resolve(section("q80"), score_scale=(0.0, 1.0))
    assert settings["uni"]["tau_good"] == "q80"
    assert resolve(settings) == settings
    with pytest.raises(ConfigError, match=r"loss\.uni\.tau_good q80 .*resolve_tau_good"):
        build_objective(settings)
    assert build_objective(resolve_tau_good(settings, [4.0])).uni.tau_good == 4.0


@pytest.mark.parametrize("name", ["mean", "q0", "q00", "q100", "q5", "Q50", "q50 ", "medians", "2.5", ""])
def test_any_other_text_is_refused_with_the_texts_that_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match=r"loss\.uni\.tau_good must be a number .* median .* q01 to q99"):
        resolve(section(name))
    assert resolve_tau_good(section(name), [1.0]) == section(name)


def test_the_quantile_of_a_switched_off_term_is_not_asked_for() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspiciousLossWarning)
        objective = build_objective(section("median", nll_lambda=0.0))
    assert objective.settings["uni"]["tau_good"] == "median"
    assert resolve_tau_good(section("median", nll_lambda=0.0), [1.0, 3.0])["uni"]["tau_good"] == 2.0


def test_it_needs_no_torch() -> None:
    code = (
        "import sys; from mmpref.losses import resolve_tau_good; resolve_tau_good({'uni': {'tau_good': 'q10'}}, [1]);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
