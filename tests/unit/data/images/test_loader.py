"""Every pixel mode has one way to RGB, and nothing dangerous reaches a decoder."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mmpref.data.images.loader import ImageLimits, ImageLoader
from mmpref.data.quarantine import RowError
from mmpref.errors import ConfigError, DataError
from mmpref.records import ImageRef

RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def flat(mode: str, color: object, size: tuple[int, int] = (24, 16)) -> Image.Image:
    return Image.new(mode, size, color)  # type: ignore[arg-type]


def palette_with_hole() -> bytes:
    image = Image.new("P", (24, 16), 0)
    image.putpalette([255, 0, 0, 0, 0, 0])
    image.paste(1, (12, 0, 24, 16))
    return encoded(image, transparency=1)


def two_frames() -> bytes:
    first, second = flat("RGB", RED), flat("RGB", (0, 0, 255))
    return encoded(first, "GIF", save_all=True, append_images=[second])


# name -> (encoded bytes, colour at the left, colour at the right, tolerance)
MODES: dict[str, tuple[Callable[[], bytes], tuple[int, int, int], tuple[int, int, int], int]] = {
    "rgb png": (lambda: encoded(flat("RGB", RED)), RED, RED, 0),
    "rgb jpeg": (lambda: encoded(flat("RGB", RED), "JPEG", quality=95), RED, RED, 3),
    "rgb webp": (lambda: encoded(flat("RGB", RED), "WEBP", lossless=True), RED, RED, 0),
    "rgb bmp": (lambda: encoded(flat("RGB", RED), "BMP"), RED, RED, 0),
    "grey": (lambda: encoded(flat("L", 77)), (77, 77, 77), (77, 77, 77), 0),
    "bilevel": (lambda: encoded(flat("1", 1)), WHITE, WHITE, 0),
    "palette": (lambda: encoded(flat("RGB", RED).quantize(4)), RED, RED, 0),
    "palette with a transparent colour": (palette_with_hole, RED, WHITE, 0),
    "transparent": (lambda: encoded(flat("RGBA", (0, 0, 0, 0))), WHITE, WHITE, 0),
    "half transparent black": (lambda: encoded(flat("RGBA", (0, 0, 0, 128))), (127, 127, 127), (127, 127, 127), 1),
    "grey with alpha": (lambda: encoded(flat("LA", (0, 0))), WHITE, WHITE, 0),
    "cmyk jpeg": (lambda: encoded(flat("CMYK", (0, 255, 255, 0)), "JPEG", quality=95), RED, RED, 8),
    "animated gif": (two_frames, RED, RED, 0),
    "16 bit black": (lambda: encoded(Image.fromarray(np.zeros((16, 24), np.uint16))), BLACK, BLACK, 0),
    "16 bit white": (lambda: encoded(Image.fromarray(np.full((16, 24), 65535, np.uint16))), WHITE, WHITE, 0),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    return folder


def refused(loader: ImageLoader, ref: ImageRef) -> RowError:
    """The fault that opening raises; it must be ours and name the image."""
    with pytest.raises(DataError) as caught:
        loader.open(ref)
    assert isinstance(caught.value, RowError)
    assert repr(ref.describe()[:100])[1:-1] in str(caught.value)
    return caught.value


@pytest.mark.parametrize("by", ["path", "bytes"])
@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_the_expected_rgb(name: str, by: str, root: Path) -> None:
    make, left, right, tolerance = MODES[name]
    data = make()
    (root / "picture").write_bytes(data)
    ref = ImageRef(path="picture") if by == "path" else ImageRef(data=data)
    loader = ImageLoader(root)
    image = loader.open(ref)
    assert (image.mode, image.size) == ("RGB", (24, 16))
    assert loader.size(ref) == (24, 16)
    for place, want in (((1, 8), left), ((22, 8), right)):
        got = image.getpixel(place)
        assert isinstance(got, tuple)
        assert got == pytest.approx(want, abs=tolerance), name


def test_sixteen_bits_keep_their_ramp() -> None:
    ramp = np.linspace(0, 65535, 512, dtype=np.uint16).reshape(1, 512).repeat(16, axis=0)
    image = ImageLoader(None).open(ImageRef(data=encoded(Image.fromarray(ramp))))
    assert len(np.unique(np.asarray(image))) == 256


def test_floating_point_pixels_are_refused_even_where_the_format_is_allowed() -> None:
    loader = ImageLoader(None, limits=ImageLimits(formats=("TIFF",)))
    data = encoded(Image.fromarray(np.ones((16, 24), np.float32)), "TIFF")
    assert refused(loader, ImageRef(data=data)).reason == "image_mode"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(kind: str, orientation: int) -> None:
    """An image with a red left half, seen through each orientation, agrees with Pillow's own transposition."""
    from PIL import ImageOps

    image = flat("RGB", WHITE, (32, 16))
    image.paste(RED, (0, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, kind, exif=exif)
    want = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    loader, ref = ImageLoader(None), ImageRef(data=data)
    got = loader.open(ref)
    assert np.array_equal(np.asarray(got), np.asarray(want.convert("RGB")))
    assert loader.size(ref) == got.size == ((16, 32) if orientation >= 5 else (32, 16))


def test_the_image_outlives_its_file(root: Path) -> None:
    Image.new("RGB", (20, 20), RED).save(root / "a.png")
    image = ImageLoader(root).open(ImageRef(path="a.png"))
    (root / "a.png").unlink()
    assert image.getpixel((3, 3)) == RED
    assert type(image) is Image.Image


@pytest.mark.parametrize("size", [(16, 16), (1600, 1200)])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}), ("GIF", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 75}),
        ("JPEG", {"quality": 100, "subsampling": 0}),
    ],
)  # fmt: skip
def test_an_image_of_one_colour_is_known(kind: str, options: dict[str, Any], size: tuple[int, int]) -> None:
    loader, image = ImageLoader(None), flat("RGB", (10, 120, 200), size)
    assert loader.has_one_colour(ImageRef(data=encoded(image, kind, **options)))
    image.paste((250, 0, 0), (0, 0, 8, 8))
    assert not loader.has_one_colour(ImageRef(data=encoded(image, kind, **options)))


