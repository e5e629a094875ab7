"""What scores answers: one file for each kind of scorer, with a ``build`` that makes one of its options, which are the
dataclass ``Options`` of that file."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import ModuleType
from typing import Any

from mmpref.errors import ConfigError
from mmpref.sampling.scorers.contract import ScoreContext, Scorer, options_of
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
    scorer: Scorer = _module(kind).build(name, options, context)
    return scorer


def check_options(name: str, kind: str, options: Mapping[str, Any]) -> None:
    """Look at the options of a scorer before another one works for hours: at all that its ``Options`` look at.

    Raises:
        ConfigError: there is no such kind, or an option is wrong.
    """
    if (known := _options_class(kind)) is not None:
        options_of(known, options, name)


def has_option(kind: str, option: str) -> bool:
    """Whether the scorers of a kind have an option of this name."""
    known = _options_class(kind)
    return known is not None and option in {entry.name for entry in fields(known)}


def _options_class(kind: str) -> type[Any] | None:
    """The dataclass ``Options`` of a kind, where its module has one."""
    found = getattr(_module(kind), "Options", None)
    return found if isinstance(found, type) and is_dataclass(found) else None


def _module(kind: str) -> ModuleType:
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS)
        raise ConfigError(f"there is no scorer of the kind '{kind}'{hint}; kinds: {', '.join(KINDS)}")
    return importlib.import_module(f"mmpref.sampling.scorers.{kind}")
