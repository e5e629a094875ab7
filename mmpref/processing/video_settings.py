"""How a model's folder says that videos are processed, and the size that frames get by it.

The classes of transformers that read these settings need torchvision; their arithmetic is done here, so that no
decoded frame is needed to count tokens either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mmpref.errors import ConfigError
from mmpref.processing.family import VideoFacts

ATTRIBUTE = "video_settings"
"""Where a loaded processor has them."""
_MOST_STRETCHED = 200
"""Sides of a frame may differ so many times, in Qwen's video processors."""
_SLACK = 1.05


class FrameSizeError(ValueError):
    """Frames that the model's video processor does not take; its message goes on after ``has a video``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSettings:
    """The settings of one video processor.

    Args:
        size: ``height`` and ``width`` of every frame; or ``shortest_edge`` and ``longest_edge``, which are the least
            and most pixels despite their names.
        frame_pixels: the most pixels of one frame that the user allows (``processing.video_max_pixels``).
        cap: ``cap_pixels_per_frame`` of transformers: a bound of each frame by ``max_tokens``.
        positions_a_second: how far positions move in a second of video (``tokens_per_second`` of the model's config).
    """

    size: Mapping[str, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale_factor: float
    resample: int
    patch_size: int = 1
    merge_size: int = 1
    temporal_patch_size: int = 1
    do_resize: bool = True
    do_rescale: bool = True
    do_normalize: bool = True
    do_center_crop: bool = False
    cap: bool = False
    max_tokens: int = 0
    frame_pixels: int | None = None
    positions_a_second: float = 1.0

    @classmethod
    def of(cls, written: Mapping[str, Any], facts: VideoFacts, *, positions_a_second: float = 1.0) -> VideoSettings:
        """From what a folder says of videos; what it does not say is as the video processor of transformers has it.

        Args:
            written: of the folder.
            positions_a_second: of the model's config, for families whose positions follow seconds.

        Raises:
            ValueError: a setting in a form that is not known; the message goes on after the name of the file.
        """
        steps = {"do_resize": True, "do_rescale": True, "do_normalize": True, "do_center_crop": False}
        usual = {**steps, "rescale_factor": 1 / 255, "resample": 3, "cap_pixels_per_frame": False, **facts.defaults}

        def say(key: str, least: Any = None) -> Any:
            return usual.get(key, least) if written.get(key) is None else written[key]

        return cls(
            size=_pixels(written, facts) if facts.form == "patches" else _sides(say("size")),
            mean=_of_colours("image_mean", say("image_mean")),
            std=_of_colours("image_std", say("image_std")),
            rescale_factor=float(say("rescale_factor")),
            resample=int(say("resample")),
            patch_size=int(say("patch_size", 1)),
            merge_size=int(say("merge_size", 1)),
            temporal_patch_size=int(say("temporal_patch_size", 1)),
            cap=bool(say("cap_pixels_per_frame")),
            max_tokens=int(say("max_video_tokens", 0)),
            positions_a_second=positions_a_second,
            **{key: bool(say(key)) for key in steps},
        )

    def within(self, frame_pixels: int | None, facts: VideoFacts) -> VideoSettings:
        """With a bound of each frame by the user.

        Raises:
            ConfigError: frames have a fixed size, or the bound is below the least that the model's settings allow.
        """
        if frame_pixels is None:
            return self
        if facts.form == "frames":
            raise ConfigError(
                "processing.video_max_pixels is for models that resize to a number of pixels, and this one brings "
                "every frame to one size: remove this key"
            )
        least = self.size["shortest_edge"] if facts.budget == "frame" else (self.patch_size * self.merge_size) ** 2
        if frame_pixels < least:
            raise ConfigError(
                f"processing.video_max_pixels ({frame_pixels}) is below the {least} pixels that the model's video "
                f"settings give a frame at least; write processing.video_max_pixels={least} or more"
            )
        return replace(self, frame_pixels=frame_pixels)

    def frame_size(
        self, width: int, height: int, frames: int, facts: VideoFacts, *, frame_pixels: int | None = None
    ) -> tuple[int, int]:
        """(width, height) that every frame of a video is brought to.

        Args:
            frame_pixels: another bound of each frame, for one row.

        Raises:
            FrameSizeError: the model's video processor takes no such frames.
        """
        if facts.form == "frames":
            return (self.size["width"], self.size["height"]) if self.do_resize else (width, height)
        factor = self.patch_size * self.merge_size
        if not self.do_resize:
            if width % factor or height % factor:
                raise FrameSizeError(
                    f"of {width} x {height}, and its video settings say do_resize: false, so that sides must be "
                    f"multiples of {factor}"
                )
            return width, height
        is_whole = facts.budget == "video"
        if is_whole and frames < self.temporal_patch_size:
            raise FrameSizeError(
                f"of {frames} frame, and this model's video processor takes {self.temporal_patch_size} at least; give "
                "it as an image, or sample more frames"
            )
        if is_whole and min(width, height) < factor:
            scale = max(factor / width, factor / height)
            width, height = int(width * scale), int(height * scale)
        if max(width, height) > _MOST_STRETCHED * min(width, height):
            raise FrameSizeError(
                f"of {width} x {height}, and this model takes sides that differ {_MOST_STRETCHED} times at most"
            )
        return _fitted(width, height, frames if is_whole else 1, self._limits(frames, is_whole, frame_pixels), self)

    def _limits(self, frames: int, is_whole: bool, frame_pixels: int | None) -> tuple[int, int]:
        """Least and most pixels: of a frame, or of all frames together."""
        low, high = self.size["shortest_edge"], self.size["longest_edge"]
        if self.cap and is_whole:
            high = frames * max(min(self.max_tokens * self._factor**2, high // frames), int(low * _SLACK))
        elif self.cap:
            share = int(self.max_tokens * self._factor**2 * 0.9) * self.temporal_patch_size // frames
            high = max(min(high, share), int(low * _SLACK))
        for bound in (self.frame_pixels, frame_pixels):
            if bound is not None:
                high = max(low, min(high, bound * (frames if is_whole else 1)))
        return low, high

    @property
    def _factor(self) -> int:
        return self.patch_size * self.merge_size


def _pixels(written: Mapping[str, Any], facts: VideoFacts) -> dict[str, int]:
    """Least and most pixels, under the names that they have now; folders of 2024 have others."""
    size = written.get("size") or {}
    if not isinstance(size, Mapping):
        raise ValueError(f"says size: {str(size)[:60]}, and shortest_edge and longest_edge can be used")
    found = {}
    for key, old in (("shortest_edge", "min_pixels"), ("longest_edge", "max_pixels")):
        found[key] = int(written.get(old) or size.get(key) or facts.defaults["size"][key])
    return found


def _sides(size: Any) -> dict[str, int]:
    """Height and width; a number is both."""
    if isinstance(size, Mapping) and "shortest_edge" in size:
        size = size["shortest_edge"]
    if isinstance(size, int):
        return {"height": size, "width": size}
    if not isinstance(size, Mapping) or not all(isinstance(size.get(side), int) for side in ("height", "width")):
        raise ValueError(f"says size: {str(size)[:60]}, and height and width can be used")
    return {"height": size["height"], "width": size["width"]}


def _of_colours(key: str, value: Any) -> tuple[float, ...]:
    """Three numbers; one stands for all."""
    numbers = tuple(value) if isinstance(value, list | tuple) else (value,) * 3
    if len(numbers) != 3 or (key == "image_std" and not all(numbers)):
        wanted = "three numbers above 0" if key == "image_std" else "three numbers"
        raise ValueError(f"says {key}: {str(value)[:60]}, and {wanted} can be used")
    return numbers


def _fitted(width: int, height: int, frames: int, limits: tuple[int, int], settings: VideoSettings) -> tuple[int, int]:
    """Sides as multiples of one merged patch, nearly in the same proportion, with so many pixels in all frames."""
    factor = settings.patch_size * settings.merge_size
    low, high = limits
    patch = settings.temporal_patch_size if frames > 1 else 1
    counted = round(frames / patch) * patch  # of an odd number of frames the nearest even one is what is compared
    sides = [round(side / factor) * factor for side in (width, height)]
    total, exact = counted * sides[0] * sides[1], frames * width * height
    if total > high:
        shrink = math.sqrt(exact / high)
        sides = [max(factor, math.floor(side / shrink / factor) * factor) for side in (width, height)]
    elif total < low:
        grow = math.sqrt(low / exact)
        sides = [math.ceil(side * grow / factor) * factor for side in (width, height)]
    return sides[0], sides[1]
