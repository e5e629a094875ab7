"""Opens images: an ``ImageRef`` becomes an RGB image by one documented way, or a fault with a reason.

The way to RGB: EXIF orientation applied; first frame of an animation; 16-bit grey scaled to 8 bits; transparency
composited on white; palette, grey, bilevel and CMYK converted; floating-point images refused. Limits are checked on the
file size and the header, before any pixel is decoded. Paths stay inside the root; URLs are refused.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError, features

from mmpref.data.media_files import Measured, MediaFiles
from mmpref.data.quarantine import RowError
from mmpref.records import ImageRef

_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BYTES_OF_HEADERS, _PIXELS_A_BYTE = 8192, 24
"""An image of one colour has at most so many bytes and one more for so many pixels: a JPEG without subsampling has one
for 36, all other formats that compress far fewer."""
_PLAIN_FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
_MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What an image may be. Everything here is known before a pixel is decoded."""

    max_bytes: int = 64 * 2**20
    """Size of the encoded file."""
    max_pixels: int = 50_000_000
    """Width times height."""
    min_side: int = 10
    """The shorter side, in pixels."""
    max_aspect: float = 100.0
    """Longer side divided by shorter side."""
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
    """Pillow's names of the file formats that are opened; the others are never given to a decoder."""


class ImageLoader:
    """Opens the images of one data root. It can be pickled, so that loader workers can have it.

    Args:
        root: the folder that relative paths start from and that no path may leave; None accepts embedded bytes only.
        limits: what is refused before decoding.

    Every refusal is a ``RowError`` (a ``DataError``) with one of these reasons: ``image_url``, ``image_no_root``,
    ``image_outside_root``, ``image_missing``, ``image_not_a_file``, ``image_unreadable``, ``image_too_large``,
    ``image_small``, ``image_aspect``, ``image_mode``, ``image_decode``.
    """

    def __init__(self, root: Path | str | None, *, limits: ImageLimits | None = None) -> None:
        self.limits = limits if limits is not None else ImageLimits()
        self._files = MediaFiles("image", root, max_bytes=self.limits.max_bytes)
        self.root = self._files.root

    def open(self, ref: ImageRef) -> Image.Image:
        """The image in RGB, upright, fully decoded and independent of its file."""
        with self._header(ref) as image, _decoding(ref):
            image.load()
            turn = _TURNS.get(_orientation(image))
            upright = image if turn is None else image.transpose(turn)
            return _to_rgb(upright, ref)

    def measure(self, ref: ImageRef) -> Measured:
        """The size of the image, which is decoded whole for it.

        Refuses what :meth:`open` refuses. Of a JPEG every coefficient is read, which is where damage shows, and only
        one pixel of eight by eight is computed; what needs no way to RGB of its own is not copied.
        """
        with self._header(ref) as image, _decoding(ref):
            width, height = image.size
            image.draft(image.mode, (1, 1))  # does something for JPEG alone
            image.load()
            if image.mode not in ("RGB", "L") or image.has_transparency_data:
                _to_rgb(image, ref)
            return Measured(*((height, width) if _orientation(image) >= 5 else (width, height)))

    @property
    def decoded_by(self) -> str:
        """What decides whether an image can be opened: decoders with their versions, and the limits."""
        codecs = [features.version(codec) for codec in ("jpg", "webp", "zlib")]
        return f"Pillow {PIL.__version__} {codecs} {self.limits}"

    def encoded(self, ref: ImageRef) -> tuple[str, bytes]:
        """(media type, file) of an image for other programs: what every reader shows as :meth:`open` does.

        JPEG, PNG and WebP files that are upright, of one frame, 8-bit and opaque are given as they are; anything else
        is turned into a PNG of the RGB image.
        """
        with self._header(ref) as image, _decoding(ref):
            plain = image.mode in ("RGB", "L") and not image.has_transparency_data
            still = _orientation(image) == 1 and getattr(image, "n_frames", 1) == 1
            kind = _PLAIN_FORMATS.get(image.format or "") if plain and still else None
        if kind is not None:
            with self._encoded(ref) as handle:
                return kind, handle.read(self.limits.max_bytes + 1)
        out = io.BytesIO()
        self.open(ref).save(out, "PNG")
        return "image/png", out.getvalue()

    def size(self, ref: ImageRef) -> tuple[int, int]:
        """Upright (width, height), from the header; the limits are checked, the pixels are not decoded."""
        with self._header(ref) as image, _decoding(ref):
            width, height = image.size
            return (height, width) if _orientation(image) >= 5 else (width, height)

    def has_one_colour(self, ref: ImageRef) -> bool:
        """Whether every pixel is the same. Only what is encoded in few bytes for its size can be, and is decoded; a
        format that does not compress (BMP) is taken for several colours.
        """
        width, height = self.size(ref)
        if self.num_bytes(ref) > _BYTES_OF_HEADERS + width * height // _PIXELS_A_BYTE:
            return False
        pixels = np.asarray(self.open(ref))
        return bool((pixels == pixels[0, 0]).all())

    def digest(self, ref: ImageRef) -> str:
        """SHA-256 of the encoded image, in hexadecimal: two files with the same bytes have the same. Not decoded."""
        with self._encoded(ref) as handle, _decoding(ref):
            found = hashlib.sha256()
            while part := handle.read(2**20):
                found.update(part)
            return found.hexdigest()

    def num_bytes(self, ref: ImageRef) -> int:
        """Size of the encoded image; of a file, without opening it."""
        if ref.path is None:
            return len(ref.data or b"")
        return self._files.num_bytes(ref.path)

    def resolve(self, path: str) -> Path:
        """The real path of an image named in a row, proved to be inside the root."""
        return self._files.resolve(path)

    @contextmanager
    def _header(self, ref: ImageRef) -> Iterator[Image.Image]:
        """The image with its header read and its limits checked; no pixel is decoded yet."""
        with self._encoded(ref) as handle:
            with _decoding(ref), warnings.catch_warnings():
                # Pillow's own warning comes above our limit; the limit below decides
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = Image.open(handle, formats=self.limits.formats)
            with image:
                self._check_size(image.size, ref)
                yield image

    @contextmanager
    def _encoded(self, ref: ImageRef) -> Iterator[IO[bytes]]:
        if ref.path is None:
            data = ref.data or b""
            self._files.check_bytes(len(data), ref.describe())
            yield io.BytesIO(data)
            return
        with self._files.open(ref.path) as handle:
            yield handle

    def _check_size(self, size: tuple[int, int], ref: ImageRef) -> None:
        width, height = size
        short, long = min(size), max(size)
        limits = self.limits
        if width * height > limits.max_pixels:
            detail = f"is {width}x{height}, more than the limit of {limits.max_pixels} pixels"
            raise _fault("image_too_large", ref.describe(), detail)
        if short < max(limits.min_side, 1):
            detail = f"is {width}x{height}, the shorter side must be at least {limits.min_side}"
            raise _fault("image_small", ref.describe(), detail)
        if long > limits.max_aspect * short:
            detail = f"is {width}x{height}, the sides differ by more than {limits.max_aspect:g} to 1"
            raise _fault("image_aspect", ref.describe(), detail)


