"""Groups for benchmarks: pairs that share their image and prompt, and the same pairs with a prompt each."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from bench_models import QUESTION_WORDS

from mmpref.records import ImageRef, PreferencePair, user_turn

KINDS = {
    "six": tuple(combinations(range(4), 2)),
    "five": tuple(pair for pair in combinations(range(4), 2) if pair != (2, 3)),
    "four": ((0, 2), (0, 3), (1, 2), (1, 3)),
    "three": ((0, 1), (0, 2), (0, 3)),
    "best_of_8": tuple((0, other) for other in range(1, 8)),
}
"""Kind of group -> (chosen, rejected) of each pair, as numbers of answers. The first four are 4 answers without ties,
with one tie, with two, and with three that are equal."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Pairs of one prompt."""

    kind: str
    pairs: list[PreferencePair]
    answer_tokens: int
    """Of all answers, each once, without their ends."""

    @property
    def apart(self) -> list[PreferencePair]:
        """The same pairs with the same pixels, each under a path of its own, which makes it a prompt of its own.

        ``bench_models.image`` draws by the number that a path is, and 7, 07 and 007 are one number.
        """
        return [
            replace(pair, images=tuple(ImageRef(path="0" * number + str(image.path)) for image in pair.images))
            for number, pair in enumerate(self.pairs, start=1)
        ]


def make_group(kind: str, seed: int, *, shortest: int = 100, longest: int = 200, vocabulary: int = 20_000) -> Group:
    """Random words over one image; answers of ``shortest`` to ``longest`` words."""
    draw = random.Random(seed)

    def words(number: int) -> str:
        return " ".join(f"w{draw.randrange(vocabulary)}" for _ in range(number))

    count = 1 + max(map(max, KINDS[kind]))
    lengths: Sequence[int] = [draw.randint(shortest, longest) for _ in range(count)]
    answers = [words(length) for length in lengths]
    prompt, images = user_turn(words(QUESTION_WORDS), num_images=1), (ImageRef(path=str(seed)),)
    pairs = [
        PreferencePair(
            id=f"{seed}:{better}-{worse}", images=images, prompt=prompt, chosen=answers[better], rejected=answers[worse]
        )
        for better, worse in KINDS[kind]
    ]
    return Group(kind=kind, pairs=pairs, answer_tokens=sum(lengths))


def nearest_to_mean(groups: Sequence[Group]) -> Group:
    """The group whose answers together are nearest to the mean length: its work stands for that of them all."""
    mean = sum(group.answer_tokens for group in groups) / len(groups)
    return min(groups, key=lambda group: abs(group.answer_tokens - mean))
