"""Videos become the frames that a model is shown: the right ones, upright, with their times, from files and lists."""

from __future__ import annotations

import pickle
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmpref.data.quarantine import RowError
from mmpref.data.videos import files
from mmpref.data.videos.loader import VideoLoader
from mmpref.data.videos.sampling import FrameRule
from mmpref.errors import ConfigError
from mmpref.records import ImageRef, VideoFrames, VideoRef
from tests.tiny_videos import number_of, picture, write_video

KINDS: dict[str, dict[str, Any]] = {
    "a.mp4": {"codec": "mpeg4"},
    "b.mp4": {"codec": "libx264"},
    "c.mkv": {"codec": "libx264"},
    "d.webm": {"codec": "libvpx"},
    "e.avi": {"codec": "mpeg4"},
    "f.ts": {"codec": "libx264"},
    "g.mp4": {"codec": "libx264", "options": {"movflags": "frag_keyframe+empty_moov"}},
    "h.mov": {"codec": "mpeg4", "fps": Fraction(30000, 1001)},
}


def opened(loader: VideoLoader, ref: VideoRef) -> VideoFrames:
    """The frames, after what was foretold of them is proved."""
    shape, frames = loader.shape(ref), loader(ref)
    assert shape.times == frames.times
    assert shape.num_frames == len(frames.frames)
    assert {frame.size for frame in frames.frames} == {(shape.width, shape.height)}
    assert {frame.mode for frame in frames.frames} == {"RGB"}
    width, height, num_frames = loader.measure(ref)
    assert (width, height, num_frames) == (shape.width, shape.height, shape.num_frames)
    return frames


@pytest.mark.parametrize("name", KINDS)
def test_the_frames_of_the_rule_are_shown(tmp_path: Path, name: str) -> None:
    write_video(tmp_path / name, **KINDS[name])
    loader = VideoLoader(tmp_path)
    found = opened(loader, VideoRef(path=name))
    fps = float(KINDS[name].get("fps", 10))
    wanted = loader.rule.sample(50, fps)
    assert [number_of(frame) for frame in found.frames] == list(wanted.places)
    assert found.times == pytest.approx(wanted.times, abs=0.01)
    again = pickle.loads(pickle.dumps(loader))
    assert [frame.tobytes() for frame in again(VideoRef(path=name)).frames] == [
        frame.tobytes() for frame in found.frames
    ]


