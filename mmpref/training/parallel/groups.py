"""Pairs of one prompt in the same update: what each update holds, and which rank runs which part of it.

Pairs of the same images and prompt are a group. Run together they cost their prompt and each distinct answer once, so a
group should not be torn apart: neither over updates, nor over the ranks and batches of one update. Where pairs are is
all that is decided here; the loss of an update is divided by all its pairs, so its batches need not be equally many.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from mmpref.records import PreferencePair
from mmpref.training.parallel.batches import GlobalBatches, imbalance_of
from mmpref.training.parallel.world import SINGLE_PROCESS, World

Group = tuple[int, ...]
"""Indexes of pairs of one prompt, or of some of them."""
LOOK_AHEAD = 64
"""Groups that are looked through for one that fits into what is left of an update, before one is divided."""
_WORTH_DIVIDING = 0.95
"""A group is divided between ranks only where the busiest one then has at most this share of the work it had."""
_CUTS = 32
"""Places at most at which a group may be divided between ranks."""


@dataclass(frozen=True, slots=True)
class PairWork:
    """What running one pair costs, in any unit: once for its prompt, and for each of its answers.

    Pairs of one prompt that run together pay for the prompt once, and for each distinct answer once.

    Attributes:
        prompt: of prompt and images, which pairs of one prompt have in common.
        answers: of each answer, with what equal answers of one prompt are known by.
    """

    prompt: float
    answers: tuple[tuple[Hashable, float], ...]

    def __float__(self) -> float:
        """Of the pair alone."""
        return self.prompt + sum(work for _, work in self.answers)


class PromptGroups:
    """The pairs of a training by prompt, and what they cost together.

    Args:
        pairs: in their order.
        work: of each pair: a number where nothing is known of what it shares. By default prompts and answers all cost
            the same.

    Attributes:
        members: the indexes of each prompt's pairs, prompts in the order of their first pair.
    """

    def __init__(self, pairs: Sequence[PreferencePair], work: Sequence[float | PairWork] | None = None) -> None:
        by_prompt: dict[Hashable, list[int]] = {}
        for index, pair in enumerate(pairs):
            by_prompt.setdefault(pair.prompt_key, []).append(index)
        self.members: tuple[Group, ...] = tuple(map(tuple, by_prompt.values()))
        self._work = [_as_work(one, index) for index, one in enumerate(map(_alike, pairs) if work is None else work)]

    @property
    def num_pairs(self) -> int:
        """Pairs in all."""
        return len(self._work)

    def cost(self, group: Iterable[int]) -> float:
        """Of pairs of one prompt, run together."""
        prompt, answers = 0.0, dict[Hashable, float]()
        for index in group:
            work = self._work[index]
            prompt = max(prompt, work.prompt)
            for answer, cost in work.answers:
                answers[answer] = max(answers.get(answer, 0.0), cost)
        return prompt + sum(answers.values())

    def cost_alone(self) -> float:
        """Of all pairs, each run by itself."""
        return sum(map(float, self._work))

    def shuffled(self, seed: int, epoch: int) -> list[Group]:
        """The groups in the order of an epoch, which seed and epoch alone decide."""
        generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
        return [self.members[place] for place in torch.randperm(len(self.members), generator=generator).tolist()]


def _alike(pair: PreferencePair) -> PairWork:
    sides = (pair.chosen,) if pair.rejected is None else (pair.chosen, pair.rejected)
    return PairWork(1.0, tuple((side, 1.0) for side in sides))


def _as_work(given: float | PairWork, index: int) -> PairWork:
    return given if isinstance(given, PairWork) else PairWork(0.0, ((index, float(given)),))


def updates_of(groups: Iterable[Group], width: int, look_ahead: int = LOOK_AHEAD) -> Iterator[list[Group]]:
    """The groups in about their order, as updates of exactly ``width`` pairs; the last one takes what is left.

    The first of the waiting groups that fits goes next. Where none of the first ``look_ahead`` fits, the first one is
    divided, and what is left of it begins the next update; nothing else is divided, but what an update cannot hold.

    Args:
        groups: in the order of an epoch.
        width: pairs of an update.
        look_ahead: a group overtakes so many at most, and the first one waits for no longer than one update.
    """
    coming = iter(groups)
    waiting = deque(islice(coming, look_ahead))
    rest: Group = ()
    while rest or waiting:
        update, space = [], width
        if rest:
            update, rest, space = [rest[:width]], rest[width:], width - len(rest[:width])
        while space and waiting:
            # an update that is still empty begins with the first of them: one larger than an update would wait for ever
            fitting = (place for place, group in enumerate(waiting) if len(group) <= space)
            place = next(fitting, 0) if update else 0
            group = waiting[place]
            del waiting[place]
            waiting.extend(islice(coming, 1))
            update.append(group[:space])
            rest, space = group[space:], space - len(group[:space])
        yield update


def deal_to_ranks(update: Sequence[Group], ranks: int, groups: PromptGroups) -> list[list[Group]]:
    """Whole groups to ranks, the costliest first and always to the rank with the least work so far.

    A group is divided only where that takes a good part of its work off the busiest rank.
    """
    shares = _dealt(update, ranks, groups)
    if ranks == 1:
        return shares
    for _ in range(4 * ranks):
        loads = [sum(map(groups.cost, share)) for share in shares]
        busy, idle = loads.index(max(loads)), loads.index(min(loads))
        best: tuple[float, int, int] | None = None
        for place, group in enumerate(shares[busy]):
            without = loads[busy] - groups.cost(group)
            for cut in range(1, len(group), -(-len(group) // _CUTS)):
                top = max(without + groups.cost(group[:cut]), loads[idle] + groups.cost(group[cut:]))
                best = min(best or (top, place, cut), (top, place, cut))
        if best is None or best[0] > _WORTH_DIVIDING * loads[busy]:
            break
        _, place, cut = best
        group = shares[busy][place]
        shares[busy][place] = group[:cut]
        shares[idle].append(group[cut:])
    return shares


def deal_to_batches(share: Sequence[Group], batches: int, groups: PromptGroups) -> list[list[int]]:
    """The groups of one rank in an update as so many batches of about equal cost, the cheapest first.

    So batches without a pair come first, and never last, where ranks exchange their gradients.
    """
    dealt = _dealt(share, batches, groups)
    dealt.sort(key=lambda part: sum(map(groups.cost, part)))
    return [[index for group in part for index in group] for part in dealt]


def _dealt(update: Sequence[Group], parts: int, groups: PromptGroups) -> list[list[Group]]:
    costs = [groups.cost(group) for group in update]
    loads, dealt = [0.0] * parts, [list[Group]() for _ in range(parts)]
    for place in sorted(range(len(update)), key=lambda place: (-costs[place], place)):
        part = min(range(parts), key=lambda part: (loads[part], part))
        dealt[part].append(update[place])
        loads[part] += costs[place]
    return dealt


class GroupedBatches(GlobalBatches):
    """The batches of one rank where pairs of one prompt travel together.

    An update has exactly ``batch_size * accumulation * ranks`` pairs, as without groups, and which ones they are
    depends on that product, the seed and the epoch alone. Within it whole groups are dealt to ranks, and then to the
    batches of a rank, by what they cost together: a batch has no fixed number of pairs, and may have none.

    Args:
        groups: the pairs by prompt.
        batch_size: of the product; batches have so many pairs on average.
        accumulation: batches that make one update.
        world: the ranks that take the pairs together.
        seed: of the order.
        shuffle: False keeps prompts in the order of their first pair.
    """

    def __init__(
        self,
        groups: PromptGroups,
        batch_size: int,
        *,
        accumulation: int = 1,
        world: World = SINGLE_PROCESS,
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        super().__init__(groups.num_pairs, batch_size, rank=world.rank, size=world.size, seed=seed, shuffle=shuffle)
        self.groups, self.accumulation = groups, accumulation

    def updates(self) -> Iterator[list[Group]]:
        """What each update of the epoch holds, on all ranks together."""
        order = self.groups.shuffled(self.seed, self.epoch) if self.shuffle else self.groups.members
        return updates_of(order, self.batch_size * self.size * self.accumulation)

    def __iter__(self) -> Iterator[list[int]]:
        for update in self.updates():
            pairs = sum(map(len, update))
            shares = deal_to_ranks(update, self.size, self.groups)
            if self.size > 1:
                self.imbalance.append(imbalance_of([sum(map(self.groups.cost, share)) for share in shares]))
            yield from deal_to_batches(shares[self.rank], -(-pairs // (self.batch_size * self.size)), self.groups)
