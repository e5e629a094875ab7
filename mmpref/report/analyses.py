"""The statistics of the report: counts per question, ratios of their sums, paired bootstrap. numpy only.

A unit is what was sampled independently (an image); the questions about one image are drawn together.

Shapes: U units, K counts, R resamples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Interval: TypeAlias = tuple[float, float]
RESAMPLES = 2000
_TAIL = 0.025
_MIN_DEFINED_SHARE = 0.95  # with fewer resamples in which the ratio exists, an interval would mislead
_CELLS_PER_CHUNK = 4_000_000


@dataclass(frozen=True, slots=True)
class Ratio:
    """A metric: the weighted sum ``top`` over the weighted sum ``bottom`` of named counts."""

    top: Mapping[str, float]
    bottom: Mapping[str, float]

    def of(self, sums: Array, names: Sequence[str]) -> Array:
        """The metric of each row of ``sums`` [R, K]; NaN where there is nothing to divide by. Returns [R]."""
        top, bottom = sums @ _weights(self.top, names), sums @ _weights(self.bottom, names)
        value: Array = np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom != 0)
        return value


@dataclass(frozen=True, slots=True)
class Difference:
    """Second run less first on the same units; ``interval`` is None when it cannot be given."""

    value: float
    interval: Interval | None
    num_units: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


CHAIR_RATIOS: Mapping[str, Ratio] = {
    "chair_s": Ratio({"hallucinated_captions": 1}, {"captions": 1}),
    "chair_i": Ratio({"hallucinated_mentions": 1}, {"mentions": 1}),
    "recall": Ratio({"found_objects": 1}, {"true_objects": 1}),
    "mean_length": Ratio({"words": 1}, {"captions": 1}),
}

POPE_RATIOS: Mapping[str, Ratio] = {
    "accuracy": Ratio({"correct": 1}, {"asked": 1}),
    "f1": Ratio({"tp": 2}, {"tp": 2, "fp": 1, "fn": 1}),
    "yes_ratio": Ratio({"said_yes": 1}, {"answered": 1}),
}


def chair_counts(item: Mapping[str, Any]) -> dict[str, float]:
    """What one caption adds to each count; one that scoring left out of the rates only lowers recall."""
    return {
        "captions": float(bool(item.get("counted", True))),
        "hallucinated_captions": float(bool(item["hallucinated"])),
        "hallucinated_mentions": sum(bool(mention["hallucinated"]) for mention in item["mentions"]),
        "mentions": len(item["mentions"]),
        "found_objects": len(item["objects"]) - len(item["missing"]),
        "true_objects": len(item["objects"]),
        "words": float(item["num_words"]),
    }


def pope_counts(item: Mapping[str, Any], *, protocol: str) -> dict[str, float]:
    """What one yes/no answer adds to each count. lmms_eval leaves unread answers out of F1, and its yes-ratio counts
    the labels."""
    read, label = item.get("read"), item.get("label")
    said_yes, should_yes = read == "yes", label == "yes"
    strict_no = read == "no" if protocol == "lmms_eval" else not said_yes
    return {
        "asked": float(label is not None),
        "answered": 1,
        "correct": float(label is not None and read == label),
        "tp": float(said_yes and should_yes),
        "fp": float(said_yes and label == "no"),
        "fn": float(strict_no and should_yes),
        "said_yes": float(should_yes if protocol == "lmms_eval" else said_yes),
    }


def tally(rows: Sequence[Mapping[str, float]], units: Sequence[str], names: Sequence[str]) -> dict[str, Array]:
    """Counts summed per unit: unit -> [K], columns as in ``names``."""
    found: dict[str, Array] = {}
    for row, unit in zip(rows, units, strict=True):
        values = np.array([row[name] for name in names], dtype=np.float64)
        found[unit] = found[unit] + values if unit in found else values
    return found


def values(table: Mapping[str, Array], names: Sequence[str], ratios: Mapping[str, Ratio]) -> dict[str, float | None]:
    """Each metric over all units; None where it does not exist."""
    total = np.sum([table[unit] for unit in sorted(table)], axis=0, keepdims=True)
    if not table:
        return dict.fromkeys(ratios)
    return {name: _plain(float(ratio.of(total, names)[0])) for name, ratio in ratios.items()}


def intervals(
    table: Mapping[str, Array], names: Sequence[str], ratios: Mapping[str, Ratio], *, seed: int = 0
) -> dict[str, Interval]:
    """95 % percentile interval of each metric over units drawn with replacement."""
    if len(table) < 2:
        return {}
    drawn = _resampled_sums(np.stack([table[unit] for unit in sorted(table)]), seed)
    found = {name: _percentiles(ratio.of(drawn, names)) for name, ratio in ratios.items()}
    return {name: interval for name, interval in found.items() if interval is not None}


def paired_differences(
    first: Mapping[str, Array],
    second: Mapping[str, Array],
    names: Sequence[str],
    ratios: Mapping[str, Ratio],
    *,
    seed: int = 0,
) -> dict[str, Difference]:
    """``second - first`` per metric on the units that both have; both are seen on the same drawn units."""
    shared = sorted(first.keys() & second.keys())
    if not shared:
        return {}
    a, b = np.stack([first[unit] for unit in shared]), np.stack([second[unit] for unit in shared])
    drawn = _resampled_sums(np.hstack([a, b]), seed) if len(shared) > 1 else None
    out: dict[str, Difference] = {}
    for name, ratio in ratios.items():
        before = float(ratio.of(a.sum(axis=0, keepdims=True), names)[0])
        after = float(ratio.of(b.sum(axis=0, keepdims=True), names)[0])
        if np.isnan(before) or np.isnan(after):
            continue
        interval = None
        if drawn is not None:
            interval = _percentiles(ratio.of(drawn[:, len(names) :], names) - ratio.of(drawn[:, : len(names)], names))
        out[name] = Difference(after - before, interval, len(shared))
    return out


def mean_with_interval(sample: Sequence[float], *, seed: int = 0) -> tuple[float, Interval | None]:
    """Mean of independent values and its bootstrap interval."""
    column = np.asarray(sample, dtype=np.float64)[:, None]
    interval = _percentiles(_resampled_sums(column, seed)[:, 0] / len(column)) if len(column) > 1 else None
    return float(column.mean()), interval


def repetition(text: str, *, size: int = 3) -> float:
    """Share of an answer's word triples that it has said before: 0 for fluent text, near 1 for a loop."""
    words = text.lower().split()
    grams = list(zip(*(words[start:] for start in range(size)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def mean_repetition(texts: Sequence[str]) -> float:
    """Mean of :func:`repetition` over answers."""
    return sum(map(repetition, texts)) / len(texts) if texts else 0.0


def most_common_share(texts: Sequence[str]) -> float:
    """How large a share of the answers is word for word the same answer."""
    folded = Counter(" ".join(text.lower().split()) for text in texts)
    return max(folded.values()) / len(texts) if texts else 0.0


def _weights(terms: Mapping[str, float], names: Sequence[str]) -> Array:
    return np.array([terms.get(name, 0.0) for name in names], dtype=np.float64)


def _resampled_sums(counts: Array, seed: int) -> Array:
    """Sums of the counts over units drawn with replacement, once per resample: [R, K]."""
    rng = np.random.default_rng(seed)
    num_units = len(counts)
    share = np.full(num_units, 1.0 / num_units)
    piece = max(1, _CELLS_PER_CHUNK // num_units)
    sizes = [min(piece, RESAMPLES - start) for start in range(0, RESAMPLES, piece)]
    return np.concatenate([rng.multinomial(num_units, share, size=rows).astype(np.float64) @ counts for rows in sizes])


def _percentiles(sample: Array) -> Interval | None:
    defined = sample[~np.isnan(sample)]
    if not len(defined) or len(defined) < _MIN_DEFINED_SHARE * len(sample):
        return None
    low, high = np.quantile(defined, [_TAIL, 1 - _TAIL])
    return float(low), float(high)


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else value
