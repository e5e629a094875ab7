"""The other image of a pair: the one that the chosen answer is looked at under a second time.

It is given with the row, or made of the first one: after decoding and before the model's processor, at the same width
and height, so that it becomes as many tokens. What is drawn depends on the seed, the pair's id, the number of the image
and, where asked for, the epoch, and on nothing else: every rank, worker and run makes the same image, and policy and
reference see it alike. Arithmetic is on integers where it can be; only a crop is resized by Pillow.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmpref.errors import ConfigError
from mmpref.processing.errors import EncodeError, fault
from mmpref.processing.pixels import LoadImage
from mmpref.records import ImageRef, PreferencePair

OtherSource: TypeAlias = Literal["column", "made", "random_row"]
OtherKind: TypeAlias = Literal["crop", "noise", "mask", "blur", "blank"]
Fill: TypeAlias = Literal["mean", "black"]
Pixels: TypeAlias = NDArray[np.uint8]
"""[height, width, 3]"""
Channels: TypeAlias = tuple[float, float, float]

_DRAWN: tuple[OtherKind, ...] = ("crop", "noise", "mask")
"""Kinds of which each pair has its own image; the others depend on the image alone."""
NOISE_STEPS = 1000
_TRIES = 10
_BAND = 1 << 20
"""Numbers of noise that are drawn at once: of a large image all of them would be several times its size."""
_KERNEL_ONE = 1 << 16
"""What the whole numbers of a blur's kernel add up to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherImageSettings:
    """Where the other image of a pair comes from, and how it is made.

    Attributes:
        source: ``column`` (the row names it), ``random_row`` (that of another row) or ``made`` (of the first one).
        kind: of a made one: ``crop``, a part of it as large as the whole; ``noise``, as a diffusion model adds it;
            ``mask``, blocks of it covered; ``blur``; ``blank``, one colour.
        scale: crop: least and largest share of the area.
        ratio: crop: least and largest width by height.
        step: noise: of 0 to 999; 500 leaves 0.745 of the image's variance.
        share: mask: of the blocks, above 0.
        block: mask: pixels of a block's side.
        sigma: blur: of the Gaussian, in pixels.
        fill: mask and blank: ``mean`` (colour of the whole image) or ``black``.
        per: ``pair`` makes one image for each pair, ``epoch`` a new one in every epoch.
        seed: of what is drawn.
        resize: column: an image of another size is brought to that of the first one.

    Raises:
        ConfigError: a value that cannot be.
    """

    source: OtherSource = "made"
    kind: OtherKind = "crop"
    scale: tuple[float, float] = (0.01, 0.2)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    step: int = 500
    share: float = 0.3
    block: int = 14
    sigma: float = 10.0
    fill: Fill = "mean"
    per: Literal["pair", "epoch"] = "pair"
    seed: int = 0
    resize: bool = False

    def __post_init__(self) -> None:
        words = {"source": OtherSource, "kind": OtherKind, "fill": Fill}
        for name, known in {**{n: get_args(w) for n, w in words.items()}, "per": ("pair", "epoch")}.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"other_image.{name} is {getattr(self, name)!r}, want {' or '.join(known)}")
        bounds = {
            "scale": 0 < self.scale[0] <= self.scale[1] <= 1,
            "ratio": 0 < self.ratio[0] <= self.ratio[1] < math.inf,
            "step": 0 <= self.step < NOISE_STEPS,
            "share": 0 < self.share <= 1,
            "block": self.block >= 1,
            "sigma": 0 < self.sigma < math.inf,
            "seed": self.seed >= 0,
        }
        if wrong := [name for name, is_right in bounds.items() if not is_right]:
            raise ConfigError(f"other_image.{wrong[0]} cannot be {getattr(self, wrong[0])!r}")

    @property
    def is_drawn(self) -> bool:
        """Whether the images are made with random numbers, so that each pair has its own."""
        return self.source == "made" and self.kind in _DRAWN

    @property
    def changes_with_epoch(self) -> bool:
        """Whether every epoch has images of its own."""
        return self.is_drawn and self.per == "epoch"

    @property
    def repeats_one_colour(self) -> bool:
        """Whether what is made of an image of one colour is that image again."""
        of_kind = self.kind in ("crop", "blur") or (self.kind in ("mask", "blank") and self.fill == "mean")
        return self.source == "made" and of_kind

    def key_of(self, pair: PreferencePair) -> Hashable:
        """What pairs of one prompt have in common that have the same other images."""
        if self.source != "made":
            return pair.other_images
        return pair.id if self.is_drawn else ()


