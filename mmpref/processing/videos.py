"""Videos as the model's vision inputs, and as the tokens that stand for them. torchvision is not needed.

Frames go through the steps of the family's image processor for Pillow (resize, rescale, normalise) with the settings
that the model's folder has for videos, and are put together as the video processor of transformers does.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from mmpref.errors import ConfigError
from mmpref.processing.batch import join_vision
from mmpref.processing.errors import fault
from mmpref.processing.family import FAMILIES, Family, VideoFacts
from mmpref.processing.video_settings import ATTRIBUTE, FrameSizeError, VideoSettings
from mmpref.records import VideoFrames, VideoRef, VideoShape

if TYPE_CHECKING:
    from PIL import Image

LoadVideo = Callable[[VideoRef], VideoFrames]
_SEE_VIDEOS = tuple(family.name for family in FAMILIES if family.video is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Video tokens that lie side by side: of a whole video, or of one temporal patch that has its time before it."""

    patches: int  # temporal patches, or frames
    rows: int
    columns: int
    interval: float = 1.0  # from one temporal patch to the next, in positions
    time: str = ""  # what is written before it
    extra: int = 0  # tokens behind the grid

    @property
    def num_tokens(self) -> int:
        """Tokens in all."""
        return self.patches * self.rows * self.columns + self.extra


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedVideos:
    """All videos of one row: the vision inputs of the model, and how each is written."""

    vision: Mapping[str, Tensor]
    runs: tuple[tuple[Run, ...], ...]
    frames: tuple[int, ...]  # of each, as the model is given them

    @property
    def num_bytes(self) -> int:
        """Memory of the tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.vision.values())


NO_VIDEOS = EncodedVideos(vision={}, runs=(), frames=())
_Key: TypeAlias = "tuple[LoadVideo, tuple[VideoRef, ...], int | None]"


class VideoEncoder:
    """Processes the videos of a row.

    Args:
        processor: the model's processor; ``models.load`` gives it the folder's video settings.
        family: the model's row of facts.
        max_pixels: the most pixels of one frame; None is the folder's own bound.
        cache_bytes: keep the results for the videos used last up to this size.

    Raises:
        ConfigError: ``max_pixels`` for a model that has no such bound, or too low a one.
    """

    def __init__(self, processor: Any, family: Family, *, max_pixels: int | None = None, cache_bytes: int = 0) -> None:
        self._processor = processor
        self._family = family
        self._settings: VideoSettings | None = getattr(processor, ATTRIBUTE, None)
        if max_pixels is not None:
            if family.video is None:
                raise ConfigError(
                    f"processing.video_max_pixels is for models that see videos, and the family '{family.name}' has "
                    "none: remove this key"
                )
            if self._settings is not None:
                self._settings = self._settings.within(max_pixels, family.video)
        self._most_bytes = cache_bytes
        self._cached_bytes = 0
        self._cache: OrderedDict[_Key, EncodedVideos] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cache": OrderedDict(), "_cached_bytes": 0}  # pixels do not travel to loader workers

    def highest_max_pixels(self) -> int:
        """The bound of one frame where a row has none of its own; 0 where frames have no bound in pixels."""
        settings = self._settings
        if settings is None or self._family.video is None or self._family.video.form == "frames":
            return 0
        longest = settings.size["longest_edge"]
        return longest if settings.frame_pixels is None else min(longest, settings.frame_pixels)

    def refuse(self, row_id: str) -> None:
        """Raises EncodeError (``video``) where a row with videos cannot be used by this model."""
        if self._family.video is None:
            raise fault(
                row_id, "video", f"has a video, and models of the family '{self._family.name}' take none here: use one "
                f"of the families that do ({', '.join(_SEE_VIDEOS)}), or rows without videos"
            )  # fmt: skip
        if self._settings is None:
            raise fault(
                row_id, "video", "has a video, and the model's folder says nothing of how videos are processed: put "
                "the video_preprocessor_config.json or preprocessor_config.json of the original model into it"
            )  # fmt: skip
        if self._settings.do_center_crop:
            raise fault(
                row_id, "video", "has a video, and the model's video settings say do_center_crop: true, which is not "
                "done here; use another model, or rows without videos"
            )  # fmt: skip

    def encode(
        self,
        row_id: str,
        videos: tuple[VideoRef, ...],
        load_video: LoadVideo | None,
        *,
        max_pixels: int | None = None,
    ) -> EncodedVideos:
        """The videos of one row, in order. Rows with the same videos share their tensors while the cache has them.

        Args:
            max_pixels: a smaller bound of each frame, for this row.

        Raises:
            EncodeError: the model takes no videos, or none like these.
        """
        if not videos:
            return NO_VIDEOS
        self.refuse(row_id)
        if load_video is None:
            raise fault(row_id, "video", "has a video, and nothing that opens videos was given beside load_image")
        key = (load_video, videos, max_pixels)
        if (found := self._cache.get(key)) is not None:
            self._cache.move_to_end(key)
            return found
        parts = [self._one(row_id, video, load_video(video), max_pixels) for video in videos]
        encoded = EncodedVideos(
            vision=join_vision([vision for vision, _, _ in parts]),
            runs=tuple(runs for _, runs, _ in parts),
            frames=tuple(count for _, _, count in parts),
        )
        self._keep(key, encoded)
        return encoded

    def runs(
        self, row_id: str, shapes: Sequence[VideoShape], *, max_pixels: int | None = None
    ) -> list[tuple[Run, ...]]:
        """How videos of these shapes are written, by arithmetic: no frame is needed. Raises as :meth:`encode`."""
        if shapes:
            self.refuse(row_id)
        return [self._plan(row_id, shape, max_pixels)[1] for shape in shapes]

    def _one(
        self, row_id: str, video: VideoRef, shown: VideoFrames, max_pixels: int | None
    ) -> tuple[dict[str, Tensor], tuple[Run, ...], int]:
        facts, settings = self._known
        first = shown.frames[0]
        if any(frame.size != first.size for frame in shown.frames):
            raise fault(row_id, "video", f"has a video whose frames differ in size ({video.describe()})")
        shape = VideoShape(width=first.width, height=first.height, times=shown.times)
        size, runs = self._plan(row_id, shape, max_pixels)
        pixels = torch.from_numpy(np.stack([self._processed(frame, size, settings) for frame in shown.frames]))
        if facts.form == "frames":
            return {"pixel_values_videos": pixels[None]}, runs, len(shown.frames)
        found = {"pixel_values_videos": _patches(pixels, settings), "video_grid_thw": _grid(pixels, settings)[None]}
        if facts.time == "positions":
            found["second_per_grid_ts"] = torch.tensor([_seconds_of_patch(shape.times, settings)])
        return found, runs, len(shown.frames)

    def _plan(self, row_id: str, shape: VideoShape, max_pixels: int | None) -> tuple[tuple[int, int], tuple[Run, ...]]:
        """Size of each frame, and how the video is written."""
        facts, settings = self._known
        count = len(shape.times)
        try:
            size = settings.frame_size(shape.width, shape.height, count, facts, frame_pixels=max_pixels)
        except FrameSizeError as err:
            raise fault(row_id, "video", f"has a video {err}") from err
        if facts.form == "frames":
            side = math.ceil(math.isqrt(int(self._processor.num_image_tokens)) / 2)
            return size, (Run(patches=count, rows=side, columns=side, extra=1),)
        step = settings.patch_size * settings.merge_size
        columns, rows = (side // step for side in size)
        patches = math.ceil(count / settings.temporal_patch_size)
        if facts.time == "text":
            times = _times_of_patches(shape.times, settings.temporal_patch_size)
            runs = tuple(Run(patches=1, rows=rows, columns=columns, time=f"<{time:.1f} seconds>") for time in times)
            return size, runs
        interval = 1.0
        if facts.time == "positions":
            # of the number that the model is given, so that both round alike
            interval = settings.positions_a_second * float(np.float32(_seconds_of_patch(shape.times, settings)))
        return size, (Run(patches=patches, rows=rows, columns=columns, interval=interval),)

    @property
    def _known(self) -> tuple[VideoFacts, VideoSettings]:
        assert self._family.video is not None  # ``refuse`` was asked
        assert self._settings is not None
        return self._family.video, self._settings

    def _processed(self, frame: Image.Image, size: tuple[int, int], settings: VideoSettings) -> np.ndarray[Any, Any]:
        """One frame as float32 [3, H, W]."""
        images = self._processor.image_processor
        if frame.size != size:
            frame = frame.resize(size, settings.resample)
        pixels = np.asarray(frame).transpose(2, 0, 1)
        if settings.do_rescale:
            pixels = images.rescale(pixels, settings.rescale_factor)
        if settings.do_normalize:
            pixels = images.normalize(pixels, list(settings.mean), list(settings.std))
        return np.asarray(pixels, dtype=np.float32)

    def _keep(self, key: _Key, encoded: EncodedVideos) -> None:
        if encoded.num_bytes > self._most_bytes:
            return
        self._cache[key] = encoded
        self._cached_bytes += encoded.num_bytes
        while self._cached_bytes > self._most_bytes:
            _, oldest = self._cache.popitem(last=False)
            self._cached_bytes -= oldest.num_bytes


def _seconds_of_patch(times: Sequence[float], settings: VideoSettings) -> float:
    """Seconds from one temporal patch to the next, on average; of a single frame nothing depends on it.

    A frame that is shown a second time, to make their number even, has the time of the first.
    """
    different = len(set(times))
    if different < 2:
        return 1.0
    return settings.temporal_patch_size * (times[-1] - times[0]) / (different - 1)


def _times_of_patches(times: Sequence[float], size: int) -> list[float]:
    """The middle of the first and last frame of every temporal patch; where one is missing, the last counts again."""
    whole = [*times, *[times[-1]] * (-len(times) % size)]
    return [(whole[at] + whole[at + size - 1]) / 2 for at in range(0, len(whole), size)]


def _grid(pixels: Tensor, settings: VideoSettings) -> Tensor:
    """(temporal patches, rows, columns) in patches of frames [F, 3, H, W]: [3]."""
    frames, _, height, width = pixels.shape
    patch = settings.patch_size
    return torch.tensor([math.ceil(frames / settings.temporal_patch_size), height // patch, width // patch])


def _patches(pixels: Tensor, settings: VideoSettings) -> Tensor:
    """Frames [F, 3, H, W] as flat patches [P, 3 * t * p * p], where merged ones lie side by side.

    A patch is of t frames, and the last frame counts again where one is missing.
    """
    size, merge, depth = settings.patch_size, settings.merge_size, settings.temporal_patch_size
    missing = -len(pixels) % depth
    if missing:
        pixels = torch.cat([pixels, pixels[-1:].expand(missing, -1, -1, -1)])
    frames, channels, height, width = pixels.shape
    cut = pixels.reshape(
        frames // depth, depth, channels, height // size // merge, merge, size, width // size // merge, merge, size
    )
    # to: time, rows and columns of merged patches, rows and columns inside, channels, frames, and those of pixels
    flat = cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return flat.reshape(-1, channels * depth * size * size).contiguous()
