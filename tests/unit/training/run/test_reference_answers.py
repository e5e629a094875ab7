"""The reference cache by answers: each is computed once, whatever pairs it stands in, and is the live number."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

import mmpref.training.run.reference_cache as reference_cache
from mmpref.errors import ConfigError
from mmpref.models import LoadedModel, load
from mmpref.models.logps.reference import choose_reference
from mmpref.processing import PairCollator, PairEncoder
from mmpref.records import PreferencePair
from mmpref.training.parallel.world import SINGLE_PROCESS
from mmpref.training.run.reference_cache import ReferenceCache
from mmpref.training.run.reference_entries import shares_of
from tests.tiny_vlms import build, draw, pair, refs

ANSWERS = ("a red square .", "a red dog .", "there is no cat .", "two yellow boxes and a dog .")
CPU = torch.device("cpu")


def group(name: str, **rest: Any) -> list[PreferencePair]:
    """Six pairs of four answers to one prompt, in which each answer stands three times."""
    return [
        pair(f"{name}{one}{other}", chosen=ANSWERS[one], rejected=ANSWERS[other], **rest)
        for one, other in combinations(range(4), 2)
    ]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(build("llava", tmp_path_factory.mktemp("model")))


@pytest.fixture
def collate(loaded: LoadedModel) -> PairCollator:
    return PairCollator(PairEncoder(loaded.processor, loaded.family), draw, keyed=True)


class Filled:
    """A cache, what it said, and how many sequences of tokens the model ran over."""

    def __init__(self, folder: Path, loaded: LoadedModel, collate: PairCollator) -> None:
        self.folder, self.loaded, self.collate = folder, loaded, collate
        self.told: list[str] = []

    def fill(self, pairs: Sequence[PreferencePair], **given: Any) -> ReferenceCache:
        cache = ReferenceCache.open(self.folder, {"model": "m"})
        cache.fill(self.loaded.model, self.collate, pairs, device=CPU, say=self.told.append, **given)
        return cache

    def is_that_of_a_live_one(self, pairs: Sequence[PreferencePair]) -> bool:
        live = choose_reference(self.loaded.model, kind="frozen_copy")
        assert live is not None
        cache = ReferenceCache.open(self.folder, {"model": "m"})
        for one in pairs:  # alone
            batch = self.collate([one])
            for got, want in zip(cache.logps(batch), live.logps(batch), strict=True):
                if want is not None:
                    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
        return True


@pytest.fixture
def filled(tmp_path: Path, loaded: LoadedModel, collate: PairCollator) -> Filled:
    return Filled(tmp_path / "cache", loaded, collate)


def shuffled(*groups: Sequence[PreferencePair]) -> list[PreferencePair]:
    pairs = [pair for group in groups for pair in group]
    random.Random(0).shuffle(pairs)
    return pairs


def test_an_answer_in_three_pairs_is_computed_once_and_is_the_live_number(filled: Filled) -> None:
    pairs = shuffled(group("i"), group("t", images=()), [pair("single", images=("60x60-2",))])
    cache = filled.fill([*pairs, *pairs[:3]])  # some of them with a weight
    assert filled.told == [f"reference cache: 10 answers of 13 pairs computed, 0 were there ({filled.folder})"]
    assert len(cache) == 10
    assert filled.is_that_of_a_live_one(pairs)
    both = cache.logps(filled.collate(pairs))
    alone = [cache.logps(filled.collate([one])) for one in pairs]
    for side in (0, 1):
        assert torch.equal(both[side], torch.cat([one[side] for one in alone]))  # type: ignore[arg-type]


@pytest.mark.parametrize("keyed", [True, False])
def test_a_prompt_its_image_and_each_beginning_of_answers_are_run_once(
    filled: Filled, loaded: LoadedModel, keyed: bool
) -> None:
    draws, widths = [], []
    filled.collate.load_image = lambda ref: draws.append(ref) or draw(ref)  # type: ignore[func-returns-value]
    pairs, hook = shuffled(group("i")), lambda *given: widths.append(given[2]["input_ids"].numel())
    [whole] = filled.collate.encoded([pairs[0]])
    answers = [ids.tolist() for one in filled.collate.encoded(pairs) for ids in (one.chosen_ids, one.rejected_ids)]
    beginnings = {tuple(ids[:length]) for ids in answers for length in range(1, len(ids) + 1)}
    filled.collate.keyed = keyed  # what is kept has keys whatever the batches of a step have
    draws.clear()
    with loaded.model.register_forward_pre_hook(hook, with_kwargs=True):
        filled.fill(pairs)
    assert widths == [len(whole.prompt) + len(beginnings)]
    assert len(draws) == 1
    assert len(filled.fill(pairs)) == 4


def test_new_pairs_of_known_answers_compute_nothing_and_a_new_answer_only_itself(
    filled: Filled, loaded: LoadedModel
) -> None:
    filled.fill([one for one in group("i") if one.id in ("i01", "i23")])
    assert filled.told == [f"reference cache: 4 answers of 2 pairs computed, 0 were there ({filled.folder})"]
    filled.told.clear()
    swapped = pair("swapped", chosen=ANSWERS[3], rejected=ANSWERS[0])
    runs: list[int] = []
    with loaded.model.register_forward_pre_hook(lambda *_: runs.append(1)):
        filled.fill([*group("i"), swapped])
    assert (filled.told, runs) == ([], [])
    filled.fill([*group("i"), pair("more", chosen="yes", rejected=ANSWERS[0])])
    assert filled.told == [f"reference cache: 1 answers of 7 pairs computed, 4 were there ({filled.folder})"]


def test_one_image_in_two_files_is_one_prompt(filled: Filled) -> None:
    once = filled.collate.load_image
    filled.collate.load_image = lambda ref: once(refs("28x28-1")[0])
    filled.fill([*group("i", images=("one.png",)), *group("o", images=("other.png",))])
    assert filled.told == [f"reference cache: 4 answers of 12 pairs computed, 0 were there ({filled.folder})"]


def test_images_of_the_rejected_side_are_a_prompt_of_their_own(filled: Filled) -> None:
    pairs = [
        *group("i"),
        pair("d", chosen=ANSWERS[0], rejected=ANSWERS[1], rejected_images=refs("60x60-2")),
        pair("e", chosen=ANSWERS[0], rejected=ANSWERS[0], rejected_images=refs("60x60-2")),
        pair("f", images=("60x60-2",), chosen=ANSWERS[1], rejected=ANSWERS[2]),
    ]
    cache = filled.fill(shuffled(pairs))
    assert len(cache) == 4 + 3
    assert filled.is_that_of_a_live_one(pairs)


def test_of_demonstrations_the_one_answer_is_computed(filled: Filled) -> None:
    rows = [pair("one", rejected=None), pair("same", rejected=None), pair("pair", chosen=ANSWERS[1])]
    cache = filled.fill(rows)
    assert filled.told == [f"reference cache: 2 answers of 3 pairs computed, 0 were there ({filled.folder})"]
    chosen_only = filled.collate.changed(need_rejected=False)
    found, nothing, _ = cache.logps(chosen_only(rows))
    assert nothing is None
    assert found[0] == found[1] != found[2]


def test_an_answer_that_is_not_there_is_told_with_its_pair_and_side(filled: Filled, collate: PairCollator) -> None:
    cache = filled.fill(group("i"))
    unknown = pair("new", chosen=ANSWERS[0], rejected="yes")
    with pytest.raises(ConfigError, match=r"the rejected answer of pair 'new' is not in the reference cache"):
        cache.logps(collate([*group("i"), unknown]))
    with pytest.raises(ConfigError, match=r"the chosen answer of pair 'new' is not in the reference cache"):
        cache.logps(collate.changed(need_rejected=False)([pair("new", chosen="yes")]))
    told = cache.lacking(collate, [*group("i"), unknown], world=SINGLE_PROCESS)
    assert told == ("new",)
    assert cache.lacking(collate, group("i"), world=SINGLE_PROCESS) == ()


class Killed(BaseException):
    pass


def test_a_killed_filling_goes_on_with_the_next_part(
    filled: Filled, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference_cache, "ANSWERS_PER_PART", 8)
    groups = [group(name, images=(f"28x28-{number}",)) for number, name in enumerate("abcde")]
    runs: list[int] = []

    def killed_in_the_third(*_: Any) -> None:
        runs.append(1)
        if len(runs) == 3:
            raise Killed

    with loaded.model.register_forward_pre_hook(killed_in_the_third), pytest.raises(Killed):
        filled.fill(shuffled(*groups))
    assert filled.told == [f"reference cache: {count} answers computed" for count in (8, 16)]
    filled.told.clear()
    filled.fill(shuffled(*groups))
    assert filled.told[-1].startswith("reference cache: 4 answers of 30 pairs computed, 16 were there")
    assert filled.is_that_of_a_live_one(shuffled(*groups))


def test_answers_that_do_not_fit_together_are_computed_one_by_one(filled: Filled, loaded: LoadedModel) -> None:
    pairs = [*group("i"), pair("d", chosen=ANSWERS[0], rejected=ANSWERS[1], rejected_images=refs("60x60-2"))]
    widths: list[int] = []
    longest = max(filled.collate([one]).num_tokens for one in pairs)

    def small(_: Any, __: Any, given: dict[str, Any]) -> None:
        widths.append(given["input_ids"].numel())
        if widths[-1] > longest:
            torch.empty(2**60, dtype=torch.uint8)

    with loaded.model.register_forward_pre_hook(small, with_kwargs=True):
        filled.fill(pairs)
    assert [width > longest for width in widths] == [True] + 5 * [False]
    assert filled.told == [f"reference cache: 5 answers of 7 pairs computed, 0 were there ({filled.folder})"]
    assert filled.is_that_of_a_live_one(pairs)


def costs(share: Sequence[Sequence[PreferencePair]]) -> Iterator[int]:
    for pairs in share:
        texts = {pairs[0].prompt[0].text, *(one.chosen for one in pairs), *(str(one.rejected) for one in pairs)}
        yield sum(map(len, texts)) + 2_000 * len(pairs[0].images)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_share_whole_prompts_of_about_equal_cost(size: int) -> None:
    groups = [group(f"g{number}-", images=(f"28x28-{number}",) * (number % 3)) for number in range(9)]
    pairs = shuffled(*groups)
    shares = shares_of(pairs, size)
    assert len(shares) == size
    assert sorted(one.id for share in shares for part in share for one in part) == sorted(one.id for one in pairs)
    for share in shares:
        for part in share:
            assert len(part) in (6, 18)  # the three prompts without an image are one
            assert len({one.prompt_key for one in part}) == 1
    sums = [sum(costs(share)) for share in shares]
    assert max(sums) - min(sums) <= max(cost for share in shares for cost in costs(share))
    assert shares_of(pairs, size) == shares
