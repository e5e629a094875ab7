"""Other images from other rows: never the row's own, the same for the same seed, and none more often than it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmpref.data import ImageLoader, RowError
from mmpref.data.mixture import RootedImages
from mmpref.data.random_images import same_as_own, with_random_images
from mmpref.errors import DataError
from mmpref.records import ImageRef, Message, Part, PreferencePair

NONE = ImageLoader(None)


def pair(name: str, *images: bytes | str, rejected: tuple[bytes, ...] | None = None) -> PreferencePair:
    refs = tuple(ImageRef(path=image) if isinstance(image, str) else ImageRef(data=image) for image in images)
    prompt = (Message("user", (*(Part("image") for _ in refs), Part("text", "What?"))),)
    others = None if rejected is None else tuple(ImageRef(data=image) for image in rejected)
    return PreferencePair(id=name, images=refs, prompt=prompt, chosen="a", rejected="b", rejected_images=others)


def rows(count: int, distinct: int) -> list[PreferencePair]:
    return [pair(f"p{number:02}", b"image %02d" % (number % distinct)) for number in range(count)]


def dealt(pairs: list[PreferencePair], seed: int = 0) -> list[PreferencePair]:
    [found] = with_random_images([pairs], seed=seed, images=NONE)
    return found


def test_every_image_is_dealt_once_and_none_to_a_row_that_shows_it() -> None:
    pairs = rows(40, 10)
    found = dealt(pairs)
    assert [replace(one, other_images=None) for one in found] == pairs
    assert all(one.other_images is not None and one.other_images != one.images for one in found)
    shown = Counter(image for one in pairs for image in one.images)
    assert Counter(image for one in found for image in one.other_images or ()) == shown


def test_the_seed_and_the_rows_decide_and_not_their_order() -> None:
    pairs = rows(30, 15)
    found = {one.id: one.other_images for one in dealt(pairs)}
    assert {one.id: one.other_images for one in dealt(pairs[::-1])} == found
    assert {one.id: one.other_images for one in dealt(pairs)} == found
    assert {one.id: one.other_images for one in dealt(pairs, seed=1)} != found


def test_sources_keep_to_themselves() -> None:
    one, other = rows(10, 5), [pair(f"q{number}", b"other %d" % number) for number in range(6)]
    found = with_random_images([one, other], seed=3, images=NONE)
    for given_pairs, got in zip((one, other), found, strict=True):
        own = {image for each in given_pairs for image in each.images}
        assert {image for each in got for image in each.other_images or ()} <= own


@given(
    st.lists(st.lists(st.integers(0, 5), min_size=0, max_size=3), min_size=2, max_size=12),
    st.integers(0, 3),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_no_row_gets_what_it_shows_on_either_side(shown: list[list[int]], seed: int, has_rejected: bool) -> None:
    pairs = [
        pair(
            f"{number}", *(b"%d" % image for image in images), rejected=(b"5",) * len(images) if has_rejected else None
        )
        for number, images in enumerate(shown)
    ]
    distinct = {image for images in shown for image in images}
    own = [{*images, *([5] if has_rejected and images else [])} for images in shown]
    if len(distinct) < 2 or any(images and not distinct - there for images, there in zip(shown, own, strict=True)):
        if any(shown):
            with pytest.raises(DataError, match=r"data\.other_image=made processing\.other_image\.kind=crop"):
                dealt(pairs, seed)
        return
    for one, there in zip(dealt(pairs, seed), own, strict=True):
        if not one.images:
            assert one.other_images is None
            continue
        got = [int(image.data or b"") for image in one.other_images or ()]
        assert len(got) == len(one.images)
        assert not set(got) & there


def test_one_image_of_many_rows_is_no_obstacle() -> None:
    """Nine of ten places show one file: no order of the places serves, and the nine draw from what is left."""
    pairs = [pair(f"{number}", b"same") for number in range(9)] + [pair("9", b"else")]
    assert all(one.other_images != one.images for one in dealt(pairs))


def test_a_source_of_one_image_is_refused_by_its_name_and_held_out_rows_take_those_of_training() -> None:
    alone = [pair("a", b"one"), pair("b", b"one")]
    with pytest.raises(DataError, match=r"the 2 rows of pairs\.jsonl with images show one image"):
        with_random_images([alone], seed=0, images=NONE, names=["pairs.jsonl"])
    [found] = with_random_images([alone], seed=0, images=NONE, more=[rows(4, 4)])
    assert all(one.other_images is not None and one.other_images[0].data != b"one" for one in found)
    assert with_random_images([[]], seed=0, images=NONE) == [[]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, color in (("a", 10), ("b", 200), ("copy_of_a", 10)):
        Image.new("RGB", (16, 16), (color, 0, 0)).save(tmp_path / f"{name}.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "large.png")
    return tmp_path


def test_files_are_told_apart_by_their_bytes_and_read_only_where_their_lengths_agree(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str | None] = []
    digest = ImageLoader.digest
    monkeypatch.setattr(ImageLoader, "digest", lambda self, ref: (read.append(ref.path), digest(self, ref))[1])
    data = (folder / "a.png").read_bytes()
    pairs = [pair("1", "a.png"), pair("2", "copy_of_a.png"), pair("3", data), pair("4", "large.png")]
    for loader in (ImageLoader(folder), RootedImages((ImageLoader(folder),))):
        [found] = with_random_images([pairs], seed=1, images=loader)
        assert {one.other_images for one in found[:3]} == {(ImageRef(path="large.png"),)}
        assert found[3].other_images != (ImageRef(path="large.png"),)
    assert set(read) == {"a.png", "copy_of_a.png"}
    with pytest.raises(RowError, match=r"absent\.png.*does not exist"):
        with_random_images([[pair("1", "absent.png"), pair("2", "a.png")]], seed=1, images=ImageLoader(folder))


def test_other_images_that_are_the_same_file_under_another_name_are_found(folder: Path) -> None:
    def others(name: str, other: str) -> PreferencePair:
        return replace(pair(name, "a.png"), other_images=(ImageRef(path=other),))

    pairs = [others("copy", "copy_of_a.png"), others("other", "b.png"), pair("none", "a.png")]
    assert same_as_own(pairs, ImageLoader(folder)) == ["copy"]
