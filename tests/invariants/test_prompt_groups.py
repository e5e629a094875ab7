"""Pairs of one prompt run as one segment, each answer once; every number is that of the pairs alone."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpref.losses import build_objective
from mmpref.models import AdapterSettings, LoadedModel, Tuning, choose_reference, pair_logps, prepare
from mmpref.models.logps.answer_logps import answer_logps
from mmpref.processing import LayoutName, PairBatch, PairCollator
from mmpref.processing.answer_tree import AnswerTree
from mmpref.processing.batch import Segment
from mmpref.processing.encoded import EncodedPair, EncodedPrompt
from mmpref.processing.layout import plain_batch, shared_prefix_batch
from mmpref.processing.positions import in_sequence
from mmpref.processing.row_parts import parts_of
from mmpref.records import ImageRef, PreferencePair
from tests.plain_forward import (
    SHARING,
    answers_of,
    build_deep,
    by_hand,
    collator_for,
    gradient,
    relative,
    stir,
    stock_twin,
    worst,
)
from tests.recomputing import recompute
from tests.tiny_vlms import draw, pair, refs

QUICK = ("llava", "qwen2_vl", "text")
FAMILIES = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in SHARING]
LAYOUTS: tuple[LayoutName, ...] = ("shared_prefix", "plain")
ANSWERS = (
    "there is a red square .",
    "there is a red square and a dog .",  # a tree: this one and the next two part at different words
    "there is a red background .",
    "there is a cat .",
    "a cat",
    "yes",
    "two yellow boxes and a dog .",
    "no , it is not .",
)


@functools.cache
def deep(name: str) -> LoadedModel:
    """For reading only."""
    return build_deep(name)


def logps(model: Any, batch: PairBatch) -> list[torch.Tensor]:
    with torch.no_grad():
        return answers_of(batch, answer_logps(model, batch))


def group_of(name: str, count: int, *, seed: int = 0) -> list[PreferencePair]:
    """All pairs of so many answers in a random order, better and worse at random: answers stand on either side."""
    draw_from = random.Random(seed)
    pairs = []
    for one, other in combinations(ANSWERS[:count], 2):
        chosen, rejected = (one, other) if draw_from.random() < 0.5 else (other, one)
        pairs.append(pair(f"{chosen} > {rejected}", chosen=chosen, rejected=rejected))
    if name == "text":
        pairs = [dataclasses.replace(row, images=(), prompt=pair(images=()).prompt) for row in pairs]
    return draw_from.sample(pairs, len(pairs))


def mixed_rows(name: str, count: int) -> list[PreferencePair]:
    """A group, another one, a pair alone and, with images, pairs whose rejected side has others, shuffled."""
    rows = group_of(name, count)
    shown = () if name == "text" else ("60x60-3",)
    other = pair(images=shown, question="describe it , please .").prompt
    rows += [
        dataclasses.replace(row, id=f"other {row.id}", images=refs(*shown), prompt=other)
        for row in group_of(name, 3, seed=1)
    ]
    rows.append(pair("alone", images=shown, question="is there a dog ?"))
    if name != "text":
        rows.append(pair("another image", chosen=ANSWERS[0], rejected=ANSWERS[0], rejected_images=refs("60x60-3")))
        rows.append(pair("of the group", rejected=ANSWERS[3], images=("60x60-5",), rejected_images=refs("28x28-1")))
    return random.Random(2).sample(rows, len(rows))


def alone(model: Any, loaded: LoadedModel, rows: Sequence[PreferencePair], layout: LayoutName) -> list[torch.Tensor]:
    """Answers of the pairs, each in a batch of its own, as ``logps`` gives those of all together."""
    single = [logps(model, collator_for(loaded, layout)([row])) for row in rows]
    return [one[side] for side in (0, 1) for one in single]


# ---- log-probs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "count", [pytest.param(n, marks=[] if n in (4, 8) else [pytest.mark.slow]) for n in range(2, 9)]
)
@pytest.mark.parametrize("name", FAMILIES)
def test_log_probs_of_groups_are_those_of_pairs_alone(name: str, count: int) -> None:
    loaded, rows = deep(name), mixed_rows(name, count)
    want = alone(loaded.model, loaded, rows, "shared_prefix")
    scale = max(1.0, max(float(x.abs().max()) for x in want))  # of float32: these models have tokens of -40 nats
    for layout in LAYOUTS:
        batch = collator_for(loaded, layout)(rows)
        assert batch.pair_ids == tuple(row.id for row in rows)
        assert worst(logps(loaded.model, batch), want) < 1e-6 * scale
    with torch.no_grad():
        assert worst(by_hand(stock_twin(loaded.model), loaded, rows), want) < 1e-6 * scale


def test_each_prompt_image_and_answer_is_run_once() -> None:
    loaded = deep("qwen2_vl")
    opened: list[ImageRef] = []

    def load(ref: ImageRef) -> Any:
        opened.append(ref)
        return draw(ref)

    rows = group_of("qwen2_vl", 6)
    encoder = collator_for(loaded).encoder
    batch = PairCollator(encoder, load)(rows)
    assert opened == [*refs("28x28-1")]
    [segment] = batch.segments
    alone = [encoder.encode(row, draw) for row in rows]
    answers = {tuple(ids.tolist()) for one in alone for ids in (one.chosen_ids, one.rejected_ids) if ids is not None}
    assert len(answers) == 6
    nodes = {answer[:end] for answer in answers for end in range(1, len(answer) + 1)}  # a tree has one for each
    assert batch.num_tokens == len(alone[0].prompt) + len(nodes)
    assert len(batch.predicts) == len(batch.targets) == len(nodes)
    assert batch.vision["image_grid_thw"].shape[0] == 1
    assert segment.longest == len(alone[0].prompt) + max(map(len, answers))
    plain = PairCollator(encoder, draw, layout="plain")(rows)
    assert plain.input_ids.shape[0] == 6


@pytest.mark.parametrize("name", QUICK)
def test_changing_one_answer_moves_no_bit_of_the_others(name: str) -> None:
    loaded, rows = deep(name), group_of(name, 4)
    batch = collator_for(loaded, "shared_prefix")(rows)
    before, (segment,) = logps(loaded.model, batch), batch.segments
    children = {branch.parent for branch in segment.branches}
    leaves = [n for n, branch in enumerate(segment.branches) if n not in children and branch.length > 1]
    assert len(leaves) > 1
    for leaf in leaves:
        start = segment.starts[leaf]
        ids = batch.input_ids.clone()
        end = start + segment.branches[leaf].length
        ids[0, start:end] = (ids[0, start:end] + 7) % 250
        inside = (batch.predicts >= start) & (batch.predicts < end)
        touched = [bool(x.any()) for x in answers_of(batch, inside.float())]
        after = logps(loaded.model, dataclasses.replace(batch, input_ids=ids))
        moved = [not torch.equal(x, y) for x, y in zip(after, before, strict=True)]
        assert moved == touched
        assert 0 < sum(moved) < len(moved)


@pytest.mark.parametrize("name", QUICK)
def test_this_would_see_answers_that_read_each_other_and_positions_that_go_on(name: str) -> None:
    loaded = deep(name)
    batch = collator_for(loaded, "shared_prefix")(group_of(name, 4))
    right, (segment,) = logps(loaded.model, batch), batch.segments
    leaky = dataclasses.replace(batch, segments=(Segment.of(0, segment.num_tokens),))
    assert worst(logps(loaded.model, leaky), right) > 0.02
    assert batch.position_ids is not None
    moved = batch.position_ids.clone()
    moved[..., segment.starts[1] :] += 3
    assert worst(logps(loaded.model, dataclasses.replace(batch, position_ids=moved)), right) > 1e-3


# ---- gradients ---------------------------------------------------------------------------------------------------

TUNINGS = {
    "lora": (Tuning(language="lora"), AdapterSettings(rank=4, alpha=8)),
    "full": (Tuning(vision="full", projector="full", language="full"), None),
}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n == "qwen2_vl" else [pytest.mark.slow]) for n in SHARING]
)
def test_gradients_of_groups_are_the_sum_over_pairs_alone(name: str, tuning: str, checkpointing: bool) -> None:
    """The noise is that of float32: the same pairs in a row of their own, added up in another order."""
    if name == "text" and tuning == "full":
        tuned = Tuning(language="full"), None
    else:
        tuned = TUNINGS[tuning]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loaded = prepare(build_deep(name, scale=1.0), *tuned)
    reference = choose_reference(loaded.model)
    stir(loaded.model)
    if checkpointing:
        recompute(loaded.model)
    objective = build_objective({"base": "dpo", "beta": 0.1})
    rows = mixed_rows(name, 4)

    def gradient_of(batches: Sequence[PairBatch]) -> torch.Tensor:
        loaded.model.zero_grad()
        for batch in batches:
            objective(pair_logps(loaded.model, batch, reference=reference)).per_pair.sum().backward()
        return gradient(loaded.model)

    separate = gradient_of([collator_for(loaded, "shared_prefix")([row]) for row in rows])
    assert relative(gradient_of([collator_for(loaded, "shared_prefix")(rows)]), separate) < 2e-6
    if not checkpointing:
        assert relative(gradient_of([collator_for(loaded, "plain")(rows)]), separate) < 2e-6
        parts = collator_for(loaded, "shared_prefix", row_tokens=80).rows(rows)
        assert len(parts) > 2
        assert relative(gradient_of(parts), separate) < 2e-6


# ---- any groups --------------------------------------------------------------------------------------------------

ANSWER = st.lists(st.integers(20, 22), min_size=1, max_size=6)
GROUP = st.tuples(
    st.integers(1, 5), st.lists(st.tuples(ANSWER, ANSWER), min_size=1, max_size=6)
)  # tokens of the prompt, and pairs of answers


def encoded_groups(
    groups: list[tuple[int, list[tuple[list[int], list[int]]]]], order: random.Random
) -> list[EncodedPair]:
    pairs = []
    for number, (length, of_group) in enumerate(groups):
        prompt = EncodedPrompt(
            sample_id=str(number), input_ids=torch.arange(30, 30 + length) + number, position_ids=in_sequence(length)
        )
        pairs += [
            EncodedPair(
                prompt=prompt,
                chosen_ids=torch.tensor(chosen),
                rejected_ids=torch.tensor(rejected),
                row_id=f"{number}:{at}",
            )
            for at, (chosen, rejected) in enumerate(of_group)
        ]
    order.shuffle(pairs)
    return pairs


@settings(max_examples=40, deadline=None)
@given(groups=st.lists(GROUP, min_size=1, max_size=3), order=st.randoms(use_true_random=False))
def test_any_groups_equal_their_pairs_alone(groups: list[Any], order: random.Random) -> None:
    """Few different tokens: most answers begin alike, many are the beginning of another, some are equal."""
    model = deep("text").model
    pairs = encoded_groups(groups, order)
    shared, plain = shared_prefix_batch(pairs), plain_batch(pairs, 0)
    wanted = [one.chosen_ids.tolist() for one in pairs] + [list(map(int, one.rejected_ids)) for one in pairs]  # type: ignore[arg-type]
    for batch in (shared, plain):
        assert [x.int().tolist() for x in answers_of(batch, batch.targets.float())] == wanted
        assert batch.pair_ids == tuple(one.pair_id for one in pairs)
    single = [logps(model, shared_prefix_batch([one])) for one in pairs]
    want = [one[side] for side in (0, 1) for one in single]
    assert worst(logps(model, shared), want) < 1e-5
    assert worst(logps(model, plain), want) < 1e-5
    assert shared.pair_tokens is not None
    for number, one in enumerate(single):
        alone = shared_prefix_batch([pairs[number]])
        mine = shared.pair_tokens[0, shared.pair_tokens[1] == number]
        assert sorted(shared.input_ids[0, mine].tolist()) == sorted(alone.input_ids[0].tolist())
        assert len(one) == 2


@settings(max_examples=150, deadline=None)
@given(
    answers=st.lists(ANSWER, min_size=1, max_size=8),
    prompt=st.integers(1, 4),
    start=st.integers(0, 9),
    before=st.integers(0, 9),
)
def test_a_tree_has_each_beginning_of_an_answer_once(
    answers: list[list[int]], prompt: int, start: int, before: int
) -> None:
    tree = AnswerTree(prompt)
    numbers = [tree.add(torch.tensor(answer)) for answer in answers]
    assert len(set(numbers)) == len({tuple(answer) for answer in answers})
    tree.place(start, before)
    nodes = {tuple(answer[:end]) for answer in answers for end in range(1, len(answer) + 1)}
    assert sum(branch.length for branch in tree.branches) == prompt + len(nodes)
    row = torch.full((start + prompt + len(nodes),), -1)
    own = torch.cat(tree.own_tokens)
    row[start + prompt :] = own
    for answer, number in zip(answers, numbers, strict=True):
        found = tree.answers[number]
        assert found.places[0] == start + prompt - 1
        assert row[found.places[1:]].tolist() == answer
        assert own[found.predictions - before].tolist() == answer
        assert torch.equal(tree.predicts[found.predictions - before], found.places[:-1])


# ---- parts -------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    groups=st.lists(GROUP, min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
    most=st.integers(1, 60),
    layout=st.sampled_from(LAYOUTS),
)
def test_parts_have_every_pair_once_and_no_more_tokens_than_allowed(
    groups: list[Any], order: random.Random, most: int, layout: LayoutName
) -> None:
    pairs = encoded_groups(groups, order)
    parts = list(parts_of(pairs, most, layout))
    assert sorted(one.pair_id for part in parts for one in part) == sorted(one.pair_id for one in pairs)
    for part in parts:
        batch = shared_prefix_batch(part) if layout == "shared_prefix" else plain_batch(part, 0)
        assert len(part) == 1 or batch.num_tokens <= most
    [whole] = parts_of(pairs, None, layout)
    assert whole == pairs


def test_a_large_group_is_divided_into_parts_of_many_pairs_and_few_answers() -> None:
    """28 pairs of 8 answers: six pairs of four answers fit into a part, and are found in any order of the pairs."""
    prompt = EncodedPrompt(sample_id="p", input_ids=torch.arange(30), position_ids=in_sequence(30))
    answers = [torch.tensor([50 + n, *range(60, 69)]) for n in range(8)]
    pairs = [
        EncodedPair(prompt=prompt, chosen_ids=one, rejected_ids=other, row_id=f"{a}{b}")
        for (a, one), (b, other) in combinations(enumerate(answers), 2)
    ]
    for seed in range(5):
        parts = list(parts_of(random.Random(seed).sample(pairs, len(pairs)), 70, "shared_prefix"))
        assert all(shared_prefix_batch(part).num_tokens <= 70 for part in parts)
        tokens = sum(shared_prefix_batch(part).num_tokens for part in parts)
        assert len(parts) <= 8
        assert tokens <= 8 * 70 < sum(shared_prefix_batch([one]).num_tokens for one in pairs) / 2.4