def test_what_takes_many_bytes_is_not_decoded_to_know_its_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), "JPEG", quality=90)

    def refuse(loader: ImageLoader, ref: ImageRef) -> Image.Image:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageLoader, "open", refuse)
    assert not ImageLoader(None).has_one_colour(ImageRef(data=data))


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((1, 1), "image_small"),
        ((9, 50), "image_small"),
        ((1010, 10), "image_aspect"),
        ((10, 1010), "image_aspect"),
        ((200, 101), "image_too_large"),
    ],
)
def test_limits_are_read_from_the_header(size: tuple[int, int], reason: str) -> None:
    loader = ImageLoader(None, limits=ImageLimits(max_pixels=20_000))
    assert refused(loader, ImageRef(data=encoded(flat("L", 0, size)))).reason == reason


def test_sizes_at_the_limits_are_accepted() -> None:
    loader = ImageLoader(None, limits=ImageLimits(max_pixels=20_000))
    for size in ((10, 10), (1000, 10), (200, 100)):
        assert loader.open(ImageRef(data=encoded(flat("L", 0, size)))).size == size


def png_claiming(width: int, height: int) -> bytes:
    """A few bytes that promise a huge image."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [8_000, 10_000, 30_000])
@pytest.mark.filterwarnings("error")
def test_decompression_bombs_are_refused_without_a_warning(side: int) -> None:
    loader, ref = ImageLoader(None), ImageRef(data=png_claiming(side, side))
    assert refused(loader, ref).reason == "image_too_large"
    with pytest.raises(RowError):
        loader.size(ref)


def test_a_huge_file_is_refused_by_its_length_alone(root: Path) -> None:
    with (root / "huge.png").open("wb") as handle:
        handle.truncate(10**12)  # sparse: takes no space
    assert refused(ImageLoader(root), ImageRef(path="huge.png")).reason == "image_too_large"
    loader = ImageLoader(None, limits=ImageLimits(max_bytes=10))
    assert refused(loader, ImageRef(data=b"x" * 11)).reason == "image_too_large"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_truncated_files_are_refused(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    ref = ImageRef(data=data[: int(len(data) * share)])
    assert refused(ImageLoader(None), ref).reason == "image_decode"


@pytest.mark.parametrize("data", [b"", b"<!doctype html><html></html>", b"\xff\xd8\xff", b"\0" * 100])
def test_what_is_not_a_image_is_refused(data: bytes, root: Path) -> None:
    (root / "page.jpg").write_bytes(data)
    for ref in (ImageRef(data=data), ImageRef(path="page.jpg")):
        assert refused(ImageLoader(root), ref).reason == "image_decode"


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "ICO", "EPS"])
def test_formats_outside_the_list_are_refused(kind: str) -> None:
    assert refused(ImageLoader(None), ImageRef(data=encoded(flat("RGB", RED, (32, 32)), kind))).reason == "image_decode"


def test_missing_files_and_folders_are_named(root: Path) -> None:
    (root / "folder").mkdir()
    (root / "file").write_text("x")
    loader = ImageLoader(root)
    missing = refused(loader, ImageRef(path="no/such.png"))
    assert missing.reason == "image_missing"
    assert str(root.resolve()) in str(missing)
    assert refused(loader, ImageRef(path="file/below.png")).reason == "image_missing"
    assert refused(loader, ImageRef(path="folder")).reason == "image_not_a_file"
    assert refused(loader, ImageRef(path="nul\0byte")).reason == "image_missing"
    assert refused(loader, ImageRef(path="x" * 5000)).reason in {"image_missing", "image_unreadable"}


def test_paths_may_not_leave_the_root(root: Path) -> None:
    outside = root.parent / "secret.png"
    flat("RGB", RED).save(outside)
    (root / "link.png").symlink_to(outside)
    (root / "up").symlink_to(root.parent)
    (root / "loop").symlink_to(root / "loop")
    loader = ImageLoader(root)
    for path in ("../secret.png", "../../etc/passwd", str(outside), "/dev/zero", "link.png", "up/secret.png"):
        assert refused(loader, ImageRef(path=path)).reason == "image_outside_root", path
    assert refused(loader, ImageRef(path="loop")).reason in {"image_missing", "image_unreadable"}


def test_paths_that_stay_inside_are_served(root: Path) -> None:
    (root / "sub").mkdir()
    flat("RGB", RED).save(root / "a.png")
    (root / "sub" / "link.png").symlink_to(root / "a.png")
    loader = ImageLoader(root)
    for path in ("a.png", "./a.png", "sub/../a.png", "sub/link.png", str(root / "a.png")):
        assert loader.open(ImageRef(path=path)).size == (24, 16)


def test_a_fifo_does_not_block(root: Path) -> None:
    os.mkfifo(root / "pipe.png")
    assert refused(ImageLoader(root), ImageRef(path="pipe.png")).reason == "image_not_a_file"


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/a.png",
        "https://a@b/c.png",
        "file:///etc/passwd",
        "s3://bucket/a.png",
        "data:image/png;base64,AA==",
    ],
)
def test_urls_are_refused(url: str, root: Path) -> None:
    assert refused(ImageLoader(root), ImageRef(path=url)).reason == "image_url"


def test_without_a_root_only_embedded_images_are_opened(tmp_path: Path) -> None:
    assert refused(ImageLoader(None), ImageRef(path="a.png")).reason == "image_no_root"
    with pytest.raises(ConfigError, match="is not a folder"):
        ImageLoader(tmp_path / "absent")


def test_loader_and_fault_travel_between_processes(root: Path) -> None:
    flat("RGB", RED).save(root / "a.png")
    loader = pickle.loads(pickle.dumps(ImageLoader(root, limits=ImageLimits(max_pixels=1000))))
    assert loader.open(ImageRef(path="a.png")).size == (24, 16)
    fault = refused(loader, ImageRef(path="b.png"))
    again = pickle.loads(pickle.dumps(fault))
    assert (str(again), again.reason) == (str(fault), "image_missing")
    assert str(RowError(str(fault))) == str(fault)


SEEDS = [make() for make, *_ in MODES.values()]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=8),
    st.integers(0, 200),
)
def test_damaged_bytes_are_a_image_or_a_fault(data: bytes, flips: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(data)
    for place, value in flips:
        damaged[place % len(damaged)] = value
    loader, ref = ImageLoader(None), ImageRef(data=bytes(damaged[: max(len(damaged) - cut, 0)]))
    try:
        image = loader.open(ref)
    except RowError:
        return
    assert image.mode == "RGB"
    assert image.size == loader.size(ref)
