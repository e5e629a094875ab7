"""What scores answers: one file for each kind of scorer, with a ``build`` that makes one of its options."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from mmpref.errors import ConfigError
from mmpref.sampling.scorers.contract import ScoreContext, Scorer
from mmpref.yaml_text import did_you_mean

KINDS = ("objects", "agreement", "reward", "gain", "claims", "judge")
"""The kinds of scorers; each is the module here of that name."""


def build_scorer(name: str, kind: str, options: Mapping[str, Any], context: ScoreContext) -> Scorer:
    """A scorer of a kind.

    Args:
        name: what the user calls it, for messages and in the scores.
        options: as they were given, without ``name`` before them.

    Raises:
        ConfigError: there is no such kind, or an option is wrong; a model that cannot be loaded is an error here too.
    """
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS)
        raise ConfigError(f"there is no scorer of the kind '{kind}'{hint}; kinds: {', '.join(KINDS)}")
    module = importlib.import_module(f"mmpref.sampling.scorers.{kind}")
    scorer: Scorer = module.build(name, options, context)
    return scorer
