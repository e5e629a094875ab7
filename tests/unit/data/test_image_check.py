"""Every image is decoded before the first step, and not again at the next start while it is what it was."""

from __future__ import annotations

import os
import random
import time
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmpref.data import decoded_before
from mmpref.data.image_check import ImageCheck
from mmpref.data.images.loader import ImageLoader
from mmpref.data.pair_source import PairSource
from mmpref.data.quarantine import RowError
from mmpref.data.reading.source import open_source
from mmpref.records import ImageRef, PreferencePair, user_turn


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, and a clock that says that the files of this test were written a while ago."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10**11)
    monkeypatch.setenv("MMPREF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def noise(seed: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))


def showing(name: str, ref: ImageRef) -> PreferencePair:
    prompt = user_turn("what ?", num_images=1)
    return PreferencePair(id=name, images=(ref,), prompt=prompt, chosen="a", rejected="b")


class Data:
    """Three pairs with a JPEG each, and one whose bytes stand in the row."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        for number in range(3):
            noise(number).save(folder / f"{number}.jpg")
        (folder / "rows.jsonl").write_text("", encoding="utf-8")
        stream = BytesIO()
        noise(9).save(stream, "PNG")
        refs = [*(ImageRef(path=f"{number}.jpg") for number in range(3)), ImageRef(data=stream.getvalue())]
        self.pairs = [
            PreferencePair(
                id=str(at), images=(ref,), prompt=user_turn("what ?", num_images=1), chosen="a", rejected="b"
            )
            for at, ref in enumerate(refs)
        ]
        self.said: list[str] = []

    def check(self) -> tuple[dict[str, str], int]:
        """Id -> reason of the broken ones, and how many images were decoded."""
        decoded: list[Any] = []

        class Counting(ImageLoader):
            def measure(self, ref: ImageRef) -> Any:
                decoded.append(ref)
                return super().measure(ref)

        source = PairSource(rows=open_source(self.folder / "rows.jsonl"), images=Counting(self.folder))
        found = ImageCheck(say=self.said.append)([source], [self.pairs])
        return {name: fault.reason for (_, name), fault in found.items()}, len(decoded)


def test_whole_images_are_decoded_at_the_first_start_alone(tmp_path: Path, later: Path) -> None:
    data = Data(tmp_path / "data")
    assert data.check() == ({}, 4)
    assert data.check() == ({}, 0)
    assert data.said == [
        "images of the rows in order so far: 4 decoded, none broken",
        "images of the rows in order so far: 4 decoded (4 of them at an earlier start, and their files are as they "
        "were), none broken",
    ]


def test_a_changed_file_is_decoded_again_and_a_broken_one_at_every_start(tmp_path: Path, later: Path) -> None:
    data = Data(tmp_path / "data")
    data.check()
    file, facts = data.folder / "1.jpg", (data.folder / "1.jpg").stat()
    content = file.read_bytes()
    file.write_bytes(content[:-400] + bytes(400))  # as long as it was
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # and says that it was not changed
    assert data.check()[1] == 1
    file.write_bytes(content[: len(content) // 2])
    for _ in range(2):
        assert data.check() == ({"1": "image_decode"}, 1)
    file.write_bytes(content)
    assert data.check() == ({}, 1)
    assert data.check() == ({}, 0)


def test_what_was_written_a_moment_ago_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMPREF_CACHE", str(tmp_path / "cache"))
    data = Data(tmp_path / "data")
    assert data.check() == ({}, 4)
    assert data.check() == ({}, 3)  # bytes in a row cannot change under their name


def test_a_damaged_memory_is_none_and_other_limits_have_their_own(tmp_path: Path, later: Path) -> None:
    data = Data(tmp_path / "data")
    data.check()
    (memory,) = later.rglob("*.bin")
    memory.write_bytes(memory.read_bytes()[::-1])
    assert data.check() == ({}, 4)
    strict = ImageLoader(data.folder, limits=decoded_before_limits())
    known = decoded_before.DecodedBefore(strict)
    assert not known.has(known.key(ImageRef(path="0.jpg")))


def decoded_before_limits() -> Any:
    return type(ImageLoader(None).limits)(max_pixels=100)


def test_many_starts_leave_few_files_and_forget_nothing(tmp_path: Path, later: Path) -> None:
    data = Data(tmp_path / "data")
    pairs = data.pairs
    for number in range(3, 30):
        noise(number).save(data.folder / f"{number}.jpg")
        new = showing(f"n{number}", ImageRef(path=f"{number}.jpg"))
        data.pairs = [new]
        assert data.check() == ({}, 1)
        pairs = [*pairs, new]
    assert len(list(later.rglob("*.bin"))) <= 9
    data.pairs = pairs[4:]
    assert data.check() == ({}, 0)


def test_without_a_place_to_remember_every_image_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("", encoding="utf-8")
    monkeypatch.setenv("MMPREF_CACHE", str(blocked))
    data = Data(tmp_path / "data")
    assert data.check() == ({}, 4)
    assert data.check() == ({}, 4)


def files() -> list[bytes]:
    """One image in each way that JPEG has, and in other formats."""
    image = noise(0)
    found = []
    for options in ({}, {"progressive": True}, {"subsampling": 0, "quality": 95}, {"restart_marker_blocks": 4}):
        stream = BytesIO()
        image.save(stream, "JPEG", **options)  # type: ignore[arg-type]
        found.append(stream.getvalue())
    for mode, kind in (("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("RGB", "WEBP"), ("P", "GIF")):
        stream = BytesIO()
        image.convert(mode).save(stream, kind)
        found.append(stream.getvalue())
    turned = BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(turned, "JPEG", exif=exif)
    return [*found, turned.getvalue()]


def damaged(file: bytes, draw: random.Random) -> bytes:
    """Cut, with other bytes, or with bytes that are missing or too many."""
    content, place = bytearray(file), draw.randrange(1, len(file))
    kind = draw.randrange(4)
    if kind == 0:
        del content[place:]
    elif kind == 1:
        for _ in range(draw.randint(1, 8)):
            content[draw.randrange(len(content))] = draw.randrange(256)
    elif kind == 2:
        del content[place : place + draw.randint(1, 200)]
    else:
        content[place:place] = draw.randbytes(draw.randint(1, 50))
    return bytes(content)


def test_measuring_an_image_refuses_what_opening_it_refuses_and_in_the_same_words() -> None:
    draw, loader, refused, kinds = random.Random(0), ImageLoader(None), 0, files()
    for number in range(600):
        whole = kinds[number % len(kinds)]
        ref = ImageRef(data=whole if number < len(kinds) else damaged(whole, draw))

        def outcome(look: Any, ref: ImageRef = ref) -> tuple[Any, ...]:
            try:
                return tuple(look(ref))
            except RowError as fault:
                return fault.reason, fault.detail

        opened = outcome(lambda ref: loader.open(ref).size)
        assert outcome(lambda ref: loader.measure(ref)[:2]) == opened
        refused += isinstance(opened[0], str)
    assert 150 < refused < 500
