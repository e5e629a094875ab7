"""Pairs of one prompt travel together: which update they are in, on which rank, in which of its batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpref.records import PreferencePair
from mmpref.training.parallel.groups import (
    Group,
    GroupedBatches,
    PairWork,
    PromptGroups,
    deal_to_batches,
    deal_to_ranks,
    updates_of,
)
from mmpref.training.parallel.world import World
from tests.tiny_vlms import pair

SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=25)


def pairs_of(sizes: Sequence[int]) -> list[PreferencePair]:
    """So many pairs of each prompt, dealt out like cards, so that those of a prompt do not lie together."""
    rows = [
        (place, pair(f"{prompt}-{place}", question=f"what is {prompt} ?", chosen=f"it {place} .", rejected="a dog ."))
        for prompt, size in enumerate(sizes)
        for place in range(size)
    ]
    return [row for _, row in sorted(rows, key=lambda row: row[0])]


def cut_up(sizes: Sequence[int]) -> list[Group]:
    begins = [sum(sizes[:place]) for place in range(len(sizes))]
    return [tuple(range(begin, begin + size)) for begin, size in zip(begins, sizes, strict=True)]


@given(sizes=SIZES, width=st.integers(1, 20))
@settings(max_examples=150, deadline=None)
def test_an_update_has_as_many_pairs_as_before_and_divides_a_prompt_only_where_nothing_else_fits(
    sizes: list[int], width: int
) -> None:
    groups = cut_up(sizes)
    updates = list(updates_of(groups, width))
    assert [sum(map(len, update)) for update in updates[:-1]] == [width] * (len(updates) - 1)
    assert 0 < sum(map(len, updates[-1])) <= width
    assert sorted(index for update in updates for part in update for index in part) == list(range(sum(sizes)))
    whole = set(groups)
    for number, update in enumerate(updates):
        *others, last = update
        divided = [part for part in others if part not in whole]
        assert divided == [part for part in update[:1] if part not in whole and len(update) > 1]  # begun before
        begun = next(group for group in groups if last[0] in group)
        if last[-1] == begun[-1]:
            continue
        assert updates[number + 1][0] == begun[begun.index(last[-1]) + 1 :][:width]  # the rest comes next
        if others:
            later = [part for after in updates[number + 1 :] for part in after if part in whole]
            assert all(len(group) > len(last) for group in later)


@given(sizes=SIZES, seed=st.integers(0, 5), epoch=st.integers(0, 2), product=st.sampled_from([1, 4, 6, 8, 12]))
@settings(max_examples=60, deadline=None)
def test_the_pairs_of_an_update_depend_on_their_number_alone(
    sizes: list[int], seed: int, epoch: int, product: int
) -> None:
    groups = PromptGroups(pairs_of(sizes))
    made = set[tuple[frozenset[int], ...]]()
    for size in (1, 2, 4):
        for batch in (1, 2, product):
            if product % (size * batch):
                continue
            steps = product // (size * batch)
            ranks = [
                GroupedBatches(groups, batch, accumulation=steps, world=World(rank=rank, size=size), seed=seed)
                for rank in range(size)
            ]
            for rank in ranks:
                rank.set_epoch(epoch)
            batches = [list(rank) for rank in ranks]
            assert {len(of_rank) for of_rank in batches} == {len(ranks[0])} == {-(-sum(sizes) // (batch * size))}
            updates = []
            for begin in range(0, len(ranks[0]), steps):
                parts = [part for of_rank in batches for part in of_rank[begin : begin + steps]]
                dealt = Counter(index for part in parts for index in part)
                assert set(dealt.values()) == {1}
                assert len(dealt) == min(product, sum(sizes) - product * len(updates))
                updates.append(frozenset(dealt))
            made.add(tuple(updates))
    assert len(made) == 1


def test_every_epoch_has_an_order_of_its_own_and_prompts_stay_together() -> None:
    groups = PromptGroups(pairs_of([4] * 12))
    batches = GroupedBatches(groups, 8, seed=1)
    orders = []
    for epoch in (0, 1, 0):
        batches.set_epoch(epoch)
        orders.append(list(batches))
    assert orders[0] == orders[2] != orders[1]
    assert list(GroupedBatches(groups, 8, seed=2)) != orders[0]
    assert all(set(map(frozenset, groups.members)) >= {frozenset(b[:4]), frozenset(b[4:])} for b in orders[0])


def test_held_out_pairs_keep_their_order_but_for_those_of_one_prompt() -> None:
    rows = [pair("a"), pair("b", question="which ?"), pair("c"), pair("d", question="who ?"), pair("e")]
    assert list(GroupedBatches(PromptGroups(rows), 3, shuffle=False)) == [[0, 2, 4], [1, 3]]
    singles = [pair(str(number), question=f"what is {number} ?") for number in range(7)]
    assert list(GroupedBatches(PromptGroups(singles), 3, shuffle=False)) == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_prompt_larger_than_an_update_is_not_put_off_for_ever() -> None:
    updates = list(updates_of([tuple(range(10)), *((index,) for index in range(10, 30))], 4))
    assert updates[:3] == [[(0, 1, 2, 3)], [(4, 5, 6, 7)], [(8, 9), (10,), (11,)]]


def six_pairs(question: str) -> list[PreferencePair]:
    answers = [f"answer {number} ." for number in range(4)]
    return [
        pair(f"{question} {a} {b}", question=question, chosen=answers[a], rejected=answers[b])
        for a in range(4)
        for b in range(a + 1, 4)
    ]


def test_a_prompt_and_equal_answers_cost_once() -> None:
    rows = six_pairs("what ?")
    work = [PairWork(600.0, ((row.chosen, 150.0), (row.rejected, 150.0))) for row in rows]
    groups = PromptGroups(rows, work)
    assert groups.cost(range(6)) == 600 + 4 * 150
    assert groups.cost([0]) == float(work[0]) == 900
    assert groups.cost([0, 5]) == 600 + 4 * 150  # no answer in common
    assert groups.cost_alone() == 6 * 900
    assert PromptGroups(rows, [900.0] * 6).cost(range(6)) == 6 * 900  # nothing is known of what they share
    assert PromptGroups(rows).cost(range(6)) == 5


def test_prompts_are_dealt_whole_and_the_work_is_even() -> None:
    sizes = [6, 1, 5, 2, 4, 3, 1, 2]
    groups = PromptGroups(pairs_of(sizes))
    shares = deal_to_ranks(groups.members, 2, groups)
    assert {group for share in shares for group in share} == set(groups.members)
    first, second = (sum(map(groups.cost, share)) for share in shares)
    assert abs(first - second) <= 1


def test_a_rank_without_work_takes_part_of_a_prompt_where_that_helps() -> None:
    rows = [pair(str(other), chosen="the best .", rejected=f"answer {other} .") for other in range(7)]

    def shares(prompt: float, answer: float) -> list[list[Group]]:
        work = [PairWork(prompt, ((row.chosen, answer), (row.rejected, answer))) for row in rows]
        groups = PromptGroups(rows, work)
        return deal_to_ranks(groups.members, 2, groups)

    assert shares(1000.0, 1.0) == [[tuple(range(7))], []]  # the other one would compute the prompt again
    (busy,), (idle,) = shares(100.0, 1000.0)
    assert (*busy, *idle) == tuple(range(7))
    assert {len(busy), len(idle)} == {3, 4}


def test_missing_batches_are_missing_at_the_beginning() -> None:
    groups = PromptGroups(pairs_of([3, 1]))
    batches = deal_to_batches(groups.members, 4, groups)
    assert batches == [[], [], list(groups.members[1]), list(groups.members[0])]


def test_the_imbalance_of_what_was_dealt_out_is_told_once() -> None:
    rows = [pair("a"), pair("b", question="which ?")]
    batches = GroupedBatches(PromptGroups(rows, [3.0, 1.0]), 1, world=World(size=2), shuffle=False)
    list(batches)
    assert batches.take_imbalance() == pytest.approx(0.5)  # 3 against a mean of 2
    assert batches.take_imbalance() is None
