"""Opens videos: a ``VideoRef`` becomes the frames that a model is shown, or a fault with a reason.

Which frames those are, the one rule of ``sampling.py`` says, for files and lists of frames alike. Frames of a list are
opened as images are. Limits are checked on the size of the file and its header, before a frame is decoded. Paths stay
inside the root; URLs are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmpref.data.images.loader import ImageLoader
from mmpref.data.media_files import Measured, MediaFiles
from mmpref.data.quarantine import RowError
from mmpref.data.videos.files import BadVideo, VideoFile, VideoLimits
from mmpref.data.videos.sampling import FrameRule, Sample
from mmpref.records import VideoFrames, VideoRef, VideoShape


class VideoLoader:
    """Opens the videos of one data root. It can be pickled, so that loader workers can have it.

    Args:
        root: the folder that relative paths start from and that no path may leave; None accepts embedded frames only.
        rule: which frames are shown.
        limits: what a file may be.
        images: opens frames that are images; None makes one with the usual limits.

    Every refusal is a ``RowError`` (a ``DataError``). Its reason is one of images for a frame of a list, else one of
    these: ``video_url``, ``video_no_root``, ``video_outside_root``, ``video_missing``, ``video_not_a_file``,
    ``video_unreadable``, ``video_too_large``, ``video_too_long``, ``video_small``, ``video_aspect``,
    ``video_no_stream``, ``video_codec``, ``video_decode``, ``video_frames``.
    """

    def __init__(
        self,
        root: Path | str | None,
        *,
        rule: FrameRule | None = None,
        limits: VideoLimits | None = None,
        images: ImageLoader | None = None,
    ) -> None:
        self.rule = rule if rule is not None else FrameRule()
        self.limits = limits if limits is not None else VideoLimits()
        self.images = images if images is not None else ImageLoader(root)
        self._files = MediaFiles("video", root, max_bytes=self.limits.max_bytes)
        self.root = self._files.root

    def __call__(self, ref: VideoRef) -> VideoFrames:
        """The frames that are shown: PIL images in RGB, upright, of one size, with their seconds."""
        if ref.path is None:
            sample = self._sample(ref)
            opened = {place: self.images.open(ref.frames[place]) for place in dict.fromkeys(sample.places)}
            self._check_sizes(ref, {place: image.size for place, image in opened.items()})
            return VideoFrames(tuple(opened[place] for place in sample.places), sample.times)
        with self._opened(ref) as file:
            header = file.header()
            sample = self.rule.sample(header.num_frames, header.fps)
            return VideoFrames(tuple(file.frames_at(sample.times, header)), sample.times)

    def shape(self, ref: VideoRef) -> VideoShape:
        """How many frames are shown, of which size and at which seconds: what :meth:`__call__` gives, from the headers.

        Of a file, one frame is decoded, which says how it is turned.
        """
        if ref.path is None:
            sample = self._sample(ref)
            sizes = {place: self.images.size(ref.frames[place]) for place in dict.fromkeys(sample.places)}
            width, height = self._check_sizes(ref, sizes)
            return VideoShape(width, height, sample.times)
        with self._opened(ref) as file:
            header = file.header()
            width, height = file.upright_size(header)
            return VideoShape(width, height, self.rule.sample(header.num_frames, header.fps).times)

    def measure(self, ref: VideoRef) -> Measured:
        """The size and number of the frames that are shown, which are decoded for it."""
        frames = self(ref).frames
        width, height = frames[0].size
        return Measured(width, height, len(frames))

    def check_frames(self, ref: VideoRef) -> None:
        """Read the headers of all frames of a list, whichever the rule shows; a file has frames of one size anyway.

        Raises:
            RowError: ``video_frames``, for frames of different sizes, or what is wrong with one of them.
        """
        if ref.path is None:
            self._check_sizes(ref, {place: self.images.size(frame) for place, frame in enumerate(ref.frames)})

    def digest(self, ref: VideoRef) -> str:
        """SHA-256 of the file, or of the digests of the frames in their order, in hexadecimal. Nothing is decoded."""
        found = hashlib.sha256()
        if ref.path is None:
            for frame in ref.frames:
                found.update(self.images.digest(frame).encode())
            return found.hexdigest()
        with self._files.open(ref.path) as handle:
            while part := handle.read(2**20):
                found.update(part)
        return found.hexdigest()

    def resolve(self, path: str) -> Path:
        """The real path of a video named in a row, proved to be inside the root."""
        return self._files.resolve(path)

    def _sample(self, ref: VideoRef) -> Sample:
        return self.rule.sample(len(ref.frames), ref.fps)

    def _check_sizes(self, ref: VideoRef, sizes: dict[int, tuple[int, int]]) -> tuple[int, int]:
        """The one size of all frames of a list."""
        (first, size), *others = sizes.items()
        for place, other in others:
            if other != size:
                one, two = (
                    f"{place} is {width}x{height}" for place, (width, height) in ((first, size), (place, other))
                )
                detail = f"has frames of different sizes: frame {one}, frame {two}; save them in one size"
                raise self._fault(ref, BadVideo("frames", detail))
        return size

    @contextmanager
    def _opened(self, ref: VideoRef) -> Iterator[VideoFile]:
        assert ref.path is not None
        with self._files.open(ref.path) as handle:
            file = VideoFile(handle, self.limits)
            try:
                yield file
            except BadVideo as bad:
                raise self._fault(ref, bad) from bad
            finally:
                file.close()

    def _fault(self, ref: VideoRef, bad: BadVideo) -> RowError:
        return self._files.fault(bad.reason, ref.describe(), str(bad))
