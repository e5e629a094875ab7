"""Weights, order and shares: every pair as often as its weight says, and every pair on exactly one rank."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmpref.data.images.loader import ImageLoader
from mmpref.data.mixture import RootedImages, Weighted, mix, rank_share, repeat
from mmpref.data.quarantine import RowError
from mmpref.records import ImageRef, PreferencePair, user_turn


def some(prefix: str, number: int) -> list[PreferencePair]:
    prompt = user_turn("Hi", num_images=0)
    return [
        PreferencePair(id=f"{prefix}{place}", images=(), prompt=prompt, chosen="a", rejected="b")
        for place in range(number)
    ]


@settings(max_examples=80, deadline=None)
@given(
    sources=st.lists(st.tuples(st.integers(0, 12), st.floats(0.05, 4)), min_size=1, max_size=4),
    seed=st.integers(0, 5),
    world_size=st.integers(1, 5),
)
def test_every_pair_appears_as_often_as_its_weight_says(
    sources: list[tuple[int, float]], seed: int, world_size: int
) -> None:
    weighted = [Weighted(some(f"s{number}-", size), weight) for number, (size, weight) in enumerate(sources)]
    mixed = mix(weighted, seed=seed)
    counts = Counter(pair.id for pair in mixed)
    for source in weighted:
        found = [counts.pop(pair.id, 0) for pair in source.pairs]
        assert sum(found) == round(source.weight * len(found))
        assert all(int(source.weight) <= count <= int(source.weight) + 1 for count in found)
    assert not counts
    shares = [rank_share(mixed, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert Counter(id(pair) for share in shares for pair in share) == Counter(map(id, mixed))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    positions = [rank_share(range(len(mixed)), rank=rank, world_size=world_size) for rank in range(world_size)]
    assert sorted(place for share in positions for place in share) == list(range(len(mixed)))


def test_the_order_depends_on_the_seed_and_the_epoch_alone() -> None:
    sources = [Weighted(some("a", 40)), Weighted(some("b", 40), 0.5)]
    names = [pair.id for pair in mix(sources, seed=3)]
    assert names == [pair.id for pair in mix(sources, seed=3)]
    other = [pair.id for pair in mix(sources, seed=3, epoch=1)]
    assert other != names
    assert sorted(other) == sorted(names), "another epoch, the same pairs"
    assert sorted(pair.id for pair in mix(sources, seed=4)) != sorted(names), "another seed, another half of b"
    assert any(name[0] == "b" for name in names[:10])


def test_a_fraction_takes_the_same_pairs_whatever_stands_before_them() -> None:
    pairs = some("p", 30)
    chosen = {pair.id for pair in repeat(pairs, 0.5, seed=1)}
    assert {pair.id for pair in repeat(pairs[::-1], 0.5, seed=1)} == chosen
    assert [pair.id for pair in repeat(pairs[:3], 2, seed=0)] == ["p0", "p0", "p1", "p1", "p2", "p2"]


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_means_nothing_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        Weighted([], weight)


def test_a_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0, 2\)"):
        rank_share([1], rank=2, world_size=2)


def test_images_below_several_roots_open_through_their_own(tmp_path: Path) -> None:
    for name, colour in (("one", "red"), ("one/inner", "green"), ("two", "blue")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (16, 16), colour).save(tmp_path / name / "a.png")
    (tmp_path / "two" / "link.png").symlink_to(tmp_path / "one" / "a.png")
    roots = [tmp_path / "one", tmp_path / "one" / "inner", tmp_path / "two"]
    images: RootedImages = pickle.loads(pickle.dumps(RootedImages(tuple(ImageLoader(root) for root in roots))))
    shown = [images.open(ImageRef(path=str(root / "a.png"))).getpixel((0, 0)) for root in roots]
    assert shown == [(255, 0, 0), (0, 128, 0), (0, 0, 255)]
    assert images.size(ImageRef(path=str(roots[2] / "a.png"))) == (16, 16)
    for path in (tmp_path / "two" / "link.png", tmp_path / "absent.png", tmp_path / "one" / ".." / "x.png"):
        with pytest.raises(RowError) as caught:
            images.open(ImageRef(path=str(path)))
        assert caught.value.reason == "image_outside_root"
