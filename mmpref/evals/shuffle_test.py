"""Do answers fit their own questions better than the questions of others? The permutation test in closed form.

Two lists of sets are compared place by place: what an answer says and what its question is about (objects of a caption
and of its image; words of an answer and of its question; a reading and a label). The statistic is the number of common
elements over all places. If the answers were dealt out to the questions in any order, its mean and variance would be
those of Hoeffding (1951, "A combinatorial central limit theorem"), which need no draws.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np

_MOST_NAMES = 300  # those that are common most often; the table has a cell for each in each place


@dataclass(frozen=True, slots=True)
class ShuffleTest:
    """How many elements were common, against the mean and the standard deviation over all orders of the answers.

    ``most`` is how many could be: one for each element that an answer says, of those that some question is about.
    """

    common: int
    expected: float
    deviation: float
    most: int

    @property
    def sigmas(self) -> float:
        """How many standard deviations above the mean; 0 where all orders are alike."""
        return (self.common - self.expected) / self.deviation if self.deviation > 0 else 0.0

    @property
    def reach(self) -> float:
        """The most that ``sigmas`` could be: small where there is too little to tell anything by."""
        return (self.most - self.expected) / self.deviation if self.deviation > 0 else 0.0

    @property
    def skill(self) -> float:
        """0 for a shuffle and 1 where everything that is said is common: Cohen's kappa where one word is said."""
        return (self.common - self.expected) / (self.most - self.expected) if self.most > self.expected else 0.0


def shuffle_test(said: Sequence[Set[str]], shown: Sequence[Set[str]]) -> ShuffleTest:
    """The test of answers (what each says) against questions (what each is about), both in the same order.

    Raises:
        ValueError: there are not as many of the one as of the other.
    """
    if len(said) != len(shown):
        raise ValueError(f"{len(said)} answers and {len(shown)} questions")
    in_said, in_shown = (Counter(name for names in sets for name in names) for sets in (said, shown))
    weight = {name: in_said[name] * in_shown[name] for name in in_said.keys() & in_shown.keys()}
    names = sorted(weight, key=lambda name: (-weight[name], name))[:_MOST_NAMES]
    column = {name: number for number, name in enumerate(names)}
    common = sum(len(here & there & column.keys()) for here, there in zip(said, shown, strict=True))
    most = sum(len(here & column.keys()) for here in said)
    if len(said) < 2 or not names:
        return ShuffleTest(common, float(common), 0.0, most)
    tables = [np.zeros((len(said), len(names))) for _ in (said, shown)]
    for table, sets in zip(tables, (said, shown), strict=True):
        for row, found in enumerate(sets):
            for name in found & column.keys():
                table[row, column[name]] = 1.0
    first, second = tables
    expected = float(first.sum(axis=0) @ second.sum(axis=0)) / len(said)
    first, second = first - first.mean(axis=0), second - second.mean(axis=0)
    # the sum of squares of all products of a centred answer and a centred question, without the table of these
    squares = float(((first.T @ first) * (second.T @ second)).sum())
    return ShuffleTest(common, expected, math.sqrt(max(0.0, squares) / (len(said) - 1)), most)


def together(tests: Sequence[ShuffleTest]) -> ShuffleTest:
    """Tests of parts as one test, whose answers are dealt out within their part."""
    deviation = math.sqrt(sum(test.deviation**2 for test in tests))
    common, most = sum(test.common for test in tests), sum(test.most for test in tests)
    return ShuffleTest(common, sum(test.expected for test in tests), deviation, most)


def moved(said: Sequence[Set[str]], shown: Sequence[Set[str]], by: int) -> ShuffleTest:
    """The same with every answer put to the question that stands ``by`` places after its own, or before if negative."""
    return shuffle_test(*_moved(said, shown, by))


def common_when_moved(said: Sequence[Set[str]], shown: Sequence[Set[str]], by: int) -> int:
    """How many elements are common then, without the test, which takes much longer."""
    return sum(len(here & there) for here, there in zip(*_moved(said, shown, by), strict=True))


def _moved(
    said: Sequence[Set[str]], shown: Sequence[Set[str]], by: int
) -> tuple[Sequence[Set[str]], Sequence[Set[str]]]:
    if by > 0:
        return said[:-by], shown[by:]
    return (said[-by:], shown[:by]) if by else (said, shown)