@dataclass(frozen=True, slots=True)
class OtherImage(ImageRef):
    """One image in the place of another; for a made one ``path`` or ``data`` are those of the first one."""

    first: ImageRef | None = None
    number: int = 0  # of the place


def other_refs(pair: PreferencePair, settings: OtherImageSettings) -> tuple[OtherImage, ...]:
    """The images that stand in the places of the pair's images, in order.

    Raises:
        EncodeError: the pair has images, and its row names no others, or not as many (``other_image``).
    """
    if settings.source == "made":
        given: Sequence[ImageRef] = pair.images
    elif pair.other_images is None or len(pair.other_images) != len(pair.images):
        count = len(pair.other_images or ())
        raise fault(
            pair.id, "other_image", f"has {len(pair.images)} images and {count or 'no'} other_images; give one for "
            "each, or make them: write `data.other_image=made processing.other_image.kind=crop`"
        )  # fmt: skip
    else:
        given = pair.other_images
    return tuple(
        OtherImage(path=image.path, data=image.data, first=first, number=number)
        for number, (image, first) in enumerate(zip(given, pair.images, strict=True))
    )


@dataclass(frozen=True, slots=True)
class OpenedOnce:
    """Opens images, and keeps those of one row until :meth:`forget`: the first image is looked at again for the
    other one. Equal to another one that opens in the same way."""

    load_image: LoadImage
    _opened: dict[ImageRef, Image.Image] = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, image: ImageRef) -> Image.Image:
        if image not in self._opened:
            self._opened[image] = self.load_image(image)
        return self._opened[image]

    def forget(self) -> None:
        """Let go of the pixels."""
        self._opened.clear()


@dataclass(frozen=True, slots=True)
class OtherImages:
    """Opens or makes the other images of one pair; equal to another one that gives the same images.

    Args:
        settings: how.
        load_image: opens what is in a file.
        drawn_for: id of the pair whose images are drawn; empty where nothing is.
        epoch: in which they are drawn; 0 where that makes no difference.
        row_id: named in errors.
        normal: mean and deviation of each channel, as the processor takes them off.
    """

    settings: OtherImageSettings
    load_image: LoadImage
    drawn_for: str
    epoch: int
    row_id: str = field(compare=False)
    normal: tuple[Channels, Channels] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

    @classmethod
    def of(
        cls,
        pair: PreferencePair,
        settings: OtherImageSettings,
        load_image: LoadImage,
        *,
        epoch: int,
        normal: tuple[Channels, Channels],
    ) -> OtherImages:
        """Those of a pair."""
        drawn_for = pair.id if settings.is_drawn else ""
        return cls(settings, load_image, drawn_for, epoch if settings.changes_with_epoch else 0, pair.id, normal)

    def __call__(self, image: ImageRef) -> Image.Image:
        """The image in RGB, of the size of the first one and different from it.

        Raises:
            EncodeError: it is the first one again, or has another size (``other_image``).
        """
        if not isinstance(image, OtherImage) or image.first is None:
            raise TypeError("the images of other_refs() are opened here")
        first = self.load_image(image.first)
        is_made = self.settings.source == "made"
        if is_made:
            pixels = np.asarray(first)
            found = Image.fromarray(made(pixels, self.settings, self._generator(image.number), self.normal))
        else:
            found = self._sized(self.load_image(ImageRef(path=image.path, data=image.data)), first, image)
        if np.array_equal(np.asarray(found), np.asarray(first)):
            raise same_again(self.row_id, image, self.settings)
        return found

    def _generator(self, number: int) -> np.random.Generator:
        seed = repr((self.settings.seed, self.drawn_for, number, self.epoch)).encode()
        return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.blake2b(seed, digest_size=16).digest())))

    def _sized(self, found: Image.Image, first: Image.Image, image: OtherImage) -> Image.Image:
        refuse_other_size(self.row_id, image, found.size, first.size, self.settings)
        return found if found.size == first.size else found.resize(first.size, Image.Resampling.BICUBIC)


