"""Which frames of a video a model is shown: one rule, for files and for lists of frames.

It is the rule that Qwen-VL's authors publish with their processors: so many frames a second, at least four and at most
a maximum, never more than there are, an even number of them (their models take two together), evenly spaced from the
first frame to the last. It works from the number of frames and how many there are a second alone, so the number of
frames is known before one is decoded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

TOGETHER = 2
"""Frames that Qwen-VL takes together; the number of frames is a multiple of it."""
LEAST = 4
"""Frames of a short video, where it has so many."""


class Sample(NamedTuple):
    """The frames that are shown: their numbers from 0, and their seconds from the beginning."""

    places: tuple[int, ...]
    times: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameRule:
    """How many frames of a video a model is shown.

    Attributes:
        fps: frames for each second of the video.
        max_frames: the most frames of one video, however long it is. The default, 16, is what consumer GPUs train on:
            some 2,000 tokens of a small video for Qwen2.5-VL, 3,136 for LLaVA-OneVision.
    """

    fps: float = 2.0
    max_frames: int = 16

    def __post_init__(self) -> None:
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps must be a finite number above 0, got {self.fps}")
        if self.max_frames < TOGETHER:
            raise ValueError(f"max_frames must be at least {TOGETHER}, got {self.max_frames}")

    def sample(self, num_frames: int, fps: float | None) -> Sample:
        """The frames that are shown of a video.

        Args:
            num_frames: that it has.
            fps: that it has in each second. None, for a list of frames that says nothing: they are taken as sampled at
                this rule's own rate, so that all are shown where the maximum allows.

        An odd number of frames that are all shown is made even by showing the last one twice, as the processors of
        Qwen-VL do; so is the one frame of a video that has no other.
        """
        if num_frames < 1:
            raise ValueError(f"a video has at least one frame, got {num_frames}")
        most = self.max_frames // TOGETHER * TOGETHER
        if fps is None and num_frames <= most:
            places = list(range(num_frames))
        else:
            wanted = num_frames if fps is None else num_frames / fps * self.fps
            count = int(min(max(wanted, LEAST), most, num_frames)) // TOGETHER * TOGETHER
            places = [0] if count == 0 else [round(k * (num_frames - 1) / (count - 1)) for k in range(count)]
        places += [places[-1]] * (-len(places) % TOGETHER)
        rate = self.fps if fps is None else fps
        return Sample(tuple(places), tuple(place / rate for place in places))
