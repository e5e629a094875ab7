"""Which of the possible pairs are kept, with or without a balance of lengths.

Best against worst teaches more than quality where the better answers of a model are its shorter (or longer) ones. With
the balance, a pair counts for its margin minus ``price * (words of chosen - words of rejected)``; the price is found by
bisection so that the words of the chosen and of the rejected answers are as many in the mean. That is the Lagrangian
relaxation of "the most margin under equal length" (Everett 1963, Operations Research 11:399): a prompt gives another of
its pairs where one of nearly the same margin has the other sign, and none where every pair costs more than its margin.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Places: TypeAlias = NDArray[np.int64]
_STEPS = 50
WORDS, SHARE = 0.1, 0.01
"""Lengths are balanced where their means differ by so many words, or by that share of the mean length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PossiblePairs:
    """Pairs that may be made, those of one prompt beside each other.

    Args:
        prompt: number of the prompt of each pair, ascending. [pairs]
        margin: score of chosen minus score of rejected, above 0. [pairs]
        chosen_words: of the chosen answer. [pairs]
        rejected_words: of the rejected answer. [pairs]
        images: of each prompt, to count pairs per image; may be empty where nobody does.
    """

    prompt: Places
    margin: Floats
    chosen_words: Floats
    rejected_words: Floats
    images: Sequence[Sequence[object]] = ()

    @property
    def words(self) -> Floats:
        """Words of chosen minus words of rejected. [pairs]"""
        return self.chosen_words - self.rejected_words


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most pairs of one prompt and over one image; None: any number."""

    per_prompt: int | None = None
    per_image: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What is kept.

    Args:
        plain: places of the pairs that would be kept without a balance, ascending.
        kept: places of the pairs that are kept, ascending.
        price: margin that one word is worth; 0 without a balance.
        way: how the balance was reached: ``none`` was asked for, ``even`` before, by ``dropping`` pairs, or by
            ``choosing`` others.
    """

    plain: Places
    kept: Places
    price: float = 0.0
    way: str = "none"


def select(possible: PossiblePairs, limits: Limits, price: float = 0.0) -> Places:
    """The places of the pairs with the highest ``margin - price * words``, within the limits; none of value 0 or less.

    Of pairs of equal value in a prompt the first is taken.
    """
    value = possible.margin - price * possible.words
    if limits.per_prompt == 1 and value.size:
        found = _best(possible.prompt, value)
    else:
        found = _first(possible.prompt, value, limits.per_prompt)
    if limits.per_image is not None:
        found = _within_images(possible, found, value, limits.per_image)
    return found


def _best(prompt: Places, value: Floats) -> Places:
    """The first place of the highest value of each prompt, where that is above 0."""
    starts = _starts(prompt)
    sizes = np.diff(np.r_[starts, prompt.size])
    best = np.maximum.reduceat(value, starts)
    places = np.where(value == np.repeat(best, sizes), np.arange(prompt.size), prompt.size)
    return np.minimum.reduceat(places, starts)[best > 0]


def _first(prompt: Places, value: Floats, most: int | None) -> Places:
    """The places of the highest values of each prompt, at most so many, that are above 0."""
    found: Places = np.flatnonzero(value > 0)
    if most is None or not found.size:
        return found
    found = found[np.lexsort((-value[found], prompt[found]))]  # stable
    starts = _starts(prompt[found])
    rank = np.arange(found.size) - np.repeat(starts, np.diff(np.r_[starts, found.size]))
    return np.sort(found[rank < most])


def _starts(prompt: Places) -> Places:
    """Where each prompt begins."""
    return np.flatnonzero(np.r_[True, prompt[1:] != prompt[:-1]])


def _within_images(possible: PossiblePairs, found: Places, value: Floats, most: int) -> Places:
    """At most so many pairs over each image, those of the highest value first."""
    count: Counter[object] = Counter()
    kept = []
    for place in found[np.argsort(-value[found], kind="stable")].tolist():
        images = set(possible.images[int(possible.prompt[place])])
        if all(count[image] < most for image in images):
            count.update(images)
            kept.append(place)
    return np.sort(np.asarray(kept, dtype=np.int64))


