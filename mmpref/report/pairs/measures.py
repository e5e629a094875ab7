"""What is counted of pairs: quadrants, quantiles over training, the heaviest share, bins. Numbers in, numbers out.

Shapes: N pairs (or rows of a log).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmpref.report.figures.bands import QUANTILES
from mmpref.statistics import RESAMPLES, Array

Mask = NDArray[np.bool_]
QUADRANTS: Mapping[str, str] = {
    "agreed-learnt": "score and reward prefer the chosen answer",
    "agreed-unlearnt": "the score prefers the chosen answer, the reward does not",
    "contradicted-learnt": "the score prefers the rejected answer, the reward the chosen one",
    "contradicted-unlearnt": "the score prefers the rejected answer, and the reward does not prefer the chosen one",
    "tied-learnt": "equal scores, the reward prefers the chosen answer",
    "tied-unlearnt": "equal scores, the reward does not prefer the chosen answer",
}
"""The four quadrants, and the two places of pairs with equal scores. A reward margin of 0 is not learnt: as in the
reward accuracy, the chosen reward must be the larger one."""
_MOST_CELLS = 20_000_000
_FEWEST_RESAMPLES = 200
_TENTHS = 10
SEED = 0


def quadrants(score_margin: Array, reward_margin: Array) -> dict[str, Mask]:
    """Which pairs lie in each of :data:`QUADRANTS`; a pair without one of the two numbers lies in none.

    Args:
        score_margin: S_w - S_l, [N].
        reward_margin: chosen less rejected reward, [N].

    Returns:
        name -> mask [N].
    """
    known = np.isfinite(score_margin) & np.isfinite(reward_margin)
    sides = {"agreed": score_margin > 0, "contradicted": score_margin < 0, "tied": score_margin == 0}
    learnt = reward_margin > 0
    return {
        f"{side}-{end}": known & mask & (learnt if end == "learnt" else ~learnt)
        for side, mask in sides.items()
        for end in ("learnt", "unlearnt")
    }


def heaviest_share(weights: Array, part: float = 0.1) -> float | None:
    """Share of the total weight that the heaviest ``part`` of the pairs have, at least one pair; None without weight.

    Equal weights give ``part``, up to whole pairs. [N] -> number.
    """
    known = np.sort(weights[np.isfinite(weights)])[::-1]
    total = known.sum()
    if not len(known) or total <= 0:
        return None
    return float(known[: max(1, int(np.ceil(part * len(known) - 1e-9)))].sum() / total)


def effective_number(weights: Array) -> float | None:
    """(sum w)^2 / sum w^2 (Kish 1965): how many equally weighted pairs weigh as unevenly; None without weight."""
    known = weights[np.isfinite(weights)]
    squares = float((known**2).sum())
    return float(known.sum() ** 2 / squares) if squares > 0 else None


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of training: its middle step and which rows of the log lie in it, [N]."""

    step: float
    rows: Mask


def stretches(steps: Array, parts: int = _TENTHS) -> list[Stretch]:
    """Training in tenths by step, the first with the first step and the last with the last; fewer where there are fewer
    steps. ``steps`` [N]."""
    known = np.unique(steps)
    parts = min(parts, len(known))
    if not parts:
        return []
    low, high = float(known[0]), float(known[-1])
    place = np.minimum(parts - 1, ((steps - low) / max(high - low, 1e-300) * parts).astype(int))
    found = []
    for part in range(parts):
        rows = place == part
        if rows.any():
            inside = np.unique(steps[rows])
            found.append(Stretch(float((inside[0] + inside[-1]) / 2), rows))
    return found


def quantile_row(values: Array) -> tuple[float, ...] | None:
    """The five :data:`~mmpref.report.figures.bands.QUANTILES` of the finite values, interpolated; None without any."""
    known = values[np.isfinite(values)]
    return tuple(float(q) for q in np.quantile(known, QUANTILES)) if len(known) else None


def share_within(ratio: Array, factor: float = 1.1) -> float | None:
    """Share of ratios in [1 / factor, factor], ends included; None without any. [N] -> number."""
    known = ratio[np.isfinite(ratio)]
    slack = 1e-9
    inside = (known >= 1 / factor - slack) & (known <= factor + slack)
    return float(inside.mean()) if len(known) else None


def length_bins(differences: Array, count: int = 5) -> list[tuple[float, float]]:
    """Bins of nearly as many pairs each, as (least, largest) of the values in them, both included.

    Equal differences share a bin, so that there may be fewer than ``count``. [N] -> at most ``count`` bins.
    """
    known = np.sort(differences[np.isfinite(differences)])
    if not len(known):
        return []
    edges = np.unique(np.quantile(known, np.arange(1, count + 1) / count, method="inverted_cdf"))
    found, below = [], -np.inf
    for edge in edges:
        inside = known[(known > below) & (known <= edge)]
        found.append((float(inside[0]), float(inside[-1])))
        below = edge
    return found


def histogram(values: Array, edges: Array) -> tuple[float, ...]:
    """Share of the finite values between neighbouring edges; those beyond an end count in the outermost bin."""
    known = values[np.isfinite(values)]
    counts, _ = np.histogram(np.clip(known, edges[0], edges[-1]), edges)
    return tuple(float(share) for share in counts / max(1, len(known)))


def axis_of(samples: Sequence[Array], bins: int = 24) -> Array | None:
    """Edges of a histogram's bins for samples that share an axis: from their 0.5 to their 99.5 % quantile."""
    known = np.concatenate([sample[np.isfinite(sample)] for sample in samples])
    if not len(known):
        return None
    low, high = np.quantile(known, [0.005, 0.995])
    if high - low <= 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    edges: Array = np.linspace(low, high, bins + 1)
    return edges


def resamples_for(units: int) -> int:
    """How many resamples an interval gets: fewer for many thousand pairs, so that the time does not grow with them."""
    return max(_FEWEST_RESAMPLES, min(RESAMPLES, _MOST_CELLS // max(1, units)))


def finite(*columns: Array) -> Mask:
    """Rows in which all columns have a number. [N] each -> [N]."""
    known: Any = np.ones(len(columns[0]), dtype=bool)
    for column in columns:
        known &= np.isfinite(column)
    return np.asarray(known, dtype=bool)


def by_hash(ids: Iterable[object], count: int) -> list[int]:
    """Places of ``count`` ids, those with the least hashes, in the order of the hashes: whatever they say."""
    digests = [hashlib.sha256(f"{SEED}/{name}".encode()).digest() for name in map(str, ids)]
    return sorted(range(len(digests)), key=digests.__getitem__)[:count]
