"""Which scorers score, with which options, and what becomes of their scores: as a user writes it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpref.errors import ConfigError
from mmpref.generation.settings import AnswerSettings
from mmpref.sampling.mapping import RANGE, Bounds, Scale
from mmpref.sampling.scorers import check_options, has_option
from mmpref.sampling.scorers.contract import scale_of
from mmpref.yaml_text import did_you_mean, parse_value, short

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")  # it is part of the name of a file


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedScorer:
    """A scorer that is to score.

    Args:
        name: what the user calls it.
        kind: see :data:`mmpref.sampling.scorers.KINDS`.
        options: of its kind.
        scale: declared by the user over the scorer's own; None: its own.
    """

    name: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)
    scale: Scale | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSettings:
    """How a source is scored.

    Args:
        scorers: in the order in which they score.
        range: all scores are mapped to it; None takes that of ``mapping``, else 0 to 5.
        weights: scorer -> weight in the mean, 1 where none is named.
        mapping: the ``scores.json`` of an earlier step, whose mappings are taken.
        max_missing: share of the scores that may be missing though another run might bring them.
        answering: for scorers with a model in this process.

    Raises:
        ConfigError: no scorer, two of one name, a name or an option that cannot be, or weights that do not fit.
    """

    scorers: tuple[AskedScorer, ...]
    range: Bounds | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    mapping: Path | None = None
    max_missing: float = 0.0
    answering: AnswerSettings = field(default_factory=AnswerSettings)

    def __post_init__(self) -> None:
        if not self.scorers:
            raise ConfigError("name a scorer: --scorer objects, for example")
        names = [scorer.name for scorer in self.scorers]
        for name in names:
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"a scorer cannot be called '{short(name, 60)}': its name begins with a letter and has only "
                    "letters, digits, - and _, at most 40"
                )
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"two scorers are called '{twice[0]}'; give one another name: --scorer NAME={twice[0]}")
        lowered = [name.lower() for name in names]
        if twice := [name for name in names if lowered.count(name.lower()) > 1]:
            raise ConfigError(f"the names {' and '.join(twice)} differ only in capitals, and their files would not")
        for scorer in self.scorers:
            check_options(scorer.name, scorer.kind, scorer.options)
        if self.range is not None and not self.range[0] < self.range[1]:
            raise ConfigError(f"the range must go up, got {self.range[0]:g}..{self.range[1]:g}")
        if not 0 <= self.max_missing <= 1:
            raise ConfigError(f"max_missing is a share from 0 to 1, got {self.max_missing:g}")

    def declared_range(self, of_mapping: Bounds | None) -> Bounds:
        """The range that scores are mapped to, given that of the mapping that is taken, if one is.

        Raises:
            ConfigError: they differ.
        """
        if of_mapping is None:
            return self.range or RANGE
        if self.range is not None and self.range != of_mapping:
            raise ConfigError(
                f"{self.mapping} maps to {of_mapping[0]:g}..{of_mapping[1]:g} and --range says "
                f"{self.range[0]:g}..{self.range[1]:g}; leave --range out"
            )
        return of_mapping


def parse_scorers(named: Sequence[str], options: Sequence[str]) -> tuple[AskedScorer, ...]:
    """``NAME`` or ``NAME=KIND`` texts and their ``NAME.option=value`` texts as scorers.

    ``NAME.scale=LO..HI`` declares a scale for any kind that has no option of that name.

    Raises:
        ConfigError: a text is written otherwise, or an option is of no scorer that is named.
    """
    kinds: dict[str, str] = {}
    for text in named:
        name, _, kind = text.partition("=")
        if name in kinds:
            raise ConfigError(
                f"two scorers are called '{short(name, 60)}'; give one another name: --scorer NAME={name}"
            )
        kinds[name] = kind or name
    given: dict[str, dict[str, Any]] = {name: {} for name in kinds}
    for text in options:
        path, equals, value = text.partition("=")
        name, dot, option = path.partition(".")
        if not equals or not dot or not option.isidentifier():
            raise ConfigError(f"'{short(text)}' must be written NAME.option=value, for example objects.truth=FILE")
        if name not in given:
            hint = did_you_mean(name, list(given))
            raise ConfigError(f"'{short(text)}' is for a scorer '{short(name, 60)}' that is not named{hint}")
        if option in given[name]:
            raise ConfigError(f"{name}.{option} is given twice")
        given[name][option] = parse_value(value, where=f"option '{short(text)}'")
    scorers = []
    for name, kind in kinds.items():
        scale: Scale | None = None
        if "scale" in given[name] and not has_option(kind, "scale"):
            scale = scale_of(given[name].pop("scale"), f"{name}.scale")
        scorers.append(AskedScorer(name=name, kind=kind, options=given[name], scale=scale))
    return tuple(scorers)


def parse_range(text: str | None) -> Bounds | None:
    """``LO..HI`` as a range; None where it is not given.

    Raises:
        ConfigError: it is written otherwise.
    """
    return None if text is None else scale_of(text, "--range")


def parse_weights(texts: Sequence[str]) -> dict[str, float]:
    """``NAME=2`` texts as weights.

    Raises:
        ConfigError: one is written otherwise, or is below 0.
    """
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            weight = float(value)
        except ValueError:
            weight = -1.0
        if not name or not 0 <= weight < float("inf"):
            raise ConfigError(f"--weights '{short(text)}' must be written NAME=WEIGHT, with a weight from 0")
        if name in found:
            raise ConfigError(f"--weights names {short(name, 60)} twice")
        found[name] = weight
    return found
