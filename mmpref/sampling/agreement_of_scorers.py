"""How far two scorers agree on the same answers: whether they order the answers of a prompt alike, and Spearman's rank
correlation over all answers (Spearman 1904), both with intervals over images drawn again (:mod:`mmpref.statistics`).

For the intervals of the correlation the ranks stay those of all answers. Above some thousand images fewer resamples are
drawn, so that the time does not grow with them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmpref.statistics import RESAMPLES, Array, Formula, Interval, Metric, Ratio, estimate, tally

_MOST_CELLS = 20_000_000
"""Units times resamples that are drawn: some seconds."""
_FEWEST_RESAMPLES = 200
_SUMS = ("n", "x", "y", "xx", "yy", "xy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What two scorers say of the same answers.

    Args:
        first: name of one scorer.
        second: name of the other.
        answers: how many both have scored.
        same_order: pairs of answers of one prompt that both order alike.
        other_order: pairs that they order differently.
        ties: pairs that at least one of them scores equally; they are in no share.
        share: same_order / (same_order + other_order); None where there is no such pair.
        share_interval: 95 %, of the share.
        spearman: rank correlation over all answers; None where one of them scores all alike.
        spearman_interval: 95 %, of the correlation.
    """

    first: str
    second: str
    answers: int
    same_order: int
    other_order: int
    ties: int
    share: float | None
    share_interval: Interval | None
    spearman: float | None
    spearman_interval: Interval | None

    def as_json(self) -> dict[str, Any]:
        """As ``scores.json`` has it."""
        return {
            "scorers": [self.first, self.second],
            "answers": self.answers,
            "same_order": self.same_order,
            "other_order": self.other_order,
            "ties": self.ties,
            "share": self.share,
            "share_interval": None if self.share_interval is None else list(self.share_interval),
            "spearman": self.spearman,
            "spearman_interval": None if self.spearman_interval is None else list(self.spearman_interval),
        }

    def describe(self) -> str:
        """One line for people."""
        _, answers, pairs, share, spearman = self.row()
        return f"{answers} answers, {pairs} pairs of answers, ordered alike {share}, Spearman {spearman}"

    def row(self) -> list[str]:
        """For a table of texts, in the order of :data:`COLUMNS`."""
        pairs = self.same_order + self.other_order
        return [
            f"{self.first}, {self.second}",
            f"{self.answers:,}",
            f"{pairs:,} ({self.ties:,} ties)",
            _shown(self.share, self.share_interval),
            _shown(self.spearman, self.spearman_interval),
        ]


COLUMNS = ("scorers", "answers", "pairs of answers", "ordered alike", "Spearman")


@dataclass(frozen=True, slots=True)
class ScoredPrompt:
    """The scores of one prompt's answers: scorer -> one for each answer, in the same order; None where it has none.

    ``unit`` is what was sampled independently: the image, or the prompt where it has none.
    """

    unit: str
    scores: Mapping[str, Sequence[float | None]]


def agreements(prompts: Sequence[ScoredPrompt], scorers: Sequence[str]) -> list[Agreement]:
    """The agreement of each two scorers."""
    couples = list(itertools.combinations(scorers, 2))
    if not couples:
        return []
    counts: dict[str, dict[str, float]] = {prompt.unit: {} for prompt in prompts}
    for number, (first, second) in enumerate(couples):
        _count_orders(prompts, first, second, str(number), counts)
        _add_rank_sums(prompts, first, second, str(number), counts)
    table = tally(counts)
    totals = dict(zip(table.names, table.counts.sum(axis=0).tolist(), strict=True))
    wanted: dict[str, Metric] = {}
    for number in range(len(couples)):
        wanted[f"{number}/share"] = _share(str(number))
        wanted[f"{number}/spearman"] = _correlation(str(number))
    resamples = max(_FEWEST_RESAMPLES, min(RESAMPLES, _MOST_CELLS // max(1, len(counts))))
    found = estimate(table, wanted, resamples=resamples)
    return [
        Agreement(
            first=first,
            second=second,
            answers=int(totals.get(f"{number}/n", 0)),
            same_order=int(totals.get(f"{number}/same", 0)),
            other_order=int(totals.get(f"{number}/other", 0)),
            ties=int(totals.get(f"{number}/ties", 0)),
            share=found.metrics[f"{number}/share"],
            share_interval=found.intervals.get(f"{number}/share"),
            spearman=found.metrics[f"{number}/spearman"],
            spearman_interval=found.intervals.get(f"{number}/spearman"),
        )
        for number, (first, second) in enumerate(couples)
    ]


def _count_orders(
    prompts: Sequence[ScoredPrompt], first: str, second: str, name: str, counts: dict[str, dict[str, float]]
) -> None:
    for prompt in prompts:
        both = [
            (one, two)
            for one, two in zip(prompt.scores[first], prompt.scores[second], strict=True)
            if one is not None and two is not None
        ]
        row = counts[prompt.unit]
        for (one, two), (other_one, other_two) in itertools.combinations(both, 2):
            alike = (one > other_one) == (two > other_two)
            kind = "ties" if one == other_one or two == other_two else "same" if alike else "other"
            row[f"{name}/{kind}"] = row.get(f"{name}/{kind}", 0.0) + 1


def _add_rank_sums(
    prompts: Sequence[ScoredPrompt], first: str, second: str, name: str, counts: dict[str, dict[str, float]]
) -> None:
    units: list[str] = []
    values: list[tuple[float, float]] = []
    for prompt in prompts:
        for one, two in zip(prompt.scores[first], prompt.scores[second], strict=True):
            if one is not None and two is not None:
                units.append(prompt.unit)
                values.append((one, two))
    if not values:
        return
    ranks = [_centred_ranks(np.array(side, dtype=np.float64)) for side in zip(*values, strict=True)]
    for unit, x, y in zip(units, ranks[0].tolist(), ranks[1].tolist(), strict=True):
        row = counts[unit]
        for part, value in zip(_SUMS, (1.0, x, y, x * x, y * y, x * y), strict=True):
            row[f"{name}/{part}"] = row.get(f"{name}/{part}", 0.0) + value


def _centred_ranks(values: Array) -> Array:
    """Ranks from -0.5 to 0.5; equal values share the mean of theirs. [N] -> [N]."""
    _, place, repeats = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(repeats)
    means = ends - (repeats - 1) / 2  # the mean of the ranks from 1 that a value's repeats have
    centred: Array = (means[place] - (len(values) + 1) / 2) / max(1, len(values))
    return centred


def _share(name: str) -> Ratio:
    same, other = f"{name}/same", f"{name}/other"
    return Ratio(top={same: 1}, bottom={same: 1, other: 1}, why_empty="no two answers of a prompt differ for both")


def _correlation(name: str) -> Formula:
    def combine(means: Mapping[str, Array]) -> Array:
        varies_x, varies_y = means["xx"] - means["x"] ** 2, means["yy"] - means["y"] ** 2
        bottom = np.sqrt(np.clip(varies_x, 0, None) * np.clip(varies_y, 0, None))
        top = means["xy"] - means["x"] * means["y"]
        value = np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 1e-12)
        return np.clip(value, -1.0, 1.0)

    return Formula(
        parts={
            part: Ratio(top={f"{name}/{part}": 1}, bottom={f"{name}/n": 1}, why_empty="", proportion=False)
            for part in _SUMS[1:]
        },
        combine=combine,
        why_empty="one of them scores all answers alike",
        proportion=False,
    )


def _shown(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval is not None else "")
