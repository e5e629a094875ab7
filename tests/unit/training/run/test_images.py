"""The list of images that a checkpoint holds: what is another file, what was touched, and what moved with its root."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from mmpref.data.images.loader import ImageLoader
from mmpref.data.mixture import RootedImages
from mmpref.errors import CheckpointError
from mmpref.records import ImageRef, PreferencePair
from mmpref.training.run import images as run_images
from mmpref.training.run.images import RunImages, images_of


def pair(name: str, *paths: str, rejected: str | None = None) -> PreferencePair:
    other = None if rejected is None else (ImageRef(path=rejected),)
    images = tuple(ImageRef(path=path) for path in paths)
    return PreferencePair(id=name, images=images, prompt=(), chosen="c", rejected="r", rejected_images=other)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "in").mkdir(parents=True)
    for name in ("a.png", "in/b.png", "c.png", "held.png"):
        (folder / name).write_bytes(name.encode() * 100)
    return folder


PAIRS = [pair("1", "a.png"), pair("2", "in/../in/b.png", "a.png"), pair("3", "a.png", rejected="c.png")]
HELD = [pair("4", "held.png")]


def listed(root: Path, manifest: str | None = None) -> RunImages:
    return images_of(PAIRS, HELD, ImageLoader(root), manifest)


@pytest.fixture(params=[True, False], ids=["bytes known", "bytes not known"])
def hashed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(run_images, "HASHED_BELOW", 10)
    return bool(request.param)


def test_every_image_is_listed_once_by_its_name_below_the_root(root: Path) -> None:
    found = listed(root)
    assert list(found.files) == ["a.png", "c.png", "held.png", "in/b.png"]
    assert all(one.sha256 for one in found.files.values())


def test_the_list_comes_back_from_the_disk(root: Path, tmp_path: Path, hashed: bool) -> None:
    for manifest in (None, "m"):
        found = listed(root, manifest)
        found.write(tmp_path / "list")
        assert RunImages.read(tmp_path / "list") == found


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no list"])
def test_a_list_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list").write_bytes(content)
    with pytest.raises(CheckpointError, match="list cannot be read") as caught:
        RunImages.read(tmp_path / "list")
    assert "\n" not in str(caught.value)


def test_another_image_of_the_same_name_is_found(root: Path, hashed: bool) -> None:
    before, file = listed(root), root / "in" / "b.png"
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)  # of the same size
    changes = listed(root).changed_since(before)
    assert (changes.other, changes.touched) == ((["in/b.png"], []) if hashed else ([], ["in/b.png"]))
    file.write_bytes(content + b"x")
    after = listed(root)
    assert after.changed_since(before).other == ["in/b.png"]
    assert after.fact() != before.fact()


def test_a_touched_image_is_the_same_where_its_bytes_are_known(root: Path, hashed: bool) -> None:
    before = listed(root)
    os.utime(root / "a.png", ns=(1, 1))
    after = listed(root)
    assert (after.fact() == before.fact()) is hashed
    assert after.changed_since(before).touched == ([] if hashed else ["a.png"])
    assert after.changed_since(before).other == []


def test_a_image_with_its_size_and_time_put_back_is_found_where_its_bytes_are_known(root: Path) -> None:
    before, file = listed(root), root / "a.png"
    facts = file.stat()
    file.write_bytes(b"z" * facts.st_size)
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert listed(root).changed_since(before).other == ["a.png"]


def test_a_manifest_of_the_same_data_proves_the_bytes_and_no_image_is_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = listed(root, "manifest")
    assert [name for name, one in before.files.items() if one.sha256] == ["held.png"]  # no part of the manifest
    for name in ("a.png", "held.png"):
        os.utime(root / name, ns=(1, 1))
    assert listed(root, "manifest").changed_since(before).touched == []
    assert listed(root, "another").changed_since(before).touched == ["a.png"]


def test_a_data_set_may_move_and_another_one_of_the_same_names_is_found(
    root: Path, tmp_path: Path, hashed: bool
) -> None:
    before = listed(root)
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    assert listed(moved).fact() == before.fact()
    (moved / "a.png").write_bytes(b"other")
    assert listed(moved).changed_since(before).other == ["a.png"]


def test_images_of_pairs_that_came_or_went_are_told_apart(root: Path) -> None:
    loader = ImageLoader(root)
    one, other = images_of(PAIRS[:1], [], loader, None), images_of(PAIRS[2:], HELD, loader, None)
    changes = other.changed_since(one)
    assert (changes.came, changes.went, changes.other) == (["c.png", "held.png"], [], [])
    assert one.changed_since(other).went == ["c.png", "held.png"]


def test_images_below_several_roots_do_not_take_each_other_s_place(root: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    shutil.copytree(root, second)
    loader = RootedImages((ImageLoader(root), ImageLoader(second)))
    pairs = [pair("1", str(root / "a.png")), pair("2", str(second / "a.png"))]
    before = images_of(pairs, [], loader, None)
    assert list(before.files) == ["0:a.png", "1:a.png"]
    (second / "a.png").write_bytes(b"other")
    assert images_of(pairs, [], loader, None).changed_since(before).other == ["1:a.png"]


def test_a_image_that_goes_this_moment_is_left_to_whoever_opens_it(root: Path) -> None:
    (root / "c.png").unlink()
    assert "c.png" not in listed(root).files


def test_embedded_images_are_no_files(root: Path) -> None:
    embedded = PreferencePair(id="e", images=(ImageRef(data=b"x"),), prompt=(), chosen="c", rejected="r")
    assert images_of([embedded], [], ImageLoader(None), None).files == {}