def _to_rgb(image: Image.Image, ref: ImageRef) -> Image.Image:
    """One way to RGB for every mode; ``convert`` alone would clip 16 bits and turn transparency black."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise _fault("image_mode", ref.describe(), "has integer pixels outside 0..65535; save it as 8-bit RGB")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode not in _MODES:
        raise _fault(
            "image_mode",
            ref.describe(),
            f"has pixel mode {image.mode!r}, which has no one way to RGB; save it as 8-bit RGB",
        )
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    if image.mode == "RGB":
        return image._new(
            image.im
        )  # what ``convert`` gives, but for the copy of all pixels: that takes half of the time
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8, as far as the header says: asking a PNG for more would decode it."""
    if image.format == "PNG" and not {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"} & image.info.keys():
        return 1
    value = image.getexif().get(_ORIENTATION_TAG, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


@contextmanager
def _decoding(ref: ImageRef) -> Iterator[None]:
    """Damaged files make Pillow raise many kinds of exceptions; here each becomes one fault that names the image."""
    try:
        yield
    except RowError:
        raise
    except Image.DecompressionBombError as error:
        raise _fault("image_too_large", ref.describe(), str(error)) from error
    except UnidentifiedImageError as error:
        raise _fault("image_decode", ref.describe(), "is not an image in an allowed format") from error
    except Exception as error:  # any kind: decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise _fault("image_decode", ref.describe(), f"cannot be decoded: {error or type(error).__name__}") from error


def _fault(reason: str, name: str, detail: str) -> RowError:
    return RowError(f"image {name[:300]!r} {detail}", reason=reason)
