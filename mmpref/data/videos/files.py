"""Video files through PyAV: what the header says, and the frames that are shown at given times.

A file is given to ffmpeg as a stream of bytes, with the containers and codecs that are allowed: what would open other
files or addresses (playlists, lists of files) is refused before it is read, and so is a header that promises more than
the limits. Only frames that are asked for become images.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import IO, TYPE_CHECKING, Any

from PIL import Image

from mmpref.errors import ConfigError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

CONTAINERS = (
    "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "gif",
)  # fmt: skip
"""ffmpeg's names of the containers that are opened; none of them names other files."""
ENDINGS = ("mp4", "mov", "mkv", "webm", "avi", "ts", "mpg", "flv", "wmv", "ogv", "3gp", "gif")
"""What files in these containers end with, for people."""
CODECS = (
    "h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "msmpeg4v2", "msmpeg4v3", "h263", "flv1", "mpeg1video", "mpeg2video",
    "mjpeg", "wmv1", "wmv2", "wmv3", "vc1", "theora", "prores", "gif",
)  # fmt: skip
"""ffmpeg's names of the video codecs that are decoded."""
_SECONDS = 60.0
"""How long opening a file, and reading one packet of it, may take."""
_SEEK_GAP = 10.0
"""Seconds between two frames from which the file is searched for the next key frame, and not decoded all the way."""
_TURNS: dict[tuple[int, ...], Image.Transpose] = {
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
"""Signs of a display matrix (right goes to (a, b), down to (c, d)) -> what it does."""


class BadVideo(Exception):  # noqa: N818  a finding about a file, which the loader names
    """A file that cannot be used: a reason without the medium, and what is wrong."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoLimits:
    """What a video file may be. Everything here is known before a frame is decoded."""

    max_bytes: int = 2 * 2**30
    """Size of the file."""
    max_pixels: int = 4096 * 2304
    """Width times height of a frame."""
    min_side: int = 10
    """The shorter side, in pixels."""
    max_aspect: float = 100.0
    """Longer side divided by shorter side."""
    max_seconds: float = 4 * 3600.0
    """How long it is."""
    max_frames: int = 1_000_000
    """How many frames it has in all."""


@dataclass(frozen=True, slots=True)
class VideoHeader:
    """What a file says of its video: how many frames in how many seconds, and the size that they are stored in."""

    num_frames: int
    seconds: float
    width: int
    height: int
    finest: float
    """Seconds between two frames that are close to one another; all are so far apart where the rate does not vary."""

    @property
    def fps(self) -> float:
        """Frames a second, on average."""
        return self.num_frames / self.seconds


def _pyav() -> Any:
    try:
        import av
    except ImportError as error:
        raise ConfigError(
            "reading video files needs PyAV: pip install 'mmpref[video]', or give each video as a list of frames"
        ) from error
    return av


class VideoFile:
    """One open video file.

    Args:
        handle: the file, from its beginning.
        limits: what is refused before decoding.

    Raises:
        BadVideo: by every method, whatever the file does.
    """

    def __init__(self, handle: IO[bytes], limits: VideoLimits) -> None:
        self._av = _pyav()
        self._handle = handle
        self._limits = limits
        self._container: InputContainer | None = None
        self._stream: VideoStream | None = None

    def header(self) -> VideoHeader:
        """What the file says, held against the limits.

        A container that does not count its frames (WebM, MPEG-TS) is read to its end for that, without decoding.
        """
        with _decoding(self._av):
            stream = self._open()
            width, height = stream.codec_context.width, stream.codec_context.height
            self._check_size(width, height)
            num_frames, seconds = stream.frames, _seconds(stream.duration, stream.time_base)
            finest = 1 / float(stream.base_rate) if stream.base_rate else seconds
            if num_frames <= 0 or seconds <= 0:
                num_frames, seconds, finest = self._counted(stream)
                self._open()  # it stands at its end
            self._check_length(num_frames, seconds)
            finest = min(finest, seconds / num_frames)
            return VideoHeader(num_frames, seconds, width, height, finest)

    def upright_size(self, header: VideoHeader) -> tuple[int, int]:
        """(width, height) of the frames as they are shown: the first one is decoded, which says how it is turned."""
        with _decoding(self._av):
            for frame in self._decoded():
                turn = _turn(frame)
                turned = turn in _SIDEWAYS
                return (header.height, header.width) if turned else (header.width, header.height)
        raise BadVideo("decode", "has no frame that can be decoded")

    def frames_at(self, times: Sequence[float], header: VideoHeader) -> list[Image.Image]:
        """The frames that are shown at these seconds from the first one, upright, in RGB.

        Args:
            times: ascending, from 0.
            header: of this file.
        """
        with _decoding(self._av):
            found = self._by_seeking(times, header)
            return found if found is not None else self._in_order(times, header)

    def close(self) -> None:
        """Let go of the decoder; the handle stays open."""
        if self._container is not None:
            self._container.close()
            self._container = self._stream = None

    def _open(self) -> VideoStream:
        """The video stream, from the beginning of the file."""
        self.close()
        self._handle.seek(0)
        options = {
            "format_whitelist": ",".join(CONTAINERS),
            "protocol_whitelist": "none",
            "max_pixels": str(4 * self._limits.max_pixels),  # opening decodes a little; what is larger gets no size
            "threads": "1",
        }
        try:
            self._container = self._av.open(
                self._handle, mode="r", options=options, timeout=_SECONDS, metadata_errors="replace"
            )
        except (self._av.ArgumentError, self._av.InvalidDataError) as error:
            raise BadVideo(
                "decode", f"is damaged, or is no video in a container that is read ({', '.join(ENDINGS)})"
            ) from error
        attached = self._av.stream.Disposition.attached_pic
        videos = [stream for stream in self._container.streams.video if not stream.disposition & attached]
        if not videos:
            others = ", ".join(sorted({stream.type for stream in self._container.streams})) or "nothing"
            raise BadVideo("no_stream", f"has no video, only {others}")
        self._stream = stream = videos[0]
        if stream.codec_context is None or stream.codec_context.codec.canonical_name not in CODECS:
            name = "unknown" if stream.codec_context is None else stream.codec_context.codec.canonical_name
            raise BadVideo("codec", f"has the codec {name!r}, which is not decoded here; save it as H.264 in .mp4")
        stream.codec_context.options = {"max_pixels": str(self._limits.max_pixels)}
        stream.codec_context.thread_count = 1  # there are as many loader workers as cores
        return stream

    def _counted(self, stream: VideoStream) -> tuple[int, float, float]:
        """Frames and seconds of the video, and the seconds between the two closest frames, by its packets.

        Raises:
            BadVideo: the file ends long before the end that its header promises.
        """
        assert self._container is not None
        starts = array("d")
        end = any_end = 0.0
        for packet in self._container.demux():
            at = packet.pts if packet.pts is not None else packet.dts
            if at is None or packet.size == 0:
                continue
            until = _seconds(at + (packet.duration or 0), packet.time_base)
            any_end = max(any_end, until)
            if packet.stream.index == stream.index:
                starts.append(_seconds(at, packet.time_base))
                end = max(end, until)
                self._check_length(len(starts), until - starts[0])
        if not starts:
            raise BadVideo("decode", "has no frame with a time")
        promised = _seconds(self._container.duration, Fraction(1, self._av.time_base))
        if any_end < 0.9 * promised - 1:
            raise BadVideo("decode", f"ends after {any_end:.2f} of the {promised:.2f} seconds that its header promises")
        ordered = sorted(starts)
        gaps = [two - one for one, two in pairwise(ordered) if two > one]
        # a last frame that does not say how long it lasts, lasts as long as the others
        last = max(end - ordered[-1], sum(gaps) / len(gaps) if gaps else 0.0) or 1.0
        return len(starts), ordered[-1] - ordered[0] + last, min(gaps, default=last)

    def _check_size(self, width: int, height: int) -> None:
        short, long = min(width, height), max(width, height)
        limits = self._limits
        if short <= 0:
            raise BadVideo("too_large", f"has no size that can be read, or far more than {limits.max_pixels} pixels")
        if width * height > limits.max_pixels:
            raise BadVideo("too_large", f"is {width}x{height}, more than the limit of {limits.max_pixels} pixels")
        if short < limits.min_side:
            raise BadVideo("small", f"is {width}x{height}, the shorter side must be at least {limits.min_side}")
        if long > limits.max_aspect * short:
            raise BadVideo("aspect", f"is {width}x{height}, the sides differ by more than {limits.max_aspect:g} to 1")

    def _check_length(self, num_frames: int, seconds: float) -> None:
        limits = self._limits
        if seconds > limits.max_seconds:
            raise BadVideo("too_long", f"is {seconds:.0f} seconds long, the limit is {limits.max_seconds:.0f}: cut it")
        if num_frames > limits.max_frames:
            raise BadVideo("too_long", f"has {num_frames} frames, the limit is {limits.max_frames}: cut it")

    def _decoded(self) -> Iterator[VideoFrame]:
        """The frames from where the file stands, in the order in which they are shown."""
        assert self._container is not None
        assert self._stream is not None
        for packet in self._container.demux(self._stream):
            for frame in packet.decode():
                assert isinstance(frame, self._av.VideoFrame)
                yield frame

    def _by_seeking(self, times: Sequence[float], header: VideoHeader) -> list[Image.Image] | None:
        """As :meth:`_in_order`, skipping to key frames; None where the times are close or the file cannot do it."""
        if max((two - one for one, two in pairwise(times)), default=0.0) <= _SEEK_GAP:
            return None
        stream = self._open()
        assert self._container is not None
        assert stream.time_base is not None
        frames, half = self._decoded(), header.finest / 2  # times are rounded, in files and here
        shown = next(frames, None)
        if shown is None or shown.time is None:
            return None
        begin = at = shown.time
        found: list[Image.Image] = []
        following: VideoFrame | None = None
        for time in times:
            if begin + time - at > _SEEK_GAP:
                try:
                    self._container.seek(int((begin + time + half) / stream.time_base), stream=stream)
                except (self._av.FFmpegError, OverflowError):
                    return None
                frames, following = self._decoded(), None
                shown = next(frames, None)
                if shown is None or shown.time is None or shown.time > begin + time + half:
                    return None
            while following is None or following.time <= begin + time + half:
                shown = shown if following is None else following
                following = next(frames, None)
                if following is None:  # the end
                    break
                if following.time is None:
                    return None
            at = shown.time
            lasts = max(1 / header.fps, _seconds(shown.duration, shown.time_base))
            if following is None and begin + time > at + 1.5 * lasts:
                return None  # too early an end, which the other way tells
            found.append(_upright(shown, header))
        return found

    def _in_order(self, times: Sequence[float], header: VideoHeader) -> list[Image.Image]:
        """The frames, with every one before the last of them decoded.

        Raises:
            BadVideo: the file ends before its header says.
        """
        self._open()
        step = 1 / header.fps
        found: list[Image.Image] = []
        shown: VideoFrame | None = None
        begin, at, num_frames = 0.0, 0.0, 0
        for frame in self._decoded():
            time = frame.time if frame.time is not None else begin + at + step
            begin = time if shown is None else begin
            while (
                shown is not None and len(found) < len(times) and time - begin > times[len(found)] + header.finest / 2
            ):
                found.append(_upright(shown, header))
            if len(found) == len(times):
                return found
            shown, at = frame, time - begin
            num_frames += 1
            self._check_length(num_frames, at)
        if shown is None:
            raise BadVideo("decode", "has no frame that can be decoded")
        lasts = max(step, _seconds(shown.duration, shown.time_base))
        if num_frames < header.num_frames and times[-1] > at + 1.5 * lasts:
            raise BadVideo(
                "decode",
                f"ends after {at + lasts:.2f} of the {header.seconds:.2f} seconds that its header promises; copy it "
                "again",
            )
        last = _upright(shown, header)
        return [*found, *(last for _ in times[len(found) :])]


_SIDEWAYS = frozenset(
    {Image.Transpose.TRANSPOSE, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270}
)


def _seconds(ticks: int | None, base: Fraction | None) -> float:
    return float(ticks * base) if ticks is not None and base is not None else 0.0


def _turn(frame: VideoFrame) -> Image.Transpose | None:
    """What makes a frame upright, by the matrix that its file has for that; None where nothing needs to be done.

    Raises:
        BadVideo: a turn that is no quarter of one.
    """
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    a, b, _, c, d = struct.unpack_from("=5i", bytes(matrix))
    signs = tuple((value > 0) - (value < 0) for value in (a, b, c, d))
    if signs == (1, 0, 0, 1):
        return None
    turn = _TURNS.get(signs)
    if turn is None:
        raise BadVideo("decode", "is turned by less than a quarter; save it upright")
    return turn


def _upright(frame: VideoFrame, header: VideoHeader) -> Image.Image:
    """One frame as an image in RGB.

    Raises:
        BadVideo: it is damaged, or of another size than the video.
    """
    if (frame.width, frame.height) != (header.width, header.height):
        size, first = f"{frame.width}x{frame.height}", f"{header.width}x{header.height}"
        raise BadVideo("decode", f"changes its size from {first} to {size}; save it in one size")
    if frame.is_corrupt:
        raise BadVideo("decode", f"is damaged at second {frame.time or 0.0:.2f}; copy it again")
    image: Image.Image = frame.to_image()
    turn = _turn(frame)
    return image if turn is None else image.transpose(turn)


@contextmanager
def _decoding(av: Any) -> Iterator[None]:
    """Damaged files make ffmpeg raise many kinds of exceptions; here each becomes one finding."""
    try:
        yield
    except (BadVideo, ConfigError):
        raise
    except Exception as error:  # any kind: ValueError, OSError, UnicodeDecodeError and FFmpeg's own
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise BadVideo("decode", f"cannot be decoded: {said}") from error
