"""Small videos that tests write: every frame says in its brightness which one it is."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

STEP = 5
"""How much brighter each frame is than the one before it: 50 frames differ."""


def write_video(
    path: Path,
    *,
    num_frames: int = 50,
    fps: int = 10,
    size: tuple[int, int] = (64, 48),
    codec: str = "mpeg4",
    seconds: Sequence[float] | None = None,
    options: dict[str, str] | None = None,
    gap: int = 12,
) -> Path:
    """Write a video in which frame n is grey of brightness 5 n, with a red corner above left.

    Args:
        path: its ending says the container.
        num_frames: how many.
        fps: frames a second.
        size: width and height.
        codec: ffmpeg's name of the encoder.
        seconds: when each frame is shown, where not all last equally long.
        options: of the container.
        gap: frames from one key frame to the next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = gap
        stream.codec_context.bit_rate = 8_000_000
        if seconds is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number in range(num_frames if seconds is None else len(seconds)):
            frame = av.VideoFrame.from_image(picture(number, size))
            if seconds is not None:
                frame.pts, frame.time_base = round(1000 * seconds[number]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def picture(number: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """Frame ``number`` before it is encoded."""
    pixels = np.full((size[1], size[0], 3), min(255, STEP * number), np.uint8)
    pixels[: size[1] // 4, : size[0] // 4] = [255, 0, 0]
    return Image.fromarray(pixels)


def number_of(frame: Image.Image) -> int:
    """Which frame an image is, by its middle."""
    value = frame.getpixel((frame.width // 2, frame.height // 2))
    assert isinstance(value, tuple)
    return round(sum(value) / 3 / STEP)


def write_sound(path: Path, *, picture_inside: bool = False) -> Path:
    """Write half a second of silence, with a cover picture where that is asked for."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac" if path.suffix in (".mp4", ".m4a") else "libmp3lame", rate=44100)
        cover = container.add_stream("mjpeg", rate=1) if picture_inside else None
        if cover is not None:
            cover.width, cover.height = 64, 48
            cover.pix_fmt = "yuvj420p"
            cover.disposition = av.stream.Disposition.attached_pic.value
            frame = av.VideoFrame.from_image(picture(9)).reformat(format="yuvj420p")
            for packet in [*cover.encode(frame), *cover.encode()]:
                container.mux(packet)
        for number in range(20):
            samples = 1152 if sound.codec_context.name == "libmp3lame" else 1024
            frame = av.AudioFrame(format="fltp", layout="mono", samples=samples)
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            frame.sample_rate, frame.pts = 44100, number * frame.samples
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
    return path