def same_again(row_id: str, image: OtherImage, settings: OtherImageSettings) -> EncodeError:
    """The refusal of another image that is the first one (``other_image``): it would teach nothing."""
    assert image.first is not None
    where = f"has image {image.number + 1} ({image.first.describe()})"
    if settings.source == "made":
        detail = (
            f"{where}, of which processing.other_image.kind {settings.kind} makes the very same image; "
            "leave the row out, or write `processing.other_image.kind=noise`"
        )
    else:
        detail = (
            f"{where} and in its place in other_images {image.describe()}, which is the very same image; give "
            "another one, or make them: write `data.other_image=made processing.other_image.kind=crop`"
        )
    return fault(row_id, "other_image", detail)


def refuse_other_size(
    row_id: str, image: OtherImage, found: tuple[int, int], first: tuple[int, int], settings: OtherImageSettings
) -> None:
    """Refuse a given image whose (width, height) are not those of the one in whose place it stands.

    Raises:
        EncodeError: the sizes differ, and it is not to be resized (``other_image``).
    """
    if found == first or settings.source != "column" or settings.resize:
        return
    name = "" if image.first is None else image.first.describe()
    raise fault(
        row_id, "other_image", f"has {image.describe()} of {found[0]}x{found[1]} pixels in other_images, in the place "
        f"of {name} of {first[0]}x{first[1]}; write `processing.other_image.resize=true`, or resize it beforehand"
    )  # fmt: skip


def normal_of(processor: Any) -> tuple[Channels, Channels]:
    """Mean and deviation that a processor takes off images, by channel; (0, 1) where it takes none off."""
    images = getattr(processor, "image_processor", None)
    mean, deviation = (getattr(images, name, None) for name in ("image_mean", "image_std"))
    if not getattr(images, "do_normalize", True) or mean is None or deviation is None:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return _channels(mean), _channels(deviation)


def _channels(values: Any) -> Channels:
    red, green, blue = np.broadcast_to(np.asarray(values, dtype=float), (3,)).tolist()
    return red, green, blue


def made(
    pixels: Pixels,
    settings: OtherImageSettings,
    generator: np.random.Generator,
    normal: tuple[Channels, Channels],
) -> Pixels:
    """Another image of the same size, made of one: [height, width, 3].

    Args:
        pixels: of the first one; they stay as they are.
        settings: how.
        generator: of what is drawn.
        normal: mean and deviation of the processor's normalisation by channel, for noise.
    """
    match settings.kind:
        case "crop":
            return _cropped(pixels, crop_box(pixels.shape[1], pixels.shape[0], settings, generator))
        case "noise":
            return _noisy(pixels, settings.step, generator, normal)
        case "mask":
            return _masked(pixels, settings, generator)
        case "blur":
            return _blurred(pixels, settings.sigma)
        case "blank":
            return np.broadcast_to(_colour(pixels, settings.fill), pixels.shape).copy()


