"""From each scorer's own scale to the one range that is declared for all, and the mean of several scorers there.

A scale with two bounds is mapped linearly. Where nothing bounds it, the 1st or the 99th percentile of the scores takes
the place of the bound, and what lies beyond is clipped: one odd answer must not press all others together. What was
taken is written down, and the next round takes it again (``read_mappings``), so that rounds compare.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from mmpref.errors import ConfigError
from mmpref.files.reading import read_json

Bounds: TypeAlias = tuple[float, float]
Scale: TypeAlias = tuple[float | None, float | None]

RANGE: Bounds = (0.0, 5.0)
PERCENTILES = (1.0, 99.0)
EARLIER_STEP = "scored in an earlier step"
"""In place of the kind of a scorer whose scores were there already."""
FEW = 100
"""Below so many scores their percentiles are hardly more than the lowest and the highest of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleMapping:
    """How the scores of one scorer are mapped to the declared range.

    Args:
        low: raw score that is mapped to the lower end.
        high: raw score that is mapped to the upper end; equal to ``low`` where all scores were equal, and then
            everything is mapped to the middle.
        to: the range.
        clips: at which ends raw scores may lie beyond and are clipped.
        scores: how many scores the percentiles were taken of; 0 where both ends are bounds of the scale.
    """

    low: float
    high: float
    to: Bounds
    clips: tuple[bool, bool] = (False, False)
    scores: int = 0

    def apply(self, raw: float) -> float:
        """The score on the range; never outside it."""
        start, end = self.to
        if self.high == self.low:
            return start + (end - start) / 2
        share = (raw / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
        share = min(max(share, 0.0), 1.0)
        return min(max(start + share * (end - start), start), end)

    def inverse(self, score: float) -> float | None:
        """The raw score that is mapped to ``score``, of a clipped end its bound; None where all are mapped to one."""
        if self.high == self.low:
            return None
        share = (score - self.to[0]) / (self.to[1] - self.to[0])
        return self.low * (1 - share) + self.high * share

    def as_json(self) -> dict[str, Any]:
        """As ``scores.json`` has it."""
        return {
            "low": self.low,
            "high": self.high,
            "to": list(self.to),
            "clips": list(self.clips),
            "scores": self.scores,
        }

    def describe(self) -> str:
        """One line for people."""
        what = [f"the {name} percentile" for name, clips in zip(("1st", "99th"), self.clips, strict=True) if clips]
        taken = f" ({' and '.join(what)} of {self.scores:,} scores)" if what else ""
        if self.low == self.high:
            return f"all {self.low:g} -> {self.apply(self.low):g}{taken}"
        return f"{self.low:g}..{self.high:g} -> {self.to[0]:g}..{self.to[1]:g}{taken}"


class KnownMapping(NamedTuple):
    """The mapping of a scorer in the ``scores.json`` of an earlier step.

    Args:
        kind: of the scorer; "" where it is not known there.
        depends_on: what its scores depended on.
    """

    version: str
    mapping: ScaleMapping
    kind: str = ""
    depends_on: Mapping[str, Any] = {}


def mapping_of(scale: Scale, raw: Sequence[float], to: Bounds) -> ScaleMapping | None:
    """The mapping of a scorer; None where it has an open scale and no score.

    Args:
        scale: lowest and highest possible score; None where nothing bounds them.
        raw: the scores, finite and on the scale.
    """
    low, high = scale
    if low is not None and high is not None:
        return ScaleMapping(low=low, high=high, to=to)
    if not len(raw):
        return None
    # of halves, since the difference of two of them is finite whatever the scores are
    found = 2 * np.percentile(np.asarray(raw, dtype=np.float64) / 2, PERCENTILES)
    first = float(found[0]) if low is None else low
    last = float(found[1]) if high is None else high
    return ScaleMapping(low=first, high=max(first, last), to=to, clips=(low is None, high is None), scores=len(raw))


def is_on(scale: Scale, raw: float) -> bool:
    """Whether a score is finite and within the bounds that its scale has."""
    low, high = scale
    return math.isfinite(raw) and (low is None or raw >= low) and (high is None or raw <= high)


def combined(mapped: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """The weighted mean over scorers; None where one that has a weight has no score.

    Args:
        mapped: scorer -> score on the range.
        weights: scorer -> weight, 1 where none is named.
    """
    total, mean = 0.0, 0.0
    for name, score in mapped.items():
        weight = weights.get(name, 1.0)
        if weight == 0:
            continue
        if score is None:
            return None
        total += weight
        mean += weight * score
    return mean / total if total else None


def read_mappings(file: Path) -> tuple[Bounds, dict[str, KnownMapping]]:
    """The range, and what is known of each scorer and its mapping, in the ``scores.json`` of an earlier step.

    Raises:
        ConfigError: the file is not there, or is no such file.
    """
    content = read_json(file / "scores.json" if file.is_dir() else file, ConfigError, "the mapping")
    try:
        low, high = map(float, content["range"])
        found = {
            str(name): KnownMapping(
                version=str(entry["version"]),
                mapping=_from_json(entry["mapping"]),
                kind="" if (kind := str(entry.get("kind", ""))) == EARLIER_STEP else kind,
                depends_on=dict(entry.get("depends_on", {})),
            )
            for name, entry in content["scorers"].items()
            if entry["mapping"] is not None
        }
    except (LookupError, TypeError, ValueError, AttributeError) as err:
        raise ConfigError(
            f"{file} is no scores.json of mmpref sample score, or a damaged one ({type(err).__name__}: {err}); name "
            "that of an earlier round"
        ) from err
    return (low, high), found


def _from_json(entry: Mapping[str, Any]) -> ScaleMapping:
    start, end = map(float, entry["to"])
    first, second = map(bool, entry["clips"])
    found = ScaleMapping(
        low=float(entry["low"]),
        high=float(entry["high"]),
        to=(start, end),
        clips=(first, second),
        scores=int(entry["scores"]),
    )
    if not all(map(math.isfinite, (found.low, found.high, start, end))) or found.low > found.high or start >= end:
        raise ValueError("bounds that are none")
    return found
