"""Images as the model's vision inputs, with the number of tokens that each will take. Kept in memory, never on disk."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from PIL import Image
from torch import Tensor

from mmpref.errors import ConfigError
from mmpref.processing.errors import fault
from mmpref.processing.family import Family
from mmpref.records import ImageRef

LoadImage = Callable[[ImageRef], Image.Image]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedImages:
    """All images of one row: the vision inputs of the model, and how many tokens stand for each image."""

    vision: Mapping[str, Tensor]
    tokens: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Memory of the tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.vision.values())


NO_IMAGES = EncodedImages(vision={}, tokens=())
_Key: TypeAlias = "tuple[LoadImage, tuple[ImageRef, ...], int | None]"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSettings:
    """How images become tensors.

    Args:
        min_pixels, max_pixels: resolution budget of one image (families with ``has_pixel_budget``); None is the
            processor's own.
        cache_bytes: keep the results for the images used last up to this size. Each loader worker has a cache of its
            own; for small sets that are read several times.
    """

    min_pixels: int | None = None
    max_pixels: int | None = None
    cache_bytes: int = 0


OWN_SIZES = ImageSettings()
"""The resolution of the processor, and no cache."""


class ImageEncoder:
    """Runs the model's own image processor over the images of a row.

    Args:
        processor: the model's processor.
        family: the model's row of facts.
        settings: fixed for the life of this object, so that the images, their loader and their budget are the key of
            the cache.

    Raises:
        ConfigError: a resolution budget for a processor that has none.
    """

    def __init__(self, processor: Any, family: Family, settings: ImageSettings = OWN_SIZES) -> None:
        self._processor = processor
        self._family = family
        self._settings = settings
        self.options()
        self._cached_bytes = 0
        self._cache: OrderedDict[_Key, EncodedImages] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": OrderedDict(), "_cached_bytes": 0}  # pixels do not travel to loader workers

    def options(self, max_pixels: int | None = None) -> dict[str, dict[str, int]]:
        """Settings for the processor; a smaller ``max_pixels`` goes before the budget of all rows."""
        low, high = self._settings.min_pixels, self._settings.max_pixels
        if max_pixels is not None:
            high = min(max_pixels, self.highest_max_pixels())
        return image_options(self._processor, self._family, min_pixels=low, max_pixels=high)

    def encode(
        self, row_id: str, images: tuple[ImageRef, ...], load_image: LoadImage, *, max_pixels: int | None = None
    ) -> EncodedImages:
        """The images of one row, in order; they are processed together, as the processor would for one conversation.

        Rows with the same images share their tensors while the cache has them.
        """
        if not images:
            return NO_IMAGES
        key = (load_image, images, max_pixels)
        if (found := self._cache.get(key)) is not None:
            self._cache.move_to_end(key)
            return found
        pixels = [load_image(image) for image in images]
        try:
            vision = self._processor(images=[pixels], return_tensors="pt", **self.options(max_pixels))
            tokens = tuple(
                self._processor.replace_image_token(vision, image_idx=i).count(self._processor.image_token)
                for i in range(len(images))
            )
        except ValueError as err:  # how transformers refuses an image: aspect ratio, sizes that do not stack
            names = ", ".join(image.describe() for image in images)
            raise fault(row_id, "image_processing", f"has images the model cannot take ({names}): {err}") from err
        tensors = {name: value for name, value in vision.items() if isinstance(value, Tensor)}
        encoded = EncodedImages(vision=tensors, tokens=tokens)
        self._keep(key, encoded)
        return encoded

    @property
    def has_cache(self) -> bool:
        """Whether rows may share tensors."""
        return self._settings.cache_bytes > 0

    def count(self, row_id: str, sizes: Sequence[tuple[int, int]], *, max_pixels: int | None = None) -> tuple[int, ...]:
        """How many tokens images of these sizes (width, height) become, by arithmetic: no image is needed.

        Raises:
            EncodeError: a size that the model does not take.
        """
        if not sizes:
            return ()
        if self._family.tiles_one_image_only and len(sizes) > 1:
            return (self._tokens_of_one_of_several,) * len(sizes)
        try:
            if self._family.has_pixel_budget:
                return tuple(self._merged_patches(width, height, max_pixels) for width, height in sizes)
            upright = [[height, width] for width, height in sizes]
            found = self._processor._get_num_multimodal_tokens(image_sizes=upright)
        except ValueError as err:
            raise fault(row_id, "image_processing", f"has an image the model cannot take: {err}") from err
        return tuple(int(count) for count in found.num_image_tokens)

    def _merged_patches(self, width: int, height: int, max_pixels: int | None) -> int:
        images = self._processor.image_processor
        size = self.options(max_pixels).get("size", images.size)
        # Qwen's method knows the budget by its old names, and would take "size" without a word and without effect
        limits = {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"], "size": size}
        return int(images.get_number_of_image_patches(height, width, limits)) // int(images.merge_size) ** 2

    @cached_property
    def _tokens_of_one_of_several(self) -> int:
        vision = self._processor(images=[[blank(32, 32), blank(32, 32)]], return_tensors="pt")
        return int(self._processor.replace_image_token(vision, image_idx=0).count(self._processor.image_token))

    def lowest_max_pixels(self) -> int:
        """The smallest budget of one image that the recipe and the processor allow."""
        low = self._settings.min_pixels
        own = int(self._processor.image_processor.size["shortest_edge"]) // self._family.budget_copies
        return int(low if low is not None else own)

    def highest_max_pixels(self) -> int:
        """The budget of one image where a row has none of its own."""
        high = self._settings.max_pixels
        own = int(self._processor.image_processor.size["longest_edge"]) // self._family.budget_copies
        return int(high if high is not None else own)

    def grids(self, vision: Mapping[str, Tensor]) -> list[tuple[int, int]]:
        """(rows, columns) of tokens of each image, for families whose positions follow them."""
        merge = int(self._processor.image_processor.merge_size)
        found = vision.get("image_grid_thw")
        return [] if found is None else [(int(h) // merge, int(w) // merge) for _, h, w in found.tolist()]

    def _keep(self, key: _Key, encoded: EncodedImages) -> None:
        if encoded.num_bytes > self._settings.cache_bytes:
            return
        self._cache[key] = encoded
        self._cached_bytes += encoded.num_bytes
        while self._cached_bytes > self._settings.cache_bytes:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= oldest.num_bytes


def blank(width: int, height: int) -> Image.Image:
    """An image of this size, to count by. Not an array: one of 1, 3 or 4 rows passes for one with channels first."""
    return Image.new("RGB", (width, height))


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
    copies = family.budget_copies
    low = min_pixels * copies if min_pixels is not None else size["shortest_edge"]
    high = max_pixels * copies if max_pixels is not None else size["longest_edge"]
    if low > high:
        raise ConfigError(f"min_pixels ({low // copies}) is above max_pixels ({high // copies})")
    # these two keys are areas in this processor, despite their names
    return {"size": {"shortest_edge": low, "longest_edge": high}}


def num_pixels(vision: Mapping[str, Tensor], *, of_videos: bool = True) -> int:
    """Pixels of processed images and of all frames of videos: tensors of three channels, or Qwen's flat patches.

    Of an image these hold each pixel twice, because a patch is of two frames.

    Args:
        of_videos: count those of frames too.
    """
    total = 0
    for name, value in vision.items():
        if name.startswith("pixel_values") and (of_videos or "video" not in name):
            total += value.numel() // (6 if value.dim() == 2 and "video" not in name else 3)
    return total
