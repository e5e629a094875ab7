"""Win rates by length difference: where one answer is shorter, about as long, or longer; and in five equal parts.

About as long means that the lengths differ by a tenth of the longer one at most: so it is the same for whoever of the
two is judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmpref.statistics import Interval, Ratio, estimate, tally

SHORTER, SIMILAR, LONGER = "shorter", "similar", "longer"
_SIMILAR = 0.1  # of the longer answer
_PARTS = 5


@dataclass(frozen=True, slots=True)
class LengthBin:
    """The judged answers whose length less that of the reference lies in ``low`` to ``high`` characters: ``n`` of them,
    their win rate and its 95 % interval (None where there is none)."""

    label: str
    low: int
    high: int
    n: int
    rate: float
    interval: Interval | None


def bin_of(length: int, reference: int) -> str:
    """Whether an answer is shorter than the reference, about as long, or longer; lengths in characters."""
    if abs(length - reference) <= _SIMILAR * max(length, reference):
        return SIMILAR
    return LONGER if length > reference else SHORTER


def length_bins(items: Sequence[Mapping[str, Any]]) -> tuple[list[LengthBin], list[LengthBin]]:
    """The three bins, and five with about as many answers each (fewer where many differences are the same).

    Args:
        items: of a result of ``win_rate``; those without a preference have no say.
    """
    judged = [found for found in map(_judged, items) if found is not None]
    named = [_bin(name, [found for found in judged if found[3] == name]) for name in (SHORTER, SIMILAR, LONGER)]
    if not judged:
        return [], []
    edges = np.unique(np.quantile([found[1] for found in judged], np.linspace(0, 1, _PARTS + 1)[1:-1], method="higher"))
    place = [int(np.searchsorted(edges, found[1], side="right")) for found in judged]
    parts = [
        _bin("", [found for found, own in zip(judged, place, strict=True) if own == at]) for at in range(len(edges) + 1)
    ]
    return [one for one in named if one is not None], [one for one in parts if one is not None]


def _judged(item: Mapping[str, Any]) -> tuple[str, int, float, str] | None:
    """Id, length difference, preference and bin of an item; None where it has no texts or preference."""
    text, reference, preference = item.get("text"), item.get("reference"), item.get("preference")
    if not isinstance(text, str) or not isinstance(reference, str) or not isinstance(preference, int | float):
        return None
    lengths = len(text), len(reference)
    return str(item.get("id")), lengths[0] - lengths[1], float(preference), bin_of(*lengths)


def _bin(label: str, found: Sequence[tuple[str, int, float, str]]) -> LengthBin | None:
    if not found:
        return None
    rate = Ratio(top={"won": 1}, bottom={"judged": 1}, why_empty="")
    made = estimate(tally({name: {"won": won, "judged": 1} for name, _, won, _ in found}), {"rate": rate})
    differences = [difference for _, difference, _, _ in found]
    low, high = min(differences), max(differences)
    value = made.metrics["rate"]
    assert value is not None
    return LengthBin(label or f"{low:+d} to {high:+d}", low, high, len(found), value, made.intervals.get("rate"))
