"""Images never stand on both sides of a split."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpref.data.split import split_by_image
from mmpref.records import ImageRef, PreferencePair, user_turn


def pair(name: str, *images: str, rejected_images: tuple[str, ...] | None = None, text: str = "?") -> PreferencePair:
    return PreferencePair(
        id=name,
        images=tuple(ImageRef(image) for image in images),
        prompt=user_turn(text, num_images=len(images)),
        chosen="yes",
        rejected="no",
        rejected_images=None if rejected_images is None else tuple(ImageRef(image) for image in rejected_images),
    )


def names(pairs: list[PreferencePair]) -> list[str]:
    return [item.id for item in pairs]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=30),
    st.floats(0, 1),
    st.integers(0, 5),
)
def test_no_image_is_shared_and_no_pair_is_lost(shown: list[list[int]], held_out: float, seed: int) -> None:
    pairs = [pair(f"p{place}", *map(str, images)) for place, images in enumerate(shown)]
    train, held = split_by_image(pairs, held_out=held_out, seed=seed)
    assert sorted(names(train) + names(held)) == sorted(names(pairs))
    on_both = {image for item in train for image in item.images} & {image for item in held for image in item.images}
    assert not on_both
    assert len(held) >= round(held_out * len(pairs))
    assert (train, held) == split_by_image(pairs, held_out=held_out, seed=seed)


def test_the_share_is_met_and_seeds_differ() -> None:
    pairs = [pair(f"p{place}", f"{place // 2}.png") for place in range(200)]
    splits = [names(split_by_image(pairs, held_out=0.25, seed=seed)[1]) for seed in range(3)]
    assert [len(split) for split in splits] == [50, 50, 50]
    assert splits[0] != splits[1] != splits[2]


def test_pairs_linked_through_a_third_and_through_rejected_images_stay_together() -> None:
    pairs = [
        pair("1", "a"),
        pair("2", "a", "b"),
        pair("3", "b"),
        pair("4", "c", rejected_images=("b",)),
        pair("5", "c"),
    ]
    for seed in range(10):
        train, held = split_by_image(pairs, held_out=0.4, seed=seed)
        assert (len(train), len(held)) == (0, 5)


def test_text_pairs_with_the_same_prompt_stay_together() -> None:
    pairs = [pair(f"{text}{copy}", text=text) for text in "abcdefgh" for copy in range(2)]
    train, held = split_by_image(pairs, held_out=0.5, seed=0)
    assert len(held) == 8
    assert not {item.id[0] for item in train} & {item.id[0] for item in held}


def test_existing_groups_stay_where_they_are_when_others_join() -> None:
    pairs = [pair(f"p{place}", f"{place}.png") for place in range(100)]
    before = set(names(split_by_image(pairs, held_out=0.3, seed=1)[1]))
    after = set(names(split_by_image([*pairs, pair("new", "new.png")], held_out=0.3, seed=1)[1]))
    assert len(before - after) <= 1


def test_a_share_outside_zero_to_one_is_refused() -> None:
    with pytest.raises(ValueError, match="held_out"):
        split_by_image([], held_out=1.5, seed=0)
