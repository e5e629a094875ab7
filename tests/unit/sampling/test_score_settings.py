"""Scorers, weights and ranges as a user writes them."""

from __future__ import annotations

import pytest

from mmpref.errors import ConfigError
from mmpref.sampling.score_settings import AskedScorer, ScoreSettings, parse_range, parse_scorers, parse_weights


def test_scorers_are_parsed_with_their_options():
    found = parse_scorers(
        ["objects", "brief=objects"], ["objects.truth=[a.json, b.json]", "brief.truth=t.json", "brief.scale=0..2"]
    )
    assert found[0] == AskedScorer(name="objects", kind="objects", options={"truth": ["a.json", "b.json"]})
    assert found[1] == AskedScorer(name="brief", kind="objects", options={"truth": "t.json"}, scale=(0.0, 2.0))
    assert parse_range("-1..1") == (-1.0, 1.0)
    assert parse_weights(["a=2", "b=0"]) == {"a": 2.0, "b": 0.0}


@pytest.mark.parametrize(
    ("named", "options", "said"),
    [
        (["objcts"], [], "no scorer of the kind 'objcts', did you mean 'objects'"),
        (["agreement", "agreement"], [], "two scorers are called 'agreement'"),
        (["a=agreement", "A=agreement"], [], "differ only in capitals"),
        (["../x=agreement"], [], "a scorer cannot be called '../x'"),
        (["agreement"], ["agreemnt.n=1"], "is for a scorer 'agreemnt' that is not named, did you mean 'agreement'"),
        (["agreement"], ["n=1"], "must be written NAME.option=value"),
        (["agreement"], ["agreement.n=1"], "has no option 'n'"),
        (["objects"], ["objects.truth=a", "objects.truth=b"], "is given twice"),
        (["objects"], ["objects.truth="], "has nothing after the ="),
        (["agreement"], ["agreement.scale=5..1"], "agreement.scale must be LOWEST..HIGHEST"),
        ([], [], "name a scorer"),
    ],
)
def test_wrong_scorers_are_named(named, options, said):
    with pytest.raises(ConfigError, match=said):
        ScoreSettings(scorers=parse_scorers(named, options))


@pytest.mark.parametrize("text", ["a", "a=", "a=x", "a=-1", "=1", "a=inf", "a=nan"])
def test_wrong_weights_are_named(text):
    with pytest.raises(ConfigError, match="NAME=WEIGHT"):
        parse_weights([text])
