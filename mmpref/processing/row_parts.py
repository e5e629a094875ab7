"""A batch in parts that are not larger than a number of tokens: each a batch of its own, with the same update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mmpref.processing.answer_tree import AnswerTree
from mmpref.processing.encoded import EncodedPair
from mmpref.processing.layout import LayoutName, sides_of


def parts_of(
    pairs: Sequence[EncodedPair],
    most: int | None,
    layout: LayoutName,
    *,
    need_rejected: bool = True,
    need_other: bool = False,
) -> Iterator[list[EncodedPair]]:
    """The pairs in as few parts as the limit allows, those of one prompt together; otherwise in their order.

    A part has at least one pair, also where that is longer than the limit. Pairs of a prompt that do not fit together
    are taken so that each part has many pairs of few answers; the prompt is repeated in each.

    Args:
        pairs: encoded; those that share a prompt have the same object.
        most: tokens that the model shall run over at once; None for no limit.
        layout: of the batches.
        need_rejected: whether rejected answers are run.
        need_other: whether chosen answers are run under the other image too.
    """
    needs = (need_rejected, need_other)
    if most is None:
        yield list(pairs)
        return
    part: list[EncodedPair] = []
    size = _Size()
    for group in _by_prompt(pairs):
        of_group = _size(group, needs)
        if (size + of_group).tokens(layout) <= most:
            part, size = [*part, *group], size + of_group
            continue
        if part:
            yield part
        part, size = [], _Size()
        if of_group.tokens(layout) <= most:
            part, size = list(group), of_group
            continue
        *whole, part = _divided(group, most, layout, needs)
        yield from whole
        size = _size(part, needs)  # it may have space for others
    if part:
        yield part


_Needs = tuple[bool, bool]
"""Whether rejected answers are run, and chosen ones under the other image."""


def _divided(group: Sequence[EncodedPair], most: int, layout: LayoutName, needs: _Needs) -> Iterator[list[EncodedPair]]:
    """Pairs of one prompt, next always the one with the fewest tokens that the part has not."""
    left = list(group)
    part: list[EncodedPair] = []
    answers: set[_OneAnswer] = set()
    while left:
        new = [_answers_of(pair, needs) - answers if part else set() for pair in left]
        cheapest = min(range(len(left)), key=lambda at: (sum(len(answer) for _, answer in new[at]), at))
        if part and _size([*part, left[cheapest]], needs).tokens(layout) > most:
            yield part
            part, answers = [], set()
            continue
        pair = left.pop(cheapest)
        part.append(pair)
        answers.update(_answers_of(pair, needs))
    yield part


_OneAnswer = tuple[int, tuple[int, ...]]
"""The prompt object that an answer stands behind, by its id, and the answer's tokens."""


def _answers_of(pair: EncodedPair, needs: _Needs) -> set[_OneAnswer]:
    return {(id(side.prompt), tuple(side.answer.tolist())) for side in sides_of(pair, *needs) if side is not None}


class _Size(NamedTuple):
    """Of a batch; of two that have no prompt in common, as one."""

    packed: int = 0  # tokens of its packed row
    rows: int = 0  # padded rows, where answers stand in rows of their own
    longest: int = 0  # tokens of the longest of them

    def __add__(self, other: _Size) -> _Size:  # type: ignore[override]  # not a longer tuple
        return _Size(self.packed + other.packed, self.rows + other.rows, max(self.longest, other.longest))

    def tokens(self, layout: LayoutName) -> int:
        """Tokens that the model runs over, padding counted."""
        return self.packed if layout == "shared_prefix" else self.rows * self.longest


def _size(pairs: Sequence[EncodedPair], needs: _Needs) -> _Size:
    trees: dict[tuple[int, object], AnswerTree] = {}
    rows: dict[tuple[int, tuple[int, ...]], int] = {}
    for pair in pairs:
        for prompt, answer, reading in (side for side in sides_of(pair, *needs) if side is not None):
            trees.setdefault((id(prompt), reading), AnswerTree(len(prompt))).add(answer)
            rows[id(prompt), tuple(answer.tolist())] = len(prompt) + len(answer)
    packed = sum(branch.length for tree in trees.values() for branch in tree.branches)
    return _Size(packed, len(rows), max(rows.values()))


def _by_prompt(pairs: Sequence[EncodedPair]) -> list[list[EncodedPair]]:
    """Pairs whose chosen answers continue the same prompt, each in the place of the first of them."""
    found: dict[int, list[EncodedPair]] = {}
    for pair in pairs:
        found.setdefault(id(pair.prompt), []).append(pair)
    return list(found.values())
