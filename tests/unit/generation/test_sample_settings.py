"""How tokens are drawn: what is refused, and what draws nothing."""

import math

import pytest

from mmpref.errors import ConfigError
from mmpref.generation import SampleSettings


@pytest.mark.parametrize("wrong", [{"temperature": -0.1}, {"temperature": math.inf}, {"temperature": math.nan}])
def test_a_temperature_that_is_none_is_refused(wrong):
    with pytest.raises(ConfigError, match="temperature must be"):
        SampleSettings(**wrong)


@pytest.mark.parametrize("top_p", [0.0, 1.01, -1.0, math.nan])
def test_a_share_that_is_none_is_refused(top_p):
    with pytest.raises(ConfigError, match="top_p must be above 0"):
        SampleSettings(top_p=top_p)


def test_only_temperature_0_draws_nothing():
    assert SampleSettings(temperature=0).is_greedy
    assert not SampleSettings(top_p=0.01).is_greedy