def crop_box(
    width: int, height: int, settings: OtherImageSettings, generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a random part, drawn as torchvision's RandomResizedCrop does: the area evenly in
    ``scale``, the logarithm of width by height evenly in ``ratio``, ten tries, then the middle with the nearest ratio.
    """
    low, high = (math.log(value) for value in settings.ratio)
    for _ in range(_TRIES):
        area = width * height * generator.uniform(*settings.scale)
        ratio = math.exp(generator.uniform(low, high))
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            left, top = int(generator.integers(width - wide + 1)), int(generator.integers(height - tall + 1))
            return left, top, left + wide, top + tall
    wide, tall = width, height
    if width < settings.ratio[0] * height:
        tall = max(1, round(width / settings.ratio[0]))
    elif width > settings.ratio[1] * height:
        wide = max(1, round(height * settings.ratio[1]))
    left, top = (width - wide) // 2, (height - tall) // 2
    return left, top, left + wide, top + tall


def _cropped(pixels: Pixels, box: tuple[int, int, int, int]) -> Pixels:
    """A part at the size of the whole, bilinear as in mDPO's code, which leaves torchvision's default."""
    height, width = pixels.shape[:2]
    return np.asarray(Image.fromarray(pixels).crop(box).resize((width, height), Image.Resampling.BILINEAR))


def signal_left(step: int) -> float:
    """alpha_bar: the share of the variance that is the image's at a step of noise from 0 to 999, with the schedule of
    CHiP's code: beta_i = sigmoid(x_i) (0.005 - 0.00001) + 0.00001, x evenly from -6 to 6."""
    places = np.linspace(-6.0, 6.0, NOISE_STEPS)
    betas = (0.005 - 1e-5) / (1.0 + np.exp(-places)) + 1e-5
    return float(np.cumprod(1.0 - betas)[step])


def _noisy(pixels: Pixels, step: int, generator: np.random.Generator, normal: tuple[Channels, Channels]) -> Pixels:
    """sqrt(ab) q + sqrt(1 - ab) e with q = (v / 255 - mean) / deviation, what the processor makes of a value v, brought
    back to 0..255."""
    left = signal_left(step)
    mean, deviation = (255.0 * np.asarray(values) for values in normal)
    signal = np.float32(math.sqrt(left))
    noise = (math.sqrt(1.0 - left) * deviation).astype(np.float32)
    mean_added = ((1.0 - math.sqrt(left)) * mean).astype(np.float32)
    out = np.empty_like(pixels)
    rows = max(1, _BAND // (3 * pixels.shape[1]))
    for top in range(0, len(pixels), rows):
        band = pixels[top : top + rows]
        shown = generator.standard_normal(band.shape, dtype=np.float32)
        shown *= noise
        shown += mean_added
        shown += signal * band
        out[top : top + rows] = np.rint(np.clip(shown, 0.0, 255.0, out=shown), out=shown)
    return out


def _masked(pixels: Pixels, settings: OtherImageSettings, generator: np.random.Generator) -> Pixels:
    height, width, block = *pixels.shape[:2], settings.block
    tall, wide = -(-height // block), -(-width // block)
    covered = np.zeros(tall * wide, dtype=bool)
    covered[generator.permutation(tall * wide)[: max(1, round(settings.share * tall * wide))]] = True
    by_pixel = covered.reshape(tall, wide).repeat(block, axis=0)[:height].repeat(block, axis=1)[:, :width]
    return np.where(by_pixel[..., None], _colour(pixels, settings.fill), pixels)


def _colour(pixels: Pixels, fill: Fill) -> NDArray[np.uint8]:
    if fill == "black":
        return np.zeros(3, dtype=np.uint8)
    count = pixels.shape[0] * pixels.shape[1]
    mean: NDArray[np.uint8] = ((pixels.sum(axis=(0, 1), dtype=np.int64) + count // 2) // count).astype(np.uint8)
    return mean


def _blurred(pixels: Pixels, sigma: float) -> Pixels:
    """A Gaussian in both directions, up to three deviations, the border repeated; in whole numbers, so that it is the
    same on every machine."""
    reach = max(1, math.ceil(3.0 * sigma))
    bell = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2)
    weights = np.rint(bell / (bell[0] + 2 * bell[1:].sum()) * _KERNEL_ONE).astype(np.int64)
    weights[0] = _KERNEL_ONE - 2 * int(weights[1:].sum())
    for axis in (0, 1):
        pixels = _along(pixels, [int(weight) for weight in weights], axis)
    return pixels


def _along(pixels: Pixels, weights: Sequence[int], axis: int) -> Pixels:
    reach, length = len(weights) - 1, pixels.shape[axis]
    ends = [(reach, reach) if at == axis else (0, 0) for at in range(3)]
    padded = np.pad(pixels, ends, mode="edge").astype(np.int32)

    def moved(by: int) -> NDArray[np.int32]:
        return padded[reach + by : reach + by + length] if axis == 0 else padded[:, reach + by : reach + by + length]

    total = moved(0) * weights[0]
    both = np.empty_like(total)
    for by, weight in enumerate(weights[1:], start=1):
        np.add(moved(by), moved(-by), out=both)
        both *= weight
        total += both
    total += _KERNEL_ONE // 2
    total //= _KERNEL_ONE
    blurred: Pixels = total.astype(np.uint8)
    return blurred