def test_more_or_fewer_frames_are_shown_as_the_rule_says(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4")
    for rule in (FrameRule(fps=1), FrameRule(fps=5), FrameRule(max_frames=6), FrameRule(fps=100, max_frames=768)):
        found = opened(VideoLoader(tmp_path, rule=rule), VideoRef(path="a.mp4"))
        assert [number_of(frame) for frame in found.frames] == list(rule.sample(50, 10.0).places)


@pytest.mark.parametrize(("num_frames", "shown"), [(1, [0, 0]), (2, [0, 1]), (3, [0, 2]), (5, [0, 1, 3, 4])])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_videos_of_few_frames(tmp_path: Path, num_frames: int, shown: list[int], ending: str) -> None:
    write_video(tmp_path / f"a.{ending}", num_frames=num_frames)
    found = opened(VideoLoader(tmp_path), VideoRef(path=f"a.{ending}"))
    assert [number_of(frame) for frame in found.frames] == shown


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_frames_that_last_unequally_are_those_seen_at_each_time(tmp_path: Path, ending: str) -> None:
    seconds = [0, 0.1, 0.2, 0.3, 0.4, 2.0, 2.1, 2.2, 2.3, 4.9]
    write_video(tmp_path / f"a.{ending}", seconds=seconds)
    found = opened(VideoLoader(tmp_path), VideoRef(path=f"a.{ending}"))
    assert [number_of(frame) for frame in found.frames] == [
        max(place for place, start in enumerate(seconds) if start <= time + 0.05) for time in found.times
    ]


def test_a_video_that_begins_late_is_counted_from_its_first_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", seconds=[3 + place / 10 for place in range(20)])
    found = opened(VideoLoader(tmp_path), VideoRef(path="a.mkv"))
    assert [number_of(frame) for frame in found.frames] == [0, 6, 13, 19]
    assert found.times == pytest.approx((0, 0.6, 1.3, 1.9), abs=0.01)


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi"])
def test_skipping_to_key_frames_shows_what_decoding_all_shows(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / f"a.{ending}", fps=1, codec="mpeg4" if ending == "avi" else "libx264", gap=4)
    loader = VideoLoader(tmp_path, rule=FrameRule(max_frames=12))
    ref = VideoRef(path=f"a.{ending}")
    frames = {}
    for gap in (1e9, 3.0):
        monkeypatch.setattr(files, "_SEEK_GAP", gap)
        if gap == 3.0:
            monkeypatch.setattr(files.VideoFile, "_in_order", lambda *given: pytest.fail("all frames were decoded"))
        frames[gap] = [number_of(frame) for frame in opened(loader, ref).frames]
    assert frames[1e9] == frames[3.0] == list(loader.rule.sample(50, 1.0).places)


def test_only_the_frames_that_are_shown_become_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mp4")
    made = []
    upright = files._upright

    def counted(frame: object, header: files.VideoHeader) -> Image.Image:
        made.append(frame)
        return upright(frame, header)

    monkeypatch.setattr(files, "_upright", counted)
    assert len(VideoLoader(tmp_path)(VideoRef(path="a.mp4")).frames) == len(made) == 10


MATRICES = {
    "a quarter to the right": (0, 1, -1, 0),
    "a quarter to the left": (0, -1, 1, 0),
    "upside down": (-1, 0, 0, -1),
    "a mirror": (-1, 0, 0, 1),
    "a mirror in water": (1, 0, 0, -1),
    "across": (0, 1, 1, 0),
    "across the other way": (0, -1, -1, 0),
    "as it is": (1, 0, 0, 1),
}


@pytest.mark.parametrize("name", MATRICES)
def test_a_video_is_shown_upright(tmp_path: Path, name: str) -> None:
    """The red corner goes where the matrix of the file says: (x, y) to (a x + c y, b x + d y)."""
    a, b, c, d = MATRICES[name]
    turned(write_video(tmp_path / "a.mp4"), a, b, c, d)
    frame = opened(VideoLoader(tmp_path), VideoRef(path="a.mp4")).frames[0]
    assert frame.size == ((48, 64) if a == 0 else (64, 48))
    right, below = (a + c) < 0, (b + d) < 0  # the corner above left, seen from the middle, is at (-1, -1)
    place = (frame.width - 4 if right else 3, frame.height - 4 if below else 3)
    red, green, _ = frame.getpixel(place)
    assert (red > 200, green < 50) == (True, True)


def test_a_video_that_is_turned_a_little_is_refused(tmp_path: Path) -> None:
    turned(write_video(tmp_path / "a.mp4"), 1, 1, -1, 1)
    with pytest.raises(RowError, match="less than a quarter"):
        VideoLoader(tmp_path).shape(VideoRef(path="a.mp4"))


def turned(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Write a matrix into the header of the file's track: ``tkhd`` has it 40 bytes after its version."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    one = 1 << 16
    for place, value in enumerate((a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)):
        content[start + 4 * place : start + 4 * place + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(content)


def frames_in(folder: Path, count: int, size: tuple[int, int] = (64, 48)) -> tuple[ImageRef, ...]:
    for number in range(count):
        picture(number, size).save(folder / f"{number}.png")
    return tuple(ImageRef(path=f"{number}.png") for number in range(count))


def test_lists_of_frames(tmp_path: Path) -> None:
    frames, loader = frames_in(tmp_path, 40), VideoLoader(tmp_path)
    for ref, places in (
        (VideoRef(frames=frames[:4]), [0, 1, 2, 3]),
        (VideoRef(frames=frames[:5]), [0, 1, 2, 3, 4, 4]),
        (VideoRef(frames=frames[:1]), [0, 0]),
        (VideoRef(frames=frames, fps=10.0), list(loader.rule.sample(40, 10.0).places)),
        (VideoRef(frames=frames), [round(place * 39 / 15) for place in range(16)]),
    ):
        found = opened(loader, ref)
        assert [number_of(frame) for frame in found.frames] == places
        assert found.times == pytest.approx([place / (ref.fps or 2.0) for place in places])


def test_lists_of_embedded_frames_need_no_root(tmp_path: Path) -> None:
    frames = frames_in(tmp_path, 2)
    embedded = tuple(ImageRef(data=(tmp_path / str(frame.path)).read_bytes()) for frame in frames)
    assert [number_of(frame) for frame in opened(VideoLoader(None), VideoRef(frames=embedded)).frames] == [0, 1]


def test_frames_of_different_sizes_are_refused(tmp_path: Path) -> None:
    first = frames_in(tmp_path, 2)
    picture(1, (48, 48)).save(tmp_path / "1.png")
    for ask in (VideoLoader(tmp_path), VideoLoader(tmp_path).shape):
        with pytest.raises(RowError, match=r"different sizes: frame 0 is 64x48, frame 1 is 48x48") as caught:
            ask(VideoRef(frames=first))
        assert caught.value.reason == "video_frames"


def test_a_check_compares_frames_that_the_rule_does_not_show_too(tmp_path: Path) -> None:
    """Another recipe shows them, and trusts the check."""
    for number in range(20):
        picture(number, (48, 48) if number == 2 else (64, 48)).save(tmp_path / f"{number}.png")
    ref = VideoRef(frames=tuple(ImageRef(f"{number}.png") for number in range(20)))
    loader = VideoLoader(tmp_path)
    assert len(loader.shape(ref).times) == 16
    with pytest.raises(RowError, match="frame 0 is 64x48, frame 2 is 48x48; save them in one size") as caught:
        loader.check_frames(ref)
    assert caught.value.reason == "video_frames"
    loader.check_frames(VideoRef(frames=ref.frames[3:]))
    loader.check_frames(VideoRef(path="none.mp4"))


def test_a_frame_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RowError, match=r"image 'x.png' does not exist") as caught:
        VideoLoader(tmp_path)(VideoRef(frames=(ImageRef("x.png"),)))
    assert caught.value.reason == "image_missing"


def test_equal_videos_have_equal_digests(tmp_path: Path) -> None:
    frames, loader = frames_in(tmp_path, 3), VideoLoader(tmp_path)
    content = write_video(tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(content)
    refs = [VideoRef(path="a.mp4"), VideoRef(path="b.mp4"), VideoRef(frames=frames), VideoRef(frames=frames[::-1])]
    digests = [loader.digest(ref) for ref in refs]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_without_pyav_files_are_refused_and_lists_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_video(tmp_path / "a.mp4")
    frames, loader = frames_in(tmp_path, 2), VideoLoader(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    for ask in (loader, loader.shape):
        with pytest.raises(ConfigError, match=r"pip install 'mmpref\[video\]', or give each video as a list of frames"):
            ask(VideoRef(path="a.mp4"))
    assert len(loader(VideoRef(frames=frames)).frames) == 2
