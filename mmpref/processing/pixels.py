"""Images as the model's vision inputs, with the number of tokens that each will take. Kept in memory, never on disk."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from mmpref.errors import ConfigError
from mmpref.processing.family import Family
from mmpref.processing.faults import fault
from mmpref.records import ImageRef

if TYPE_CHECKING:
    from PIL import Image

LoadImage = Callable[[ImageRef], "Image.Image"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedImages:
    """All images of one row: the vision inputs of the model, and how many tokens stand for each image."""

    vision: Mapping[str, Tensor]
    tokens: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.vision.values())


NO_IMAGES = EncodedImages(vision={}, tokens=())


class ImageEncoder:
    """Runs the model's own image processor over the images of a row.

    Args:
        processor: the model's processor.
        options: settings for every call, from :func:`image_options`.
        cache_bytes: keep the results for the images used last up to this size. The settings are fixed for the life of
            this object, so the images and their loader are the key. Each loader worker has a cache of its own.
    """

    def __init__(
        self,
        processor: Any,
        *,
        options: Mapping[str, dict[str, int]],
        cache_bytes: int = 0,
    ) -> None:
        self._processor = processor
        self._options = options
        self._cache_bytes = cache_bytes
        self._held_bytes = 0
        self._cache: OrderedDict[tuple[LoadImage, tuple[ImageRef, ...]], EncodedImages] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": OrderedDict(), "_held_bytes": 0}  # pixels do not travel to loader workers

    def encode(self, row_id: str, images: tuple[ImageRef, ...], load_image: LoadImage) -> EncodedImages:
        """The images of one row, in order; they are processed together, as the processor would for one conversation."""
        if not images:
            return NO_IMAGES
        key = (load_image, images)
        if (found := self._cache.get(key)) is not None:
            self._cache.move_to_end(key)
            return found
        pixels = [load_image(image) for image in images]
        try:
            vision = self._processor(images=[pixels], return_tensors="pt", **self._options)
            tokens = tuple(
                self._processor.replace_image_token(vision, image_idx=i).count(self._processor.image_token)
                for i in range(len(images))
            )
        except ValueError as err:  # how transformers refuses a picture: aspect ratio, sizes that do not stack
            names = ", ".join(image.describe() for image in images)
            raise fault(row_id, "image_processing", f"has images the model cannot take ({names}): {err}") from err
        tensors = {name: value for name, value in vision.items() if isinstance(value, Tensor)}
        encoded = EncodedImages(vision=tensors, tokens=tokens)
        self._keep(key, encoded)
        return encoded

    def _keep(self, key: tuple[LoadImage, tuple[ImageRef, ...]], encoded: EncodedImages) -> None:
        if encoded.num_bytes > self._cache_bytes:
            return
        self._cache[key] = encoded
        self._held_bytes += encoded.num_bytes
        while self._held_bytes > self._cache_bytes:
            _, oldest = self._cache.popitem(last=False)
            self._held_bytes -= oldest.num_bytes


def image_options(
    processor: Any, family: Family, *, min_pixels: int | None, max_pixels: int | None
) -> dict[str, dict[str, int]]:
    """The resolution budget in the words of the image processor; {} when none is asked for.

    Raises:
        ConfigError: a budget for a processor that resizes to a fixed size, or one that is empty.
    """
    if min_pixels is None and max_pixels is None:
        return {}
    if not family.has_pixel_budget:
        raise ConfigError(
            f"min_pixels and max_pixels are for models that resize to a number of pixels; the family '{family.name}' "
            "does not: remove these keys"
        )
    size = processor.image_processor.size
    low = min_pixels if min_pixels is not None else size["shortest_edge"]
    high = max_pixels if max_pixels is not None else size["longest_edge"]
    if low > high:
        raise ConfigError(f"min_pixels ({low}) is above max_pixels ({high})")
    # these two keys hold areas in this processor, despite their names
    return {"size": {"shortest_edge": low, "longest_edge": high}}