def choose(possible: PossiblePairs, limits: Limits, *, balance: bool) -> Selection:
    """The pairs to keep.

    With a balance, the mean difference of lengths is within :data:`WORDS` or :data:`SHARE` of 0 where there are some
    hundred prompts with pairs of both signs; of few prompts something may be left (no search over all selections is
    made), and it is never larger than without. Of dropping pairs alone and choosing others too, what keeps more
    margin in all is taken. Where all possible pairs have the same sign, those of equal lengths are kept.
    """
    plain = select(possible, limits)
    if not balance:
        return Selection(plain=plain, kept=plain)
    words = possible.words
    if is_even(possible, plain):
        return Selection(plain=plain, kept=plain, way="even")
    sign = 1.0 if words[plain].sum() > 0 else -1.0
    if not (words * sign < 0).any():
        return Selection(plain=plain, kept=select(possible, limits, sign * _highest(possible)), way="dropping")
    price, other = _priced(possible, limits, sign)
    ways = [("choosing", _trimmed(possible, other), price), ("dropping", _trimmed(possible, plain), 0.0)]
    ways = [way for way in ways if abs(_mean(words[way[1]])) <= abs(_mean(words[plain]))]  # dropping is always there
    even = [way for way in ways if is_even(possible, way[1])]
    if even:
        name, kept, price = max(even, key=lambda way: possible.margin[way[1]].sum())
    else:
        name, kept, price = min(ways, key=lambda way: abs(_mean(words[way[1]])))
    return Selection(plain=plain, kept=kept, price=price, way=name)


def _highest(possible: PossiblePairs) -> float:
    """A price at which a pair of one word too many is worth nothing, whatever its margin."""
    return 1.01 * float(possible.margin.max())


def is_even(possible: PossiblePairs, kept: Places) -> bool:
    """Whether the words of both sides are nearly as many in the mean."""
    return abs(_mean(possible.words[kept])) <= _tolerance(possible, kept)


def _tolerance(possible: PossiblePairs, kept: Places) -> float:
    return max(WORDS, SHARE * _mean(possible.chosen_words[kept] + possible.rejected_words[kept]) / 2)


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else 0.0


def _priced(possible: PossiblePairs, limits: Limits, sign: float) -> tuple[float, Places]:
    """The price at which the sum of the differences changes its sign, and a selection at that price.

    The sum falls as the price rises. Where it jumps over 0, as many prompts as bring it nearest to 0 take their pairs
    of the higher price, in their order.
    """
    words = possible.words * sign

    def at(price: float) -> Places:
        return select(possible, limits, sign * price)

    low, high = 0.0, _highest(possible)
    fewer, more = at(high), at(low)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if (found := at(middle)).size and words[found].sum() > 0:
            low, more = middle, found
        else:
            high, fewer = middle, found
        if np.array_equal(fewer, more):
            break
    if limits.per_image is not None:  # prompts that share an image cannot be changed one by one
        return sign * high, min(fewer, more, key=lambda kept: abs(_mean(words[kept])) if kept.size else np.inf)
    return sign * high, _between(possible.prompt, words, more, fewer)


def _between(prompt: Places, words: Floats, more: Places, fewer: Places) -> Places:
    """The first prompts with their pairs of ``fewer``, the others with those of ``more``: as many as bring it to 0."""
    size = int(prompt[-1]) + 1
    before, after = (np.bincount(prompt[kept], weights=words[kept], minlength=size) for kept in (more, fewer))
    sums = before.sum() + np.r_[0.0, np.cumsum(after - before)]
    changed = int(np.argmin(np.abs(sums)))
    return np.sort(np.r_[more[prompt[more] >= changed], fewer[prompt[fewer] < changed]])


def _trimmed(possible: PossiblePairs, kept: Places) -> Places:
    """The same without the pairs that bring the least margin for each word, as many as are too many for a balance."""
    total = float(possible.words[kept].sum())
    words = possible.words[kept] * (1.0 if total > 0 else -1.0)
    if not kept.size or is_even(possible, kept):
        return kept
    order: Places = np.flatnonzero(words > 0)
    order = order[np.argsort(possible.margin[kept][order] / words[order], kind="stable")]
    left = abs(total) - np.r_[0.0, np.cumsum(words[order])]
    number = kept.size - np.arange(order.size + 1)
    mean = np.abs(left) / np.maximum(number, 1)
    mean[number == 0] = np.inf
    both = possible.chosen_words[kept] + possible.rejected_words[kept]
    lengths = (both.sum() - np.r_[0.0, np.cumsum(both[order])]) / 2 / np.maximum(number, 1)
    enough = np.flatnonzero(mean <= np.maximum(WORDS, SHARE * lengths))
    dropped = int(enough[0]) if enough.size else int(np.argmin(mean))
    return np.delete(kept, order[:dropped])
